"""A server that calls its client: a question within a call, with a deadline that both sides keep."""

from __future__ import annotations

import trio

import trio_ws


class Installer(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def install(self, connection: trio_ws.ClientConnection, package: str) -> str:
        try:
            with trio.fail_after(0.5):  # sent with the call, and also ends it on the other side
                agreed = await connection.call("confirm", f"install {package}?", returns=bool)
        except trio.TooSlowError:
            return f"{package}: nobody answered"
        return f"{package}: {'installed' if agreed else 'left alone'}"


class Person(trio_ws.WebSocketHandler):
    """The methods that the server may call."""

    @trio_ws.rpc_method()
    async def confirm(self, connection: trio_ws.ClientConnection, question: str) -> bool:
        print("asked:", question)
        if "slow" in question:
            try:
                await trio.sleep(10)
            except trio.Cancelled:
                print("too late, says the server")
                raise
        return "virus" not in question


async def main() -> None:
    async with (
        trio_ws.WebSocketServer(Installer, host="127.0.0.1") as server,
        trio_ws.WebSocketClient(server.url, handler=Person) as client,
    ):
        for package in ("trio", "virus", "slow"):
            print(await client.call("install", package))


if __name__ == "__main__":
    trio.run(main)
