"""Plain calls that come alone, which the extension answers: as Python does it, whatever the methods do."""

from __future__ import annotations

import contextvars
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adversary.hostile import call
from tests.support.serving import guard, serving
from tests.support.watching import until
from trio_ws import ClientConnection, CloseConnection, Options, RPCError, WebSocketHandler, rpc_method
from trio_ws.protocol.frames import CLOSE
from trio_ws.rpc import session
from trio_ws.testing import RawPeer
from trio_ws.websocket import epoll_reader, single_messages

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.skipif(
    session.start_call is session._start_no_call, reason="the extension was not built, or not for this system"
)

VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=0)


class Model(msgspec.Struct):
    number: int


class Api(WebSocketHandler):
    """Methods that do in their first step whatever a method can do."""

    def __init__(self) -> None:
        self.opened: list[trio.Nursery] = []

    @rpc_method()
    def plus(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        return a + b

    @rpc_method()
    async def add(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        return a + b

    @rpc_method()
    async def convert(self, connection: ClientConnection[Any], a: float, b: Any = None) -> list[Any]:
        return [a, type(a).__name__, b]

    @rpc_method()
    def anything(self, connection: ClientConnection[Any], *values: Any) -> Any:
        return list(values) or None

    @rpc_method()
    async def in_context(self, connection: ClientConnection[Any], a: int, b: int) -> list[int]:
        before = VARIABLE.get()
        VARIABLE.set(a + 1)
        await trio.sleep(0)
        return [before, VARIABLE.get()]

    @rpc_method()
    def in_plain_context(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        before = VARIABLE.get()
        VARIABLE.set(a + 1)
        return before

    @rpc_method()
    async def waits(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        await trio.sleep(0)
        return a * b

    @rpc_method()
    async def refuses(self, connection: ClientConnection[Any], a: int, b: int) -> None:
        raise RPCError("no", code=a)

    @rpc_method()
    def breaks(self, connection: ClientConnection[Any], a: int, b: int) -> None:
        raise ZeroDivisionError

    @rpc_method()
    async def stops(self, connection: ClientConnection[Any], a: int, b: int) -> None:
        raise StopAsyncIteration

    @rpc_method()
    def unsendable(self, connection: ClientConnection[Any], a: int, b: int) -> Any:
        return object() if a else 1 << 70

    @rpc_method()
    async def sends(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        await connection.send(a)
        return b

    @rpc_method()
    def large(self, connection: ClientConnection[Any], a: int, b: int) -> bytes:
        return bytes(100_000 * abs(b))

    @rpc_method()
    async def opens(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        """Leave a nursery open, which is closed before the task goes on."""
        nursery = trio.open_nursery()
        self.opened.append(await nursery.__aenter__())
        return a

    @rpc_method()
    async def closes(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        await connection.close(4000 + a)
        return a

    @rpc_method()
    def ends(self, connection: ClientConnection[Any], a: int, b: int) -> None:
        raise CloseConnection(4000 + a)


METHODS = [name for name in vars(Api) if not name.startswith("_")]

scripts = st.lists(
    st.tuples(
        st.sampled_from([*METHODS, "no_such_method", "add", "plus"]),
        st.lists(st.sampled_from([1, 2, 0, -1, "a", 1.5, None, True, b"b"]), max_size=4) | st.just([1, 2]),
    ),
    max_size=6,
)


@pytest.fixture(autouse=True)
def _all_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)


async def answers(script: Sequence[tuple[str, list[Any]]], protocol: str) -> list[object]:
    """Send each call alone, and return all frames that came."""
    seen: list[object] = []
    with trio.fail_after(guard()):
        async with serving(Api, options=Options(close_timeout=5, ping_interval=None)) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            peer = await RawPeer.connect(stream, headers=[("Sec-WebSocket-Protocol", protocol)])
            for number, (method, args) in enumerate([*script, ("add", [1, 2])]):
                await peer.send_raw(call(method, *args, call_id=f"c{number:02}"))
                while True:
                    frame = await peer.receive_frame()
                    assert frame is not None
                    seen.append((frame.opcode, readable(frame.opcode, frame.payload)))
                    if frame.opcode == CLOSE or b"call_id\xa3c%02d" % number in frame.payload:
                        break
                if frame.opcode == CLOSE:
                    break
            await peer.aclose()
            await until(lambda: not server.connections)
    return seen


def readable(opcode: int, payload: bytes) -> object:
    if opcode == CLOSE:
        return payload
    return re.sub(r"\b[0-9a-f]{8}\b", "id", repr(msgspec.msgpack.decode(payload)))


def in_python() -> Any:
    """Return the function of the shared reader in Python, which calls `RPCSession.message_received`."""
    return single_messages.python_handle_single_messages


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=scripts, protocol=st.sampled_from(["trio-ws.v1", "webshocket.v1"]))
def test_calls_are_answered_as_by_python(script: list[tuple[str, list[Any]]], protocol: str) -> None:
    by_the_reader = trio.run(answers, script, protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epoll_reader, "single_message_handler", in_python)
        by_the_session = trio.run(answers, script, protocol)
        patch.setattr(session, "start_call", session._start_no_call)
        by_python = trio.run(answers, script, protocol)
    assert by_the_reader == by_the_session == by_python


@pytest.mark.parametrize(
    ("method", "args", "expected"),
    [
        ("add", [1, 2], True),
        ("plus", [1, 2], True),
        ("convert", [1], True),
        ("anything", [1, "x", None], True),
        ("in_plain_context", [1, 2], True),
        ("anything", [], 1),  # None, which packets.py writes
        ("unsendable", [1, 2], 1),
        ("waits", [1, 2], 2),
        ("refuses", [1, 2], 3),
        ("breaks", [1, 2], 3),
        ("add", ["x", 2], 3),
        ("opens", [1, 2], 0),
        ("sends", [1, 2], True),
        ("ends", [1, 2], 3),
        ("no_such_method", [1], None),
        ("plus", [[1], 2], None),  # not scalar
    ],
)
def test_what_the_extension_does(
    method: str, args: list[Any], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: Counter[object] = Counter()
    in_c = session.start_call

    def counting(*given: Any) -> Any:
        step = in_c(*given)
        done[step[0] if isinstance(step, tuple) else step] += 1
        return step

    monkeypatch.setattr(epoll_reader, "single_message_handler", in_python)
    monkeypatch.setattr(session, "start_call", counting)
    # The first call comes while a task still reads.
    trio.run(answers, [("add", [1, 2]), (method, args)], "webshocket.v1")
    assert expected in done


def test_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the connection nor the message of a call is, however it goes on."""
    counts: list[tuple[list[int], list[int]]] = []
    in_c = session.start_call

    def counting(given: Any, message: Any, worker: Any) -> Any:
        copy = bytes(bytearray(message))
        objects = [given, given.transport, given.incoming.connection, copy, worker, Api.add]
        before = [*map(sys.getrefcount, objects)]
        step = in_c(given, copy, worker)
        counts.append((before, [*map(sys.getrefcount, objects)]))
        return step

    monkeypatch.setattr(epoll_reader, "single_message_handler", in_python)
    monkeypatch.setattr(session, "start_call", counting)
    script: list[tuple[str, list[Any]]] = [("add", [1, 2]), ("convert", [1]), ("plus", [[1], 2])]
    script += [("anything", []), ("unsendable", [1, 2]), ("plus", ["x", 2])]
    trio.run(answers, script * 3, "webshocket.v1")
    assert len(counts) > len(script) * 2
    assert [before for before, _ in counts] == [after for _, after in counts]
