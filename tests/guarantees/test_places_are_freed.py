"""A client that leaves before it is accepted is noticed, and its place in ``max_connections`` is freed.

``on_disconnect`` runs once for each ``on_connect`` that has returned, whatever happened in between.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.inspect import is_let_in, read_by_epoll
from tests.support.serving import (
    all_tasks,
    exchange,
    read_to_end,
    request,
    serving,
    serving_in_memory,
    status_of,
)
from trio_ws import (
    App,
    ClientConnection,
    CloseConnection,
    ConnectionClosedError,
    HandshakeRejectedError,
    Options,
    RPCAccessDeniedError,
    RPCError,
    WebSocketClient,
    WebSocketHandler,
    connect,
    rpc_method,
)
from trio_ws.systems import HAS_EPOLL
from trio_ws.testing import RawPeer
from trio_ws.websocket import epoll_reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_ws import Packet, Request, WebSocket
    from trio_ws.testing import LinkStream

PLAIN_GET = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Waiting:
    """Counts waiting user code, and how the waits end."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    async def wait(self) -> None:
        self.seen["begun"] += 1
        try:
            await trio.sleep(3600)
        except trio.Cancelled:
            self.seen["cancelled"] += 1
            raise


def waiting_app(waiting: Waiting) -> App:
    app, below = App(), App()

    class OnConnect(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            await waiting.wait()

    class OnConnectThatAccepts(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            await connection.accept()
            await waiting.wait()

    @app.websocket("/handler")
    async def handler(ws: WebSocket) -> None:
        await waiting.wait()

    @app.websocket("/scoped")
    async def scoped(ws: WebSocket) -> None:
        with trio.move_on_after(1800):
            await waiting.wait()

    @app.http("/page")
    async def page(request: Request) -> None:
        await waiting.wait()

    @below.middleware
    async def middleware(ws: WebSocket) -> AsyncIterator[None]:
        await waiting.wait()
        yield

    @below.websocket("/")
    async def inner(ws: WebSocket) -> None:
        await ws.accept()

    app.mount("/on_connect", OnConnect)
    app.mount("/on_connect_that_accepts", OnConnectThatAccepts)
    app.mount("/middleware", below)
    return app


PLACES = {
    path: request(target=path)
    for path in ("/handler", "/scoped", "/middleware", "/on_connect", "/on_connect_that_accepts")
} | {"/page": PLAIN_GET}


async def leave_by_close(stream: LinkStream) -> None:
    await stream.aclose()


async def leave_by_reset(stream: LinkStream) -> None:
    stream.link.cut()


@pytest.mark.parametrize("leave", [leave_by_close, leave_by_reset])
@pytest.mark.parametrize("place", PLACES)
async def test_a_client_that_leaves_while_user_code_waits_frees_its_place(
    place: str,
    leave: Callable[[LinkStream], Any],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    waiting = Waiting()
    async with serving_in_memory(waiting_app(waiting), options=Options(max_connections=3)) as memory:
        for after in (0.0, 0.005, 1.0):
            streams = [await memory.stream() for _ in range(3)]
            for stream in streams:
                await stream.send_all(PLACES[place])
            await trio.sleep(after)
            for stream in streams:
                await leave(stream)
            await trio.sleep(2)
            assert not memory.server.connections
            assert status_of(await exchange(await memory.stream(), request(target="/nowhere"))) == 404
        assert waiting.seen["begun"] == waiting.seen["cancelled"] > 0
        assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
@pytest.mark.parametrize("place", PLACES)
async def test_a_client_that_leaves_over_tcp_frees_its_place(place: str, how: str) -> None:
    waiting = Waiting()
    async with serving(waiting_app(waiting), options=Options(max_connections=3)) as server:
        socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        for sock in socks:
            sock.sendall(PLACES[place])
        while waiting.seen["begun"] < 3:
            await trio.sleep(0.01)
        for sock in socks:
            if how == "half_close":
                sock.shutdown(socket.SHUT_WR)
                continue
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        with trio.fail_after(2):
            while waiting.seen["cancelled"] < 3 or server.connections:
                await trio.sleep(0.01)
        for sock in socks:
            sock.close()


async def test_fast_accepts_and_responses_start_no_task(autojump_clock: MockClock) -> None:
    app = App()
    seen: list[int] = []

    @app.websocket("/")
    async def handler(ws: WebSocket) -> None:
        before = len(all_tasks())
        await trio.sleep(0.005)
        seen.append(len(all_tasks()) - before)
        await ws.accept()

    @app.http("/page")
    async def page(request: Request) -> None:
        before = len(all_tasks())
        await trio.sleep(0.005)
        seen.append(len(all_tasks()) - before)

    async with serving_in_memory(app) as memory:
        async with memory.connect():
            pass
        assert status_of(await exchange(await memory.stream(), PLAIN_GET)) == 204
    assert seen == [0, 0]


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("over_tcp", [False, True])
async def test_messages_sent_before_accept_belong_to_the_connection(
    over_tcp: bool, compression: bool
) -> None:
    begun = trio.Event()
    go = trio.Event()

    async def slow(ws: WebSocket) -> None:
        begun.set()
        await go.wait()
        await ws.accept()
        async for message in ws:
            await ws.send(message)

    async def talk_early(stream: trio.abc.Stream) -> None:
        await stream.send_all(request())
        await begun.wait()
        peer = RawPeer(stream, client=True)
        await peer.send_text("first")
        await trio.sleep(0.1)  # until it is in the receive buffer or in the socket
        await peer.send_text("second")
        await trio.sleep(0.1)
        go.set()
        await peer.receive_head()
        await peer.send_text("third")
        for text in (b"first", b"second", b"third"):
            frame = await peer.receive_frame()
            assert frame is not None
            assert frame.payload == text
        await peer.send_close()

    options = Options(compression=compression)
    if over_tcp:
        async with serving(slow, options=options) as server:
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await talk_early(stream)
    else:
        async with serving_in_memory(slow, options=options) as memory:
            await talk_early(await memory.stream())


async def test_one_that_talks_without_end_before_it_is_let_in_is_refused(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    waiting = Waiting()
    async with serving_in_memory(waiting_app(waiting), options=Options(max_queue_bytes=100_000)) as memory:
        stream = await memory.stream()
        await stream.send_all(request(target="/handler"))
        await trio.sleep(1)
        with trio.move_on_after(1), pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(bytes(10_000))
        assert status_of(await read_to_end(stream)) == 413
        assert waiting.seen == {"begun": 1, "cancelled": 1}
    assert "max_queue_bytes" in caplog.text


@pytest.mark.parametrize("over_tcp", [False, True])
async def test_a_slow_accept_changes_nothing_later(over_tcp: bool) -> None:
    ends: list[str] = []

    async def slow(ws: WebSocket) -> None:
        with trio.move_on_after(100):
            await trio.sleep(0.1)
            await ws.accept()
            await ws.send(await ws.receive_text())
        try:
            await ws.receive_text()
        except ConnectionClosedError:
            await trio.sleep(0.01)  # not cancelled
            ends.append("closed")

    async def be_a_client(client: WebSocket) -> None:
        await client.send("here?")
        assert await client.receive_text() == "here?"

    if over_tcp:
        async with serving(slow) as server:
            async with connect(server.url) as client:
                await be_a_client(client)
            while not ends:
                await trio.sleep(0.01)
    else:
        async with serving_in_memory(slow) as memory:
            async with memory.connect() as client:
                await be_a_client(client)
            while not ends:
                await trio.sleep(0.01)


async def test_a_client_that_leaves_before_accept_is_called_frees_its_place(
    autojump_clock: MockClock,
) -> None:
    async with serving_in_memory(None, options=Options(max_connections=2)) as memory:
        for leave in (leave_by_close, leave_by_reset):
            for _ in range(2):
                stream = await memory.stream()
                await RawPeer.connect(stream)
                await leave(stream)
            await trio.sleep(2)
            assert not memory.server.connections
        async with memory.connect() as client:
            ws = await memory.server.accept()
            await ws.send("you are the one")
            assert await client.receive_text() == "you are the one"


# -- on_connect and on_disconnect -------------------------------------------------------------------


class CallbackCounts(WebSocketHandler):
    """Counts the calls of on_connect and on_disconnect."""

    def __init__(self, wait: float = 0.5) -> None:
        self.wait = wait
        self.let_in: list[str] = []
        self.seen_off: list[str] = []

    async def on_connect(self, connection: ClientConnection) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(self.wait)
        self.let_in.append(connection.uid)

    async def on_disconnect(self, connection: ClientConnection) -> None:
        await trio.sleep(0.1)
        self.seen_off.append(connection.uid)

    @rpc_method()
    async def leave(self, connection: ClientConnection) -> None:
        raise CloseConnection(4000, "leave")

    @rpc_method()
    async def close(self, connection: ClientConnection) -> None:
        await connection.close(4001)

    @rpc_method()
    async def last(self, connection: ClientConnection) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize("leave", [leave_by_close, leave_by_reset])
@pytest.mark.parametrize("after", [0.0, 0.25, 0.5, 0.75])
async def test_on_disconnect_runs_once_for_each_on_connect_that_returned(
    after: float, leave: Callable[[LinkStream], Any], autojump_clock: MockClock
) -> None:
    counts = CallbackCounts()
    async with serving_in_memory(counts) as memory:
        for _ in range(3):
            stream = await memory.stream()
            await stream.send_all(request())
            await trio.sleep(after)
            await leave(stream)
        await trio.sleep(3)
        assert not memory.server.connections
        assert not counts.clients
        assert len(counts.let_in) == 3
        assert sorted(counts.seen_off) == sorted(counts.let_in)


@pytest.mark.parametrize("over_tcp", [False, True])
@pytest.mark.parametrize("drained_after", [0.0, 0.05, 0.15])
async def test_on_disconnect_runs_once_if_the_server_is_cancelled(
    drained_after: float, over_tcp: bool
) -> None:
    counts = CallbackCounts(0.1)
    if over_tcp:
        async with serving(counts, options=Options(close_timeout=0.5)) as server:
            streams = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(8)]
            for stream in streams:
                await stream.send_all(request())
            await trio.sleep(drained_after)
        for stream in streams:
            await stream.aclose()
    else:
        async with serving_in_memory(counts, options=Options(close_timeout=0.5)) as memory:
            for _ in range(8):
                await (await memory.stream()).send_all(request())
            await trio.sleep(drained_after)
    assert sorted(counts.seen_off) == sorted(counts.let_in)


@pytest.mark.parametrize("method", ["leave", "close", "last"])
async def test_on_disconnect_runs_once_if_a_method_ends_the_connection(
    method: str, autojump_clock: MockClock
) -> None:
    counts = CallbackCounts()
    async with serving_in_memory(counts) as memory:
        async with WebSocketClient("ws://test", stream=await memory.stream()) as client:
            with trio.move_on_after(1), pytest.raises(ConnectionClosedError):
                await client.call(method)
        await trio.sleep(1)
        assert len(counts.seen_off) == len(counts.let_in) == 1


async def test_on_disconnect_does_not_run_for_clients_that_on_connect_has_refused(
    autojump_clock: MockClock,
) -> None:
    seen: Counter[str] = Counter()

    class Strict(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            way = connection.request.query_string
            if way == "reject":
                await connection.reject(401)
            elif way == "close":
                await connection.close()
            elif way == "deny":
                raise RPCAccessDeniedError("no")
            elif way == "fail":
                raise KeyError("no")
            elif way == "fail_late":
                await connection.accept()
                raise KeyError("no")

        async def on_disconnect(self, connection: ClientConnection) -> None:
            seen[connection.request.query_string] += 1

    async with serving_in_memory(Strict) as memory:
        for way in ("reject", "close", "deny", "fail"):
            with pytest.raises(HandshakeRejectedError):
                async with memory.connect(f"/?{way}"):
                    pytest.fail("it was let in")
        async with memory.connect("/?fail_late") as ws:
            with pytest.raises(ConnectionClosedError):
                await ws.receive_text()
        async with memory.connect("/?let_in"):
            pass
        await trio.sleep(1)
        assert not memory.server.connections
    assert seen == {"let_in": 1}


# -- calls from on_connect --------------------------------------------------------------------------


class CallingInOnConnect(WebSocketHandler):
    """Calls a method of each client in on_connect."""

    def __init__(self) -> None:
        self.packets: list[Any] = []
        self.order: list[str] = []

    async def on_connect(self, connection: ClientConnection) -> None:
        await connection.accept()
        await connection.send("welcome")
        connection["name"] = await connection.call("who_are_you", returns=str)
        async with connection.stream("letters") as letters:
            connection["letters"] = [letter async for letter in letters]
        await trio.sleep(1)
        self.order.append("let in")
        assert connection not in self.clients

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        self.order.append("packet")
        self.packets.append((connection["name"], packet.data))

    @rpc_method()
    async def name(self, connection: ClientConnection) -> str:
        self.order.append("call")
        return str(connection["name"]) + "".join(connection["letters"])

    @rpc_method()
    def shout(self, connection: ClientConnection) -> str:
        return str(connection["name"]).upper()


class Answering(WebSocketHandler):
    def __init__(self) -> None:
        self.packets: list[Any] = []

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        self.packets.append(packet.data)

    @rpc_method()
    async def who_are_you(self, connection: ClientConnection) -> str:
        return "Ada"

    @rpc_method()
    async def letters(self, connection: ClientConnection) -> AsyncIterator[str]:
        for letter in "xyz":
            yield letter


@pytest.mark.parametrize("over_tcp", [False, True])
async def test_on_connect_may_send_and_call_once_it_has_accepted(over_tcp: bool) -> None:
    asking, answering = CallingInOnConnect(), Answering()

    async def be_a_client(client: WebSocketClient) -> None:
        await client.send("early")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.call, "name")
            await client.send("early too")
            assert await client.call("name") == "Adaxyz"
            assert await client.call("shout") == "ADA"
        assert asking.order[0] == "let in"
        await client.send("late")
        while len(asking.packets) < 3:
            await trio.sleep(0.01)
        assert asking.packets == [("Ada", "early"), ("Ada", "early too"), ("Ada", "late")]
        assert answering.packets == ["welcome"]
        assert len(asking.clients) == 1

    if over_tcp:
        async with (
            serving(asking) as server,
            WebSocketClient(server.url, handler=answering) as client,
        ):
            await be_a_client(client)
    else:
        async with serving_in_memory(asking) as memory:
            stream = await memory.stream()
            async with WebSocketClient("ws://test", handler=answering, stream=stream) as client:
                await be_a_client(client)


async def test_calls_before_on_connect_ends_are_bounded(autojump_clock: MockClock) -> None:
    options = Options(max_concurrent_calls=2, max_queue_bytes=2000)
    asking = CallingInOnConnect()
    async with serving_in_memory(asking, options=options) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test", handler=Answering(), stream=stream) as client:
            results: list[Any] = []

            async def call() -> None:
                results.append(await client.send_rpc("name"))

            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(call)
    assert len(results) == 50
    assert {result.data for result in results if result.error is None} == {"Adaxyz"}


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "json"])
async def test_no_method_runs_before_on_connect_has_returned(dialect: Any, autojump_clock: MockClock) -> None:
    let_in = False

    class Checking(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            nonlocal let_in
            await connection.accept()
            if dialect == "trio-ws.v1":
                with pytest.raises(RPCError, match="on_connect of the server has not returned yet"):
                    await connection.call("call_back")
            await trio.sleep(1)
            let_in = True

        @rpc_method()
        async def inner(self, connection: ClientConnection) -> str:
            assert let_in
            return "inner"

    class CallingBack(WebSocketHandler):
        @rpc_method()
        async def call_back(self, connection: ClientConnection) -> str:
            try:
                return str(await connection.call("inner"))
            except RPCError as exc:
                raise RPCError(str(exc)) from exc

    options = Options(max_concurrent_calls=1)
    async with serving_in_memory(Checking, options=options) as memory:
        stream = await memory.stream()
        async with WebSocketClient(
            "ws://test", handler=CallingBack, dialect=dialect, stream=stream
        ) as client:
            assert await client.call("inner") == "inner"


async def test_on_connect_cannot_call_before_it_has_accepted(autojump_clock: MockClock) -> None:
    errors: list[str] = []

    class CallingBeforeAccept(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            with pytest.raises(RuntimeError) as info:
                await connection.call("who_are_you")
            errors.append(str(info.value))

    async with serving_in_memory(CallingBeforeAccept) as memory, memory.connect():
        pass
    assert "await connection.accept()" in errors[0]


@pytest.mark.parametrize("leave", [leave_by_close, leave_by_reset])
async def test_a_call_of_on_connect_ends_with_its_client(
    leave: Callable[[LinkStream], Any], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[str] = []

    class WaitingInOnConnect(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            await connection.accept()
            try:
                await connection.call("never_answered")
            except ConnectionClosedError:
                ends.append("closed")
                raise
            finally:
                ends.append("over")

        async def on_disconnect(self, connection: ClientConnection) -> None:
            ends.append("seen off")

    async with serving_in_memory(WaitingInOnConnect) as memory:
        stream = await memory.stream()
        await RawPeer.connect(stream)
        await trio.sleep(1)
        await leave(stream)
        await trio.sleep(2)
        assert not memory.server.connections
    assert ends[-1] == "over"
    assert not caplog.records


@pytest.mark.parametrize("way", ["close", "raise", "deny"])
async def test_on_connect_may_turn_a_client_away_after_it_has_accepted(
    way: str, autojump_clock: MockClock
) -> None:
    seen: list[str] = []

    class RejectingByName(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            await connection.accept()
            if await connection.call("who_are_you") == "Ada":
                if way == "raise":
                    raise CloseConnection(4000, "not you")
                if way == "deny":
                    raise RPCAccessDeniedError("not you")
                await connection.close(4000, "not you")
                await trio.sleep(0.1)  # not cancelled
                seen.append("returned")

        async def on_disconnect(self, connection: ClientConnection) -> None:
            seen.append("seen off")

    async with serving_in_memory(RejectingByName) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test", handler=Answering(), stream=stream) as client:
            with pytest.raises(ConnectionClosedError) as info:
                await client.call("anything")
            assert info.value.code == (1008 if way == "deny" else 4000)
        await trio.sleep(1)
        assert not memory.server.connections
    assert seen == (["returned", "seen off"] if way == "close" else [])


@pytest.mark.parametrize("accepts", [False, True])
async def test_a_client_that_was_let_in_late_is_read_like_any_other(
    accepts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)

    class Slow(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            await trio.sleep(0.1)  # long enough for the disconnect watch to start
            if accepts:
                await connection.accept()
                await trio.sleep(0.1)

        @rpc_method()
        async def name(self, connection: ClientConnection) -> str:
            return "Slow"

    async with serving(Slow) as server, WebSocketClient(server.url) as client:
        assert await client.call("name") == "Slow"
        (ws,) = server.connections
        assert read_by_epoll(ws) == HAS_EPOLL
        assert is_let_in(ws)
        assert await client.call("name") == "Slow"
