"""An exception of a stream or listener costs at most one connection. Accepting continues, and never spins."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

from tests.support.faults import FAULTS
from tests.support.serving import echo, guard, request, serving, serving_in_memory
from trio_ws import ConnectionClosedError, ConnectionFailedError, WebSocketServer, connect
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import Callable


LINK_FAULTS: dict[str, Callable[[], BaseException]] = {
    "broken": lambda: trio.BrokenResourceError("gone"),
    "closed": lambda: trio.ClosedResourceError("closed by its owner"),
    "reset": lambda: ConnectionResetError(errno.ECONNRESET, "reset"),
    "invalid": lambda: OSError(errno.EINVAL, "Invalid argument"),
}
OTHERS = {
    kind: FAULTS[kind] for kind in ("panic", "key", "unprintable", "generator_exit", "asyncio_cancelled")
}
PLACES = ["receive_some", "send_all", "aclose"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class FaultyStream(trio.abc.Stream):
    """A user-defined stream. One of its methods fails from call number ``after`` on."""

    def __init__(self, inner: trio.abc.Stream, place: str, after: int, fail: Callable[[], Any]) -> None:
        self.inner = inner
        self._place = place
        self._left = after
        self._fail = fail

    def _check(self, place: str) -> Any:
        if place == self._place:
            self._left -= 1
            if self._left < 0:
                return self._fail
        return None

    async def receive_some(self, max_bytes: int | None = None) -> Any:
        fail = self._check("receive_some")
        await trio.lowlevel.checkpoint()
        return fail() if fail else await self.inner.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        fail = self._check("send_all")
        await trio.lowlevel.checkpoint()
        if fail:
            fail()
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        fail = self._check("aclose")
        try:
            await self.inner.aclose()
        finally:
            if fail:
                fail()


def raising(make: Callable[[], BaseException]) -> Callable[[], Any]:
    def fail() -> Any:
        exc = make()
        raise exc

    return fail


class FaultyListener(trio.abc.Listener[trio.abc.Stream]):
    """A user-defined listener whose ``accept`` does what the test says."""

    def __init__(self) -> None:
        self.inner = MemoryListener()
        self.failing: Callable[[], Any] | None = None
        self.wrapped: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None
        self.tries = 0
        self.closes_badly = False

    async def accept(self) -> Any:
        self.tries += 1
        if self.failing is not None:
            await trio.lowlevel.checkpoint()
            return self.failing()
        stream: trio.abc.Stream = await self.inner.accept()
        if self.wrapped is not None:
            stream, self.wrapped = self.wrapped(stream), None
        return stream

    async def aclose(self) -> None:
        await self.inner.aclose()
        if self.closes_badly:
            raise RuntimeError("it was not meant to be closed")


async def still_serves(listener: FaultyListener, **kwargs: Any) -> None:
    scheme = "wss" if kwargs else "ws"
    async with connect(f"{scheme}://localhost", stream=await listener.inner.connect(), **kwargs) as ws:
        await ws.send("here?")
        assert await ws.receive_text() == "here?"


@pytest.mark.parametrize("after", range(3))
@pytest.mark.parametrize("place", PLACES)
async def test_a_stream_that_fails_costs_its_connection(
    place: str, after: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    listener = FaultyListener()
    with trio.fail_after(guard()):
        async with WebSocketServer(echo, listeners=[listener]) as server:
            for kind, make in {**LINK_FAULTS, **OTHERS}.items():
                caplog.clear()
                listener.wrapped = lambda stream: FaultyStream(stream, place, after, raising(make))
                try:
                    async with connect("ws://localhost", stream=await listener.inner.connect()) as ws:
                        for _ in range(3):
                            await ws.send("here?")
                            await ws.receive_text()
                except (ConnectionFailedError, ConnectionClosedError):
                    pass
                with trio.fail_after(2):
                    while server.connections:
                        await trio.sleep(0.01)
                await trio.testing.wait_all_tasks_blocked()
                failed = place != "aclose" or after == 0
                assert len(caplog.records) == (failed and kind in OTHERS), (kind, caplog.text)
                await still_serves(listener)


@pytest.mark.parametrize("given", [None, "text", 5])
async def test_a_stream_that_gives_no_bytes_costs_its_connection(
    given: object, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    listener = FaultyListener()
    with trio.fail_after(guard()):
        async with WebSocketServer(echo, listeners=[listener]):
            listener.wrapped = lambda stream: FaultyStream(stream, "receive_some", 1, lambda: given)
            with pytest.raises((ConnectionClosedError, ConnectionFailedError)):
                async with connect("ws://localhost", stream=await listener.inner.connect()) as ws:
                    await ws.send("here?")
                    await ws.receive_text()
                    await ws.receive_text()
            await still_serves(listener)


@pytest.mark.parametrize("place", PLACES)
async def test_a_stream_that_fails_below_tls_costs_its_connection(
    place: str,
    autojump_clock: trio.testing.MockClock,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    listener = FaultyListener()
    with trio.fail_after(guard()):
        async with WebSocketServer(echo, listeners=[listener], ssl_context=server_context) as server:
            for make in {**LINK_FAULTS, **OTHERS}.values():
                for after in range(5):
                    listener.wrapped = lambda stream: FaultyStream(stream, place, after, raising(make))
                    try:
                        stream = await listener.inner.connect()
                        async with connect(
                            "wss://localhost", stream=stream, ssl_context=client_context
                        ) as ws:
                            await ws.send("here?")
                            await ws.receive_text()
                    except (ConnectionFailedError, ConnectionClosedError):
                        pass
                    with trio.fail_after(20):
                        while server.connections:
                            await trio.sleep(0.01)
            await still_serves(listener, ssl_context=client_context)


@pytest.mark.parametrize("kind", ["closed", "broken", "reset", "panic", "key", "unprintable"])
@pytest.mark.parametrize("place", ["receive_some", "send_all"])
async def test_a_client_whose_stream_fails_in_the_handshake_has_failed_to_connect(
    place: str, kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving_in_memory() as memory:
        stream = FaultyStream(await memory.stream(), place, 0, raising({**LINK_FAULTS, **OTHERS}[kind]))
        with pytest.raises(ConnectionFailedError):
            async with connect("ws://localhost", stream=stream):
                pytest.fail("it connected")


async def test_a_client_whose_stream_is_closed_by_its_owner_has_failed_to_connect(
    autojump_clock: trio.testing.MockClock,
) -> None:
    listener = MemoryListener()
    link = await listener.open_link(latency=1)
    async with WebSocketServer(echo, listeners=[listener]), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def close() -> None:
            await trio.sleep(0.5)
            await link.client.aclose()

        with pytest.raises(ConnectionFailedError, match="closed") as info:
            async with connect("ws://localhost", stream=link.client):
                pytest.fail("it connected")
        assert isinstance(info.value.__cause__, trio.ClosedResourceError)


@pytest.mark.parametrize("kind", ["no_descriptors", "not_a_stream", "broken", "invalid", *OTHERS])
async def test_a_listener_that_fails_is_asked_again_after_a_pause(
    kind: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    faults: dict[str, Callable[[], Any]] = {
        **{name: raising(make) for name, make in {**LINK_FAULTS, **OTHERS}.items()},
        "no_descriptors": raising(lambda: OSError(errno.EMFILE, "Too many open files")),
        "not_a_stream": lambda: None,
    }
    listener = FaultyListener()
    with trio.fail_after(guard()):
        async with WebSocketServer(echo, listeners=[listener]):
            async with connect("ws://localhost", stream=await listener.inner.connect()) as old:
                listener.failing = faults[kind]
                await still_serves_on(old)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(still_serves, listener)  # the accept that was already waiting
                    await trio.sleep(60)
                assert 50 < listener.tries < 80
                assert 50 < len(caplog.records) < 80
                assert {record.levelno for record in caplog.records} == {logging.ERROR}
                await still_serves_on(old)
                listener.failing = None
                with trio.fail_after(2):
                    await still_serves(listener)


async def still_serves_on(ws: Any) -> None:
    await ws.send("still?")
    assert await ws.receive_text() == "still?"


async def test_a_listener_that_does_not_close_properly_does_not_keep_others_open(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    listener, other = FaultyListener(), MemoryListener()
    listener.closes_badly = True
    async with WebSocketServer(echo, listeners=[listener, other]):
        await still_serves(listener)
    with pytest.raises(OSError):
        await other.open_link()
    assert "not meant to be closed" in caplog.text


async def test_a_socket_option_that_is_refused_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def setsockopt(self: socket.socket, *args: Any) -> None:
        # Some systems fail if the client has already reset its connection.
        raise OSError(errno.EINVAL, "Invalid argument")

    async with serving() as server:
        monkeypatch.setattr(socket.socket, "setsockopt", setsockopt)
        sock = socket.socket()
        with sock:
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(request())
            monkeypatch.undo()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with connect(server.url) as ws:
            await still_serves_on(ws)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EINVAL])
async def test_a_socket_that_cannot_accept_is_asked_again_after_a_pause(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept = socket.socket.accept
    tries = 0

    def fail_thrice(self: socket.socket) -> Any:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise OSError(number, "as the test has it")
        return accept(self)

    async with serving() as server, connect(server.url) as old:
        monkeypatch.setattr(socket.socket, "accept", fail_thrice)
        async with connect(server.url) as new:
            await still_serves_on(new)
        await still_serves_on(old)
    assert len(caplog.records) == 3
