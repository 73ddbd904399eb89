"""`App.listener`: a function that is called for each message, in the task that has read the message."""

from __future__ import annotations

import contextvars
import gc
import json
import logging
import random
import socket
import struct
import weakref
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.serving import all_tasks, echo, guard, request, serving, serving_in_memory, status_of
from trio_ws import (
    App,
    CloseConnection,
    ConnectionClosedError,
    HandshakeRejectedError,
    Options,
    WebSocketMessage,
    connect,
)
from trio_ws.app.listener import ListenerSession
from trio_ws.websocket import epoll_reader
from trio_ws.websocket.internals import parts_of
from trio_ws.websocket.readers import EPOLL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from trio_ws import WebSocket, WebSocketServer


@pytest.fixture(params=["the shared reader", "its own task"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who reads the connections of the server."""
    kind: str = request.param
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0 if kind == "the shared reader" else 1000)
    return kind


#: The text "a" from a client.
TEXT_A = b"\x81\x81\0\0\0\0a"


def port_of(server: WebSocketServer) -> int:
    return int(server.url.rpartition(":")[2])


class Move(msgspec.Struct):
    x: int


class Ack(msgspec.Struct):
    y: int


async def closing(ws: WebSocket) -> tuple[int | None, str | None]:
    """The close code and reason, after all messages."""
    while await ws.recv(none_when_lost=True) is not None:
        pass
    return ws.close_code, ws.close_reason


# -- connecting and disconnecting -------------------------------------------------------------------


async def text(ws: WebSocket, data: str) -> str:
    return data


def plain(ws: WebSocket, data: bytes) -> bytes:
    return data


async def both(ws: WebSocket, data: str | bytes) -> Any:
    return data


async def raw(ws: WebSocket, data: WebSocketMessage) -> WebSocketMessage:
    return data


async def typed(ws: WebSocket, data: Move) -> Ack:
    return Ack(data.x + 1)


async def anything(ws: WebSocket, data) -> Any:  # type: ignore[no-untyped-def]  # noqa: ANN001
    return data


async def silent(ws: WebSocket, data: str) -> None:
    if data == "report":
        await ws.send("nothing else")


@pytest.mark.parametrize(
    ("function", "sent", "received"),
    [
        (text, "héllo", "héllo"),
        (plain, b"\0\xff", b"\0\xff"),
        (both, "a", "a"),
        (both, b"a", b"a"),
        (raw, "a", "a"),
        (raw, b"a", b"a"),
        (typed, '{"x":1}', '{"y":2}'),
        (typed, b'{"x":1}', '{"y":2}'),
        (anything, '[1, "a"]', '[1,"a"]'),
    ],
)
async def test_data_comes_as_annotated_and_the_result_is_sent(
    function: Callable[..., Any], sent: str | bytes, received: str | bytes, reader: str
) -> None:
    app = App()
    app.listener("/")(function)
    async with serving(app) as server, connect(server.url) as ws:
        for _ in range(3):
            await ws.send(sent)
            message = await ws.recv()
            assert message is not None
            assert message.payload == received


async def test_none_is_not_sent(reader: str) -> None:
    app = App()
    app.listener("/")(silent)
    async with serving(app) as server, connect(server.url) as ws:
        for data in ("a", "b", "report"):
            await ws.send(data)
        assert await ws.receive_text() == "nothing else"


async def test_the_json_library_of_the_app_is_used(reader: str) -> None:
    class Loud:
        dumps = staticmethod(lambda value: json.dumps(value).upper())
        loads = staticmethod(json.loads)

    app = App(json=Loud)
    app.listener("/")(anything)
    async with serving(app) as server, connect(server.url) as ws:
        await ws.send('{"a": "b"}')
        assert await ws.receive_text() == '{"A": "B"}'


async def test_parameters_of_the_path_and_the_request_are_passed_by_name(reader: str) -> None:
    app = App()

    @app.listener("/rooms/{room:int}/{name}")
    async def say(ws: WebSocket, data: str, room: int, *, name: str, request: Any) -> str:
        return f"{room} {name} {request.path} {data}"

    async with serving(app) as server, connect(f"{server.url}/rooms/7/ann") as ws:
        await ws.send("hi")
        assert await ws.receive_text() == "7 ann /rooms/7/ann hi"


class Entry(msgspec.Struct):
    """Data whose own code fails in other ways than an invalid message."""

    name: str

    def __post_init__(self) -> None:
        failures: dict[str, BaseException] = {
            "unknown": KeyError(self.name),
            "refused": CloseConnection(4000, "refused"),
            "group": BaseExceptionGroup("several", [KeyError(self.name)]),
        }
        if self.name in failures:
            raise failures[self.name]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("unknown", (1011, "internal error")),
        ("refused", (4000, "refused")),
        ("group", (1011, "internal error")),
    ],
)
async def test_what_the_code_of_a_type_raises_ends_that_connection_only(
    name: str, end: tuple[int, str], reader: str
) -> None:
    app = App()

    @app.listener("/")
    def back(ws: WebSocket, data: Entry) -> str:
        return data.name

    async with serving(app) as server, connect(server.url) as other, connect(server.url) as ws:
        for one in (other, ws):
            await one.send('{"name": "a"}')
            assert await one.receive_text() == "a"
        await ws.send(json.dumps({"name": name}))
        assert await closing(ws) == end
        await other.send('{"name": "b"}')
        assert await other.receive_text() == "b"


@pytest.mark.parametrize(("method", "size"), [("_settle", 1), ("data_received", 5000)])
async def test_what_the_shared_reader_cannot_handle_ends_that_connection_only(
    method: str, size: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)
    app = App()
    seen: list[WebSocket] = []
    failing: list[WebSocket] = []
    original = getattr(ListenerSession, method)

    def fail(session: Any, *args: Any) -> Any:
        if session._ws in failing:
            raise KeyError("internal")
        return original(session, *args)

    monkeypatch.setattr(ListenerSession, method, fail)

    @app.listener("/")
    def back(ws: WebSocket, data: bytes) -> bytearray:
        seen.append(ws)
        return bytearray(data)

    async with serving(app) as server, connect(server.url) as other, connect(server.url) as ws:
        for one in (other, ws):
            await one.send(b"a")
            assert await one.receive_bytes() == b"a"
        failing.append(seen[-1])
        await ws.send(bytes(size))
        assert (await closing(ws))[0] == 1006
        assert "KeyError: 'internal'" in caplog.text
        await other.send(b"b")
        assert await other.receive_bytes() == b"b"


@pytest.mark.parametrize(
    ("function", "sent", "code", "reason"),
    [
        (text, b"a", 1003, "the message is binary and must be text"),
        (plain, "a", 1003, "the message is text and must be binary"),
        (typed, "{", 1007, "the message is not the requested JSON: "),
        (typed, '{"x":"a"}', 1007, "the message is not the requested JSON: Expected `int`, got `str`"),
        (anything, b"\xff", 1007, "the message is not the requested JSON: "),
        (anything, "[" * 100_000, 1007, "the message is not the requested JSON: "),
    ],
)
async def test_other_data_closes_the_connection(
    function: Callable[..., Any],
    sent: str | bytes,
    code: int,
    reason: str,
    reader: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App()
    app.listener("/")(function)
    async with serving(app) as server, connect(server.url) as ws:
        with caplog.at_level(logging.INFO, "trio_ws.app"):
            await ws.send(sent)
            found = await closing(ws)
        assert found[0] == code
        assert found[1] is not None
        assert found[1].startswith(reason[:80])
        (record,) = [one for one in caplog.records if one.name == "trio_ws.app"]
        assert record.levelno == logging.INFO
        assert "Traceback" not in caplog.text
        async with connect(server.url) as other:  # others are served
            await other.ping()


# -- order, waiting, tasks --------------------------------------------------------------------------


async def test_messages_are_handled_in_order_whether_or_not_they_wait(reader: str) -> None:
    app = App()
    running = 0

    @app.listener("/")
    async def mixed(ws: WebSocket, data: int) -> int:
        nonlocal running
        running += 1
        assert running == 1
        for _ in range(data % 3):
            await trio.lowlevel.checkpoint()
        running -= 1
        return data

    numbers = [random.randrange(1000) for _ in range(500)]

    async with serving(app) as server, connect(server.url) as ws, trio.open_nursery() as nursery:

        async def send_all() -> None:
            for number in numbers:
                await ws.send_json(number)

        nursery.start_soon(send_all)
        assert [await ws.receive_json() for _ in numbers] == numbers


async def test_an_idle_connection_has_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)
    app = App()
    app.listener("/")(text)
    async with serving(app) as server, AsyncExitStack() as stack:
        before = None
        for _ in range(20):
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port_of(server)))
            await stream.send_all(request())
            assert status_of(await stream.receive_some()) == 101
            await stream.send_all(TEXT_A)
            assert await stream.receive_some() == b"\x81\x01a"
            await wait_all_tasks_blocked()
            before = before or len(all_tasks())
            assert len(all_tasks()) == before


async def test_the_shared_reader_reads_listeners_from_the_second_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 4)
    app = App()
    app.listener("/")(text)
    app.websocket("/function")(echo)

    async def readers(server: WebSocketServer, path: str) -> list[bool]:
        """Return whether the shared reader reads, of three connections one after the other."""
        shared: list[bool] = []
        async with AsyncExitStack() as stack:
            for _ in range(3):
                before = server.connections
                ws = await stack.enter_async_context(connect(f"{server.url}{path}"))
                await ws.send("a")
                assert await ws.receive_text() == "a"
                (new,) = server.connections - before
                shared.append(parts_of(new).reader.by is EPOLL)
        while server.connections:
            await trio.lowlevel.checkpoint()
        return shared

    async with serving(app) as server:
        assert await readers(server, "") == [False, True, True]
        assert await readers(server, "/function") == [False, False, False]


@pytest.mark.parametrize("few", [0, 1000])
async def test_a_message_right_behind_the_request_comes_first(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", few)
    app = App()
    app.listener("/")(text)
    async with serving(app) as server:
        for _ in range(2):  # the second request is a known one
            with socket.socket() as plain:
                plain.connect(("127.0.0.1", port_of(server)))
                plain.sendall(request() + TEXT_A + TEXT_A.replace(b"a", b"b"))
                plain.setblocking(False)
                received = b""
                while not received.endswith(b"\x81\x01a\x81\x01b"):
                    await trio.lowlevel.wait_readable(plain)
                    received += plain.recv(4096)
            await _until_gone(server)


async def test_clients_that_left_before_they_were_accepted_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)
    disconnected: list[WebSocket] = []

    async def note(ws: WebSocket) -> None:
        disconnected.append(ws)

    app = App()
    app.listener("/")(text)
    app.listener("/noted", on_disconnect=note)(text)
    async with serving(app) as server:
        before = all_tasks()
        for path in ("/", "/noted"):
            for _ in range(3):
                with socket.socket() as plain:
                    plain.connect(("127.0.0.1", port_of(server)))
                    plain.sendall(request(target=path))
                    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
                await _until_gone(server)
        await wait_all_tasks_blocked()
        assert len(all_tasks() - before) <= 2, "one that serves clients, and one that reads"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def _until_gone(server: WebSocketServer) -> None:
    """Wait until the server has accepted a client, and holds nothing for it."""
    with trio.fail_after(guard()):
        await wait_all_tasks_blocked(0.01)
        while server._clients or server.connections:
            await trio.lowlevel.checkpoint()
    assert not server._shares._connections
    assert not server._shares._handshakes


async def _hold(url: str, *, task_status: trio.TaskStatus[WebSocket]) -> None:
    async with connect(url) as ws:
        task_status.started(ws)
        await trio.sleep_forever()


async def test_a_slow_message_stops_only_its_own_connection(reader: str) -> None:
    app = App()
    go_on = trio.Event()

    @app.listener("/")
    async def slow(ws: WebSocket, data: str) -> str:
        if data == "wait":
            await go_on.wait()
        return data

    async with serving(app) as server, connect(server.url) as one, connect(server.url) as other:
        await one.send("wait")
        await one.send("after")
        await one.ping()  # control frames are answered meanwhile
        for _ in range(3):
            await other.send("quick")
            assert await other.receive_text() == "quick"
        go_on.set()
        assert [await one.receive_text() for _ in range(2)] == ["wait", "after"]


async def test_a_listener_may_receive_and_send_by_itself(reader: str) -> None:
    app = App()

    @app.listener("/")
    async def dialogue(ws: WebSocket, data: str) -> str:
        await ws.send(f"who are you, {data}?")
        return await ws.receive_text()

    async with serving(app) as server, connect(server.url) as ws:
        for name in ("ann", "bob"):
            await ws.send("you")
            assert await ws.receive_text() == "who are you, you?"
            await ws.send(name)
            assert await ws.receive_text() == name


async def test_context_variables_are_of_one_message(reader: str) -> None:
    app = App()
    variable = contextvars.ContextVar("variable", default="unset")

    @app.middleware
    async def around(ws: WebSocket) -> AsyncIterator[None]:
        yield

    @app.listener("/")
    async def look(ws: WebSocket, data: str) -> str:
        before = variable.get()
        variable.set(data)
        await trio.lowlevel.checkpoint()
        assert variable.get() == data
        return before

    async with serving(app) as server, connect(server.url) as ws:
        for data in ("a", "b"):
            await ws.send(data)
            assert await ws.receive_text() == "unset"


async def test_nothing_is_handled_for_a_peer_that_does_not_read(reader: str) -> None:
    app = App()
    handled = 0

    @app.listener("/")
    async def blow_up(ws: WebSocket, data: bytes) -> bytes:
        nonlocal handled
        handled += 1
        return bytes(64 * 1024)

    options = Options(max_queue_bytes=256 * 1024, send_high_water=256 * 1024, compression=False)
    count = 2000
    async with (
        serving(app, options=options) as server,
        connect(server.url, options=Options(max_queue_bytes=65536)) as ws,
    ):
        async with trio.open_nursery() as nursery:

            async def send_all() -> None:
                for _ in range(count):
                    await ws.send(bytes(1024))

            nursery.start_soon(send_all)
            # Until nothing moves any more: the buffers of both sides and of the system are full.
            last = -1
            while last != handled:
                last = handled
                for _ in range(20):
                    await wait_all_tasks_blocked(0.01)
            assert handled < count // 2
            for _ in range(count):
                assert len(await ws.receive_bytes()) == 64 * 1024
        assert handled == count


async def test_the_next_message_is_read_while_a_reply_waits(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 1000)
    app = App()
    handled = []

    @app.listener("/")
    def much(ws: WebSocket, data: str) -> bytes:
        handled.append(ws)
        return bytes(32 * 1024 * 1024)

    async with (
        serving(app, options=Options(compression=False)) as server,
        await trio.open_tcp_stream("127.0.0.1", port_of(server)) as stream,
    ):
        await stream.send_all(request())
        assert status_of(await stream.receive_some()) == 101
        await stream.send_all(TEXT_A)
        while not handled:
            await trio.lowlevel.checkpoint()
        await stream.send_all(TEXT_A)
        # The clock stands still, so that no other task helps with reading.
        for _ in range(10_000):
            await trio.lowlevel.checkpoint()
            if parts_of(handled[0]).receive_buffer.messages:
                break
        assert len(handled) == 1
        assert parts_of(handled[0]).write_buffer.blocked
        assert list(parts_of(handled[0]).receive_buffer.messages) == ["a"]


# -- the ends ---------------------------------------------------------------------------------------


async def leave(ws: WebSocket, data: str) -> None:
    await trio.lowlevel.checkpoint()
    raise CloseConnection(4000, "enough")


def leave_at_once(ws: WebSocket, data: str) -> None:
    raise CloseConnection(4000, "enough")


async def fail(ws: WebSocket, data: str) -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("a bug")


def fail_at_once(ws: WebSocket, data: str) -> None:
    raise ValueError("a bug")


async def return_nonsense(ws: WebSocket, data: str) -> object:
    return object()


async def wait_and_return_nonsense(ws: WebSocket, data: str) -> object:
    await trio.lowlevel.checkpoint()
    return object()


@pytest.mark.parametrize(
    ("function", "end"),
    [
        (leave, (4000, "enough")),
        (leave_at_once, (4000, "enough")),
        (fail, (1011, "internal error")),
        (fail_at_once, (1011, "internal error")),
        (return_nonsense, (1011, "internal error")),
        (wait_and_return_nonsense, (1011, "internal error")),
    ],
)
async def test_exceptions_of_a_listener_end_its_connection(
    function: Callable[..., Any], end: tuple[int, str], reader: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    gone: list[int] = []

    async def on_disconnect(ws: WebSocket) -> None:
        await trio.lowlevel.checkpoint()
        gone.append(1)

    app.listener("/", on_disconnect=on_disconnect)(function)
    app.listener("/other")(text)
    async with serving(app) as server, connect(f"{server.url}/other") as other:
        for _ in range(2):
            async with connect(server.url) as ws:
                await ws.send("a")
                await ws.send("b")
                assert await closing(ws) == end
        await other.send("still here")
        assert await other.receive_text() == "still here"
        while len(server.connections) > 1:
            await trio.lowlevel.checkpoint()
        assert gone == [1, 1]
        failures = [one for one in caplog.records if one.levelno == logging.ERROR]
        assert len(failures) == (2 if end[0] == 1011 else 0)


async def test_debug_lets_the_exception_out_of_the_server(reader: str) -> None:
    app = App(debug=True)
    app.listener("/")(fail)
    with pytest.raises(ValueError, match="a bug"):
        async with serving(app) as server, connect(server.url) as ws:
            await ws.send("a")
            await closing(ws)
            await trio.sleep_forever()


async def test_ctrl_c_in_a_listener_ends_the_server_in_order(reader: str) -> None:
    app = App()
    app.listener("/other")(text)

    @app.listener("/")
    def strike(ws: WebSocket, data: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with serving(app) as server, connect(f"{server.url}/other") as other:
            await other.send("a")
            await other.receive_text()
            async with connect(server.url) as ws:
                await ws.send("a")
                assert (await closing(other))[0] == 1001
                await trio.sleep_forever()


async def test_a_client_may_be_refused_in_on_connect(reader: str) -> None:
    app = App()
    log: list[str] = []

    async def on_connect(ws: WebSocket) -> None:
        if ws.query_string == "reject":
            await ws.reject(401)
        elif ws.query_string == "raise":
            raise CloseConnection(1008)
        elif ws.query_string == "accept":
            await ws.accept(headers=[("X-Greeting", "hello")])
            await ws.send("welcome")
        log.append("connected")

    async def on_disconnect(ws: WebSocket) -> None:
        log.append("gone")

    app.listener("/", on_connect=on_connect, on_disconnect=on_disconnect)(text)
    async with serving(app) as server:
        for query, status in (("reject", 401), ("raise", 403)):
            with pytest.raises(HandshakeRejectedError) as caught:
                async with connect(f"{server.url}/?{query}"):
                    raise AssertionError
            assert caught.value.status == status
        assert "gone" not in log
        log.clear()
        async with connect(f"{server.url}/?accept") as ws:
            assert ws.response_headers is not None
            assert ws.response_headers["X-Greeting"] == "hello"
            assert await ws.receive_text() == "welcome"
            await ws.send("a")
            assert await ws.receive_text() == "a"
        while server.connections:
            await trio.lowlevel.checkpoint()
    assert log == ["connected", "gone"]


async def test_a_message_that_waits_is_cancelled_where_the_connection_breaks(reader: str) -> None:
    app = App()
    log: list[str] = []
    waiting = trio.Event()

    async def on_disconnect(ws: WebSocket) -> None:
        log.append("gone")

    @app.listener("/", on_disconnect=on_disconnect)
    async def wait(ws: WebSocket, data: str) -> None:
        waiting.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            log.append("cancelled")

    async with serving(app) as server:
        with pytest.raises(ConnectionClosedError):
            async with connect(server.url) as ws:
                await ws.send("a")
                await ws.send("never handled")
                await waiting.wait()
                ws._closing.abort(None)
                await ws.send("b")
        while server.connections:
            await trio.lowlevel.checkpoint()
        assert log == ["cancelled", "gone"]


async def test_messages_before_a_close_are_handled(reader: str) -> None:
    app = App()
    log: list[str] = []

    async def on_disconnect(ws: WebSocket) -> None:
        log.append("gone")

    @app.listener("/", on_disconnect=on_disconnect)
    async def store(ws: WebSocket, data: str) -> str:
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        log.append(data)
        return data

    async with serving(app) as server:
        async with connect(server.url) as ws:
            for data in "abc":
                await ws.send(data)
        while server.connections:
            await trio.lowlevel.checkpoint()
        assert log == ["a", "b", "c", "gone"]


@pytest.mark.parametrize("hooked", [False, True], ids=["without a hook", "with on_disconnect"])
@pytest.mark.parametrize("how", ["a close", "a cut", "a violation"])
async def test_nothing_is_left_of_a_connection_that_has_ended(how: str, hooked: bool, reader: str) -> None:
    app = App()
    gone: list[int] = []
    found: list[weakref.ref[WebSocket]] = []

    async def on_disconnect(ws: WebSocket) -> None:
        gone.append(1)

    @app.listener("/", on_disconnect=on_disconnect if hooked else None)
    def keep(ws: WebSocket, data: str) -> str:
        found.append(weakref.ref(ws))
        return data

    last = {"a close": b"\x88\x82\0\0\0\0\x03\xe8", "a cut": b"", "a violation": b"\xff\xff"}[how]
    options = Options(max_connections=1)
    gc.collect()
    gc.disable()  # no cycle of references is left either
    try:
        async with serving(app, options=options) as server:
            before = 0
            for count in range(1, 4):
                stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
                await stream.send_all(request())
                assert status_of(await stream.receive_some()) == 101  # there is a place
                await stream.send_all(TEXT_A)
                assert await stream.receive_some() == b"\x81\x01a"
                await stream.send_all(last)
                if how == "a violation":
                    while await stream.receive_some():
                        pass
                await stream.aclose()
                while server.connections:
                    await trio.lowlevel.checkpoint()
                await wait_all_tasks_blocked()
                before = before or len(all_tasks())  # the reader's, which the first connection starts
                assert len(all_tasks()) == before
                assert len(gone) == (count if hooked else 0)
                assert [one() for one in found] == [None] * count
    finally:
        gc.enable()


async def test_a_drain_lets_a_message_that_waits_finish(reader: str) -> None:
    app = App()
    waiting, go_on = trio.Event(), trio.Event()

    @app.listener("/")
    async def slow(ws: WebSocket, data: str) -> str:
        waiting.set()
        await go_on.wait()
        return data

    async with (
        serving(app) as server,
        connect(server.url) as ws,
        connect(server.url) as idle,
        trio.open_nursery() as nursery,
    ):
        await ws.send("last")
        await waiting.wait()
        nursery.start_soon(server.drain)
        assert (await closing(idle))[0] == 1001
        go_on.set()
        assert await ws.receive_text() == "last"
        assert (await closing(ws))[0] == 1001


async def test_a_server_that_is_cancelled_cancels_what_waits(reader: str) -> None:
    app = App()
    log: list[str] = []
    waiting = trio.Event()

    async def on_disconnect(ws: WebSocket) -> None:
        await trio.lowlevel.checkpoint()
        log.append("gone")

    @app.listener("/", on_disconnect=on_disconnect)
    async def wait(ws: WebSocket, data: str) -> None:
        waiting.set()
        try:
            await trio.sleep_forever()
        finally:
            log.append("cancelled")

    options = Options(drain_timeout=0.01)
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            async with serving(app, options=options) as server:
                ws = await nursery.start(_hold, server.url)
                await ws.send("a")
                await waiting.wait()
            assert log == ["cancelled", "gone"]
            nursery.cancel_scope.cancel()


async def test_a_nursery_that_is_left_open_does_not_affect_other_connections(
    reader: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.listener("/")
    async def sloppy(ws: WebSocket, data: str) -> str:
        if data == "leak":
            await trio.open_nursery().__aenter__()
        return data

    async with serving(app) as server, connect(server.url) as ws, connect(server.url) as other:
        for one in (ws, other):
            await one.send("leak")
            assert await one.receive_text() == "leak"
            await one.send("a")
            assert await one.receive_text() == "a"
    assert "left a nursery open" in caplog.text


async def test_middleware_surrounds_a_listener(autojump_clock: MockClock) -> None:
    app = App()
    log: list[str] = []

    @app.middleware
    async def around(ws: WebSocket) -> AsyncIterator[None]:
        log.append("in")
        try:
            yield
        finally:
            log.append("out")

    app.listener("/")(text)
    async with serving_in_memory(app) as server, server.connect() as ws:
        await ws.send("a")
        assert await ws.receive_text() == "a"
        assert log == ["in"]
    assert log == ["in", "out"]


async def test_a_slow_on_disconnect_is_cut_at_close_timeout(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    async def on_disconnect(ws: WebSocket) -> None:
        await trio.sleep_forever()

    app.listener("/", on_disconnect=on_disconnect)(text)
    async with serving_in_memory(app, options=Options(close_timeout=3)) as server:
        async with server.connect() as ws:
            await ws.send("a")
            await ws.receive_text()
        await trio.sleep(10)
        assert len(server.server.connections) == 0
    assert "on_disconnect of <WebSocket" in caplog.text


# -- mistakes ---------------------------------------------------------------------------------------


async def one_argument(ws: WebSocket) -> None: ...
async def keyword(ws: WebSocket, *, data: str) -> None: ...
async def too_many(ws: WebSocket, data: str, other: int) -> None: ...
async def path_first(ws: WebSocket, room: int) -> None: ...
async def unknown(ws: WebSocket, data: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def unsupported(ws: WebSocket, data: dict[list[int], int | Move | Ack]) -> None: ...
async def generator(ws: WebSocket, data: str) -> AsyncIterator[str]:
    yield data


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (one_argument, "must take the data as its second argument"),
        (keyword, "must take the data as its second argument"),
        (too_many, r"requires parameter 'other', but the path '/\{room:int\}' has no"),
        (path_first, "must be the data, not the path parameter 'room'"),
        (unknown, "the annotation of 'data' of the listener unknown cannot be resolved"),
        (unsupported, "the data of the listener unsupported: "),
        (generator, "contains yield"),
    ],
)
def test_unsuitable_functions_are_refused_when_they_are_added(
    function: Callable[..., Any], text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        App().listener("/{room:int}")(function)


def test_hooks_are_checked_when_they_are_added() -> None:
    def not_async(ws: WebSocket) -> None: ...

    with pytest.raises(
        TypeError, match=r"on_connect of a listener must be an async function, not .*not_async"
    ):
        App().listener("/", on_connect=not_async)(text)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="requires parameter 'data'"):
        App().listener("/", on_disconnect=text)(text)  # type: ignore[arg-type]


def test_a_path_has_one_route() -> None:
    app = App()
    app.listener("/")(text)
    with pytest.raises(ValueError, match="/"):
        app.websocket("/")(one_argument)
