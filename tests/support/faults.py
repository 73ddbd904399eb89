"""Exceptions that user code may raise, such as those of hostile input or extension modules, and where."""

# pyright: reportUnusedClass=false
from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import TYPE_CHECKING, Any

import trio

from trio_ws import (
    App,
    ClientConnection,
    CloseConnection,
    MessageError,
    RateLimit,
    RPCError,
    WebSocketHandler,
    rate_limit,
    rpc_method,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws import BlockingWebSocket, Packet, Request, WebSocket

__all__ = ["FAULTS", "KINDS", "Faults", "Panic", "app_of", "handlers", "kept_cancelled"]


class Panic(BaseException):
    """An exception such as extension modules raise after an internal error."""


class NoInit(CloseConnection):
    def __init__(self) -> None:
        pass


class NoInitRPCError(RPCError):
    def __init__(self) -> None:
        pass


class NoInitMessageError(MessageError):
    def __init__(self) -> None:
        pass


class PanicsWhenAsked(CloseConnection):
    @property
    def code(self) -> int:
        raise Panic

    @code.setter
    def code(self, value: int) -> None:
        pass


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class UnprintablePanic(BaseException):
    def __str__(self) -> str:
        raise Panic

    __repr__ = __str__


class NoTracebackError(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no traceback")


class Underivable(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> Any:
        raise RuntimeError("no derivation")


def _changed(exc: Exception, **attributes: Any) -> Exception:
    for name, value in attributes.items():
        setattr(exc, name, value)
    return exc


async def kept_cancelled() -> BaseException:
    """Return a Cancelled of a scope that has already ended."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            return exc
    raise AssertionError("it was cancelled")


#: Functions that return a new exception, none of which is a normal end.
FAULTS: dict[str, Callable[[], BaseException]] = {
    "no_init": NoInit,
    "no_init_rpc": NoInitRPCError,
    "no_init_message": NoInitMessageError,
    "long_reason": lambda: _changed(CloseConnection(4000), reason="x" * 200),
    "reason_of_bytes": lambda: _changed(CloseConnection(4000), reason=b"x"),
    "surrogate_reason": lambda: _changed(CloseConnection(4000), reason="\udc80"),
    "illegal_code": lambda: _changed(CloseConnection(4000), code=99),
    "no_code": lambda: _changed(CloseConnection(4000), code=None),
    "panics_when_asked": PanicsWhenAsked,
    "rpc_code_of_text": lambda: _changed(RPCError("no"), code="x"),
    "rpc_text_of_bytes": lambda: RPCError(b"no"),  # type: ignore[arg-type]
    "unprintable": UnprintableError,
    "unprintable_panic": UnprintablePanic,
    "no_traceback": NoTracebackError,
    "panic": Panic,
    "generator_exit": GeneratorExit,
    "asyncio_cancelled": asyncio.CancelledError,
    "stop_iteration": StopIteration,
    "stop_async_iteration": StopAsyncIteration,
    "recursion": RecursionError,
    "memory": MemoryError,
    "key": functools.partial(KeyError, "k"),
    "broken_resource": functools.partial(trio.BrokenResourceError, "of something else"),
    "group_of_panics": lambda: BaseExceptionGroup("g", [Panic(), ValueError()]),
    "group_of_one": lambda: BaseExceptionGroup("g", [BaseExceptionGroup("h", [Panic()])]),
    "group_that_cannot_be_split": lambda: Underivable("g", [ValueError(), KeyError()]),
    "mixed_group": lambda: ExceptionGroup("g", [CloseConnection(4001), KeyError()]),
}


#: The names of all of them, including one that only trio can create, see `kept_cancelled`.
KINDS = [*FAULTS, "kept_cancelled"]


class Faults:
    """Raises the exception that the query of a request names, and counts how often it did."""

    def __init__(self, kept: BaseException) -> None:
        self.raised = 0
        self.made: dict[str, Callable[[], BaseException]] = {**FAULTS, "kept_cancelled": lambda: kept}
        self.connected = 0
        self.disconnected = 0

    def fail(self, request: Request) -> Any:
        exc = self.made[request.query_params["what"][0]]()
        self.raised += 1
        raise exc


def handlers(faults: Faults) -> dict[str, type[WebSocketHandler]]:
    """Return a handler for each kind of user code in a handler. Requests of clients run that code."""
    fail = faults.fail

    class Counted(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            faults.connected += 1

        async def on_disconnect(self, connection: ClientConnection) -> None:
            faults.disconnected += 1

        @rpc_method()
        async def m(self, connection: ClientConnection) -> int:
            return 1

    class Method(Counted):
        @rpc_method()
        async def m(self, connection: ClientConnection) -> int:
            return fail(connection.request)  # type: ignore[no-any-return]

    class PlainMethod(Counted):
        @rpc_method()
        def m(self, connection: ClientConnection) -> int:  # type: ignore[override]
            return fail(connection.request)  # type: ignore[no-any-return]

    class MethodThatWaits(Counted):
        @rpc_method()
        async def m(self, connection: ClientConnection) -> int:
            await trio.sleep(0.1)
            return fail(connection.request)  # type: ignore[no-any-return]

    class MethodWithANursery(Counted):
        @rpc_method()
        async def m(self, connection: ClientConnection) -> None:  # type: ignore[override]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await trio.sleep(0.1)
                fail(connection.request)

    class Stream(Counted):
        @rpc_method()
        async def m(self, connection: ClientConnection) -> AsyncIterator[int]:  # type: ignore[override]
            yield 1
            fail(connection.request)

    class StreamThatCloses(Counted):
        @rpc_method()
        async def m(self, connection: ClientConnection) -> AsyncIterator[int]:  # type: ignore[override]
            try:
                yield 1
            finally:
                fail(connection.request)

    class Predicate(Counted):
        @rpc_method(requires=lambda connection: fail(connection.request))
        async def m(self, connection: ClientConnection) -> int:
            return 1

    class LimitKey(Counted):
        @rpc_method()
        @rate_limit(5, 1.0, key=lambda connection: fail(connection.request))
        async def m(self, connection: ClientConnection) -> int:
            return 1

    class DefaultLimitKey(Counted):
        default_rate_limit = RateLimit(5, 1.0, key=lambda connection: fail(connection.request))

    class State(Counted):
        def make_state(self, connection: ClientConnection) -> Any:
            fail(connection.request)

    class OnConnect(Counted):
        async def on_connect(self, connection: ClientConnection) -> None:
            fail(connection.request)

    class OnConnectThatAccepts(Counted):
        async def on_connect(self, connection: ClientConnection) -> None:
            await connection.accept()
            fail(connection.request)

    class OnReceive(Counted):
        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            fail(connection.request)

    class OnReceiveThatWaits(Counted):
        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            await trio.sleep(0.1)
            fail(connection.request)

    class OnDisconnect(Counted):
        async def on_disconnect(self, connection: ClientConnection) -> None:
            faults.disconnected += 1
            fail(connection.request)

    class MaySubscribe(Counted):
        def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
            return fail(connection.request)  # type: ignore[no-any-return]

    class MaySubscribeThatWaits(Counted):
        async def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
            await trio.sleep(0.1)
            return fail(connection.request)  # type: ignore[no-any-return]

    return {kind.__name__: kind for kind in Counted.__subclasses__()}


def app_of(faults: Faults) -> App:
    """Return an App with every kind of user code in a server, each at the path of its name."""
    app, fail = App(), faults.fail
    for name, kind in handlers(faults).items():
        app.mount(f"/{name}", kind)

    @app.websocket("/Handler")
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        fail(ws.request)

    @app.websocket("/HandlerBeforeAccept")
    async def before(ws: WebSocket) -> None:
        fail(ws.request)

    @app.websocket("/HandlerWithANursery")
    async def nest(ws: WebSocket) -> None:
        await ws.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep(0.1)
            fail(ws.request)

    @app.websocket("/Thread")
    def thread(ws: BlockingWebSocket) -> None:
        ws.accept()
        fail(ws.request)

    below = App()

    @below.add_middleware
    async def around(ws: WebSocket, call_next: Any) -> None:
        fail(ws.request)

    @below.websocket("/")
    async def under_middleware(ws: WebSocket) -> None:
        await ws.accept()

    app.mount("/Middleware", below)
    managed = App()

    @managed.middleware
    async def manager(ws: WebSocket) -> AsyncIterator[None]:
        yield
        fail(ws.request)

    @managed.websocket("/")
    async def under_manager(ws: WebSocket) -> None:
        await ws.accept()

    app.mount("/MiddlewareThatLeaves", managed)

    @app.http("/HTTP")
    async def http(request: Request) -> str:
        return fail(request)  # type: ignore[no-any-return]

    @app.http("/HTTPThread")
    def http_thread(request: Request) -> str:
        return fail(request)  # type: ignore[no-any-return]

    @app.websocket("/echo")
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    return app
