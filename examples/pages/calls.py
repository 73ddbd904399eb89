"""The code of docs/calls.md, run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

import trio_ws


class MathHandler(trio_ws.WebSocketHandler):
    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        """Before the client is accepted. An exception, reject() or close() rejects it."""

    async def on_receive(self, connection: trio_ws.ClientConnection, packet: trio_ws.Packet) -> None:
        """Packets that are not calls, one at a time."""

    async def on_disconnect(self, connection: trio_ws.ClientConnection) -> None:
        """Once for each on_connect that returned, shielded, for at most close_timeout."""

    @trio_ws.rpc_method()
    async def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b

    @trio_ws.rpc_method()
    async def count_to(self, connection: trio_ws.ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(1, n + 1):
            yield number


async def main() -> None:
    async with trio_ws.WebSocketServer(MathHandler, 0, host="127.0.0.1") as server:
        await ask(server.url)


async def ask(url: str) -> None:
    async with trio_ws.WebSocketClient(url) as client:
        total = await client.call("add", 1, 2, returns=int)  # the value, checked; errors are exceptions
        response = await client.send_rpc("add", 1, 2)  # .data, .error, .result()
        async with client.stream("count_to", 5, items=int) as numbers:
            async for number in numbers:
                total += number
        async for packet in client.stream_rpc("count_to", 5):
            total += packet.data
        math = client.proxy(MathHandler)  # or a Protocol; type checkers know the results
        total += await math.add(1, 2)
        print(total, response.data)


if __name__ == "__main__":
    trio.run(main)
