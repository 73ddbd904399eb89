"""asyncio and trio, as far as scenario.py needs them, and how a peer's process is run on each."""

from __future__ import annotations

import asyncio
import math
import sys
from typing import TYPE_CHECKING, Any

import trio

from tests.interop.peers.scenario import Serving, client_report, say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class AsyncioLoop:
    """Loop on asyncio."""

    async def together(self, *functions: Callable[[], Awaitable[None]]) -> None:
        await asyncio.gather(*(function() for function in functions))

    async def bounded(self, seconds: float, function: Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(seconds):
            return await function()

    def queue(self) -> tuple[Callable[[Any], None], Callable[[], Awaitable[Any]]]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        return queue.put_nowait, queue.get


class TrioLoop:
    """Loop on trio."""

    async def together(self, *functions: Callable[[], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)

    async def bounded(self, seconds: float, function: Callable[[], Awaitable[Any]]) -> Any:
        with trio.fail_after(seconds):
            return await function()

    def queue(self) -> tuple[Callable[[Any], None], Callable[[], Awaitable[Any]]]:
        put, get = trio.open_memory_channel[Any](math.inf)
        return put.send_nowait, get.receive


def run_on_asyncio(open_session: Callable[[bool], Any], serve: Callable[[Serving], Any]) -> None:
    """Be the client or the server that the command line asks for.

    Args:
        open_session: given whether to compress, makes what `client_report` opens sessions with.
        serve: given what to do with connections, an async context manager that gives the port.
    """

    async def client(url: str, compress: bool) -> None:
        say(await client_report(url, open_session(compress), AsyncioLoop()))

    async def server() -> None:
        async with serve(Serving(AsyncioLoop())) as port:
            say(port)
            await asyncio.to_thread(sys.stdin.read)

    if sys.argv[1] == "client":
        asyncio.run(client(sys.argv[2], sys.argv[3] == "deflate"))
    else:
        asyncio.run(server())


def run_on_trio(open_session: Callable[[bool], Any], serve: Callable[[Serving], Any]) -> None:
    """The same on trio."""

    async def client(url: str, compress: bool) -> None:
        say(await client_report(url, open_session(compress), TrioLoop()))

    async def server() -> None:
        async with serve(Serving(TrioLoop())) as port:
            say(port)
            await trio.to_thread.run_sync(sys.stdin.read)

    if sys.argv[1] == "client":
        trio.run(client, sys.argv[2], sys.argv[3] == "deflate")
    else:
        trio.run(server)
