"""HostedServer: one server for all clients of an application under another server, the host.

Invariants:

- A call of the application lasts as long as the tasks that serve its client.
- A cancelled call drains its own client, and no other.
- An exception in one call is raised from that call.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.hosting.websocket import HostedWebSocket, HostTransport
from trio_ws.rpc.task_pool import TaskPool
from trio_ws.server.client_task import PendingClient
from trio_ws.server.embedded import EmbeddedServer
from trio_ws.websocket.internals import close_for_shutdown

if TYPE_CHECKING:
    from trio_ws._types import SocketAddress
    from trio_ws.hosting.asgi_stream import ASGIStream
    from trio_ws.server.client_task import PendingClient
    from trio_ws.server.config import ServerConfig
    from trio_ws.server.router import Router, ServerResources

__all__ = ["HostedServer", "TemporaryServer"]

_current: ContextVar[ASGIStream | None] = ContextVar("trio_ws_current_stream", default=None)


class HostedServer(EmbeddedServer):
    """A server whose clients are calls of an ASGI application.

    Args:
        config: the configuration, as for any server.
        lifespan: whether to run the lifespans of an App, and the broker.
    """

    _websocket_type = HostedWebSocket

    def __init__(self, config: ServerConfig, *, lifespan: bool) -> None:
        super().__init__(config if lifespan else replace(config, broker=None))
        self._with_lifespan = lifespan

    def _run_with_lifespan(self, router: Router) -> Any:
        return super()._run_with_lifespan(router) if self._with_lifespan else self._run()

    @enable_ki_protection
    async def serve_call(self, stream: ASGIStream) -> None:
        """Serve the client of one call until the client has left and its handler has ended.

        After a cancellation, it sends a Close frame with code 1001, and the handler has ``drain_timeout``
        seconds to end.
        """
        outer = _current.set(stream)  # the tasks of this client inherit the context
        stream.nursery = self._runtime.nursery
        try:
            self._accept_client(stream, stream.remote_address)
        finally:
            _current.reset(outer)
        try:
            await stream.pump()
            await stream.finished.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.pump)  # events of the host are received until the end
                    await self._drain_client(stream)
                    nursery.cancel_scope.cancel()
            raise
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._drain_client(stream)
            raise

    async def _drain_client(self, stream: ASGIStream) -> None:
        if stream.ws is not None:
            close_for_shutdown(stream.ws, 1001, "")
        with trio.move_on_after(self.options.drain_timeout):
            await stream.finished.wait()
        stream.serving.cancel()
        await stream.finished.wait()

    @enable_ki_protection
    async def _serve_client(self, client: PendingClient) -> None:
        stream: Any = client.stream
        client.transport = HostTransport(stream, self._runtime.nursery)
        try:
            with stream.serving:
                async with trio.open_nursery() as nursery:
                    # Pooled tasks for this client only, so that its calls run in its context.
                    stream.workers = TaskPool(nursery)
                    nursery.start_soon(self._serve_until_end, client, nursery)
        finally:
            stream.workers = None
            stream.finished.set()

    @enable_ki_protection
    async def _serve_until_end(self, client: PendingClient, nursery: trio.Nursery) -> None:
        await super()._serve_client(client)
        nursery.cancel_scope.cancel()

    @property
    def _resources(self) -> ServerResources:
        stream = _current.get()
        if stream is None or stream.workers is None:
            return self._shared
        # A call of the application lasts as long as its connection, which therefore always has a task.
        return self._shared._replace(task_pool=stream.workers, finish_soon=None)

    @_resources.setter
    def _resources(self, resources: ServerResources) -> None:
        self._shared = resources

    async def _refuse(self, client: Any) -> None:
        try:
            await super()._refuse(client)
        finally:
            client.finished.set()

    def _scheme_of(self, client: PendingClient) -> str | None:
        stream: Any = client.stream
        scheme: str = stream.scheme
        return scheme

    def _share_of(self, address: SocketAddress) -> str | None:
        return None  # the host limits connections

    def _fail_with(self, exc: BaseException) -> None:
        stream = _current.get()
        if stream is None:
            super()._fail_with(exc)
        elif stream.failure is None:
            stream.failure = exc


class TemporaryServer:
    """A server for the current calls if the host runs no lifespan. It ends with the last of them.

    It runs in a system task, because any of the calls may end before the others.

    Args:
        config: as for `HostedServer`.

    Attributes:
        server: the server.
        users: the number of current calls.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.server = HostedServer(config, lifespan=False)
        self.users = 0
        self._failure: BaseException | None = None
        self._started = trio.Event()
        self._stop = trio.Event()
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, name="trio_ws hosted server")

    async def _run(self) -> None:
        try:
            async with self.server:
                self._started.set()
                await self._stop.wait()
        except BaseException as exc:  # noqa: BLE001 - raised by wait_started(); a system task must not raise
            self._failure = exc
        finally:
            self._started.set()
            self._ended.set()

    async def wait_started(self) -> None:
        """Wait until the server has started."""
        await self._started.wait()
        if self._failure is not None:
            raise self._failure

    async def drain(self) -> None:
        """Drain all clients, like at the end of a lifespan."""
        await self._started.wait()
        if self.server.state == "serving":
            await self.server.drain()

    async def stop(self) -> None:
        """Stop the server, and wait for its end."""
        self._stop.set()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
