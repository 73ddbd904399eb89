"""trio_ws in asyncio programs: trio runs as a guest of the asyncio loop, in its thread.

::

    async def main():                                   # asyncio
        async with trio_ws.guest.serve(handler, 8000) as server:
            await something_of_asyncios()

Handlers run in trio. `call_asyncio` calls asyncio functions from a handler, such as those of a database
driver. `run_trio` calls trio functions from an asyncio task. The trio run starts with the first use. It ends
with the last block of `serve`, or when the loop cancels its tasks, as ``asyncio.run`` does at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, Unpack

import trio

from trio_ws._blocks import block
from trio_ws.hosting.guest import as_asyncio_manager, guest_run
from trio_ws.hosting.guest import call_asyncio as _call_asyncio
from trio_ws.server.server import WebSocketServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_ws.server.config import ServerSettings, Target

__all__ = ["call_asyncio", "run_trio", "serve"]

T = TypeVar("T")


@block("async with trio_ws.guest.serve(...) as server:", needs_trio=False)
async def serve(
    target: Target, port: int = 0, **settings: Unpack[ServerSettings]
) -> AsyncIterator[WebSocketServer]:
    """Serve for the duration of a block of an asyncio task.

    Leaving the block or cancelling its task drains the server, as in trio. The server's async methods are
    trio functions: ``await run_trio(server.drain)``.

    Args:
        target: as for `trio_ws.WebSocketServer`; its functions run in trio.
        port: as for `trio_ws.WebSocketServer`. Default 0: a free port.
        settings: the other arguments of `trio_ws.WebSocketServer`.

    Yields:
        The running `trio_ws.WebSocketServer`.

    Raises:
        RuntimeError: no asyncio loop is running, or trio runs in this thread in another way.
        OSError: the address is in use or not available.
        Exception: an exception that ends the server cancels the block, and is raised from it.
    """
    async with as_asyncio_manager(lambda: WebSocketServer(target, port, **settings)) as server:
        yield server


async def run_trio(async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
    """Call an async function of trio from an asyncio task, and return its result.

    Cancelling the task cancels the function. The cancellation is raised when the function has ended.

    Raises:
        RuntimeError: no asyncio loop is running, or trio runs in this thread in another way.
        Exception: the function raised it.
    """
    if trio.lowlevel.in_trio_task():
        raise RuntimeError("this is a trio task already; await the function itself")
    return await guest_run().run(async_fn, *args)


async def call_asyncio(async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
    """Call an async function of asyncio from a trio task of a guest run, and return its result.

    A cancellation in trio cancels the asyncio task, and is raised when that task has ended.

    Raises:
        RuntimeError: the caller is not a trio task, or its run is not the guest of an asyncio loop.
        Exception: the function raised it.
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError("call_asyncio is for trio tasks; in asyncio await the function itself")
    return await _call_asyncio(async_fn, *args)
