"""Tests of single parts of a WebSocket: the receive buffer, and the states of the closing handshake."""

from __future__ import annotations

import ast
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_ws
from tests.support.wire import frame
from trio_ws import CloseFrame, Options
from trio_ws.ledger import OVERHEAD
from trio_ws.websocket import closing
from trio_ws.websocket.closing import CLOSED, CLOSING, CONNECTING, OPEN, ClosingHandshake
from trio_ws.websocket.receive_buffer import ReceiveBuffer
from trio_ws.websocket.write_buffer import WriteBuffer

BINARY, CLOSE = 2, 8


def receive_buffer(**options: Any) -> ReceiveBuffer:
    buffer = ReceiveBuffer(Options(**options), client=False)
    buffer.open(None)
    return buffer


# -- the receive buffer -----------------------------------------------------------------------------


def test_received_messages_wait_in_order_and_are_charged() -> None:
    buffer = receive_buffer()
    data = frame(BINARY, b"one") + frame(BINARY, b"two")
    assert buffer.feed(data) == 2
    assert list(buffer.messages) == [b"one", b"two"]
    assert buffer.received == len(data) + 2 * OVERHEAD
    assert buffer.received_since_check


def test_an_empty_buffer_has_no_queue_of_its_own() -> None:
    one, other = receive_buffer(), receive_buffer()
    assert one.messages is other.messages
    one.feed(frame(BINARY, b"x"))
    assert one.messages is not other.messages
    assert not other.messages
    assert one.messages.popleft() == b"x"
    one.release()
    assert one.messages is other.messages
    assert one.received == 0
    one.feed(frame(BINARY, b"y"))
    assert list(one.messages) == [b"y"]
    assert not other.messages


def test_messages_that_wait_are_not_released() -> None:
    buffer = receive_buffer()
    buffer.feed(frame(BINARY, b"x"))
    buffer.release()
    assert list(buffer.messages) == [b"x"]


def test_the_queue_is_worth_it() -> None:
    buffer = receive_buffer()
    buffer.feed(frame(BINARY, b"x"))
    assert sys.getsizeof(buffer.messages) > 500, "an idle connection would keep as much"


def test_a_message_in_parts_survives_a_release() -> None:
    buffer = receive_buffer()
    data = frame(BINARY, b"abcdef")
    buffer.feed(data[:8])
    buffer.release()
    assert buffer.feed(data[8:]) == 1
    assert list(buffer.messages) == [b"abcdef"]


def test_receive_buffer_is_full_at_max_queue_bytes() -> None:
    buffer = receive_buffer(max_queue_bytes=1000)
    buffer.feed(frame(BINARY, bytes(500)))
    assert not buffer.full
    buffer.feed(frame(BINARY, bytes(500)))
    assert buffer.full
    buffer.feed(frame(CLOSE, b"\x03\xe8"))
    assert buffer.finished
    assert not buffer.full


def test_after_the_application_has_closed_nothing_is_kept() -> None:
    buffer = receive_buffer()
    buffer.feed(frame(BINARY, b"x"))
    buffer.discard()
    buffer.clear()
    buffer.feed(frame(BINARY, b"y") + frame(CLOSE, b"\x03\xe8"))
    assert not buffer.messages
    assert buffer.frames is not None
    assert buffer.frames.events == [CloseFrame(1000, "")]


# -- the states -------------------------------------------------------------------------------------


class Recorder:
    """The interface of a connection that the closing handshake uses."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _log_extra(self) -> dict[str, Any]:
        return {}

    def _start_close_timer(self) -> None:
        self.calls.append("timer")

    def _state_changed(self) -> None:
        self.calls.append("changed")

    def _ended(self, last: bytes | None, *, opening: bool) -> None:
        self.calls.append(f"ended last={last!r} opening={opening}")


class Wire:
    """A transport that accepts all data immediately, and holds the last bytes back until it is closed."""

    self_reading = True

    def __init__(self) -> None:
        self.sent = b""
        self.held = b""

    def send_now(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def send_last_now(self, data: bytes) -> int:
        self.held += data
        return len(data)

    def end_writing(self) -> None:
        self.sent += b"<end>"

    def close(self, last: bytes | None = None) -> None:
        self.sent += self.held + b"<closed>"
        self.held = b""


def handshake(*, client: bool = False) -> tuple[ClosingHandshake, ReceiveBuffer, Recorder, Wire]:
    transport: Any = Wire()
    runtime: Any = None  # nothing has to wait here
    recorder, options = Recorder(), Options()
    received, written = ReceiveBuffer(options, client=client), WriteBuffer(transport, runtime)
    return (
        ClosingHandshake(recorder, received, written, options, client=client),
        received,
        recorder,
        transport,
    )


def opened(*, client: bool = False) -> tuple[ClosingHandshake, ReceiveBuffer, Recorder, Wire]:
    it = handshake(client=client)
    it[1].open(None)
    it[0].opened()
    return it


@pytest.mark.parametrize(("before", "after"), list(itertools.product(range(4), repeat=2)))
def test_states_only_grow(before: int, after: int) -> None:
    closing_handshake, *_ = handshake()
    for state in range(1, before + 1):
        closing_handshake._set_state(state)
    if after >= before:
        closing_handshake._set_state(after)
        assert closing_handshake.state == after
    else:
        with pytest.raises(AssertionError):
            closing_handshake._set_state(after)


def test_one_function_writes_the_state() -> None:
    tree = ast.parse(Path(closing.__file__).read_text(encoding="utf-8"))
    writers = [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr == "state" and isinstance(node.ctx, ast.Store)
    ]
    assert writers == ["__init__", "_set_state"]
    others = [
        path.name
        for path in (Path(trio_ws.__file__).parent / "websocket").glob("*.py")
        if path.name != "closing.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "state" and isinstance(node.ctx, ast.Store)
    ]
    assert others == []


def test_a_server_answers_a_close_and_ends_tcp() -> None:
    it, _, recorder, wire = opened()
    it.on_close(CloseFrame(1000, "bye"))
    assert it.state == CLOSED
    assert (it.sent, it.received, it.peer_first) == (CloseFrame(1000, ""), CloseFrame(1000, "bye"), True)
    assert wire.sent == b"\x88\x02\x03\xe8<closed>"
    assert recorder.calls == ["changed", "ended last=b'' opening=False"]
    assert it.ended_cleanly


def test_a_close_waits_until_what_came_before_was_taken() -> None:
    it, received, recorder, wire = opened()
    received.feed(frame(BINARY, b"x"))
    it.on_close(CloseFrame(1000, ""))
    assert (it.state, wire.sent, recorder.calls) == (OPEN, b"", ["timer"])
    received.clear()
    it.send_deferred()
    assert it.state == CLOSED
    assert wire.sent == b"\x88\x02\x03\xe8<closed>"


def test_a_deferred_close_is_sent_when_its_time_is_over() -> None:
    it, received, _, wire = opened()
    received.feed(frame(BINARY, b"x"))
    it.on_close(CloseFrame(1000, ""))
    it.timed_out()
    assert it.state == CLOSED
    assert wire.sent.startswith(b"\x88\x02\x03\xe8")
    assert list(received.messages) == [b"x"]


def test_the_application_closes_and_drops_what_it_has_not_taken() -> None:
    it, received, recorder, wire = opened()
    it.start_locally(1001, "")
    assert (it.state, it.closed_locally, received.discarding) == (CLOSING, True, True)
    it.start_locally(1000, "")
    assert wire.sent == b"\x88\x02\x03\xe9", "one Close frame is enough"
    assert recorder.calls == ["changed", "timer"]
    with pytest.raises(trio.ClosedResourceError):
        raise it.closed_error()


def test_a_rejected_client_gets_no_close_frame() -> None:
    it, _, recorder, wire = handshake()
    it.rejected()
    it.start(1001, "")
    assert it.state == CLOSED
    assert wire.sent == b"<closed>"
    assert recorder.calls == ["timer", "ended last=None opening=False"]


def test_a_connection_that_has_ended_is_forgotten() -> None:
    it, _, recorder, _ = handshake()
    assert it.state == CONNECTING
    cause = OSError("cut")
    it.abort(cause)
    it.abort(None)
    assert recorder.calls == ["ended last=None opening=True"]
    assert it._connection is None
    assert it.closed_error().__cause__ is cause
