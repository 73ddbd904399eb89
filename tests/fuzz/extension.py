"""Call the C extension with changed packets and frames: ``python -m tests.fuzz.extension FILE COUNT``.

FILE is the extension as it was built, with the sanitizers of the compiler (see
tests/protocol/test_sanitizers.py). They end the process where C reads or writes what it must not.
"""

from __future__ import annotations

import contextvars
import copy
import functools
import importlib.util
import random
import socket
import sys
import types
import warnings
from collections import deque
from contextlib import suppress
from importlib.machinery import ExtensionFileLoader
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from trio._core import _run
from trio.lowlevel import Abort, wait_task_rescheduled

from tests.support import next_messages, sends_at_once
from tests.support.begun_calls import BegunCall, watch_requests
from tests.support.flushed_buffers import (
    FAILURES,
    WrittenBuffers,
    random_states,
    random_steps,
    spoil,
)
from tests.support.keeping import keep_in_both
from tests.support.next_messages import next_by_python, run_script, spoil_connections
from tests.support.sends_at_once import (
    python_buffer_item,
    python_send_at_once,
    random_connection,
    random_message,
    send_and_look,
)
from tests.support.single_messages import FAILURES as READ_FAILURES
from tests.support.single_messages import Round, spoil_something
from tests.support.single_messages import random_states as random_reads
from tests.support.started_calls import StartedCall, watch_calls
from tests.support.waits import STEPS, drive, never_aborted
from trio_ws import WebSocket
from trio_ws.app.listener import ListenerSession, MessageListener
from trio_ws.codecs.base import Packet, PacketSource, Request, Response
from trio_ws.codecs.decoded_size import python_msgpack_size
from trio_ws.codecs.packets import TrioWSCodec
from trio_ws.protocol._accel import python_take_frames, python_whole_frame
from trio_ws.protocol.masking import python_mask
from trio_ws.rpc.inline_call import python_first_step
from trio_ws.rpc.methods import python_have_types
from trio_ws.websocket._notify import Notification
from trio_ws.websocket._wait import ReusableOutcome
from trio_ws.websocket.closing import ClosingHandshake
from trio_ws.websocket.message import WebSocketMessage
from trio_ws.websocket.readers import Reader
from trio_ws.websocket.receive_buffer import NO_MESSAGES
from trio_ws.websocket.receive_buffer import ReceiveBuffer as ReceiveBufferOfReaders
from trio_ws.websocket.single_messages import python_handle_single_messages
from trio_ws.websocket.transport import SocketTransport
from trio_ws.websocket.write_buffer import (
    _NO_PARTS,
    WriteBuffer,
    python_buffer_each,
    python_buffer_frame,
    python_flush_row,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import ModuleType

CODEC = TrioWSCodec()
ARGUMENTS: list[list[Any]] = [
    [],
    [1, -5, 300, 70_000, 2**40, 2**63, -200, -70_000, -(2**40)],
    ["x" * 40, "é" * 200, b"abc", 1.5, None, True],
    ["y" * 300] * 3,
    [{"a": [1, {"b": {}}]}, [[[]]], msgspec.msgpack.Ext(5, b"abc")],
]


def load(path: str) -> ModuleType:
    """Load the extension from a file."""
    name = "trio_ws.protocol._speedups"
    spec = importlib.util.spec_from_loader(name, ExtensionFileLoader(name, path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def change(data: bytes, chance: random.Random) -> bytes:
    """Change, insert or remove some bytes, or cut off the end."""
    changed = bytearray(data)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            changed[at : at + 1] = chance.randbytes(1)
        elif kind == 1:
            changed[at:at] = chance.randbytes(chance.randrange(6))
        elif kind == 2:
            del changed[at : at + chance.randrange(1, 5)]
        else:
            del changed[at:]
    return bytes(changed)


def check(module: ModuleType, payload: bytes, key: bytes) -> bool:
    """Give the same bytes to C and to Python. Returns whether they were a plain call."""
    assert module.msgpack_size(payload, 10_000) == python_msgpack_size(payload, 10_000)
    frame = module.whole_frame(0x82, payload, key)
    assert frame == python_whole_frame(0x82, payload, key)
    whole: list[Any] = []
    assert module.take_frames(frame, 0, bool(key), 0xFFFF, whole) == len(frame)
    assert whole == [payload]
    taken: tuple[list[Any], list[Any]] = ([], [])
    begins = payload * 2  # which may look like a frame
    assert module.take_frames(begins, 0, False, 300, taken[0]) == python_take_frames(
        begins, 0, False, 300, taken[1]
    )
    assert taken[0] == taken[1]
    space, of_space = bytearray(b"?" + frame), list[Any]()
    assert module.take_frames(memoryview(space)[1:], 0, bool(key), 0xFFFF, of_space) == len(frame)
    space[:] = bytes(len(space))
    assert of_space == whole
    plain = module.plain_call(payload)
    if plain is None:
        return False
    method, value, call_id = plain
    rpc = Response(call_id, value) if method is None else Request(method, value, {}, call_id)
    # As text, in which NaN equals itself.
    assert repr(CODEC.decode(payload)) == repr(Packet(PacketSource.RPC, rpc=rpc))
    assert module.result_frame(0x82, b"before", b"", b"after", call_id, payload)
    parts = b"start", b"", b"before_id", b"end"
    assert module.request_frame(0x82, *parts, "method", payload, call_id, key)
    if method is None:
        waiting = types.SimpleNamespace()
        messages, pending = deque([payload] * 2), {call_id: waiting, "other": None}
        assert module.take_responses(messages, pending, Response, len(payload) + 1, 2) == [waiting]
        assert repr(waiting.value) == repr(rpc)
        assert (list(messages), list(pending)) == ([payload], ["other"])
    return True


VARIABLE = contextvars.ContextVar("VARIABLE", default=b"")


@types.coroutine
def give(value: bytes) -> Generator[bytes, None, None]:
    """Wait, as a trap of trio does."""
    yield value


async def begin(value: bytes, end: int) -> bytes:
    """Set a variable, and then return, fail or wait."""
    VARIABLE.set(value)
    if end == 1:
        raise ValueError(value)
    if end == 2:
        await give(value)
    return value + b"!"


def check_first_step(module: ModuleType, value: bytes, end: int) -> None:
    """Run the same coroutine in C and in Python."""
    found: list[Any] = []
    for first_step in (module.first_step, python_first_step):
        context = contextvars.copy_context()
        coroutine = begin(value, end)
        try:
            found.append(first_step(context, coroutine))
        except ValueError as exc:
            found.append(exc.args)
        found.append(context[VARIABLE])
        assert VARIABLE.get() == b""
        coroutine.close()
    assert (
        found[:2]
        == found[2:]
        == [((value,), (False, value), (True, value + b"!"))[(1, 2, 0).index(end)], value]
    )


def check_next_messages(module: ModuleType, chance: random.Random) -> None:
    """Await the messages of a connection in C and in Python, in the same way."""
    script = [
        (chance.choice((*next_messages.STEPS, "put", "next", "send")), chance.randrange(4))
        for _ in range(chance.randrange(40))
    ]
    in_c = module.next_method(next_by_python)
    assert trio.run(run_script, in_c, script) == trio.run(run_script, next_by_python, script)
    trio.run(spoil_connections, in_c, chance, 5)


def check_waits(module: ModuleType, chance: random.Random) -> None:
    """Wait in C and as trio does."""
    script = [(chance.choice((*STEPS, "start")), chance.randrange(3)) for _ in range(chance.randrange(20))]
    assert drive(module.wait_task, script) == drive(wait_task_rescheduled, script)


async def check_send_at_once(module: ModuleType, chance: random.Random) -> None:
    """Send a message in C and in Python, also where the connection is in no state that can occur."""
    connection, message = random_connection(chance), random_message(chance)
    other, cancelled = copy.deepcopy(connection), chance.random() < 0.1
    in_c = await send_and_look(module.send_at_once, connection, message, cancelled=cancelled)
    in_python = await send_and_look(python_send_at_once, other, message, cancelled=cancelled)
    # C compares kinds of messages by identity, and leaves the others to Python.
    is_copy = type(message) is WebSocketMessage and sys.intern(message.msg_type) is not message.msg_type
    assert in_c == in_python or (is_copy and not in_c[0])
    owner: Any = chance.choice((connection, connection._receive_buffer, connection._write_buffer))
    name = chance.choice([name for name in type(owner).__slots__ if name != "__weakref__"])
    setattr(owner, name, chance.choice((None, 5, -1, 1 << 70, "five", [], [b"1"], (b"1",))))
    if chance.random() < 0.3:
        delattr(owner, name)
    try:
        module.send_at_once(connection, message)
    except TypeError as exc:
        assert "len()" in str(exc)  # of what takes the place of the messages


def check_buffer_item(module: ModuleType, chance: random.Random) -> None:
    """Buffer an item of a stream in C and in Python."""
    sent: list[Any] = []
    write_buffer = random_connection(chance)._write_buffer
    other: Any = copy.deepcopy(write_buffer)
    call_id = "x" * chance.choice((1, 31, 32, 300))
    around = (msgspec.msgpack.encode, 0x82, b"before", chance.randbytes(chance.randrange(300)), b"")
    value = chance.choice((b"x" * chance.choice((1, 100, 300, 70_000)), None, [1], object()))
    payload = chance.randbytes(chance.randrange(300))
    module.buffer_frame(write_buffer, 0x81, payload)
    python_buffer_frame(other, 0x81, payload)
    has_general = chance.random() < 0.9
    ways: Any = ((write_buffer, module.buffer_item), (other, python_buffer_item))
    for written, buffer_item in ways:
        general: list[Any] = []
        append = general.append if has_general else None
        size = buffer_item(*around, append, written, call_id, value)
        sent.append((size, general, written._parts, written.size, written.flush_scheduled))
    assert sent[0] == sent[1]
    name = chance.choice(sends_at_once.WriteBuffer.__slots__)
    setattr(write_buffer, name, chance.choice((None, 5, -1, 1 << 70, "five", (b"1",))))
    with suppress(TypeError, AttributeError):  # from the method in Python
        module.buffer_frame(write_buffer, 0x82, payload)
        module.buffer_item(*around, len, write_buffer, call_id, b"x")


def check_types(module: ModuleType, chance: random.Random) -> None:
    """Compare types in C and in Python."""
    values = [chance.choice((1, True, "x", b"", None, 1.5)) for _ in range(chance.randrange(4))]
    kinds = tuple(map(type, values)) if chance.random() < 0.5 else (int, str)[: chance.randrange(3)]
    assert module.have_types(values, kinds) == python_have_types(values, kinds)


def check_payload(module: ModuleType, chance: random.Random) -> None:
    """Fill a payload at any place with any slice; what does not fit is refused."""
    payload = module.new_payload(chance.randrange(2, 40))
    model = bytearray(len(payload))
    module.fill_payload(payload, 0, bytes(model), 0, len(model), b"")
    for _ in range(5):
        data, key = chance.randbytes(chance.randrange(30)), chance.choice((b"", b"key!"))
        at, start, end = (chance.randrange(-2, 45) for _ in range(3))
        fits = 0 <= start <= end <= len(data) and at >= 0 and at + end - start <= len(model)
        try:
            module.fill_payload(
                payload, at, chance.choice((bytes, bytearray, memoryview))(data), start, end, key
            )
        except ValueError:
            assert not fits
        else:
            assert fits
            chunk = data[start:end]
            model[at : at + len(chunk)] = python_mask(chunk, key) if key else chunk
        assert payload == model


def check_sent_frames(module: ModuleType, chance: random.Random) -> None:
    """Send frames through a socket until it is full; the rest of each is what the peer lacks."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << chance.randrange(10, 18))
        made, got = bytearray(), bytearray()
        for _ in range(20):
            payload = chance.randbytes(1 << chance.randrange(18)) if chance.random() < 0.8 else b""
            made += python_whole_frame(0x82, payload, b"")
            rest = module.send_frame(ours.fileno(), 0x82, payload)
            while rest:
                with suppress(BlockingIOError):
                    rest = rest[ours.send(rest) :]
                with suppress(BlockingIOError):
                    got += theirs.recv(1 << 20)
        with suppress(BlockingIOError):
            while True:
                got += theirs.recv(1 << 20)
        assert got == made


def check_flushes(module: ModuleType, chance: random.Random) -> None:
    """Buffer and flush in C and in Python, and then where a write buffer is in no state that can occur."""
    states, steps = random_states(chance), random_steps(chance)
    in_c, in_python = WrittenBuffers(states), WrittenBuffers(states)
    in_c.run(steps, module.buffer_each, module.flush_row)
    in_python.run(steps, python_buffer_each, python_flush_row)
    assert in_c.look() == in_python.look()
    spoilt = WrittenBuffers(states)
    buffer = chance.choice(spoilt.buffers)
    name = chance.choice([*WriteBuffer.__slots__, "fd"])
    if name != "fd" or isinstance(buffer.transport, SocketTransport):
        values: Any = (None, 1 << 20, -1, 1 << 70, "five", [], [b"1"], (b"1",))
        spoil(buffer.transport if name == "fd" else buffer, name, chance.choice(values))
    with suppress(*FAILURES):
        spoilt.run(steps, module.buffer_each, module.flush_row)
    spoilt.close()


CLASSES_OF_CONNECTIONS = (
    WebSocket,
    ReceiveBufferOfReaders,
    WriteBuffer,
    WebSocketMessage,
    Reader,
    ClosingHandshake,
    Notification,
)


def watch_readers(module: ModuleType) -> None:
    """Tell the extension about all classes that `handle_single_messages` needs."""
    next_messages.watch_connection(module, CLASSES_OF_CONNECTIONS, NO_MESSAGES)
    module.watch_buffers(WriteBuffer, SocketTransport, _NO_PARTS)
    module.watch_reader(Reader, ReceiveBufferOfReaders)
    module.watch_listener(ListenerSession, MessageListener)


def check_single_messages(module: ModuleType, chance: random.Random) -> None:
    """Handle messages in C and in Python, and then where an object is in no state that can occur."""
    states = random_reads(chance)
    in_c, in_python, spoilt = Round(states), Round(states), Round(states)
    in_c.run(functools.partial(module.handle_single_messages, in_c.nurseries), 20_000)
    in_python.run(python_handle_single_messages, 20_000)
    assert in_c.look() == in_python.look()
    spoil_something(spoilt, chance)
    with suppress(*READ_FAILURES):
        spoilt.run(functools.partial(module.handle_single_messages, spoilt.nurseries), 20_000)
    spoilt.close()


def check_start_call(module: ModuleType, payload: bytes, chance: random.Random) -> None:
    """Start a call in the ordinary state, and in a state that cannot occur."""
    started = StartedCall()
    plain = module.plain_call(payload)
    step = module.start_call(started.session, payload, started.worker)
    if plain is None or plain[0] not in started.session.incoming._methods:
        assert step is None
        assert started.session.reader_driven
    elif step is True:
        assert started.session.reader_driven
        assert plain[2].encode() in started.peer.recv(1 << 20)
    else:
        assert not started.session.reader_driven
        assert type(step) is tuple
    started.spoil(chance)
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an async method may have become a plain one
        module.start_call(started.session, payload, started.worker)
    started.close()


def check_begin_call(module: ModuleType, chance: random.Random) -> None:
    """Begin calls in the ordinary state, and in a state that cannot occur."""
    begun = BegunCall(module, chance.randrange(4))
    arguments = chance.choice(
        [(), (1, "x"), ([1], {}), (bytes(5000),), (object(),), (1 << 70,), ({1: object()},)]
    )
    method = chance.choice(["add", "x" * 300, None, "x" * 70_000])
    wait = module.begin_call(begun.outgoing, method, arguments, b"key!")
    if wait is None:
        assert begun.outgoing.pending_calls == {}
        assert begun.bytes_written == 0
        assert begun.outgoing._next_id == 16
    else:
        assert begun.outgoing._next_id == 17
        assert begun.outgoing.pending_calls["17"].call_id == "17"
        assert begun.bytes_written > 0
        assert wait.send(None).abort_func(None) is Abort.SUCCEEDED
        wait.close()
    begun.spoil(chance)
    with suppress(Exception):
        module.begin_call(begun.outgoing, method, arguments, b"key!")


def run(path: str, count: int) -> int:
    """Check ``count`` inputs; return how many were plain calls."""
    module = load(path)
    chance = random.Random(count)
    seeds = [CODEC.request("17", "add", arguments) for arguments in ARGUMENTS]
    seeds += [CODEC.result(Request("", call_id="17"), value) for value in (1, "xx", None, b"abc", [1])]
    seeds += [python_whole_frame(first, b"payload" * 30, b"") for first in (0x81, 0x82, 0x89)]
    keys = b"", b"key!"
    watched = (_run.GLOBAL_RUN_CONTEXT, _run.Task, _run.CancelStatus, _run.Runner)
    assert module.watch_task(*watched)
    trap = wait_task_rescheduled(never_aborted).send(None)  # noqa: ASYNC105 - driven by hand
    module.watch_waits(wait_task_rescheduled, type(trap), "abort_func", ReusableOutcome)
    next_messages.watch_connection(module)
    for _ in range(count // 100):
        check_next_messages(module, chance)
        check_waits(module, chance)
    for _ in range(count // 20):
        trio.run(check_send_at_once, module, chance)
        check_buffer_item(module, chance)
        check_types(module, chance)
        check_payload(module, chance)
    watch_requests(module)
    next_messages.watch_connection(module, CLASSES_OF_CONNECTIONS, NO_MESSAGES)
    for _ in range(count // 20):
        check_begin_call(module, chance)
    if hasattr(module, "flush_row"):
        module.watch_buffers(WriteBuffer, SocketTransport, _NO_PARTS)
        for _ in range(count // 20):
            check_flushes(module, chance)
        for _ in range(count // 200):
            check_sent_frames(module, chance)
        watch_readers(module)
        for _ in range(count // 100):
            trio.run(keep_in_both, module, chance)
        for _ in range(count // 20):
            check_single_messages(module, chance)
        watch_calls(module)
        calls = [
            CODEC.request("17", name, arguments)
            for name in (*StartedCall().session.incoming._methods, "none")
            for arguments in ([], [1, 2], [1.5], [None], ["bad"], ["many", *range(9)], ["long"], [b"x" * 300])
        ]
        for _ in range(count // 20):
            payload = chance.choice(calls)
            check_start_call(module, change(payload, chance) if chance.random() < 0.3 else payload, chance)
    for _ in range(count // 10):
        check_first_step(module, chance.randbytes(chance.randrange(50)), chance.randrange(3))
    return sum(check(module, change(chance.choice(seeds), chance), chance.choice(keys)) for _ in range(count))


if __name__ == "__main__":
    print(run(sys.argv[1], int(sys.argv[2])))
