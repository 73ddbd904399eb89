"""One bad connection costs one connection.

A handler that raises any exception closes with 1011, and is logged once with its traceback.
"""

from __future__ import annotations

import logging
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.serving import echo, exchange, request, serving, serving_in_memory, status_of
from trio_ws import (
    CloseConnection,
    ConnectionClosedError,
    HandshakeRejectedError,
    WebSocketServer,
    connect,
    serve,
)
from trio_ws.testing import MemoryListener, RawPeer

if TYPE_CHECKING:
    from tests.support.serving import MemoryServer
    from trio_ws import WebSocket

# Dispatchers are known to swallow KeyError and StopAsyncIteration. A RuntimeError could be one of trio_ws.
SURPRISES = [
    KeyError("nope"),
    StopAsyncIteration("early"),
    RuntimeError("accept() comes once"),
    trio.ClosedResourceError("some other resource"),
    trio.TooSlowError("some other deadline"),
    OSError(5, "a disk, not the network"),
    AssertionError("a mistake"),
    ExceptionGroup("from a nursery", [KeyError("nope"), ValueError("neither")]),
    ExceptionGroup("deeper", [ExceptionGroup("inner", [KeyError("nope")])]),
]


async def end_of(ws: WebSocket) -> ConnectionClosedError:
    with pytest.raises(ConnectionClosedError) as info:
        await ws.receive_text()
    return info.value


def errors_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


async def handler(ws: WebSocket) -> None:
    """Echo, or raise an exception if the path says so."""
    if ws.path.startswith("/fail/"):
        await ws.accept()
        raise SURPRISES[int(ws.path.removeprefix("/fail/"))]
    await echo(ws)


@pytest.mark.parametrize("which", range(len(SURPRISES)), ids=[repr(exc)[:25] for exc in SURPRISES])
async def test_whatever_a_handler_raises_costs_its_own_connection_and_one_log_record(
    which: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_in_memory(handler) as memory, memory.connect() as neighbour:
        async with memory.connect(f"/fail/{which}") as bad:
            assert (await end_of(bad)).received == (1011, "internal error")
        await neighbour.send("still here?")
        assert await neighbour.receive_text() == "still here?"
        async with memory.connect() as later:
            await later.send("and new ones")
            assert await later.receive_text() == "and new ones"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is SURPRISES[which]
    assert record.exc_info[2] is not None
    assert f"/fail/{which}" in record.getMessage()


async def test_a_failure_in_the_handlers_own_nursery_is_logged_as_the_group_it_is(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def child() -> None:
        raise KeyError("in a child")

    async def nest(ws: WebSocket) -> None:
        await ws.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.sleep_forever()

    async with serving_in_memory(nest) as memory, memory.connect() as ws:
        assert (await end_of(ws)).code == 1011
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ExceptionGroup)
    assert "in a child" in caplog.text


async def test_a_handler_that_fails_before_it_accepts_gives_500_and_is_logged_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(ws: WebSocket) -> None:
        raise KeyError("session")

    async with serving_in_memory(fail) as memory:
        with pytest.raises(HandshakeRejectedError) as info:
            async with memory.connect():
                pytest.fail("the handshake was accepted")
        assert info.value.status == 500
        assert b"session" not in info.value.body
    assert len(caplog.records) == len(errors_in(caplog)) == 1


async def test_a_handler_that_fails_after_it_rejected_costs_nothing_more(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def reject_and_fail(ws: WebSocket) -> None:
        await ws.reject(401, body=b"who are you?")
        raise KeyError("session")

    async with serving_in_memory(reject_and_fail) as memory:
        for _ in range(2):
            with pytest.raises(HandshakeRejectedError) as info:
                async with memory.connect():
                    pytest.fail("the handshake was accepted")
            assert (info.value.status, info.value.body) == (401, b"who are you?")
    assert len(errors_in(caplog)) == 2


async def test_a_client_that_talks_on_after_its_rejection_costs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def reject(ws: WebSocket) -> None:
        await ws.reject(403, body=b"no")

    async def talk_on(memory: MemoryServer) -> None:
        stream = await memory.stream(capacity=20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, request() + b"GET / HTTP/1.1")
            answer = bytearray()
            with trio.move_on_after(5):
                async for piece in stream:
                    answer += piece
            assert answer.endswith(b"\r\n\r\nno"), answer
            nursery.cancel_scope.cancel()

    async with serving_in_memory(reject) as memory:
        await talk_on(memory)
        await talk_on(memory)
    assert not caplog.records


async def test_a_handler_that_fails_while_it_is_cancelled_does_not_take_the_server_down(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("in the clean-up")

    async def stubborn(ws: WebSocket) -> None:
        await ws.accept()
        async with trio.open_nursery() as nursery:
            # One child is cancelled and one fails, so the handler raises a mixed group.
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail_at_the_end)

    async with serving_in_memory(stubborn) as memory, memory.connect() as ws:
        report = await memory.server.drain(timeout=1)
        assert report.cancelled == 1
        assert (await end_of(ws)).code == 1001
    assert len(errors_in(caplog)) == 1
    assert "in the clean-up" in caplog.text


@pytest.mark.parametrize("in_nursery", [False, True])
async def test_a_web_socket_exception_closes_with_its_code_and_is_not_logged(
    in_nursery: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse() -> None:
        raise CloseConnection(4001, "too loud")

    async def judge(ws: WebSocket) -> None:
        await ws.accept()
        if not in_nursery:
            await refuse()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)

    async with serving_in_memory(judge) as memory, memory.connect() as ws:
        assert (await end_of(ws)).received == (4001, "too loud")
    assert not caplog.records


async def test_a_web_socket_exception_before_accept_rejects_with_403(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def refuse(ws: WebSocket) -> None:
        raise CloseConnection(4001, "too loud")

    async with serving_in_memory(refuse) as memory:
        with pytest.raises(HandshakeRejectedError) as info:
            async with memory.connect():
                pytest.fail("the handshake was accepted")
        assert info.value.status == 403


@pytest.mark.parametrize("in_nursery", [False, True])
async def test_a_connection_closed_error_that_escapes_is_a_normal_end(
    in_nursery: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ended = trio.Event()

    async def read(ws: WebSocket) -> None:
        try:
            await ws.receive_text()
        finally:
            ended.set()

    async def reader(ws: WebSocket) -> None:
        if not in_nursery:
            await read(ws)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, ws)

    caplog.set_level(logging.INFO)
    async with serving_in_memory(reader) as memory:
        async with memory.connect() as ws:
            await ws.close(4000, "bored")
        await ended.wait()
        assert ws.close_sent == (4000, "bored")
    assert not caplog.records


@pytest.mark.parametrize("failure", [KeyError("nope"), ExceptionGroup("mine", [KeyError("nope")])])
async def test_debug_lets_the_exception_out_of_the_server_as_it_was_raised(
    failure: Exception, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(ws: WebSocket) -> None:
        await ws.accept()
        raise failure

    with pytest.raises(type(failure)) as info:
        async with serving_in_memory(fail, debug=True) as memory, memory.connect() as ws:
            assert (await end_of(ws)).code in (1001, 1011)
            await memory.server.serve_forever()
    assert info.value is failure
    assert not caplog.records


async def test_debug_ends_serve_with_the_exception(autojump_clock: trio.testing.MockClock) -> None:
    async def fail(ws: WebSocket) -> None:
        raise KeyError("nope")

    listener = MemoryListener()
    link = await listener.open_link()
    await link.client.send_all(request())
    with pytest.raises(KeyError, match="nope"):
        await serve(fail, 0, listeners=[listener], debug=True)


async def test_debug_does_not_let_out_what_is_a_normal_end(autojump_clock: trio.testing.MockClock) -> None:
    async def reader(ws: WebSocket) -> None:
        await ws.receive_text()

    async with serving_in_memory(reader, debug=True) as memory:
        async with memory.connect() as ws:
            await ws.close()
        async with memory.connect() as ws:
            assert ws.connected


async def test_a_base_exception_is_not_ours_to_swallow() -> None:
    async def stop(ws: WebSocket) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with serving_in_memory(stop) as memory:
            await (await memory.stream()).send_all(request())
            await memory.server.serve_forever()


async def test_a_reset_connection_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server, connect(server.url) as neighbour:
        for said in (b"", b"GET / HT", request(), request() + b"\x81\xfe"):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            # With a linger of zero a close is a reset.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if said:
                await stream.send_all(said)
            if said.startswith(request()):
                await stream.receive_some()
            await stream.aclose()
            await neighbour.send("still here?")
            assert await neighbour.receive_text() == "still here?"
    assert not caplog.records


async def test_garbage_frames_leave_the_others_alone(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_in_memory() as memory, memory.connect() as neighbour:
        bad = await RawPeer.connect(await memory.stream())
        await bad.send_raw(b"\xff" * 100)
        assert (await bad.receive_until_close() or (0, ""))[0] == 1002
        await neighbour.send("still here?")
        assert await neighbour.receive_text() == "still here?"


async def test_a_bad_request_leaves_the_others_alone(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_in_memory() as memory, memory.connect() as neighbour:
        assert status_of(await exchange(await memory.stream(), b"\0\1\2\3\r\n\r\n")) == 400
        await neighbour.send("still here?")
        assert await neighbour.receive_text() == "still here?"


async def test_a_failing_target_of_a_server_in_a_nursery_does_not_end_the_nursery(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(ws: WebSocket) -> None:
        await ws.accept()
        raise KeyError("nope")

    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        server: WebSocketServer = await nursery.start(
            lambda *, task_status: serve(fail, 0, listeners=[listener], task_status=task_status)
        )
        for _ in range(3):
            async with connect("ws://test", stream=await listener.connect()) as ws:
                assert (await end_of(ws)).code == 1011
        assert server.state == "serving"
        nursery.cancel_scope.cancel()
    assert len(errors_in(caplog)) == 3
