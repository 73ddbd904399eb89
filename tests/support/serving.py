"""Servers for tests, over memory links or sockets, and simple HTTP requests to them.

Invariant: a test that hangs fails, because every server here runs in a `trio.fail_after`. Under a mock clock
that time passes immediately.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from trio_ws import WebSocketServer, connect
from trio_ws.server.client_task import _NO_CONTEXT
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable
    from contextlib import AbstractAsyncContextManager

    from trio_ws import WebSocket
    from trio_ws.testing import LinkStream

__all__ = [
    "MemoryServer",
    "all_tasks",
    "body_of",
    "echo",
    "exchange",
    "guard",
    "read_to_end",
    "request",
    "serving",
    "serving_in_memory",
    "status_of",
]


async def echo(ws: WebSocket) -> None:
    """Echo all messages."""
    async for message in ws:
        await ws.send(message)


class EchoHandler:
    """A handler function that echoes all messages, and keeps a set of the open connections."""

    def __init__(self) -> None:
        self.open: list[WebSocket] = []

    async def __call__(self, ws: WebSocket) -> None:
        await ws.accept()
        self.open.append(ws)
        async for message in ws:
            await ws.send(message)


def guard() -> float:
    """Return the seconds after which a test counts as hung, also on a busy machine and with failovers."""
    return 100_000.0 if isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock) else 120.0


class MemoryServer:
    """A running server and its memory listener."""

    def __init__(self, server: WebSocketServer, listener: MemoryListener) -> None:
        self.server = server
        self.listener = listener

    async def stream(self, **link: Any) -> LinkStream:
        """Return the client's end of a new connection, before any data."""
        return await self.listener.connect(**link)

    def connect(self, path: str = "/", **kwargs: Any) -> AbstractAsyncContextManager[WebSocket]:
        """Connect a client of trio_ws over a new connection."""
        link = self.listener.open_link_nowait()
        return connect(f"ws://test{path}", stream=link.client, **kwargs)


@asynccontextmanager
async def serving_in_memory(target: Any = echo, **kwargs: Any) -> AsyncIterator[MemoryServer]:
    """Run a server on a memory listener."""
    listener = MemoryListener()
    with trio.fail_after(guard()):
        async with WebSocketServer(target, listeners=[listener], **kwargs) as server:
            yield MemoryServer(server, listener)


@asynccontextmanager
async def serving(target: Any = echo, **kwargs: Any) -> AsyncIterator[WebSocketServer]:
    """Run a server on a free port of 127.0.0.1."""
    kwargs.setdefault("host", "127.0.0.1")
    with trio.fail_after(guard()):
        async with WebSocketServer(target, **kwargs) as server:
            yield server


def request(
    *more: str, method: str = "GET", target: str = "/", leave_out: Iterable[str] = (), version: str = "1.1"
) -> bytes:
    """Return an opening request with additional header lines, or without some (named in lower case)."""
    usual = {
        "host": "Host: localhost",
        "upgrade": "Upgrade: websocket",
        "connection": "Connection: Upgrade",
        "sec-websocket-key": "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "Sec-WebSocket-Version: 13",
    }
    lines = [line for name, line in usual.items() if name not in leave_out]
    return "\r\n".join([f"{method} {target} HTTP/{version}", *lines, *more, "", ""]).encode()


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """Return all data up to the end of the stream, or to the error that breaks it."""
    data = bytearray()
    try:
        async for piece in stream:
            data += piece
    except trio.BrokenResourceError:
        pass
    return bytes(data)


async def exchange(stream: trio.abc.Stream, data: bytes) -> bytes:
    """Send data, and return all data that is received."""
    await stream.send_all(data)
    return await read_to_end(stream)


def status_of(response: bytes) -> int:
    """Return the status of an HTTP response."""
    assert response.startswith(b"HTTP/1.1 "), response
    return int(response[9:12])


def body_of(response: bytes) -> bytes:
    """Return the body of an HTTP response, whose length must be its Content-Length."""
    head, _, body = response.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    assert [int(line.split(b":")[1]) for line in lengths] == [len(body)], response
    return body


def all_tasks() -> set[trio.lowlevel.Task]:
    """Return all tasks of this trio run."""

    def below(task: trio.lowlevel.Task) -> Generator[trio.lowlevel.Task, None, None]:
        yield task
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from below(child)

    root = trio.lowlevel.current_root_task()
    assert root is not None
    return set(below(root))


def busy_tasks() -> set[trio.lowlevel.Task]:
    """Return all tasks of this trio run but those of servers that wait for another client.

    There are as many of these as clients were served at the same time, which a client that is still leaving
    makes one more.
    """
    return {task for task in all_tasks() if task.context is not _NO_CONTEXT}
