"""The code of docs/reconnecting.md, run."""

from __future__ import annotations

import trio
import trio.testing

import trio_ws
import trio_ws.testing


class News(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b

    @trio_ws.rpc_method()
    def post(self, connection: trio_ws.ClientConnection, text: str) -> None:
        self.publish("news.tech", text)

    client_globs = True

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return name.startswith("news.")


async def listen(url: str) -> None:
    async with trio_ws.WebSocketClient(url, reconnect=trio_ws.Backoff(initial=0.5, maximum=30)) as client:
        total = await client.call("add", 1, 2)  # waits for a connection, if there is none
        async with client.subscribe("news.*") as subscription:  # comes back with each connection
            await client.call("post", f"{total} is the total")
            async for packet in subscription:
                print(packet.data)
                break


async def fresh_token() -> str:
    await trio.lowlevel.checkpoint()
    return "a-token"


async def with_tokens(url: str) -> None:
    async def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {await fresh_token()}"}

    async with trio_ws.WebSocketClient(url, headers=headers, reconnect=trio_ws.Backoff()) as client:
        print(await client.call("add", 1, 2))


async def by_hand(url: str) -> None:
    async with trio_ws.WebSocketClient(url, autoconnect=False) as client:
        await client.connect(retry=True, max_retry_attempt=5, retry_interval=2)
        print(await client.call("add", 1, 2))
        await client.connect()  # again, after a loss


async def in_memory() -> None:
    listener = trio_ws.testing.MemoryListener()
    client = trio_ws.WebSocketClient("ws://test/", stream=listener.connect, reconnect=trio_ws.Backoff())
    async with trio_ws.WebSocketServer(News, listeners=[listener]), client:
        print(await client.call("add", 1, 2))


async def main() -> None:
    async with trio_ws.WebSocketServer(News, 0, host="127.0.0.1") as server:
        await listen(server.url)
        await with_tokens(server.url)
        await by_hand(server.url)


if __name__ == "__main__":
    trio.run(main)
    trio.run(in_memory, clock=trio.testing.MockClock(autojump_threshold=0))
