"""The shared reader of plain sockets: fairness, descriptors, cancellations, and tasks.

Behaviour that does not depend on the reader is tested elsewhere. CI runs those tests with both readers, see
``SHARE_THRESHOLD`` in epoll_reader.py.
"""

from __future__ import annotations

import contextvars
import logging
import os
import resource
import socket
import struct
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.adversary.hostile import call, opening
from tests.adversary.process import upgrade
from tests.support.inspect import abort, read_by_epoll, reading_stopped, transport_of, waiting_messages
from tests.support.serving import busy_tasks, echo, serving
from tests.support.watching import DEFLATE, deflated, until
from trio_ws import App, Options, WebSocketClient, WebSocketHandler, connect, rpc_method
from trio_ws.protocol.frames import BINARY, FIN, PING, RSV1
from trio_ws.protocol.framing import masked_frame
from trio_ws.testing import RawPeer
from trio_ws.websocket import epoll_reader, fair_turn
from trio_ws.websocket.single_messages import END_COST, MESSAGE_COST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from trio_ws import ClientConnection, WebSocket, WebSocketServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no epoll")

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")
#: A masked binary frame of 32 zeros.
FRAME = b"\x82\xa0" + bytes(4) + bytes(32)


opened: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _all_share(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)
    yield
    for sock in opened:
        sock.close()
    opened.clear()


@pytest.fixture
def no_longer_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader does the minimum in each turn, however much time other tasks use."""
    monkeypatch.setattr(fair_turn, "MAX_TURN", 0.0)


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the scheduler."""

    def __init__(self) -> None:
        self.count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_message_that_several_reads_bring_wakes_the_task() -> None:
    async with serving(echo) as server, connect(f"ws://127.0.0.1:{server.port}") as ws:
        for size in (1, 100_000, 300_000, 1):
            await ws.send(bytes(size))
            assert (await ws.receive()).payload == bytes(size)


class Api(WebSocketHandler):
    """Methods that return immediately, and some that wait."""

    def __init__(self) -> None:
        self.go_on = trio.Event()
        self.waiting = self.added = 0
        self.left_open: trio.CancelScope | None = None
        self.ended: list[str] = []
        self.pair: tuple[socket.socket, socket.socket] | None = None

    async def on_disconnect(self, connection: ClientConnection[Any]) -> None:
        self.ended.append(connection.uid)

    @rpc_method()
    def add(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        self.added += 1
        return a + b

    @rpc_method()
    async def wait(self, connection: ClientConnection[Any]) -> str:
        self.waiting += 1
        await self.go_on.wait()
        return VARIABLE.get()

    @rpc_method()
    def mark(self, connection: ClientConnection[Any], value: str) -> str:
        before = VARIABLE.get()
        VARIABLE.set(value)
        return before

    @rpc_method()
    def leave_open(self, connection: ClientConnection[Any]) -> None:
        self.left_open = trio.CancelScope()
        self.left_open.__enter__()

    @rpc_method()
    def replace_others(self, connection: ClientConnection[Any]) -> int:
        """Close the other connections, so that the next descriptors reuse their numbers."""
        others = [other for other in self.clients if other is not connection]
        numbers = {transport_of(other._ws).fd for other in others}
        for other in others:
            abort(other._ws)
        self.pair = socket.socketpair()
        self.pair[0].send(b"not for the reader")
        return len(numbers & {end.fileno() for end in self.pair})


class Steps(trio.abc.Instrument):
    """Counts the steps of the tasks that read, and the messages that each step brought."""

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self.count = 0
        self.most = 0
        self._before = 0

    def _messages(self) -> int:
        return sum(len(waiting_messages(ws)) for ws in self._server.connections)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if reads(task):
            self.count += 1
            self._before = self._messages()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if reads(task):
            self.most = max(self.most, self._messages() - self._before)


def reads(task: trio.lowlevel.Task) -> bool:
    return task.name.endswith("TaskPool._work")


@asynccontextmanager
async def counting(server: WebSocketServer) -> AsyncIterator[Steps]:
    steps = Steps(server)
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)


async def raw_client(server: WebSocketServer) -> socket.socket:
    """Return the plain socket of an open connection."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await RawPeer.connect(stream)
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    opened.append(sock)
    return sock


@asynccontextmanager
async def rpc_clients(server: WebSocketServer, count: int) -> AsyncIterator[list[socket.socket]]:
    """Open plain sockets that speak trio-ws.v1."""
    socks = []
    for _ in range(count):
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await upgrade(stream, opening("/", subprotocol="trio-ws.v1"))
        socks.append(socket.socket(fileno=stream.socket.detach()))
    opened.extend(socks)
    yield socks


def fill(sock: socket.socket, data: bytes = FRAME * 1000) -> int:
    """Send as much as possible without waiting."""
    sent = 0
    try:
        while True:
            sent += sock.send(data[sent % len(FRAME) :])
    except BlockingIOError:
        return sent


async def test_the_first_few_read_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 2)
    async with serving(echo) as server:
        async with connect(server.url) as first, connect(server.url) as second, connect(server.url) as third:
            for ws in (first, second, third):
                await ws.send("x")
                assert str((await ws.receive()).text) == "x"
            assert sorted(read_by_epoll(ws) for ws in server.connections) == [False, False, True]
        # The place of an ended connection can be reused.
        await until(lambda: not server.connections)
        async with connect(server.url) as ws:
            await ws.send("x")
            await ws.receive()
            assert [read_by_epoll(ws) for ws in server.connections] == [False]


async def test_a_flood_does_not_delay_other_connections() -> None:
    """However much data of one connection is available, another's message is read in the next round."""
    got = trio.Event()

    async def handler(ws: WebSocket) -> None:
        async for message in ws:
            if message.is_text():
                got.set()

    async with serving(handler, options=Options(drain_timeout=0.01)) as server:
        flood, quiet = await raw_client(server), await raw_client(server)
        assert fill(flood) > 128 * 1024
        await trio.lowlevel.checkpoint()
        async with counting(server) as steps:
            fill(flood)
            quiet.send(b"\x81\x81" + bytes(4) + b"x")
            while not got.is_set():
                fill(flood)
                await trio.lowlevel.checkpoint()
            assert 0 < steps.count <= 6  # a spinning reader would take many steps


@pytest.mark.usefixtures("no_longer_turns")
async def test_one_step_reads_only_so_much() -> None:
    """Many connections with a lot of data do not keep other tasks from running."""

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await ws.wait_closed()

    options = Options(max_queue_bytes=64 << 20)
    async with serving(handler, options=options) as server:
        socks = [await raw_client(server) for _ in range(8)]
        async with counting(server) as steps:
            total = sum(fill(sock) // len(FRAME) for sock in socks)
            await until(lambda: steps._messages() == total)
            one_read = 65536 // len(FRAME) + 1
            assert 0 < steps.most <= one_read + epoll_reader.BYTES_PER_TURN // MESSAGE_COST
        for sock in socks:
            sock.close()


async def test_a_full_subscription_stops_the_reading_and_costs_nothing() -> None:
    """The descriptor is not in the epoll meanwhile, so not even a reset makes the reader spin."""
    go_on = trio.Event()
    messages = 0
    options = Options(max_queue_bytes=100_000, ping_interval=None)

    async def handler(ws: WebSocket) -> None:
        nonlocal messages
        await ws.accept()
        await go_on.wait()
        async for _ in ws:
            messages += 1

    async with serving(handler, options=options) as server:
        sock = await raw_client(server)
        (ws,) = server.connections
        sent = fill(sock)
        await until(lambda: reading_stopped(ws))
        assert len(waiting_messages(ws)) <= (100_000 + 65536 // len(FRAME) * 128 + 65536) // 128
        sent += fill(sock)
        async with counting(server) as steps:
            # Reset the connection instead of closing it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            for _ in range(50):
                await trio.lowlevel.checkpoint()
            assert steps.count <= 5, "it may have been about to look into the epoll"
        assert ws in server.connections
        go_on.set()
        await until(lambda: not server.connections)
        assert 0 < messages <= sent // len(FRAME)


async def test_a_full_subscription_is_read_again_when_it_is_empty() -> None:
    go_on = trio.Event()
    got = 0

    async def handler(ws: WebSocket) -> None:
        nonlocal got
        await ws.accept()
        await go_on.wait()
        async for message in ws:
            assert message.data is not None
            got += len(message.data)

    async with serving(handler, options=Options(max_queue_bytes=50_000)) as server:
        sock = await raw_client(server)
        (ws,) = server.connections
        sent = fill(sock)
        await until(lambda: reading_stopped(ws))
        go_on.set()
        await until(lambda: got // 32 == sent // len(FRAME))
        assert not reading_stopped(ws)
        sock.close()


async def test_a_descriptor_that_is_used_again_is_another() -> None:
    """A connection is closed after the poll and before it is read, and another file reuses its descriptor."""
    api = Api()
    async with serving(api) as server:
        async with WebSocketClient(server.url) as first, WebSocketClient(server.url) as second:
            assert await first.call("add", 1, 2) == 3
            # Both are ready at the next poll, and the first one is read first.
            for client in (first, second):
                peer = client._live
                call = "replace_others" if client is first else "add"
                args = () if client is first else (1, 2)
                peer.transport.post(peer.codec.request(f"x{call}", call, args, {}), cork=False)
            await until(lambda: api.pair is not None)
            assert api.pair is not None
            reading, writing = api.pair
            with reading, writing:
                for number in range(20):
                    assert await first.call("add", number, 1) == number + 1
                assert writing.recv(100) == b"not for the reader"
        async with WebSocketClient(server.url) as third:
            assert await third.call("add", 2, 2) == 4


async def test_numbers_come_again_and_again() -> None:
    async with serving(echo) as server:
        for number in range(50):
            async with connect(server.url) as ws:
                await ws.send(str(number))
                assert str((await ws.receive()).text) == str(number)


async def test_a_cancelled_receive_loses_nothing() -> None:
    """Cancelled before the data arrives, in the same step, and after it."""
    got: list[str] = []
    scopes: list[trio.CancelScope] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        while ws.connected:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                message = await ws.recv()
                if message is None:
                    return
                got.append(str(message.text))

    async with serving(handler) as server, connect(server.url) as ws:
        for number in range(60):
            await ws.send(str(number))
            for _ in range(number % 6):
                await trio.lowlevel.checkpoint()
            if scopes:
                scopes[-1].cancel()
        await until(lambda: len(got) == 60)
    assert got == [str(number) for number in range(60)]


async def test_a_call_that_waits_takes_the_task_and_others_go_on() -> None:
    api = Api()
    results: list[str] = []
    async with (
        serving(api) as server,
        WebSocketClient(server.url) as first,
        WebSocketClient(server.url) as second,
        trio.open_nursery() as nursery,
    ):

        async def wait(client: WebSocketClient) -> None:
            results.append(await client.call("wait"))

        for client in (first, second, first):
            nursery.start_soon(wait, client)
        await trio.testing.wait_all_tasks_blocked(0.01)
        for client in (first, second):
            assert await client.call("add", 1, 2) == 3
        assert results == []
        api.go_on.set()
    assert results == ["unset"] * 3


async def test_calls_that_wait_start_in_a_few_rounds() -> None:
    """Each of these methods takes a task away from the reader. The others do not wait for that one by one."""
    api = Api()
    async with serving(api) as server, rpc_clients(server, 60) as socks:
        rounds = Rounds()
        trio.lowlevel.add_instrument(rounds)
        for sock in socks:
            sock.send(call("wait", call_id="1"))
        await until(lambda: api.waiting == len(socks))
        trio.lowlevel.remove_instrument(rounds)
        assert rounds.count <= 15
        api.go_on.set()


async def test_the_reader_gets_its_share_of_a_busy_processor() -> None:
    """If the rounds are long because other tasks work, the reader does more than its minimum in each."""
    api = Api()
    async with serving(api) as server, rpc_clients(server, 60) as socks, trio.open_nursery() as nursery:
        packet = b"".join(call("add", 1, 2, call_id=str(number)) for number in range(50))
        minimum = len(socks) * 50 * MESSAGE_COST // epoll_reader.BYTES_PER_TURN  # of rounds

        async def work() -> None:
            while True:
                sum(range(100_000))
                await trio.lowlevel.checkpoint()

        for _ in range(10):
            nursery.start_soon(work)
        await trio.lowlevel.checkpoint()
        rounds = Rounds()
        trio.lowlevel.add_instrument(rounds)
        for sock in socks:
            sock.send(packet)
        await until(lambda: api.added == len(socks) * 50)
        trio.lowlevel.remove_instrument(rounds)
        assert minimum > 20
        assert rounds.count <= minimum // 2
        nursery.cancel_scope.cancel()


async def test_no_context_variable_goes_from_one_connection_into_another() -> None:
    api = Api()
    api.go_on.set()
    async with (
        serving(api) as server,
        WebSocketClient(server.url) as first,
        WebSocketClient(server.url) as second,
    ):
        assert await first.call("mark", "of the first") == "unset"
        assert await first.call("mark", "again") == "unset"
        assert await second.call("mark", "of the second") == "unset"
        assert await second.call("wait") == "unset"


async def test_a_scope_that_a_method_leaves_open_costs_one_worker(caplog: pytest.LogCaptureFixture) -> None:
    """The method runs in the task that reads for all. If that is cancelled, another task takes over."""
    api = Api()
    async with (
        serving(api) as server,
        WebSocketClient(server.url) as first,
        WebSocketClient(server.url) as second,
    ):
        with caplog.at_level(logging.CRITICAL, "trio_ws.rpc"):
            await first.call("leave_open")
            assert await second.call("add", 1, 2) == 3
            assert api.left_open is not None
            api.left_open.cancel()
            for client in (first, second):
                assert await client.call("add", 1, 2) == 3


@pytest.mark.repeats
@pytest.mark.parametrize("target", ["function", "handler", "app"])
async def test_idle_connections_cost_no_waiting_task(target: str) -> None:
    """Handlers wait for notifications, and calls have no task. Only the reader waits for sockets."""
    count = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 100)
    assert count > 50
    options = Options(ping_interval=None, drain_timeout=0.01, close_timeout=0.01)
    api, app = Api(), App()
    app.mount("/", api)
    targets: dict[str, Any] = {"function": echo, "handler": api, "app": app}
    async with serving(targets[target], options=options) as server:
        socks = [await raw_client(server)]
        tasks = len(busy_tasks())
        waiting = waiting_for_input()
        socks += [await raw_client(server) for _ in range(count)]
        await until(lambda: len(server.connections) == count + 1)
        await until(lambda: len(busy_tasks()) <= tasks + (count if target == "function" else 0))
        assert waiting_for_input() <= waiting + 1  # the shared reader may wait
        for sock in socks:
            sock.close()
    assert len(api.ended) == (0 if target == "function" else count + 1)


def waiting_for_input() -> int:
    statistics: Any = trio.lowlevel.current_statistics().io_statistics
    return int(statistics.tasks_waiting_read)


async def test_a_server_that_stops_leaves_no_descriptor() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, of this moment

    before = descriptors()
    api = Api()
    async with serving(api, options=Options(drain_timeout=0.01, close_timeout=0.01)) as server:
        socks = [await raw_client(server) for _ in range(20)]
        await until(lambda: len(api.clients) == 20)
        assert descriptors() > before + 40
    assert len(api.ended) == 20
    for sock in socks:
        sock.close()
    assert descriptors() == before


async def test_a_cancelled_server_ends_in_the_middle_of_a_flood() -> None:
    async with trio.open_nursery() as nursery:
        async with serving(echo, options=Options(drain_timeout=0.01)) as server:
            socks = [await raw_client(server) for _ in range(10)]
            for sock in socks:
                fill(sock)
            nursery.cancel_scope.cancel()
    assert server.state == "closed"
    for sock in socks:
        sock.close()


class Work(trio.abc.Instrument):
    """The most that one step of a task that reads did, by a count that only grows."""

    def __init__(self, done: Callable[[], int]) -> None:
        self._done = done
        self._before = 0
        self.most = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._before = self._done()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self._done() - self._before)


@pytest.mark.usefixtures("no_longer_turns")
async def test_large_compressed_messages_are_inflated_in_turns_even_if_not_received() -> None:
    message = masked_frame(FIN | RSV1 | BINARY, deflated(bytes(128 << 10)))
    options = Options(ping_interval=None, compression=True, max_queue_bytes=1 << 30)
    done = trio.Event()
    taken: list[int] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await done.wait()
        async for got in ws:
            taken.append(len(got.data or b""))

    async with serving(handler, options=options) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        peer = await RawPeer.connect(stream, headers=[DEFLATE])
        await until(lambda: server.connections)
        (ws,) = server.connections
        work = Work(lambda: sum(map(len, waiting_messages(ws))))
        trio.lowlevel.add_instrument(work)
        await peer.send_raw(message * 100 + masked_frame(FIN | PING, b"behind"))
        pong = await peer.receive_frame()
        assert pong is not None
        assert pong.payload == b"behind"
        trio.lowlevel.remove_instrument(work)
        assert 0 < work.most <= 256 * 1024 + (4 << 17)
        done.set()
        await peer.send_close()
        assert await peer.receive_until_close() is not None
        await peer.aclose()
    assert taken == [128 << 10] * 100


@pytest.mark.usefixtures("no_longer_turns")
async def test_not_all_connections_that_end_at_once_are_ended_in_one_step() -> None:
    async with serving(echo, options=Options(ping_interval=None)) as server:
        for _ in range(40):
            await raw_client(server)
        held = list(server.connections)
        assert len(held) == 40
        work = Work(lambda: sum(ws.closed for ws in held))
        trio.lowlevel.add_instrument(work)
        for sock in opened:
            sock.close()
        await until(lambda: all(ws.closed for ws in held))
        trio.lowlevel.remove_instrument(work)
        assert 0 < work.most <= epoll_reader.BYTES_PER_TURN // END_COST
