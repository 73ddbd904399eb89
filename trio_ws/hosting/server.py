"""HostedServer: one server for all clients of an application, which a host accepts.

Invariants:

- A call of the application lasts as long as the tasks that work for its client.
- A call that is cancelled drains its client, as a server does that is left, and no other.
- What fails in one call is raised from that call.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.hosting.websocket import HostedWebSocket, HostTransport
from trio_ws.rpc.task_pool import TaskPool
from trio_ws.server.embedded import EmbeddedServer

if TYPE_CHECKING:
    from trio_ws.hosting.asgi_stream import ASGIStream
    from trio_ws.server.client_task import PendingClient
    from trio_ws.server.config import ServerConfig
    from trio_ws.server.router import Router, ServerResources

__all__ = ["HostedServer", "TemporaryServer"]

_current: ContextVar[ASGIStream | None] = ContextVar("trio_ws_current_stream", default=None)


class HostedServer(EmbeddedServer):
    """A server whose clients are calls of an ASGI application.

    Args:
        config: as of any server.
        lifespan: run the lifespan of an App, and the broker.
    """

    _websocket_type = HostedWebSocket

    def __init__(self, config: ServerConfig, *, lifespan: bool) -> None:
        super().__init__(config if lifespan else replace(config, broker=None))
        self._with_lifespan = lifespan

    def _run_front(self, front: Router) -> Any:
        return super()._run_front(front) if self._with_lifespan else self._run()

    @enable_ki_protection
    async def serve_call(self, stream: ASGIStream) -> None:
        """Serve the client of one call until it has gone and its handler has ended.

        Cancelled, it sends a Close frame with 1001 and gives the handler ``drain_timeout`` seconds.
        """
        outer = _current.set(stream)  # the tasks of this client are begun from here
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
                    nursery.start_soon(stream.pump)  # what the host says is heard until the end
                    await self._drain_client(stream)
                    nursery.cancel_scope.cancel()
            raise
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._drain_client(stream)
            raise

    async def _drain_client(self, stream: ASGIStream) -> None:
        if stream.ws is not None:
            stream.ws._shutdown(1001, "")
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
                    # Tasks for the calls of this client alone, which run in the context of its own.
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
        # A call lasts as long as its connection, so that has a task in any case.
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

    def _share_of(self, address: Any) -> str | None:
        return None  # the host has the connections

    def _fail_with(self, exc: BaseException) -> None:
        stream = _current.get()
        if stream is None:
            super()._fail_with(exc)
        elif stream.failure is None:
            stream.failure = exc


class TemporaryServer:
    """A server for the calls under way where the host runs no lifespan.

    It runs in a system task, because no call lasts as long as the others, and ends with the last of them.

    Args:
        config: as of `HostedServer`.

    Attributes:
        server: the server.
        users: calls under way.
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
        """Wait until the server serves."""
        await self._started.wait()
        if self._failure is not None:
            raise self._failure

    async def drain(self) -> None:
        """Drain its clients, as at the end of a lifespan."""
        await self._started.wait()
        if self.server.state == "serving":
            await self.server.drain()

    async def stop(self) -> None:
        """End it, and wait for that."""
        self._stop.set()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
