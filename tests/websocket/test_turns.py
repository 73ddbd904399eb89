"""Sending is fair: neither one message nor many in a row delay other tasks for long.

The tests count the steps of the task that sends. Other tasks can run between two steps.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.channels import Rooms
from tests.support.inspect import bytes_of_unfinished_message, waiting_messages
from tests.support.serving import serving, serving_in_memory
from tests.support.watching import DEFLATE as OFFER
from tests.support.watching import deflated
from trio_ws import Compression, ConnectionClosedError, Options, WebSocket, broadcast, connect
from trio_ws.channels.fanout import FanoutWriter
from trio_ws.protocol.frames import BINARY, FIN, RSV1
from trio_ws.protocol.framing import masked_frame
from trio_ws.testing import RawPeer
from trio_ws.websocket import fair_turn, runtime
from trio_ws.websocket.write_buffer import flush_row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from trio_ws.websocket.write_buffer import WriteBuffer

PLAIN = Options(ping_interval=None, max_message_size=8 << 20, max_queue_bytes=8 << 20)
DEFLATE = Options(
    ping_interval=None, max_message_size=8 << 20, max_queue_bytes=8 << 20, compression=Compression(level=1)
)
BIG = random.Random(1).randbytes(1 << 20)


class Steps(trio.abc.Instrument):
    """Counts the steps of the task that creates it, and records the work of each."""

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.count = 0
        self.done = 0  # work that the task has done
        self.longest = 0  # the most work in one step
        self._before = 0
        trio.lowlevel.add_instrument(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.count += 1
            self.longest = max(self.longest, self.done - self._before)
            self._before = self.done


async def test_a_large_message_is_deflated_in_turns(autojump_clock: MockClock) -> None:
    taken: list[int] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        steps = Steps()
        await ws.send(BIG)
        taken.append(steps.count)
        await ws.send(b"after " * 100)

    async with (
        serving_in_memory(handler, options=DEFLATE) as memory,
        memory.connect(options=DEFLATE) as ws,
    ):
        assert await ws.receive_bytes() == BIG
        assert await ws.receive_bytes() == b"after " * 100
    assert taken[0] >= len(BIG) // 65536


async def test_cancelled_while_it_is_deflated_it_has_sent_nothing(autojump_clock: MockClock) -> None:
    text = b"many words, many words, " * 20

    async def handler(ws: WebSocket) -> None:
        await ws.send(text)
        for turns in (0, 1, 5, 16):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ws.send, BIG)
                    for _ in range(turns):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert scope.cancelled_caught
            await ws.send(text)

    async with (
        serving_in_memory(handler, options=DEFLATE) as memory,
        memory.connect(options=DEFLATE) as ws,
    ):
        for _ in range(5):
            assert await ws.receive_bytes() == text
        assert await ws.recv() is None


async def test_interleaved_messages_can_be_inflated(autojump_clock: MockClock) -> None:
    small = [(b"number %d, " % number) * 50 for number in range(10)]

    async def fragments() -> AsyncIterator[bytes]:
        for piece in (b"one piece " * 50, b"another piece " * 50):
            yield piece

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ws.send, BIG)
            for message in small:
                await trio.lowlevel.checkpoint()
                await ws.send(message)
            await ws.send(fragments())
        await ws.send(small[0])

    wanted = sorted([BIG, BIG, small[0], b"one piece " * 50 + b"another piece " * 50, *small])
    async with (
        serving_in_memory(handler, options=DEFLATE) as memory,
        memory.connect(options=DEFLATE) as ws,
    ):
        assert sorted([bytes(message.data or b"") async for message in ws]) == wanted


async def test_a_message_that_ends_with_the_connection_is_not_sent(autojump_clock: MockClock) -> None:
    seen: list[str] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionClosedError):
                    await ws.send(BIG)
                seen.append("closed")

            nursery.start_soon(send)
            await trio.lowlevel.checkpoint()
            await ws.close()

    async with (
        serving_in_memory(handler, options=DEFLATE) as memory,
        memory.connect(options=DEFLATE) as ws,
    ):
        assert await ws.recv() is None
    assert seen == ["closed"]


async def test_a_row_of_echoes_leaves_turns(autojump_clock: MockClock) -> None:
    longest: list[int] = []
    count = 2000

    async def handler(ws: WebSocket) -> None:
        steps = Steps()
        async for message in ws:
            await ws.send(message)
            steps.done += 1
        longest.append(steps.longest)
        assert steps.done == count

    async with serving_in_memory(handler, options=PLAIN) as memory:
        peer = await RawPeer.connect(await memory.stream(capacity=1 << 20))
        await peer.send_raw(b"".join(masked_frame(FIN | BINARY, b"x" * 20) for _ in range(count)))
        for _ in range(count):
            await peer.receive_frame()
        await peer.send_close()
        assert await peer.receive_until_close() is not None
        await peer.expect_eof()
    assert longest[0] <= 257


async def test_a_large_fragment_is_deflated_in_turns(autojump_clock: MockClock) -> None:
    taken: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        yield b"small"
        yield BIG
        yield BIG[:100_000]

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        steps = Steps()
        await ws.send(parts())
        taken.append(steps.count)
        await ws.send(b"after " * 100)

    async with serving_in_memory(handler, options=DEFLATE) as memory, memory.connect(options=DEFLATE) as ws:
        assert await ws.receive_bytes() == b"small" + BIG + BIG[:100_000]
        assert await ws.receive_bytes() == b"after " * 100
    assert taken[0] >= len(BIG) // 32768


async def test_a_close_in_the_middle_of_a_fragment_is_the_last_that_is_sent(
    autojump_clock: MockClock,
) -> None:
    seen: list[str] = []

    async def parts() -> AsyncIterator[bytes]:
        yield BIG

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionClosedError):
                    await ws.send(parts())
                seen.append("closed")

            nursery.start_soon(send)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            await ws.close(4000, "enough")

    async with serving_in_memory(handler, options=DEFLATE) as memory:
        peer = await RawPeer.connect(await memory.stream(), headers=[OFFER])
        frame = await peer.receive_frame()
        assert frame is not None
        assert frame.opcode == 8
        await peer.send_close(4000)
        await peer.expect_eof()
    assert seen == ["closed"]


async def test_large_text_is_encoded_in_turns(autojump_clock: MockClock) -> None:
    taken: list[int] = []
    text = "ä" * (3 << 20)

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        for send in (ws.send, ws.send_text):
            steps = Steps()
            await send(text)
            taken.append(steps.count)
        with pytest.raises(UnicodeEncodeError):
            await ws.send_text(text + "\ud800")

    async with serving_in_memory(handler, options=PLAIN) as memory, memory.connect(options=PLAIN) as ws:
        for _ in range(2):
            assert await ws.receive_text() == text
    assert min(taken) >= 12


class Inflated(trio.abc.Instrument):
    """The most bytes that any step inflated."""

    ws: WebSocket | None = None

    def __init__(self) -> None:
        self.taken = 0
        self.most = 0
        self._before = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        ws = self.ws
        if ws is not None:
            now = self.taken + sum(map(len, waiting_messages(ws))) + bytes_of_unfinished_message(ws)
            self.most = max(self.most, now - self._before)
            self._before = now


def bombs(count: int) -> bytes:
    """Messages of 128 KiB each, in a hundred bytes."""
    return b"".join(masked_frame(FIN | RSV1 | BINARY, deflated(bytes(128 << 10))) for _ in range(count))


async def test_messages_of_one_read_are_inflated_in_turns(autojump_clock: MockClock) -> None:
    count = 200
    inflated = Inflated()

    async def handler(ws: WebSocket) -> None:
        inflated.ws = ws
        trio.lowlevel.add_instrument(inflated)
        async for message in ws:
            inflated.taken += len(message.data or b"")
        trio.lowlevel.remove_instrument(inflated)

    async with serving_in_memory(handler, options=DEFLATE) as memory:
        peer = await RawPeer.connect(await memory.stream(capacity=1 << 20), headers=[OFFER])
        await peer.send_raw(bombs(count))
        await peer.send_close()
        assert await peer.receive_until_close() is not None
        await peer.expect_eof()
    assert inflated.taken == count << 17
    # What is inflated at once may end one slice of compressed bytes later, which holds four of these.
    assert 0 < inflated.most <= 256 * 1024 + (4 << 17)


async def test_a_ping_behind_them_is_answered_while_the_application_is_busy(
    autojump_clock: MockClock,
) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await trio.sleep(100)
        assert len([message async for message in ws]) == 20

    async with serving_in_memory(handler, options=DEFLATE) as memory:
        peer = await RawPeer.connect(await memory.stream(capacity=1 << 20), headers=[OFFER])
        began = trio.current_time()
        await peer.send_raw(bombs(20))
        await peer.send_frame(9, b"behind")
        frame = await peer.receive_frame()
        assert frame is not None
        assert (frame.opcode, frame.payload) == (10, b"behind")
        assert trio.current_time() - began < 1
        await peer.send_close()
        assert await peer.receive_until_close() is not None


async def test_a_plain_message_among_compressed_ones_is_taken_as_it_comes(autojump_clock: MockClock) -> None:
    async with serving_in_memory(options=DEFLATE) as memory:
        peer = await RawPeer.connect(await memory.stream(capacity=4 << 20), headers=[OFFER])
        await peer.send_raw(bombs(1) + masked_frame(FIN | BINARY, BIG) + bombs(1))
        sizes = [len(frame.payload) for frame in [await peer.receive_frame() for _ in range(3)] if frame]
        assert sizes[0] == sizes[2] < 2000
        assert sizes[1] > len(BIG)  # which does not compress
        await peer.send_close()
        assert await peer.receive_until_close() is not None


async def test_large_frames_are_flushed_one_in_a_turn(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_turn, "MAX_TURN", 0.0)  # nothing but the minimum, on a busy machine, too
    there: list[WebSocket] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        there.append(ws)
        assert await ws.recv() is None

    class Flushes(trio.abc.Instrument):
        count = 0

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += task.name == "trio_ws flusher"

    async with serving_in_memory(handler, options=PLAIN) as memory, trio.open_nursery() as nursery:
        peers = [await RawPeer.connect(await memory.stream(capacity=1 << 20)) for _ in range(8)]
        await trio.testing.wait_all_tasks_blocked()
        flushes = Flushes()
        trio.lowlevel.add_instrument(flushes)
        assert broadcast(there, BIG[:300_000]) == 8
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(flushes)
        assert flushes.count >= 8
        nursery.cancel_scope.cancel()
    assert len(peers) == 8


class WrittenTo(trio.abc.Instrument):
    """The number of connections that were written to in each turn of a task, as long as ``add`` is told."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0
        self.turns: list[int] = []

    def add(self, count: int) -> None:
        self._count += count

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name == self._name and self._count:
            self.turns.append(self._count)


async def publish_again_and_again(written: WrittenTo, publish: Callable[[], object]) -> None:
    """Publish to 128 connections, once and then in each round."""
    trio.lowlevel.add_instrument(written)
    publish()
    while sum(written.turns) < 128:
        await trio.lowlevel.checkpoint()
    assert written.turns[1:4] == [32] * 3  # something else may have been in the first row
    written.turns.clear()
    for _ in range(40):
        publish()
        await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(written)
    assert max(written.turns) <= 32
    assert written.turns.count(8) >= 25  # all but the first and the last of each time round


async def test_while_more_is_broadcast_fewer_connections_are_flushed_in_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_turn, "MAX_TURN", 0.0)  # turns are not longer where other tasks need more time
    there: list[WebSocket] = []
    written = WrittenTo("trio_ws flusher")

    def flush(write_buffers: list[WriteBuffer], start: int, most: int) -> int:
        done = flush_row(write_buffers, start, most)
        written.add(done - start)
        return done

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        there.append(ws)
        assert await ws.recv() is None

    async with serving(handler, options=PLAIN) as server, AsyncExitStack() as stack:
        peers = []
        for _ in range(128):
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", server.port))
            peers.append(await RawPeer.connect(stream))
        monkeypatch.setattr(runtime, "flush_row", flush)
        await publish_again_and_again(written, lambda: broadcast(there, "message"))
        for peer in peers:
            for _ in range(41):
                frame = await peer.receive_frame()
                assert frame is not None
                assert frame.payload == b"message"
            await peer.send_close()


async def test_while_more_is_published_fewer_connections_of_a_channel_are_visited_in_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_turn, "MAX_TURN", 0.0)
    handler = Rooms()
    written = WrittenTo("trio_ws channels")
    visit = FanoutWriter._write_pending

    def counted(self: FanoutWriter, *args: Any) -> int:
        written.add(1)
        return visit(self, *args)

    async with serving(handler, options=PLAIN) as server, AsyncExitStack() as stack:
        peers = []
        for number in range(128):
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", server.port))
            peers.append(await RawPeer.connect(stream, path=f"/{number}/x"))
        monkeypatch.setattr(FanoutWriter, "_write_pending", counted)
        await publish_again_and_again(written, lambda: handler.publish("x", "message"))
        for peer in peers:
            await peer.send_close()


async def test_a_huge_echo_leaves_a_turn_in_between(autojump_clock: MockClock) -> None:
    taken: list[int] = []

    async def handler(ws: WebSocket) -> None:
        for _ in range(3):
            message = await ws.receive_bytes()
            steps = Steps()
            await ws.send(message)
            taken.append(steps.count)

    async with (
        serving_in_memory(handler, options=PLAIN) as memory,
        memory.connect(options=PLAIN) as ws,
    ):
        for _ in range(3):
            await ws.send(BIG)
            assert await ws.receive_bytes() == BIG
    assert min(taken) >= 1


async def test_large_messages_in_a_row_leave_turns_in_between() -> None:
    taken: list[int] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        steps = Steps()
        for _ in range(10):
            await ws.send(BIG[:300_000])
            taken.append(steps.count)

    options = Options(max_message_size=8 << 20, max_queue_bytes=8 << 20, send_high_water=64 << 20)
    async with (
        serving(handler, options=options) as server,
        connect(server.url, options=options) as ws,
    ):
        for _ in range(10):
            assert await ws.receive_bytes() == BIG[:300_000]
    # Other tasks run after about a megabyte.
    assert taken == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2]
