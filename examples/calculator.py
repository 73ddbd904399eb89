"""Methods that clients call: a plain one, one that waits, a stream, and what happens to bad arguments."""

from __future__ import annotations

from collections.abc import AsyncIterator  # annotations of methods are read while the program runs

import trio

import trio_ws


class Calculator(trio_ws.WebSocketHandler):
    list_methods = True

    @trio_ws.rpc_method()
    def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b

    @trio_ws.rpc_method(alias_name="divide")
    async def div(self, connection: trio_ws.ClientConnection, a: float, b: float) -> float:
        if b == 0:
            raise trio_ws.RPCError("nothing can be divided by zero", data={"a": a})
        await trio.sleep(0.01)  # methods may wait; others run in the meantime
        return a / b

    @trio_ws.rpc_method()
    async def count_to(self, connection: trio_ws.ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(1, n + 1):
            yield number


async def main() -> None:
    async with (
        trio_ws.WebSocketServer(Calculator, host="127.0.0.1") as server,
        trio_ws.WebSocketClient(server.url) as client,
    ):
        print("20 + 22 =", await client.call("add", 20, 22, returns=int))
        print("1 / 4 =", await client.call("divide", a=1, b=4))

        async with client.stream("count_to", 5, items=int) as numbers:
            print("counting:", [number async for number in numbers])

        for method, args in [("divide", (1, 0)), ("add", (1, "two")), ("power", (2, 3))]:
            try:
                await client.call(method, *args)
            except trio_ws.RPCError as exc:
                print(f"{type(exc).__name__} ({exc.code}): {exc}")

        calculator = client.proxy(Calculator)  # type checkers know what this returns
        print("by a proxy:", await calculator.add(1, 2))


if __name__ == "__main__":
    trio.run(main)
