"""Random sequences of calls, streams, cancellations, pauses and lost connections, from both sides.

At the end there is no task, no waiting call and no lost credit, and no request was answered twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import TYPE_CHECKING, Any

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.serving import all_tasks
from trio_ws import (
    ClientConnection,
    ConnectionClosedError,
    Options,
    RPCError,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    rpc_method,
)
from trio_ws.codecs.base import Response
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from trio_ws.rpc.outgoing import OutgoingCalls

WINDOW = 3


class Handler(WebSocketHandler):
    """The methods of both sides. It counts those that run."""

    def __init__(self) -> None:
        self.running = 0

    @rpc_method()
    def plain(self, connection: ClientConnection, value: int) -> int:
        return value

    @rpc_method()
    async def quick(self, connection: ClientConnection, value: int) -> int:
        return value

    @rpc_method()
    async def wait(self, connection: ClientConnection, value: int) -> int:
        self.running += 1
        try:
            await trio.sleep(value)
        finally:
            self.running -= 1
        return value

    @rpc_method()
    async def fail(self, connection: ClientConnection, value: int) -> int:
        await trio.sleep(value % 2)
        raise RPCError("as it should")

    @rpc_method()
    async def count(self, connection: ClientConnection, value: int) -> AsyncIterator[int]:
        self.running += 1
        try:
            for number in range(value * 4):
                if number % 5 == 4:
                    await trio.sleep(0.5)
                yield number
        finally:
            self.running -= 1

    @rpc_method()
    async def total(self, connection: ClientConnection, items: AsyncIterator[int], most: int) -> int:
        self.running += 1
        try:
            total = 0
            async for item in items:
                total += 1
                if total == most:
                    break
                await trio.sleep(0.25 * (item % 2))
            return total
        finally:
            self.running -= 1


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await trio.sleep(0.2 * (number % 3 == 2))
        yield number


OPERATIONS = st.tuples(
    st.sampled_from(["plain", "quick", "wait", "fail", "stream", "abandon", "upload", "nobody"]),
    st.booleans(),  # from the server's side
    st.integers(0, 5),  # the value
    st.floats(0, 4),  # when it begins
    st.none() | st.floats(0, 3),  # when it is cancelled
)


async def operate(caller: OutgoingCalls, name: str, value: int) -> None:
    if name == "stream":
        async with caller.stream("count", (value,), {}, int) as items:
            assert [item async for item in items] == list(range(value * 4))
    elif name == "abandon":
        async with caller.stream("count", (value,), {}, int) as items:
            async for _ in items:
                await trio.sleep(0.3)
                break
    elif name == "upload":
        assert await caller.call("total", (numbers(value * 3), value), {}, int) <= value * 3
    else:
        assert await caller.call(name, (value,), {}, int) == value


@examples(120)
@given(
    st.lists(OPERATIONS, max_size=12),
    st.none() | st.floats(0, 6),
    st.sampled_from([1, 2, 100]),
    st.sampled_from([0.0, 0.3]),
)
def test_any_sequence_ends_in_order(
    operations: list[tuple[str, bool, int, float, float | None]],
    cut: float | None,
    limit: int,
    latency: float,
) -> None:
    trio.run(run, operations, cut, limit, latency, clock=trio.testing.MockClock(autojump_threshold=0))


async def run(
    operations: list[tuple[str, bool, int, float, float | None]],
    cut: float | None,
    limit: int,
    latency: float,
) -> None:
    options = Options(stream_window=WINDOW, max_concurrent_calls=limit, close_timeout=5)
    handler, mine = Handler(), Handler()
    listener = MemoryListener()
    answers: Counter[tuple[int, str]] = Counter()
    before = all_tasks()
    with trio.fail_after(1000):
        async with WebSocketServer(handler, listeners=[listener], options=options) as server:
            link = await listener.open_link(latency=latency)
            async with WebSocketClient(
                "ws://test/", stream=link.client, handler=mine, options=options
            ) as client:
                await client.call("plain", 0)
                peers: list[Any] = [client._live, next(iter(handler.clients))._session]
                for peer in peers:
                    count_answers(peer, answers)

                async def one(name: str, back: bool, value: int, start: float, stop: float | None) -> None:
                    await trio.sleep(start)
                    with trio.move_on_after(trio.current_time() if stop is None else stop):
                        try:
                            await operate(peers[back].outgoing, name, value)
                        except RPCError:
                            assert name in ("fail", "nobody")
                        except ConnectionClosedError:
                            assert cut is not None

                async with trio.open_nursery() as nursery:
                    for operation in operations:
                        nursery.start_soon(one, *operation)
                    if cut is not None:
                        await trio.sleep(cut)
                        link.cut()
                await trio.sleep(5)
                for peer in peers:
                    assert not peer.outgoing.pending_calls
                    assert not peer.outgoing.sinks
                    assert not peer.outgoing.client_streams
                    assert not peer.incoming.running
                    assert not peer.incoming.waiting
                    assert (
                        peer.incoming.active_calls
                        == peer.transport.ledger.held
                        == peer.transport.read_demand.count
                        == 0
                    )
                assert handler.running == mine.running == 0
                assert all(count == 1 for count in answers.values()), answers
                if cut is None:
                    assert await client.call("quick", 1) == 1
            while server._clients:
                await server._client_done.wait()
    assert all_tasks() == before


def count_answers(peer: Any, answers: Counter[tuple[int, str]]) -> None:
    """Count the ends that come for each id, and hold streams to their credit."""
    decode = peer.codec.decode

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(codec, name)

        def decode(self, payload: Any) -> Any:
            packet = decode(payload)
            response = packet.rpc
            if isinstance(response, Response) and (not response.is_stream or response.is_end):
                answers[id(peer), response.call_id] += 1
            for waiting in peer.outgoing.sinks.values():
                if hasattr(waiting, "_granted"):
                    assert 0 <= waiting._granted <= WINDOW
                    assert waiting._granted + len(waiting._items) <= WINDOW
            return packet

    codec = peer.codec
    peer.transport.codec = Counting()
