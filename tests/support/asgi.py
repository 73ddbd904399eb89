"""A scripted ASGI server, which records the events that it receives."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from tests.support.serving import guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Host", "hosting", "http_scope", "websocket_scope"]

Event = dict[str, Any]


class Host:
    """One call of an application.

    Attributes:
        sent: the events that the application has sent, in order.
        taken: the number of events of the test that the application has received.
        waiting: the number of blocked sends of the application, see `hold`.
        ended: set when the call has returned or raised an exception.
    """

    def __init__(self) -> None:
        self.sent: list[Event] = []
        self.taken = 0
        self.waiting = 0
        self.ended = trio.Event()
        self.scope = trio.CancelScope()
        self._to_app, self._for_app = trio.open_memory_channel[Event](10)
        self._from_app, self._events = trio.open_memory_channel[Event](1000)
        self._open = trio.Event()
        self._open.set()

    def hold(self) -> None:
        """Block the application's sends from now on."""
        self._open = trio.Event()

    def release(self) -> None:
        """Unblock the application's sends."""
        self._open.set()

    async def send_event(self, kind: str, **fields: Any) -> None:
        """Send an event to the application. Waits while ten events have not been received."""
        await self._to_app.send({"type": kind, **fields})

    async def receive_event(self, kind: str) -> Event:
        """Return the application's next event, which must be of this type."""
        event = await self._events.receive()
        assert event["type"] == kind, event
        return event

    async def receive(self) -> Event:
        event = await self._for_app.receive()
        self.taken += 1
        return event

    async def send(self, event: Event) -> None:
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1
        self.sent.append(event)
        await self._from_app.send(event)

    async def call(self, app: Any, scope: Event) -> None:
        try:
            with self.scope:
                await app(scope, self.receive, self.send)
        finally:
            self.ended.set()
            self._from_app.close()


@asynccontextmanager
async def hosting(app: Any, scope: Event) -> AsyncIterator[Host]:
    """Call an application for the duration of a block, which must end the call."""
    host = Host()
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.call, app, scope)
            if scope["type"] == "websocket":
                await host.send_event("websocket.connect")
            yield host
            await host.ended.wait()


def websocket_scope(path: str = "/", *headers: tuple[bytes, bytes], **more: Any) -> Event:
    """Return the scope of a WebSocket, as hypercorn creates it for HTTP/2."""
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "scheme": "wss",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.org"), (b"sec-websocket-version", b"13"), *headers],
        "client": ("192.0.2.7", 4711),
        "server": ("192.0.2.1", 443),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        **more,
    }


def http_scope(path: str = "/", *headers: tuple[bytes, bytes], method: str = "GET", **more: Any) -> Event:
    """Return the scope of a plain HTTP request."""
    scope = websocket_scope(path, *headers, **more)
    scope |= {"type": "http", "method": method, "http_version": more.get("http_version", "1.1")}
    return scope
