"""The Chrome DevTools Protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, overload

import msgspec
import trio

from trio_ws._blocks import block
from trio_ws._types import ANY_VALUE, JSONObject, NamedValues, Value
from trio_ws.codecs.dialect import Answer, Call, Dialect, Failure, params_of
from trio_ws.errors import ConnectionClosedError, RPCError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from trio_ws.channels.subscription import Policy
    from trio_ws.client.client import WebSocketClient
    from trio_ws.client.notifications import NotificationStream

__all__ = ["CDP", "CDPSession"]

T = TypeVar("T")


class _Error(msgspec.Struct, gc=False):
    code: int
    message: str
    data: Value = None


class _Message(msgspec.Struct, gc=False):
    """An event, or the answer to a command."""

    id: int | None = None
    method: str | None = None
    params: JSONObject | None = None
    result: Value = None
    error: _Error | None = None
    sessionId: str | None = None  # noqa: N815 - the protocol's


class CDP(Dialect):
    """The Chrome DevTools Protocol, for a browser's or a page's ``webSocketDebuggerUrl``.

    ``await client.call("Page.navigate", url="https://example.org")`` sends a command, and
    ``client.notifications("Page.loadEventFired")`` receives events. A command of a session, of one target of
    the browser's, is named ``"SESSION/Page.navigate"``, and so are its events; `CDPSession` does that.
    """

    name = "cdp"
    message_type = _Message

    def read(self, message: _Message) -> Call | Answer | Failure:
        if message.method is not None:
            session, method = message.sessionId, message.method
            return Call(f"{session}/{method}" if session else method, [], message.params or {})
        if message.id is None:
            raise ValueError("a message has an id or a method")
        if message.error is None:
            return Answer(str(message.id), message.result)
        error = message.error
        return Failure(str(message.id), error.code, error.message, error.data)

    def call(self, call_id: str, method: str, args: Sequence[Value], kwargs: NamedValues) -> JSONObject:
        session, _, command = method.rpartition("/")
        message: JSONObject = {"id": int(call_id), "method": command}
        if args or kwargs:
            message["params"] = params_of(args, kwargs, "CDP")
        if session:
            message["sessionId"] = session
        return message


class CDPSession:
    """One target of a browser: a page, a worker.

    Args:
        client: connected to the browser with `CDP`.
        session_id: of ``Target.attachToTarget`` with ``flatten``; `attach` does that.
    """

    def __init__(self, client: WebSocketClient, session_id: str) -> None:
        self.client = client
        self.session_id = session_id

    @classmethod
    @block("async with CDPSession.attach(client, target_id) as session:")
    async def attach(cls, client: WebSocketClient, target_id: str) -> AsyncIterator[CDPSession]:
        """Attach to a target for the duration of a block.

        Raises:
            trio_ws.RPCError: there is no such target.
            trio_ws.ConnectionClosedError: the connection ended first.
        """
        found = await client.call("Target.attachToTarget", targetId=target_id, flatten=True)
        session = cls(client, found["sessionId"])
        try:
            yield session
        finally:
            if client.connected:
                with (
                    trio.move_on_after(1, shield=True),
                    suppress(RPCError, ConnectionClosedError),  # the target has gone, or the browser
                ):
                    await client.call("Target.detachFromTarget", sessionId=session.session_id)

    def name(self, method: str) -> str:
        """Return the name of a command or an event of this session for a client."""
        return f"{self.session_id}/{method}"

    @overload
    async def call(self, method: str, /, *args: Value, returns: type[T], **kwargs: Value) -> T: ...
    @overload
    async def call(self, method: str, /, *args: Value, returns: object = ..., **kwargs: Value) -> Value: ...
    async def call(self, method: str, /, *args: Value, returns: object = ANY_VALUE, **kwargs: Value) -> Value:
        """Send a command to the target. See `trio_ws.WebSocketClient.call`."""
        return await self.client.call(self.name(method), *args, returns=returns, **kwargs)

    @overload
    def notifications(
        self, event: str, *, items: type[T], policy: Policy = ..., max_items: int = ...
    ) -> AbstractAsyncContextManager[NotificationStream[T]]: ...
    @overload
    def notifications(
        self, event: str, *, items: object = ..., policy: Policy = ..., max_items: int = ...
    ) -> AbstractAsyncContextManager[NotificationStream[Value]]: ...
    def notifications(
        self, event: str, *, items: object = ANY_VALUE, policy: Policy = "drop_oldest", max_items: int = 256
    ) -> AbstractAsyncContextManager[NotificationStream[Value]]:
        """Receive an event of the target. See `trio_ws.WebSocketClient.notifications`."""
        return self.client.notifications(self.name(event), items=items, policy=policy, max_items=max_items)

    def __repr__(self) -> str:
        return f"<CDPSession {self.session_id}>"
