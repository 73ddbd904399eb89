"""A user's exception leaves a block unchanged, and a group stays a group.

Errors of wsproto, h11, ssl and sockets are raised as errors of trio_ws, with the cause chained. Both close
codes are kept, it is known which side closed first, and 1006 is never sent.
"""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import h11
import pytest
import trio
import trio.testing
import trustme

from tests.support.inspect import link_of
from tests.support.serving import all_tasks, echo, guard, serving, serving_in_memory
from trio_ws import (
    CloseConnection,
    ConnectionClosedError,
    ConnectionClosedLocallyError,
    ConnectionFailedError,
    Options,
    WebSocketError,
    WebSocketMessage,
    WebSocketServer,
    connect,
)
from trio_ws.testing import Link, MemoryListener, RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_ws import WebSocket


class Mine(BaseException):
    """A BaseException of the user."""


def failures() -> list[BaseException]:
    return [
        ValueError("mine"),
        Mine("mine"),
        KeyboardInterrupt(),
        StopAsyncIteration("mine"),
        RuntimeError("generator didn't stop after athrow()"),
        trio.TooSlowError("mine"),
        trio.EndOfChannel("mine"),
        ConnectionClosedError(4000, "of another connection"),
        ExceptionGroup("mine", [ValueError("one")]),
        ExceptionGroup("mine", [ValueError("one"), ExceptionGroup("inner", [KeyError("two")])]),
        BaseExceptionGroup("mine", [Mine("one")]),
    ]


FAILURES = pytest.mark.parametrize("failure", failures(), ids=lambda exc: repr(exc)[:30])


@asynccontextmanager
async def block(kind: str) -> AsyncIterator[Any]:
    """Enter a block of trio_ws, and everything that it requires."""
    listener = MemoryListener()
    if kind == "server":
        async with WebSocketServer(echo, listeners=[listener]) as server:
            yield server
    else:
        async with (
            WebSocketServer(echo, listeners=[listener]),
            connect("ws://test", stream=await listener.connect()) as ws,
        ):
            yield ws


BLOCKS = pytest.mark.parametrize("kind", ["server", "connect"])


# -- exceptions that leave blocks -------------------------------------------------------------------


@BLOCKS
@FAILURES
async def test_exceptions_of_the_user_leave_unchanged(
    kind: str, failure: BaseException, autojump_clock: MockClock
) -> None:
    before = all_tasks()
    cause, context = failure.__cause__, failure.__context__
    with pytest.raises(type(failure)) as info:
        async with block(kind):
            raise failure
    assert info.value is failure
    assert (info.value.__cause__, info.value.__context__) == (cause, context)
    assert all_tasks() == before


@BLOCKS
@FAILURES
async def test_exceptions_of_the_user_leave_when_cancelled_at_the_same_time(
    kind: str, failure: BaseException, autojump_clock: MockClock
) -> None:
    before = all_tasks()
    left: list[BaseException] = []
    with trio.CancelScope() as scope:
        try:
            async with block(kind):
                scope.cancel()
                raise failure
        except BaseException as exc:  # noqa: BLE001 - whatever leaves
            left.append(exc)
    assert left == [failure]
    assert all_tasks() == before


@BLOCKS
async def test_a_cancellation_leaves_as_a_cancellation_and_in_no_group(
    kind: str, autojump_clock: MockClock
) -> None:
    left: list[BaseException] = []
    with trio.move_on_after(1) as scope:
        try:
            async with block(kind):
                await trio.sleep_forever()
        except BaseException as exc:
            left.append(exc)
            raise
    assert scope.cancelled_caught
    assert [type(exc) for exc in left] == [trio.Cancelled]


@BLOCKS
async def test_a_cancellation_that_comes_at_the_very_end_is_in_no_group(
    kind: str, autojump_clock: MockClock
) -> None:
    with trio.CancelScope() as scope:
        try:
            async with block(kind):
                scope.cancel()
        except BaseException as exc:
            assert type(exc) is trio.Cancelled
            raise


@BLOCKS
async def test_a_timeout_of_the_user_is_a_too_slow_error(kind: str, autojump_clock: MockClock) -> None:
    with pytest.raises(trio.TooSlowError):
        async with block(kind):
            with trio.fail_after(3):
                await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(3)


@BLOCKS
async def test_the_users_own_nursery_in_the_block_gives_its_own_group(
    kind: str, autojump_clock: MockClock
) -> None:
    async def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(ExceptionGroup) as info:
        async with block(kind), trio.open_nursery() as nursery:
            nursery.start_soon(fail)
    assert [type(exc) for exc in info.value.exceptions] == [KeyError]


async def test_a_failure_of_connect_is_not_in_a_group(autojump_clock: MockClock) -> None:
    link = Link()
    await link.server.aclose()
    with pytest.raises(ConnectionFailedError):
        async with connect("ws://test", stream=link.client):
            pytest.fail("the handshake was accepted")


@pytest.mark.parametrize(
    ("how", "code"), [("end", 1000), ("raise", 1011), ("cancel", 1001), ("cancel in a nursery", 1001)]
)
async def test_the_peer_learns_how_the_block_was_left(how: str, code: int) -> None:
    # Over a socket, to which a Close frame can be sent without waiting.
    heard: list[int | None] = []
    ended = trio.Event()

    async def listen(ws: WebSocket) -> None:
        try:
            async for _ in ws:
                pass
        except ConnectionClosedError:
            pass
        heard.append(ws.close_code)
        ended.set()

    async with serving(listen) as server:
        with trio.CancelScope() as scope:
            try:
                async with connect(server.url) as ws:
                    await ws.send("x")
                    if how == "raise":
                        raise KeyError("mine")
                    if how == "cancel":
                        scope.cancel()
                        await trio.sleep_forever()
                    if how == "cancel in a nursery":
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(trio.sleep_forever)
                            scope.cancel()
                            await trio.sleep_forever()
            except KeyError:
                pass
        await ended.wait()
    assert heard == [code]


# -- causes -----------------------------------------------------------------------------------------


def causes(exc: BaseException) -> list[BaseException]:
    chain = []
    cause = exc.__cause__
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__
    return chain


async def test_a_refused_connection_chains_the_os_error() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound but not listening, so that no other program uses the port
        port = sock.getsockname()[1]
        with trio.fail_after(guard()), pytest.raises(ConnectionFailedError) as info:
            async with connect(f"ws://127.0.0.1:{port}"):
                pytest.fail("somebody was there")
    assert any(isinstance(cause, OSError) for cause in causes(info.value))
    assert f"127.0.0.1:{port}" in str(info.value)


class Resolver(trio.abc.HostnameResolver):
    """A DNS without any names."""

    async def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_a_name_that_is_not_known_chains_the_resolvers_error() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    with pytest.raises(ConnectionFailedError, match=r"chat\.example:80.*no such name") as info:
        async with connect("ws://chat.example"):
            pytest.fail("somebody was there")
    assert isinstance(info.value.__cause__, socket.gaierror)


async def test_a_missing_unix_socket_chains_the_os_error(tmp_path: Any) -> None:
    with pytest.raises(ConnectionFailedError) as info:
        async with connect("ws://test", unix_path=tmp_path / "nobody"):
            pytest.fail("somebody was there")
    assert isinstance(info.value.__cause__, FileNotFoundError)


async def test_an_untrusted_certificate_chains_the_ssl_error() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost", "127.0.0.1").configure_cert(context)
    async with serving(ssl_context=context) as server:
        with pytest.raises(ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED") as info:
            async with connect(server.url):
                pytest.fail("it was trusted")
    assert any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(info.value))


async def test_malformed_http_chains_the_error_of_h11(autojump_clock: MockClock) -> None:
    link = Link()

    async def script() -> None:
        await link.server.receive_some()
        await link.server.send_all(b"HTTP/1.1 101 Hm\r\nno colon\r\n\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(script)
        with pytest.raises(ConnectionFailedError) as info:
            async with connect("ws://test", stream=link.client):
                pytest.fail("the handshake was accepted")
    assert isinstance(info.value.__cause__, h11.RemoteProtocolError)


async def test_a_reset_chains_the_os_error() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def reset() -> None:
        stream = await listener.accept()
        peer = await RawPeer.accept(stream)
        assert await peer.receive_frame() is not None
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await peer.aclose()

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(reset)
        async with connect(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}") as ws:
            await ws.send("x")
            with pytest.raises(ConnectionClosedError) as info:
                await ws.receive_text()
            assert info.value.code == 1006
            assert (info.value.sent, info.value.received) == (None, None)
            assert isinstance(info.value.__cause__, ConnectionResetError)


async def test_a_broken_link_chains_its_error_for_every_waiter(autojump_clock: MockClock) -> None:
    async with serving_in_memory() as memory, memory.connect() as ws:
        link: Link = link_of(ws)
        link.partition(direction="to_server")  # the ping is not answered
        errors: list[BaseException] = []

        async def note(waiter: Any, *args: Any) -> None:
            with pytest.raises(ConnectionClosedError) as info:
                await waiter(*args)
            errors.append(info.value)

        async with trio.open_nursery() as nursery:
            for waiter in (ws.recv, ws.receive_text, ws.receive_bytes, ws.receive_json, ws.ping):
                nursery.start_soon(note, waiter)
            await trio.testing.wait_all_tasks_blocked()
            link.cut()
        await note(ws.send, "x")
        await note(ws.send, WebSocketMessage.ping(b"x"))
        assert len(errors) == 7
        for error in errors:
            assert isinstance(error, trio.BrokenResourceError)
            assert not isinstance(error, trio.ClosedResourceError)
            assert isinstance(error.__cause__, trio.BrokenResourceError)


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"\xf1\x80\0\0\0\0", 1002),  # reserved bits
        (b"\x83\x80\0\0\0\0", 1002),  # a reserved opcode
        (b"\x09\x80\0\0\0\0", 1002),  # a ping in fragments
        (b"\x80\x80\0\0\0\0", 1002),  # a continuation of nothing
        (b"\x81\x01x", 1002),  # not masked
        (b"\x81\x81\0\0\0\0\xff", 1007),  # not UTF-8
        (b"\x88\x81\0\0\0\0\xff", 1002),  # half a close code
    ],
)
async def test_a_protocol_error_comes_as_ours(wire: bytes, code: int, autojump_clock: MockClock) -> None:
    errors: list[BaseException] = []

    async def handler(ws: WebSocket) -> None:
        try:
            await ws.recv()
        except Exception as exc:
            errors.append(exc)
            raise

    async with serving_in_memory(handler) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await peer.send_raw(wire)
        assert (await peer.receive_until_close() or (0,))[0] == code
        await peer.aclose()
    (error,) = errors
    assert type(error) is ConnectionClosedError
    assert isinstance(error, WebSocketError)
    assert (error.code, error.received) == (code, None)
    assert error.sent is not None
    assert error.reason


async def test_a_silent_peer_comes_as_a_timeout(autojump_clock: MockClock) -> None:
    async with serving_in_memory() as memory, memory.connect() as ws:
        link_of(ws).partition()
        with pytest.raises(ConnectionClosedError, match="ping timeout") as info:
            await ws.recv()
        assert isinstance(info.value.__cause__, TimeoutError)


# -- close codes ------------------------------------------------------------------------------------


@asynccontextmanager
async def two_ends() -> AsyncIterator[tuple[WebSocket, RawPeer]]:
    """Yield a server's connection and its raw client."""
    async with serving_in_memory(None) as memory:
        peer = await RawPeer.connect(await memory.stream())
        yield await memory.server.accept(), peer


async def test_the_peer_closes_first(autojump_clock: MockClock) -> None:
    async with two_ends() as (ws, peer):
        await peer.send_close(4001, "peer's reason")
        with pytest.raises(ConnectionClosedError) as info:
            await ws.recv()
        assert ws.peer_closed_first
        assert ws.close_received == info.value.received == (4001, "peer's reason")
        assert ws.close_sent == info.value.sent == (4001, "")
        assert (
            (ws.close_code, ws.close_reason)
            == (info.value.code, info.value.reason)
            == (4001, "peer's reason")
        )
        assert type(info.value) is ConnectionClosedError
        assert await peer.receive_until_close() == (4001, "")


async def test_we_close_first_and_the_peer_has_another_opinion(autojump_clock: MockClock) -> None:
    async with two_ends() as (ws, peer), trio.open_nursery() as nursery:
        nursery.start_soon(ws.close, 4002, "our reason")
        assert await peer.receive_until_close() == (4002, "our reason")
        await peer.send_close(4003, "peer's reason")
        await peer.expect_eof()
        assert not ws.peer_closed_first
        assert ws.close_sent == (4002, "our reason")
        assert ws.close_received == (4003, "peer's reason")
        with pytest.raises(ConnectionClosedLocallyError) as info:
            await ws.send("x")
        assert isinstance(info.value, trio.ClosedResourceError)
        assert isinstance(info.value, trio.BrokenResourceError)
        assert (info.value.sent, info.value.received) == (ws.close_sent, ws.close_received)


async def test_both_close_at_once(autojump_clock: MockClock) -> None:
    async with serving_in_memory(None) as memory:
        peer = await RawPeer.connect(await memory.stream(latency=1))
        ws = await memory.server.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.close, 4002, "ours")
            nursery.start_soon(peer.send_close, 4003, "peer's")
        assert (ws.close_sent, ws.close_received) == ((4002, "ours"), (4003, "peer's"))
        assert not ws.peer_closed_first
        assert await peer.receive_until_close() == (4002, "ours")
        await peer.expect_eof()


async def test_a_peer_that_closes_without_a_code(autojump_clock: MockClock) -> None:
    async with two_ends() as (ws, peer):
        await peer.send_close(None)
        assert await ws.recv() is None
        assert ws.close_received == (1005, "")
        assert ws.close_code == 1005
        assert await peer.receive_until_close() == (1005, "")  # the answer is an empty Close frame


async def test_a_peer_that_never_answers_our_close(autojump_clock: MockClock) -> None:
    async with two_ends() as (ws, peer):
        await ws.close(4002, "ours")
        assert (ws.close_sent, ws.close_received) == ((4002, "ours"), None)
        assert ws.close_code == 4002
        assert await peer.receive_until_close() == (4002, "ours")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
async def test_codes_that_may_not_be_sent_are_refused_both_ways(code: int, autojump_clock: MockClock) -> None:
    async with two_ends() as (ws, peer):
        for wrong in (
            lambda: CloseConnection(code),
            lambda: WebSocketMessage.close(code),
        ):
            with pytest.raises(ValueError, match=f"close code {code} cannot be sent; use 1000"):
                wrong()
        with pytest.raises(ValueError, match=f"close code {code} cannot be sent; use 1000"):
            await ws.close(code)
        assert ws.connected
        await peer.send_close(code)
        assert (await peer.receive_until_close() or (0,))[0] == 1002
        with pytest.raises(ConnectionClosedError) as info:
            await ws.recv()
        assert info.value.code == 1002


@pytest.mark.parametrize("how", ["eof", "cut", "clean cut"])
async def test_an_end_without_a_close_is_1006_here_and_nothing_on_the_wire(
    how: str, autojump_clock: MockClock
) -> None:
    async with two_ends() as (ws, peer):
        link: Link = peer.stream.link  # type: ignore[attr-defined]
        carried = link.to_client.carried
        if how == "eof":
            await link.client.send_eof()
        else:
            link.cut(clean=how == "clean cut")
        with pytest.raises(ConnectionClosedError) as info:
            await ws.recv()
        assert info.value.code == ws.close_code == 1006
        assert (ws.close_sent, ws.close_received) == (None, None)
        assert link.to_client.carried == carried


async def test_no_option_of_ours_sends_1006_when_the_peer_is_gone(autojump_clock: MockClock) -> None:
    options = Options(ping_interval=1, ping_timeout=1, close_timeout=1)
    async with serving_in_memory(None, options=options) as memory:
        peer = await RawPeer.connect(await memory.stream())
        ws = await memory.server.accept()
        await ws.wait_closed()
        codes = []
        while (frame := await peer.receive_frame()) is not None:
            if frame.opcode == 8:
                codes.append(int.from_bytes(frame.payload[:2], "big"))
        assert 1006 not in codes
        assert ws.close_code == 1011
