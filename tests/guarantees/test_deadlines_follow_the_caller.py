"""The deadline of a call is always that of its caller, who may move it while the call is under way."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.inspect import one_way, put_message
from tests.support.serving import all_tasks, serving_in_memory
from trio_ws import (
    ClientConnection,
    ConnectionClosedError,
    Options,
    RPCTimeoutError,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    connect,
    rpc_method,
)
from trio_ws.codecs.base import Request
from trio_ws.codecs.packets import TrioWSCodec
from trio_ws.rpc import deadlines
from trio_ws.rpc.task_pool import PooledTask
from trio_ws.testing import MemoryListener, RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.support.serving import MemoryServer

QUIET = Options(ping_interval=None)
ENCODE = TrioWSCodec()


class Handler(WebSocketHandler):
    """Records when its methods started, and how they ended."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled_at: list[float] = []

    @rpc_method()
    async def work(self, connection: ClientConnection, seconds: float) -> str:
        self.begun.append("work")
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.cancelled_at.append(trio.current_time())
            raise
        return "done"

    @rpc_method()
    def plain(self, connection: ClientConnection) -> str:
        self.begun.append("plain")
        return "done"

    @rpc_method()
    async def ticks(self, connection: ClientConnection, count: int) -> AsyncIterator[int]:
        self.begun.append("ticks")
        try:
            for number in range(count):
                await trio.sleep(1)
                yield number
        except trio.Cancelled:
            self.cancelled_at.append(trio.current_time())
            raise

    @rpc_method()
    async def total(self, connection: ClientConnection, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    @rpc_method()
    async def refuse(self, connection: ClientConnection) -> None:
        raise RPCTimeoutError("the database had no time")

    @rpc_method()
    async def refuse_item(self, connection: ClientConnection) -> AsyncIterator[int]:
        yield 1
        raise RPCTimeoutError("the database had no time")

    @rpc_method()
    async def ask_back(self, connection: ClientConnection, seconds: float) -> str:
        with trio.fail_after(2) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(move_at, 1, scope, 100)
                return await connection.call("work", seconds, returns=str)


async def move_at(seconds: float, scope: trio.CancelScope, left: float) -> None:
    """Wait, and then set the deadline of a scope to ``left`` seconds from now."""
    await trio.sleep(seconds)
    scope.deadline = trio.current_time() + left


@asynccontextmanager
async def calling(memory: MemoryServer, latency: float, **kwargs: Any) -> AsyncIterator[WebSocketClient]:
    stream = await memory.stream(latency=latency)
    async with WebSocketClient("ws://test/", stream=stream, options=QUIET, **kwargs) as client:
        yield client


LATENCIES = [0.0, 0.1, 3.0]


@pytest.mark.parametrize("pinged", [False, True])
@pytest.mark.parametrize("latency", LATENCIES)
@pytest.mark.parametrize("before", [0.01, 1, 5])
async def test_an_extended_call_holds_on(
    before: float, latency: float, pinged: bool, autojump_clock: MockClock
) -> None:
    """It may be extended any time before the deadline."""
    async with serving_in_memory(Handler(), options=QUIET) as memory, calling(memory, latency) as client:
        if pinged:
            await client.ping()
        began = trio.current_time()
        with trio.fail_after(10) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(move_at, 10 - before, scope, 100)
                assert await client.call("work", 30) == "done"
        assert trio.current_time() == pytest.approx(began + 30 + 2 * latency)


@pytest.mark.parametrize("latency", LATENCIES)
async def test_a_deadline_is_given_up_altogether(latency: float, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory, calling(memory, latency) as client:
        with trio.fail_after(4) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(move_at, 3, scope, float("inf"))
                assert await client.call("work", 3000) == "done"


@pytest.mark.parametrize("latency", LATENCIES)
async def test_a_shortened_deadline_cuts(latency: float, autojump_clock: MockClock) -> None:
    handler = Handler()
    async with serving_in_memory(handler, options=QUIET) as memory, calling(memory, latency) as client:
        began = trio.current_time()
        with trio.move_on_after(1000) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(move_at, 5, scope, 1)
                await client.call("work", 30)
        assert scope.cancelled_caught
        assert trio.current_time() == began + 6
        await trio.sleep(latency)
        await trio.testing.wait_all_tasks_blocked()
        assert handler.cancelled_at == [began + 6 + latency]


@pytest.mark.parametrize("latency", LATENCIES)
async def test_a_stream_with_a_limit_for_each_item(latency: float, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory, calling(memory, latency) as client:
        seen = []
        with trio.fail_after(2 + 2 * latency) as scope:
            async with client.stream("ticks", 20, items=int) as items:
                async for item in items:
                    seen.append(item)
                    scope.deadline = trio.current_time() + 1.5
        assert seen == list(range(20))


async def test_a_stream_whose_consumer_is_busy_past_the_first_deadline(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory, calling(memory, 0.1) as client:
        with trio.fail_after(3) as scope:
            async with client.stream("ticks", 30, items=int) as items:
                await items.receive()
                scope.deadline = float("inf")
                await trio.sleep(100)
                assert [item async for item in items] == list(range(1, 30))


async def test_a_stream_that_outlives_the_scope_in_which_it_was_opened(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory, calling(memory, 0.1) as client:
        async with AsyncExitStack() as stack:
            with trio.fail_after(2):
                items = await stack.enter_async_context(client.stream("ticks", 8, items=int))
            assert [item async for item in items] == list(range(8))


async def test_a_call_with_a_stream_of_its_own(autojump_clock: MockClock) -> None:
    async def slowly() -> AsyncIterator[int]:
        for number in range(10):
            await trio.sleep(1)
            yield number

    async with serving_in_memory(Handler(), options=QUIET) as memory, calling(memory, 0.1) as client:
        with trio.fail_after(5) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(move_at, 4, scope, 100)
                assert await client.call("total", slowly()) == 45


async def test_a_call_of_the_server_to_its_client(autojump_clock: MockClock) -> None:
    mine = Handler()
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        async with calling(memory, 0.1, handler=mine) as client:
            assert await client.call("ask_back", 30) == "done"
            assert mine.cancelled_at == []


@pytest.mark.parametrize("moved", [True, False])
async def test_hop_by_hop(moved: bool, autojump_clock: MockClock) -> None:
    last = Handler()

    class Middle(WebSocketHandler):
        @rpc_method()
        async def pass_on(self, connection: ClientConnection, seconds: float) -> str:
            async with calling(far, 0.2) as client:
                return await client.call("work", seconds, returns=str)

    async with (
        serving_in_memory(last, options=QUIET) as far,
        serving_in_memory(Middle(), options=QUIET) as near,
        calling(near, 0.2) as client,
    ):
        began = trio.current_time()
        with trio.move_on_after(5) as scope:
            async with trio.open_nursery() as nursery:
                if moved:
                    nursery.start_soon(move_at, 4.9, scope, 100)
                assert await client.call("pass_on", 30) == "done"
        await trio.sleep(1)
        assert last.cancelled_at == ([] if moved else [pytest.approx(began + 5.4)])


@pytest.mark.parametrize("method", ["refuse", "refuse_item"])
async def test_a_timeout_that_the_method_raised_is_an_answer_at_once(
    method: str, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory, calling(memory, 1) as client:
        began = trio.current_time()
        with trio.fail_after(1000):
            if method == "refuse":
                with pytest.raises(RPCTimeoutError, match="the database had no time"):
                    await client.call(method)
            else:
                async with client.stream(method) as items:
                    assert await items.receive() == 1
                    with pytest.raises(RPCTimeoutError, match="the database had no time"):
                        await items.receive()
        assert trio.current_time() == began + 2


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("left", [0.5, 8.0, 60.0])
async def test_the_method_ends_if_the_caller_is_gone(
    left: float, extended: bool, autojump_clock: MockClock
) -> None:
    """It ends at the deadline that was sent, or ``LONGEST`` seconds after the loss if it was extended."""
    began = lost = 0.0
    handler = Handler()
    async with serving_in_memory(handler, options=Options(ping_interval=None, drain_timeout=1)) as memory:
        link = await memory.listener.open_link(latency=0.05)
        with trio.CancelScope() as scope:
            async with WebSocketClient("ws://test/", stream=link.client, options=QUIET) as client:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def call() -> None:
                        with trio.move_on_after(left) as deadline:
                            if extended:
                                nursery.start_soon(move_at, left / 2, deadline, 1000)
                            await client.call("work", 10_000)

                    began = trio.current_time()
                    await trio.sleep(100 if extended else left / 6)
                    link.partition()
                    lost = trio.current_time()
                    scope.cancel()
        await trio.sleep(1000)
        (ended,) = handler.cancelled_at
        if extended:
            assert lost < ended <= lost + deadlines.LONGEST + 0.05
        else:
            assert ended == pytest.approx(began + left + 0.05)


async def open_raw(memory: MemoryServer) -> RawPeer:
    return await RawPeer.connect(await memory.stream(), headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")])


async def answer_of(peer: RawPeer) -> dict[str, Any]:
    frame = await peer.receive_frame()
    assert frame is not None
    rpc: dict[str, Any] = msgspec.msgpack.decode(frame.payload)["rpc"]
    return rpc


async def test_a_caller_that_never_renews_gets_the_time_that_it_said(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with serving_in_memory(handler, options=QUIET) as memory:
        peer = await open_raw(memory)
        began = trio.current_time()
        await peer.send_frame(2, ENCODE.request("1", "work", (30,), timeout=2.5))
        assert (await answer_of(peer))["error"] == -32003
        assert trio.current_time() == began + 2.5
        await peer.send_close()


async def test_a_deadline_may_be_said_anew(autojump_clock: MockClock) -> None:
    """A call without a deadline may get one."""
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        peer = await open_raw(memory)
        began = trio.current_time()
        for first in (None, 2.5, 100.0):
            await peer.send_frame(2, ENCODE.request("1", "work", (30,), timeout=first))
            await trio.sleep(2)
            await peer.send_frame(2, ENCODE.deadline("1", 5))
            await peer.send_frame(2, ENCODE.deadline("none such", 5))
            assert (await answer_of(peer))["error"] == -32003
            assert trio.current_time() == began + 7
            began = trio.current_time()
        # The scope of the calls has no deadline any more.
        await peer.send_frame(2, ENCODE.request("2", "work", (30,)))
        assert (await answer_of(peer))["response"] == "done"
        await peer.send_close()


@pytest.mark.parametrize(
    "args", [[], ["1"], ["1", "2"], ["1", -1], ["1", float("nan")], ["1", True], [["1"], 2], ["1", 2, 3]]
)
async def test_a_bad_deadline_closes(
    args: list[Any], caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        peer = await open_raw(memory)
        await peer.send_frame(2, ENCODE.request("", "__deadline__", args))
        frame = await peer.receive_frame()
        assert frame is not None
        assert frame.payload[:2] == (1008).to_bytes(2, "big")
        await peer.send_close(1008)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("seconds", [float("inf"), 1e308])
async def test_a_deadline_without_end(seconds: float, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        peer = await open_raw(memory)
        await peer.send_frame(2, ENCODE.request("1", "work", (30,), timeout=seconds))
        await peer.send_frame(2, ENCODE.deadline("1", seconds))
        assert (await answer_of(peer))["response"] == "done"
        await peer.send_close()


@pytest.mark.parametrize("method", ["plain", "work", "ticks"])
@pytest.mark.parametrize("seconds", [0.0, -0.0])
async def test_a_call_with_no_time_left_is_not_begun(
    method: str, seconds: float, autojump_clock: MockClock
) -> None:
    handler = Handler()
    async with serving_in_memory(handler, options=QUIET) as memory:
        peer = await open_raw(memory)
        args = () if method == "plain" else (1,)
        await peer.send_frame(2, ENCODE.request("1", method, args, timeout=seconds))
        response = await answer_of(peer)
        assert response["error"] == -32003
        assert response.get("is_end", False) is (method == "ticks")
        assert handler.begun == []
        await peer.send_close()


@pytest.mark.parametrize(("seconds", "renewed"), [(3.0, False), (20.0, False), (3.0, True)])
async def test_the_time_that_a_request_is_held_counts(
    seconds: float, renewed: bool, autojump_clock: MockClock
) -> None:
    """A waiting request whose deadline expires is answered then, and not started."""
    handler = Handler()
    options = Options(ping_interval=None, max_concurrent_calls=1)
    async with serving_in_memory(handler, options=options) as memory:
        peer = await open_raw(memory)
        await peer.send_frame(2, ENCODE.request("1", "work", (10,)))
        await peer.send_frame(2, ENCODE.request("2", "work", (15,), timeout=seconds))
        if renewed:
            await trio.sleep(2)
            await peer.send_frame(2, ENCODE.deadline("2", 30))
        ends = [await answer_of(peer), await answer_of(peer)]
        if renewed:
            assert [end["response"] for end in ends] == ["done", "done"]
            assert trio.current_time() == 25
        elif seconds < 10:
            assert [(end["call_id"], end.get("error")) for end in ends] == [("2", -32003), ("1", None)]
            assert handler.begun == ["work"]
            assert trio.current_time() == 10
        else:
            assert [(end["call_id"], end.get("error")) for end in ends] == [("1", None), ("2", -32003)]
            assert trio.current_time() == 20  # started with the remaining time
        (connection,) = handler.clients
        assert connection._live.transport.ledger.held == 0
        await peer.send_close()


async def test_requests_that_are_held_are_answered_at_their_deadlines(autojump_clock: MockClock) -> None:
    handler = Handler()
    options = Options(ping_interval=None, max_concurrent_calls=1)
    async with serving_in_memory(handler, options=options) as memory:
        peer = await open_raw(memory)
        await peer.send_frame(2, ENCODE.request("0", "work", (1000,)))
        for seconds in (50, 7, 30, 1, 7.01):
            await peer.send_frame(2, ENCODE.request(f"{seconds}", "work", (1,), timeout=seconds))
        for seconds in (1, 7, 7.01, 30, 50):
            end = await answer_of(peer)
            assert (end["call_id"], end["error"]) == (f"{seconds}", -32003)
            assert seconds <= trio.current_time() <= seconds + deadlines.TOGETHER
        assert handler.begun == ["work"]
        (connection,) = handler.clients
        deferred = connection._live.incoming.deferred
        assert deferred is not None
        held = deferred._deadlines
        assert held is not None
        await trio.testing.wait_all_tasks_blocked()
        assert held._scope is None
        await peer.send_close()


@pytest.mark.parametrize("steps", range(8))
async def test_an_abort_finds_a_held_call_until_it_begins(steps: int, autojump_clock: MockClock) -> None:
    """Even at the moment when it is about to start."""
    handler = Handler()
    options = Options(ping_interval=None, max_concurrent_calls=1)
    async with serving_in_memory(handler, options=options) as memory:
        peer = await open_raw(memory)
        await peer.send_frame(2, ENCODE.request("1", "work", (10,)))
        await peer.send_frame(2, ENCODE.request("2", "work", (1000,)))
        await trio.testing.wait_all_tasks_blocked()
        (connection,) = handler.clients
        server = connection._live
        worker = PooledTask(trio.lowlevel.current_task())
        server.incoming.start_call(Request("__abort__", ["1"]), worker)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        server.incoming.start_call(Request("__abort__", ["2"]), worker)
        await trio.testing.wait_all_tasks_blocked()
        incoming = server.incoming
        assert (incoming.running, incoming.waiting, incoming.active_calls) == ({}, {}, 0)
        await peer.send_frame(2, ENCODE.request("3", "plain"))
        assert (await answer_of(peer))["response"] == "done"
        await peer.send_close()


async def test_an_older_server_that_ends_it_early_is_believed_at_once(autojump_clock: MockClock) -> None:
    """The error is raised immediately, not at the current deadline."""
    listener = MemoryListener()

    async def old(ws: Any) -> None:
        await ws.accept()
        request = ENCODE.decode((await ws.recv()).data).rpc
        assert isinstance(request, Request)
        assert request.timeout is not None
        await trio.sleep(request.timeout)
        await ws.send(ENCODE.error(request, -32003, "too late"))
        async for _ in ws:
            pass

    async with WebSocketServer(old, listeners=[listener], options=QUIET):
        stream = await listener.connect(latency=0.5)
        # An older server also supports this dialect.
        async with WebSocketClient("ws://test/", stream=stream, dialect="json", options=QUIET) as client:
            client._live.transport.set_codec(ENCODE)
            began = trio.current_time()
            with trio.fail_after(5) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(move_at, 4, scope, 1000)
                    with pytest.raises(RPCTimeoutError, match="too late"):
                        await client.call("work", 30)
            assert trio.current_time() == began + 6


@pytest.mark.parametrize("method", ["work", "ticks"])
async def test_an_expired_deadline_of_the_caller_takes_precedence(
    method: str, autojump_clock: MockClock
) -> None:
    """A busy program reads the other side's timeout before trio handles the expired deadline."""
    async with serving_in_memory(Handler(), options=QUIET) as memory, calling(memory, 0.1) as client:
        peer = client._live
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def answer() -> None:
                await trio.sleep(0.5)
                autojump_clock.jump(1)
                (call_id,) = {**peer.outgoing.pending_calls, **peer.outgoing.sinks}
                put_message(peer.ws, ENCODE.error(Request("", call_id=call_id), -32003, "too late"))
                peer._handle_input(PooledTask(trio.lowlevel.current_task()))

            with pytest.raises(trio.TooSlowError), trio.fail_after(1):
                if method == "work":
                    await client.call("work", 30)
                else:
                    async with client.stream("ticks", 30) as items:
                        await items.receive()


async def test_a_long_opening_handshake_takes_nothing_off_a_deadline(autojump_clock: MockClock) -> None:
    handler = Handler()

    async def slow_to_connect(connection: ClientConnection) -> None:
        await trio.sleep(2)

    handler.on_connect = slow_to_connect  # type: ignore[method-assign]
    async with serving_in_memory(handler, options=QUIET) as memory, calling(memory, 0) as client:
        with trio.fail_after(0.5):
            assert await client.call("work", 0.4) == "done"


async def test_the_shortest_ping_counts(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        link = await memory.listener.open_link(latency=0.5)
        async with connect("ws://test/", stream=link.client, options=QUIET) as ws:
            assert one_way(ws) == 0
            for latency, known in ((0.5, 0.5), (2, 0.5), (0.25, 0.25)):
                link.to_server.latency = link.to_client.latency = latency
                await ws.ping()
                assert ws.latency == 2 * latency
                assert one_way(ws) == known


async def test_renewing_ends_with_the_calls_and_with_the_connection(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        async with calling(memory, 0) as client:
            with trio.fail_after(30):
                await client.call("work", 1)
            before = all_tasks()
            await trio.sleep(60)
            peer = client._live
            assert peer.outgoing._renewals is not None
            assert peer.outgoing._renewals._scope is None
            assert all_tasks() == before
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def call() -> None:
                    with trio.fail_after(30), pytest.raises(ConnectionClosedError):
                        await client.call("work", 1)

                await trio.testing.wait_all_tasks_blocked()
                renewals = peer.outgoing._renewals
                assert renewals._scope is not None
                peer.close_soon(1000, "")
                assert peer.outgoing._renewals is None
            await trio.testing.wait_all_tasks_blocked()
            assert renewals._scope is None


MOVES = st.lists(st.tuples(st.floats(0.01, 6), st.floats(0, 12)), max_size=6)


@examples(100)
@given(
    st.floats(0.1, 8),
    MOVES,
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from(["work", "ticks"]),
    st.booleans(),
)
def test_the_method_ends_with_its_caller_however_its_deadline_moves(
    first: float, moves: list[tuple[float, float]], latency: float, method: str, pinged: bool
) -> None:
    async def run() -> None:
        handler = Handler()
        async with serving_in_memory(handler, options=QUIET) as memory, calling(memory, latency) as client:
            if pinged:
                await client.ping()
            with trio.move_on_after(first) as scope:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def move() -> None:
                        for pause, left in moves:
                            await move_at(pause, scope, left)

                    if method == "work":
                        await client.call("work", 1000)
                    else:
                        async with client.stream("ticks", 1000) as items:
                            async for _ in items:
                                pass
            assert scope.cancelled_caught
            cut = trio.current_time()
            await trio.sleep(latency)
            await trio.testing.wait_all_tasks_blocked()
            if handler.begun:
                assert handler.cancelled_at == [pytest.approx(cut + latency)]

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("method", ["work", "ticks", "total"])
@pytest.mark.parametrize("moved", [False, True])
async def test_a_call_with_less_time_than_a_trip_takes_is_sent_if_that_changes(
    moved: bool, method: str, autojump_clock: MockClock
) -> None:
    """It could not be answered in time, so the method is not started unless the deadline changes."""

    async def one() -> AsyncIterator[int]:
        yield 1

    handler = Handler()
    async with serving_in_memory(handler, options=QUIET) as memory, calling(memory, 1) as client:
        await client.ping()
        began = trio.current_time()
        done = False
        with trio.move_on_after(0.5) as scope:
            async with trio.open_nursery() as nursery:
                if moved:
                    nursery.start_soon(move_at, 0.4, scope, 100)
                if method == "work":
                    assert await client.call("work", 1) == "done"
                elif method == "total":
                    assert await client.call("total", one()) == 1
                else:
                    async with client.stream("ticks", 1) as items:
                        assert [item async for item in items] == [0]
                done = True
        assert done is moved
        if not moved:
            assert trio.current_time() == began + 0.5
            await trio.sleep(5)
            assert handler.begun == []
