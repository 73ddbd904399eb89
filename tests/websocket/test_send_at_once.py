"""Sending a message in one call of C: the same as by the rest of `WebSocket.send`, or nothing."""

from __future__ import annotations

import copy
import random
import socket
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio._core import _run

from tests.fuzz.extension import load
from tests.support.inspect import transport_of
from tests.support.next_messages import watch_connection
from tests.support.sends_at_once import (
    Connection,
    ReceiveBuffer,
    WriteBuffer,
    python_buffer_item,
    python_send_at_once,
    random_connection,
    random_message,
    send_and_look,
)
from tests.support.serving import request, serving
from tests.support.wire import frame
from trio_ws import ConnectionClosedError, WebSocketMessage, connect
from trio_ws.protocol.frames import BINARY, CLOSE
from trio_ws.protocol.masking import extension
from trio_ws.websocket import connection as connection_module
from trio_ws.websocket.write_buffer import python_buffer_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws import WebSocket

    Handler = Callable[[WebSocket], Awaitable[None]]

needs_extension = pytest.mark.skipif(
    extension is None, reason="the extension was not built, or TRIO_WS_PURE is set"
)


@pytest.fixture(scope="module")
def module() -> Any:
    """A module of its own, which knows the classes of these tests."""
    assert extension is not None
    assert extension.__file__ is not None
    module = load(extension.__file__)
    assert module.watch_task(_run.GLOBAL_RUN_CONTEXT, _run.Task, _run.CancelStatus, _run.Runner)
    watch_connection(module)
    return module


@pytest.fixture(scope="module")
def send_at_once(module: Any) -> Any:
    return module.send_at_once


@needs_extension
@given(chance=st.randoms(use_true_random=False), cancelled=st.sampled_from((False, False, False, True)))
def test_it_agrees_with_python(send_at_once: Any, chance: random.Random, cancelled: bool) -> None:
    async def both() -> None:
        connection, message = random_connection(chance), random_message(chance)
        other = copy.deepcopy(connection)
        in_c = await send_and_look(send_at_once, connection, message, cancelled=cancelled)
        in_python = await send_and_look(python_send_at_once, other, message, cancelled=cancelled)
        if in_c != in_python:
            # C compares kinds by identity, and leaves others to Python.
            assert type(message) is WebSocketMessage
            assert sys.intern(message.msg_type) is not message.msg_type
            assert in_c[0] is False

    trio.run(both)


@needs_extension
async def test_incomplete_connections_are_left_to_python(send_at_once: Any) -> None:
    chance = random.Random(1)
    for number, names in enumerate((Connection.__slots__, ReceiveBuffer.__slots__, WriteBuffer.__slots__)):
        for name in (name for name in names if name != "__weakref__"):
            for value in (None, 5, "five", -1, 1 << 70, (b"1",)):
                connection = random_connection(chance)
                owner: Any = (connection, connection._receive_buffer, connection._write_buffer)[number]
                if value is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, value)
                try:
                    assert send_at_once(connection, b"x") in (True, False)
                except TypeError as exc:
                    assert "len()" in str(exc)
    for wrong in (None, 5, connection_module.WebSocket):
        assert send_at_once(wrong, b"x") is False
    for arguments in ((), (Connection(),), (Connection(), b"", 1)):
        with pytest.raises(TypeError):
            send_at_once(*arguments)


@needs_extension
async def test_nothing_is_kept(send_at_once: Any) -> None:
    connection = random_connection(random.Random(3))
    write_buffer = connection._write_buffer
    write_buffer.flush_scheduled, write_buffer._parts = True, [b"x"]
    connection._receive_buffer.messages.append(b"1")
    connection._sends_since_yield = 0
    write_buffer.size, write_buffer.fast_send_limit = 1, 1 << 20
    payload = bytes(300)
    before = sys.getrefcount(payload)
    assert send_at_once(connection, payload)
    assert send_at_once(connection, WebSocketMessage("binary", payload))
    assert sys.getrefcount(payload) == before
    lists = write_buffer._parts[1:], [bytes(9)]
    counts, once = ([sys.getrefcount(part) for part in parts] for parts in lists)
    assert [count - 1 for count in counts] == once * 2
    assert write_buffer.size == 1 + 2 * 304


@needs_extension
@given(
    chance=st.randoms(use_true_random=False),
    payload=st.binary(max_size=300) | st.sampled_from((bytes(65535), bytearray(70_000))),
)
def test_frames_are_buffered_as_by_python(module: Any, chance: random.Random, payload: bytes) -> None:
    write_buffer = random_connection(chance)._write_buffer
    other: Any = copy.deepcopy(write_buffer)
    module.buffer_frame(write_buffer, 0x82, payload)
    in_c = write_buffer._parts, write_buffer.size, write_buffer.flush_scheduled
    python_buffer_frame(other, 0x82, payload)
    assert in_c == (other._parts, other.size, other.flush_scheduled)


@needs_extension
def test_frames_that_cannot_be_buffered(module: Any) -> None:
    for arguments in ((), (None, 0x82, b""), (None, 0x82, "text"), (None, None, b"")):
        with pytest.raises((TypeError, AttributeError)):
            module.buffer_frame(*arguments)


@needs_extension
@given(
    chance=st.randoms(use_true_random=False),
    value=st.none() | st.integers(-(2**64), 2**65) | st.binary(max_size=300) | st.just(bytes(70_000)),
    call_id=st.text(st.characters(codec="utf-8"), max_size=40),
    has_general=st.booleans(),
)
def test_items_of_streams_agree_with_python(
    module: Any, chance: random.Random, value: object, call_id: str, has_general: bool
) -> None:
    write_buffer = random_connection(chance)._write_buffer
    other = copy.deepcopy(write_buffer)
    seen: list[object] = []
    ways: Any = ((write_buffer, module.buffer_item), (other, python_buffer_item))
    for written, buffer_item in ways:
        general: list[object] = []
        append = general.append if has_general else None
        around = (0x82, b"before", b"between", b"after", append, written, call_id)
        size = buffer_item(msgspec.msgpack.encode, *around, value)
        seen.append((size, general, written._parts, written.size, written.flush_scheduled))
    assert seen[0] == seen[1]


@needs_extension
def test_items_that_cannot_be_buffered_at_once_take_the_general_way(module: Any) -> None:
    around = (0x82, b"", b"", b"")

    def general(value: object) -> int:
        raise KeyError(value)

    def leave(value: object) -> bytes:
        raise KeyboardInterrupt

    class Broken(WriteBuffer):
        def buffer(self, frame: bytes) -> None:
            raise ValueError(frame)

    write_buffer = random_connection(random.Random(1))._write_buffer
    for encode in (len, str, msgspec.msgpack.encode):  # it fails, or returns no bytes
        for target in (write_buffer, None):
            value = object()
            with pytest.raises(KeyError) as caught:
                module.buffer_item(encode, *around, general, target, "1", value)
            assert caught.value.args == (value,)
            assert module.buffer_item(encode, *around, None, target, "1", value) is None
    with pytest.raises(KeyError):  # the identifier has no frame
        module.buffer_item(bytes, *around, general, write_buffer, "\ud800", b"1")
    with pytest.raises(KeyboardInterrupt):
        module.buffer_item(leave, *around, general, write_buffer, "1", b"1")
    with pytest.raises(KeyError):  # of another class
        module.buffer_item(bytes, *around, general, Broken(), "1", b"1")
    with pytest.raises(TypeError, match="nine"):
        module.buffer_item(general)


MESSAGES: list[Any] = [
    b"1",
    "two",
    WebSocketMessage("text", "3"),
    "fünf",
    b"x" * 5000,
    bytearray(b"7"),
    b"",
    "",
]


@pytest.mark.parametrize("in_c", [pytest.param(True, marks=needs_extension), False])
async def test_a_burst_is_answered_alike(in_c: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not in_c:
        monkeypatch.setattr(connection_module, "_send_at_once", None)
    else:
        assert connection_module._send_at_once is not None

    async def handler(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(MESSAGES[int(message.payload) % len(MESSAGES)])

    async with serving(handler) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            burst = b"".join(frame(BINARY, b"%d" % number) for number in range(400))
            await stream.send_all(request() + burst + frame(CLOSE, b"\x03\xe8"))
            reply = b""
            while chunk := await stream.receive_some():
                reply += chunk
    one_round = (
        b"\x82\x011"
        b"\x81\x03two"
        b"\x81\x013"
        b"\x81\x05"
        + "fünf".encode()
        + b"\x82\x7e\x13\x88"
        + b"x" * 5000
        + b"\x82\x017"
        + b"\x82\x00"
        + b"\x81\x00"
    )
    assert reply.endswith(b"\r\n\r\n" + one_round * 50 + b"\x88\x02\x03\xe8")


async def answers(handler: Handler, questions: int = len(MESSAGES)) -> list[bytes]:
    """What a server sends after each of these messages of its client, which waits for each answer."""
    seen: list[bytes] = []
    async with serving(handler) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(request())
            assert b"\r\n\r\n" in await stream.receive_some()
            for number in range(questions):
                await stream.send_all(frame(BINARY, b"%d" % number))
                seen.append(await stream.receive_some())
    return seen


async def answer(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(MESSAGES[int(message.payload)])


@needs_extension
@pytest.mark.skipif(sys.platform != "linux", reason="C sends only on Linux")
async def test_a_message_is_sent_alone_as_by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    in_c = await answers(answer)
    sent: list[bool] = []

    def look(connection: WebSocket, message: object) -> bool:
        sent.append(extension.send_at_once(connection, message))  # type: ignore[union-attr]
        return sent[-1]

    monkeypatch.setattr(connection_module, "_send_at_once", look)
    assert await answers(answer) == in_c
    assert sent == [type(message) is not bytearray for message in MESSAGES]
    monkeypatch.setattr(connection_module, "_send_at_once", None)
    assert await answers(answer) == in_c


@needs_extension
async def test_a_cancelled_task_sends_nothing_alone() -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        with trio.CancelScope() as scope:
            scope.cancel()
            await ws.send(b"cancelled")
        assert scope.cancelled_caught
        await answer(ws)

    assert await answers(handler, 1) == [b"\x82\x011"]


@needs_extension
async def test_messages_that_are_sent_alone_let_other_tasks_run() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def handler(ws: WebSocket) -> None:
        await ws.recv()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            before = turns
            for _ in range(320):
                await ws.send(b"")
            # One system call each, and 32 of these are a turn.
            assert 8 <= turns - before <= 12
            nursery.cancel_scope.cancel()

    assert (await answers(handler, 1))[0].startswith(b"\x82\x00")


@needs_extension
async def test_a_full_socket_takes_the_rest_later() -> None:
    message = bytes(range(256)) * 187  # less than what is large

    async def handler(ws: WebSocket) -> None:
        for _ in range(300):
            await ws.send(message)

    async with serving(handler) as server, connect(f"ws://127.0.0.1:{server.port}") as ws:
        await trio.testing.wait_all_tasks_blocked()
        assert [received.payload async for received in ws] == [message] * 300


@needs_extension
async def test_a_broken_socket_ends_the_connection() -> None:
    failures: list[ConnectionClosedError] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        transport_of(ws)._sock.shutdown(socket.SHUT_WR)
        for _ in range(2):
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.send(b"lost")
            failures.append(caught.value)
        assert ws.closed

    async with serving(handler) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(request())
            while await stream.receive_some():
                pass
    assert [failure.code for failure in failures] == [1006, 1006]
    assert isinstance(failures[0].__cause__, BrokenPipeError)
