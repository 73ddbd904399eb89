"""The timelines of docs/topics/cancellation.md: a tenth of a second each way, by the mock clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio
import trio.testing

import trio_ws
from trio_ws.testing import Link, MemoryListener

said: list[tuple[float, str, str]] = []


def say(who: str, what: str) -> None:
    said.append((trio.current_time(), who, what))


def print_all(title: str) -> None:
    """Print the events. Those at the same time have no order, so the client's are printed first."""
    print(f"-- {title}")
    for time, who, what in sorted(said, key=lambda line: line[:2]):
        print(f"{time:6.2f} s  {who:<7} {what}")
    said.clear()


class Worker(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def work(self, connection: trio_ws.ClientConnection) -> None:
        say("server", "the method begins")
        try:
            await trio.sleep(60)
        finally:
            say("server", "the method is cancelled")

    @trio_ws.rpc_method()
    async def count(self, connection: trio_ws.ClientConnection) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            say("server", f"the generator is closed, after {number} items")


async def cancelled(client: trio_ws.WebSocketClient) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "work")
            say("client", "calls")
            await trio.sleep(1)
            say("client", "cancels")
            scope.cancel()
    say("client", "goes on")


async def deadline(client: trio_ws.WebSocketClient) -> None:
    await client.ping()  # from now on the client knows the round-trip time
    say("client", "calls, with a deadline in one second")
    try:
        with trio.fail_after(1):
            await client.call("work")
    except trio.TooSlowError:
        say("client", "goes on, with TooSlowError")


async def lost(client: trio_ws.WebSocketClient, link: Link) -> None:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "work")
            say("client", "calls")
            await trio.sleep(1)
            say("both", "lose the connection")
            link.cut()
    except* trio_ws.ConnectionClosedError as errors:
        say("client", f"goes on, with {type(errors.exceptions[0]).__name__}")


async def streamed(client: trio_ws.WebSocketClient) -> None:
    say("client", "opens a stream")
    async with client.stream("count", items=int) as numbers:
        async for number in numbers:
            if number == 5:
                say("client", "leaves it at 5")
                break
    say("client", "goes on")


async def main() -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(Worker, listeners=[listener]):
        for title, run in (("cancelled", cancelled), ("deadline", deadline), ("stream", streamed)):
            stream = await listener.connect(latency=0.1)
            async with trio_ws.WebSocketClient("ws://test/", stream=stream) as client:
                await run(client)
                await trio.sleep(1)
            print_all(title)
        stream = await listener.connect(latency=0.1)
        async with trio_ws.WebSocketClient("ws://test/", stream=stream) as client:
            await lost(client, stream.link)
            await trio.sleep(1)
        print_all("lost")


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
