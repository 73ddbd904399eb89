"""ASGIApp: a target as an ASGI 3 application, for ASGI servers on trio or on asyncio.

One `HostedServer` (server.py) serves all clients. Each call of the application is one client, whose
connection is an `ASGIStream` (asgi_stream.py). The lifespan call runs the server. If the ASGI server makes no
lifespan call, the first other call starts a temporary server, which ends with the last running call.

Invariants:

- When a call returns or is cancelled, none of its tasks is left. A cancelled call drains its client first.
- All calls share the handler's instance, and limits such as `max_connections`.
"""

from __future__ import annotations

import warnings
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws._blocks import in_asyncio_loop
from trio_ws.hosting.asgi_stream import HTTPStream, WebSocketStream
from trio_ws.hosting.server import HostedServer, TemporaryServer
from trio_ws.logs import logger_for
from trio_ws.server.config import server_config

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from trio_ws.channels.broker import Broker
    from trio_ws.hosting.asgi_stream import ASGIStream, Receive, Scope, Send
    from trio_ws.hosting.host_port import HostPort
    from trio_ws.hosting.rsgi import RSGILifespan, RSGIScope
    from trio_ws.options import Options
    from trio_ws.server.config import Target
    from trio_ws.websocket.connection import WebSocket

__all__ = ["ASGIApp", "asgi_scope"]

logger = logger_for("trio_ws.asgi")

_NO_LOOP = (
    "trio_ws runs under ASGI servers on trio or on asyncio, and neither of them runs here; "
    "try hypercorn --worker-class trio module:app, or uvicorn module:app"
)


_scope: ContextVar[Scope | None] = ContextVar("trio_ws_asgi_scope", default=None)


def asgi_scope() -> Scope | None:
    """Return the ASGI scope of the client that the current task serves, with additions by middleware.

    It is available in handlers, in methods that clients call, and in the functions of an `App`. It is None
    under a `WebSocketServer`.
    """
    return _scope.get()


def in_asyncio() -> bool:
    """Return whether the caller is an asyncio task or callback, even if trio is a guest of the loop."""
    return in_asyncio_loop() and not trio.lowlevel.in_trio_task()


def for_this_loop(make: Callable[[], AbstractAsyncContextManager[None]]) -> AbstractAsyncContextManager[None]:
    """Return a trio context manager, or in asyncio one that runs it in the loop's guest run of trio."""
    if not in_asyncio():
        return make()
    from trio_ws.hosting.guest import as_asyncio_manager  # noqa: PLC0415 - asyncio is only for its users

    return as_asyncio_manager(make)


class ASGIApp:
    """A target of `WebSocketServer` as an ASGI 3 application: ``app = ASGIApp(handler)``.

    The ASGI server is responsible for TLS, HTTP/2, compression, pings and the PROXY protocol. Of ``options``,
    ``ping_interval``, ``compression``, ``proxy_protocol`` and the limits per address have no effect here. The
    path that the application is mounted at (``root_path``) is removed from the path of requests.

    Args:
        target: as for `WebSocketServer`.
        subprotocols: as for `WebSocketServer`.
        broker: as for `WebSocketServer`.
        debug: raise unexpected exceptions of handlers to the ASGI server. Default False.
        options: limits and timeouts. Default ``Options()``.

    Raises:
        TypeError, ValueError: an argument is invalid.
        RuntimeError: a call is made outside of both trio and asyncio.
    """

    def __init__(
        self,
        target: Target,
        *,
        subprotocols: Sequence[str] = (),
        broker: Broker | str | None = None,
        debug: bool = False,
        options: Options | None = None,
    ) -> None:
        if target is None:
            raise TypeError("an ASGIApp needs a target, such as an async function of one WebSocket")
        config = server_config(target, subprotocols=subprotocols, broker=broker, debug=debug, options=options)
        # The host listens, and is responsible for these features.
        self.options = replace(config.options, ping_interval=None, compression=False, proxy_protocol=False)
        self._config = replace(config, options=self.options, listeners=())
        self._servers: list[HostedServer] = []  # one for each block of run_lifespan()
        self._temporary: TemporaryServer | None = None  # without a lifespan
        self._rsgi: RSGILifespan | None = None

    @property
    def connections(self) -> frozenset[WebSocket]:
        """The connections in this process whose handlers are running, as a copy."""
        servers = [*self._servers, *([self._temporary.server] if self._temporary is not None else [])]
        return frozenset(ws for server in servers for ws in server.connections)

    def run_lifespan(self) -> AbstractAsyncContextManager[None]:
        """Run the lifespans of an App, its channels and the broker, for the duration of a block.

        A call with the scope ``lifespan`` does this. If the ASGI server makes no such call, as for an
        application that is mounted in another one, use this in the lifespan of the outer application. A
        target without lifespans and without a broker does not need it.

        Raises:
            BrokerError: the broker cannot be reached within ``open_timeout``.
        """
        return for_this_loop(self._run_lifespan)

    @asynccontextmanager
    @enable_ki_protection
    async def _run_lifespan(self) -> AsyncIterator[None]:
        server = HostedServer(self._config, lifespan=True)
        try:
            async with server:
                self._servers.append(server)
                yield
        finally:
            if server in self._servers:
                self._servers.remove(server)
            if self._temporary is not None:  # of calls that came before
                with trio.CancelScope(shield=True):
                    await self._temporary.drain()

    def live(self) -> AbstractAsyncContextManager[None]:
        """Deprecated: use `run_lifespan`."""
        warnings.warn("live() is deprecated, use run_lifespan()", DeprecationWarning, stacklevel=2)
        return self.run_lifespan()

    async def __rsgi__(self, scope: RSGIScope, protocol: Any) -> None:
        """Serve one WebSocket or HTTP request by RSGI 1."""
        from trio_ws.hosting.rsgi import serve_rsgi  # noqa: PLC0415 - asyncio is only for its users

        await serve_rsgi(self, scope, protocol)

    def __rsgi_init__(self, loop: AbstractEventLoop) -> None:
        """Start the lifespan, before the RSGI server serves.

        Raises:
            RuntimeError: the lifespan failed to start.
        """
        from trio_ws.hosting.rsgi import RSGILifespan  # noqa: PLC0415 - asyncio is only for its users

        self._rsgi = RSGILifespan(self, loop)
        self._rsgi.start()

    def __rsgi_del__(self, loop: AbstractEventLoop) -> None:
        """End the lifespan, after the RSGI server has stopped."""
        if self._rsgi is not None:
            self._rsgi.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one lifespan, WebSocket or HTTP request by ASGI 3."""
        if trio.lowlevel.in_trio_task():
            await self._call(scope, receive, send)
            return
        if not in_asyncio():
            raise RuntimeError(_NO_LOOP)
        from asyncio import CancelledError  # noqa: PLC0415 - asyncio is only for its users

        from trio_ws.hosting.guest import guest_run  # noqa: PLC0415 - asyncio is only for its users
        from trio_ws.hosting.host_port import HostPort  # noqa: PLC0415 - as above

        is_lifespan = scope["type"] == "lifespan"
        try:
            run = guest_run()
        except RuntimeError as exc:
            if not is_lifespan:
                raise
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            return
        port = HostPort(run, receive, send)
        if not is_lifespan:
            await port.serve(self._call, scope, port.receive, port.send, port)
            return
        ended = False
        try:
            async with run.lifespan():
                await port.serve(self._call, scope, port.receive, port.send)
                ended = True
        except CancelledError:  # hypercorn cancels the lifespan after it was told that it is complete
            if not ended:
                raise

    @enable_ki_protection
    async def _call(self, scope: Scope, receive: Receive, send: Send, direct: HostPort | None = None) -> None:
        kind = scope["type"]
        if kind == "websocket":
            await self._serve(WebSocketStream(scope, receive, send, direct))
        elif kind == "http":
            await self._serve(HTTPStream(scope, receive, send))
        elif kind == "lifespan":
            await self._handle_lifespan(receive, send)
        else:
            raise ValueError(f"trio_ws serves websocket, http and lifespan, not the ASGI scope {kind!r}")

    async def _serve(self, stream: ASGIStream) -> None:
        outer = _scope.set(stream.scope)  # tasks of this client are begun from here
        try:
            async with self._server() as server:
                await server.serve_call(stream)
        finally:
            _scope.reset(outer)
        if stream.failure is not None:
            raise stream.failure

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[HostedServer]:
        """Get the server of the lifespan, or without one a temporary server that all current calls share."""
        if self._servers:
            yield self._servers[-1]
            return
        self._check_live()
        if self._temporary is None:
            self._temporary = TemporaryServer(self._config)
        temporary = self._temporary
        temporary.users += 1
        try:
            await temporary.wait_started()
            yield temporary.server
        finally:
            temporary.users -= 1
            if not temporary.users:
                self._temporary = None
                await temporary.stop()

    def _check_live(self) -> None:
        if self._config.router is not None:
            self._config.router.ensure_lifespan()
        if self._config.broker is not None:
            raise RuntimeError(
                "this ASGIApp has a broker, but the ASGI server has run no lifespan, as is usual for mounted"
                " applications; write async with app.run_lifespan() in the lifespan of the outer application"
            )

    async def _handle_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        phase = "startup"
        try:
            async with self._run_lifespan():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as exc:
            logger.exception("the lifespan failed")
            await send({"type": f"lifespan.{phase}.failed", "message": f"{type(exc).__name__}: {exc}"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
