"""The end of TCP within a handshake is reported at once, and so is invalid data.

A slow handshake ends after ``open_timeout``, and ``max_handshakes`` limits how many are open.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

from tests.support.serving import (
    all_tasks,
    echo,
    exchange,
    guard,
    read_to_end,
    request,
    serving,
    serving_in_memory,
    status_of,
)
from trio_ws import App, ConnectionFailedError, HandshakeRejectedError, Options, connect
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from trio_ws.testing import LinkStream

REQUEST = request()
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\0" * 50,
    b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
    b"\xff\xfe\xfd\r\n",
]


# -- the server's side ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 15, len(REQUEST) // 2, len(REQUEST) - 1])
async def test_the_server_answers_the_end_in_the_middle_of_a_request_at_once(
    count: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving_in_memory() as memory:
        stream = await memory.stream()
        await stream.send_all(REQUEST[:count])
        await stream.send_eof()
        assert status_of(await read_to_end(stream)) == 400
        assert trio.current_time() == 0
        assert memory.server.connections == frozenset()
    (record,) = caplog.records
    assert "is incomplete" in record.getMessage()


async def test_a_client_that_leaves_before_its_request_gets_no_response_and_is_not_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving_in_memory() as memory:
        stream = await memory.stream()
        await stream.send_eof()
        assert await read_to_end(stream) == b""
        assert trio.current_time() == 0
    assert not caplog.records


async def test_a_break_in_the_middle_of_a_request_frees_the_server_at_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving_in_memory(options=Options(max_handshakes=1)) as memory:
        stream = await memory.stream()
        await stream.send_all(REQUEST[:20])
        await trio.testing.wait_all_tasks_blocked()
        stream.link.cut()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == 0
        async with memory.connect():
            pass
    (record,) = caplog.records
    assert "left during its opening handshake" in record.getMessage()


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_the_server_refuses_garbage_at_once(
    garbage: bytes, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving_in_memory() as memory:
        # The client keeps the connection open, so only the data shows the server that it is invalid.
        assert status_of(await exchange(await memory.stream(), garbage)) == 400
        assert trio.current_time() == 0
    assert len(caplog.records) == 1


async def dribble(stream: trio.abc.SendStream, data: bytes) -> None:
    """Send a byte each second until the other side closes."""
    try:
        for byte in data * 100:
            await stream.send_all(bytes([byte]))
            await trio.sleep(1)
    except trio.BrokenResourceError:
        pass


@pytest.mark.parametrize(
    ("said", "then"),
    [
        (b"", b""),
        (b"", b"GET / HTTP/1.1\r\nX: "),
        (REQUEST[:-2], b""),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", b"x"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["silence", "head", "head without its end", "body", "chunks"],
)
async def test_a_request_that_dribbles_ends_at_open_timeout_with_408(
    said: bytes, then: bytes, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = App()
    app.http("/", methods=["POST"])(lambda request: "never")  # the route reads the body
    app.websocket("/")(echo)
    async with serving_in_memory(app, options=Options(open_timeout=7.5)) as memory:
        stream = await memory.stream()
        async with trio.open_nursery() as nursery:
            if said:
                await stream.send_all(said)
            nursery.start_soon(dribble, stream, then)
            assert status_of(await read_to_end(stream)) == 408
            assert trio.current_time() == pytest.approx(7.5)
    (record,) = caplog.records
    assert "408" in record.getMessage()
    assert "open_timeout (7.5 seconds)" in record.getMessage()


async def test_a_tls_handshake_that_dribbles_ends_at_open_timeout(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("test").configure_cert(context)
    async with serving_in_memory(ssl_context=context, options=Options(open_timeout=4)) as memory:
        stream = await memory.stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble, stream, b"\x16\x03\x01\x02\x00")
            assert await read_to_end(stream) == b""
            assert trio.current_time() == pytest.approx(4)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    (record,) = caplog.records
    assert "open_timeout (4 seconds)" in record.getMessage()


async def test_max_handshakes_bounds_those_in_their_opening_handshake(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_in_memory(options=Options(max_handshakes=3, open_timeout=10)) as memory:
        idle = [await memory.stream() for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        assert await read_to_end(await memory.stream()) == b""  # a listener without sockets just drops it
        (record,) = caplog.records
        assert "max_handshakes (3)" in record.getMessage()
        # A client whose handshake is complete does not count any more, even if it stays connected.
        await idle[0].send_all(REQUEST)
        assert status_of(await idle[0].receive_some()) == 101
        async with memory.connect() as ws:
            await ws.send("in")
            assert await ws.receive_text() == "in"
        # Nor do clients whose handshake has timed out.
        await trio.sleep(10)
        for stream in idle[1:]:
            assert status_of(await read_to_end(stream)) == 408
        for _ in range(5):
            await RawPeer.connect(await memory.stream())
        assert len(caplog.records) == 1


async def test_max_handshakes_over_sockets_answers_503() -> None:
    async with serving(options=Options(max_handshakes=1)) as server:
        idle = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with idle:
            await idle.send_all(b"GET")
            refused = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with refused:
                assert status_of(await read_to_end(refused)) == 503
            with pytest.raises(HandshakeRejectedError) as info:
                async with connect(server.url):
                    pytest.fail("the handshake was accepted")
            assert info.value.status == 503


# -- the client's side ------------------------------------------------------------------------------


async def failure_of_connect(
    script: Callable[[LinkStream], Awaitable[object]], **options: Any
) -> tuple[ConnectionFailedError, Link]:
    """Return the error of connect() with a scripted server, and check that nothing remains."""
    before = all_tasks()
    link = Link()
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(script, link.server)
            with pytest.raises(ConnectionFailedError) as info:
                async with connect("ws://test", stream=link.client, options=Options(**options)):
                    pytest.fail("the handshake was accepted")
            nursery.cancel_scope.cancel()
    assert all_tasks() == before
    with pytest.raises(trio.ClosedResourceError):
        await link.client.send_all(b"")
    return info.value, link


@pytest.mark.parametrize("count", [0, 1, 8, 20, len(ANSWER) // 2, len(ANSWER) - 1])
@pytest.mark.parametrize("clean", [True, False])
async def test_the_client_learns_of_the_end_in_the_middle_of_the_answer_at_once(
    count: int, clean: bool, autojump_clock: MockClock
) -> None:
    async def script(stream: LinkStream) -> None:
        await stream.receive_some()
        if count:
            await stream.send_all(ANSWER[:count])
        await trio.testing.wait_all_tasks_blocked()
        stream.link.cut(clean=clean)

    error, _ = await failure_of_connect(script)
    assert trio.current_time() == 0
    assert not isinstance(error, HandshakeRejectedError)
    if clean:
        assert ("in the middle" if count else "without a handshake response") in str(error)
    else:
        assert isinstance(error.__cause__, trio.BrokenResourceError)


async def test_the_client_learns_at_once_of_an_end_before_it_could_ask(autojump_clock: MockClock) -> None:
    async def script(stream: LinkStream) -> None:
        await stream.aclose()

    link = Link()
    await script(link.server)
    with pytest.raises(ConnectionFailedError):
        async with connect("ws://test", stream=link.client):
            pytest.fail("the handshake was accepted")
    assert trio.current_time() == 0


@pytest.mark.parametrize("garbage", [*GARBAGE[:4], b"HTTP/1.1 101\nno colon\n\n", b"HTTP/2 101 Hm\r\n\r\n"])
async def test_the_client_refuses_garbage_at_once(garbage: bytes, autojump_clock: MockClock) -> None:
    async def script(stream: LinkStream) -> None:
        await stream.receive_some()
        await stream.send_all(garbage)
        await trio.sleep_forever()

    error, _ = await failure_of_connect(script)
    assert trio.current_time() == 0
    assert "HTTP" in str(error)


async def test_an_answer_that_dribbles_ends_at_open_timeout(autojump_clock: MockClock) -> None:
    async def script(stream: LinkStream) -> None:
        await stream.receive_some()
        await dribble(stream, b"HTTP/1.1 101 Switching Protocols\r\nX: ")

    error, _ = await failure_of_connect(script, open_timeout=6.5)
    assert trio.current_time() == pytest.approx(6.5)
    assert "open_timeout (6.5 seconds)" in str(error)


async def test_a_rejection_whose_body_dribbles_is_told_at_its_head(autojump_clock: MockClock) -> None:
    async def script(stream: LinkStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 5000\r\n\r\n")
        await dribble(stream, b"x")

    error, _ = await failure_of_connect(script, open_timeout=6.5)
    assert isinstance(error, HandshakeRejectedError)
    assert error.status == 403
    assert trio.current_time() == pytest.approx(0.1)


async def test_a_server_that_takes_no_request_ends_at_open_timeout(autojump_clock: MockClock) -> None:
    link = Link(capacity=10)
    with pytest.raises(ConnectionFailedError, match="open_timeout") as info:
        async with connect("ws://me:secret@test", stream=link.client, options=Options(open_timeout=3)):
            pytest.fail("the handshake was accepted")
    assert "secret" not in str(info.value)
    assert trio.current_time() == pytest.approx(3)


async def test_a_tls_server_that_says_nothing_ends_at_open_timeout(autojump_clock: MockClock) -> None:
    link = Link()
    with pytest.raises(ConnectionFailedError, match="open_timeout"):
        async with connect("wss://test", stream=link.client, options=Options(open_timeout=3)):
            pytest.fail("the handshake was accepted")
    assert trio.current_time() == pytest.approx(3)
    with pytest.raises(trio.ClosedResourceError):
        await link.client.send_all(b"")


async def test_cancelling_connect_is_immediate_and_leaves_nothing(autojump_clock: MockClock) -> None:
    before = all_tasks()
    link = Link()
    with trio.move_on_after(1) as scope:
        async with connect("ws://test", stream=link.client):
            pytest.fail("the handshake was accepted")
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(1)
    assert all_tasks() == before
    with pytest.raises(trio.ClosedResourceError):
        await link.client.send_all(b"")
