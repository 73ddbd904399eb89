"""trio_ws in asyncio programs: trio runs as a guest of the asyncio loop, in its thread.

::

    async def main():                                   # asyncio
        async with trio_ws.guest.serve(handler, 8000) as server:
            await something_of_asyncios()

Handlers are trio's, as anywhere. `call_asyncio` takes them to asyncio functions, such as those of a database
driver, and `run_trio` takes asyncio tasks to trio functions. The trio run begins with the first of them, and
ends with the last block of `serve`, or when the loop cancels its tasks, as ``asyncio.run`` does at its end.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from trio_ws.hosting.guest import as_asyncio_manager, guest_run
from trio_ws.hosting.guest import call_asyncio as _call_asyncio
from trio_ws.server.server import WebSocketServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_ws.server.config import Target

__all__ = ["call_asyncio", "run_trio", "serve"]

T = TypeVar("T")


@asynccontextmanager
async def serve(target: Target, port: int = 0, **settings: Any) -> AsyncIterator[WebSocketServer]:
    """Serve for the length of a block, from an asyncio task; gives the running `trio_ws.WebSocketServer`.

    Leaving the block, and cancelling its task, drain the server as in trio. The server's async methods are
    trio's: ``await run_trio(server.drain)``.

    Args:
        target: as of `trio_ws.WebSocketServer`; its functions run in trio.
        port: as of `trio_ws.WebSocketServer`; 0 for a free one.
        settings: the other arguments of `trio_ws.WebSocketServer`.

    Raises:
        RuntimeError: no asyncio loop runs here, or trio runs in this thread in another way.
        OSError: the address is in use or not available.
        Exception: what ends the server also ends the block, and leaves it.
    """
    async with as_asyncio_manager(lambda: WebSocketServer(target, port, **settings)) as server:
        yield server


async def run_trio(async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Call an async function of trio's from an asyncio task, and return what it returns.

    A cancellation of the task cancels the function, and is raised when that has ended.

    Raises:
        RuntimeError: no asyncio loop runs here, or trio runs in this thread in another way.
        Exception: what the function raises.
    """
    if trio.lowlevel.in_trio_task():
        raise RuntimeError("this is a trio task already; await the function itself")
    return await guest_run().run(async_fn, *args)


async def call_asyncio(async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Call an async function of asyncio's from a trio task of a guest run, and return what it returns.

    A cancellation in trio cancels the asyncio task, and is raised when that has ended.

    Raises:
        RuntimeError: this is no trio task, or its run is not the guest of an asyncio loop.
        Exception: what the function raises.
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError("call_asyncio is for trio tasks; in asyncio await the function itself")
    return await _call_asyncio(async_fn, *args)
