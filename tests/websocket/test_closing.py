"""A peer's Close frame is answered after the application has received all messages before it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.serving import echo, serving_in_memory
from trio_ws import CloseFrame, ConnectionClosedError, Options, connect
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from trio_ws import WebSocket

TEXT, PING = 1, 9
OPTIONS = Options(close_timeout=5, ping_interval=1, ping_timeout=1)

both = pytest.mark.parametrize("role", ["server", "client"])


@asynccontextmanager
async def facing(role: str, app: Callable[[WebSocket], Awaitable[None]]) -> AsyncIterator[RawPeer]:
    """Connect a raw peer to a server, or to a client, that runs ``app``."""
    if role == "server":
        async with serving_in_memory(app, options=OPTIONS, debug=True) as memory:
            peer = await RawPeer.connect(await memory.stream())
            yield peer
            await peer.aclose()
        return
    link = Link()

    async def client() -> None:
        async with connect("ws://test/", stream=link.client, options=OPTIONS) as ws:
            await app(ws)

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            peer = await RawPeer.accept(link.server)
            yield peer
            await peer.aclose()


async def say(peer: RawPeer, *texts: str, then_close: int = 1000) -> None:
    """Send messages and a Close in one piece, so that they are read as one."""
    frames = trio.testing.MemorySendStream()
    other = RawPeer(trio.StapledStream(frames, trio.testing.MemoryReceiveStream()), client=peer.client)
    for text in texts:
        await other.send_text(text)
    await other.send_close(then_close)
    await peer.send_raw(bytes(frames.get_data_nowait()))


async def wait_until_busy(peer: RawPeer) -> None:
    frame = await peer.receive_frame()
    assert frame is not None
    assert frame.payload == b"busy"


async def texts_before_the_close(peer: RawPeer) -> tuple[list[str], int | None]:
    """Return the messages up to the Close frame, and its code."""
    texts = []
    while (frame := await peer.receive_frame()) is not None:
        if frame.opcode == TEXT:
            texts.append(frame.payload.decode())
        elif frame.opcode != PING:
            return texts, int.from_bytes(frame.payload[:2], "big")
    return texts, None


@both
async def test_late_responses_are_sent_before_our_close(role: str, autojump_clock: MockClock) -> None:
    async def slow_echo(ws: WebSocket) -> None:
        async for message in ws:
            await trio.sleep(1)
            await ws.send(message)
        assert ws.peer_closed_first

    async with facing(role, slow_echo) as peer:
        await say(peer, "one", "two", "three", then_close=1001)
        began = trio.current_time()
        assert await texts_before_the_close(peer) == (["one", "two", "three"], 1001)
        assert trio.current_time() - began == pytest.approx(3, abs=0.1)


@both
async def test_while_it_waits_the_peers_close_can_be_seen(role: str, autojump_clock: MockClock) -> None:
    seen = trio.Event()

    async def app(ws: WebSocket) -> None:
        assert await ws.receive_text() == "one"
        assert ws.close_received == CloseFrame(4001, "")
        assert ws.close_sent is None
        with pytest.raises(ConnectionClosedError):  # no pong can arrive any more
            await ws.ping()
        assert await ws.receive_text() == "two"
        with pytest.raises(ConnectionClosedError) as closed:
            await ws.receive_text()
        assert closed.value.code == 4001
        assert ws.close_sent == CloseFrame(4001, "")
        seen.set()

    async with facing(role, app) as peer:
        await say(peer, "one", "two", then_close=4001)
        assert await texts_before_the_close(peer) == ([], 4001)
        await seen.wait()


@both
async def test_with_nothing_to_take_it_is_answered_at_once(role: str, autojump_clock: MockClock) -> None:
    async def busy(ws: WebSocket) -> None:
        await ws.send("busy")
        await trio.sleep(60)

    async with facing(role, busy) as peer:
        await wait_until_busy(peer)
        began = trio.current_time()
        await say(peer)
        assert await texts_before_the_close(peer) == ([], 1000)
        assert trio.current_time() - began < 0.1


@both
async def test_an_application_that_takes_nothing_has_close_timeout(
    role: str, autojump_clock: MockClock
) -> None:
    """Keepalive does not close the connection, because the delay is caused by our own application."""

    async def busy(ws: WebSocket) -> None:
        await ws.send("busy")
        await trio.sleep(60)
        assert [message.payload async for message in ws] == ["never taken"]

    async with facing(role, busy) as peer:
        await wait_until_busy(peer)
        began = trio.current_time()
        await say(peer, "never taken")
        assert await texts_before_the_close(peer) == ([], 1000)
        assert trio.current_time() - began == pytest.approx(5, abs=0.1)
        await peer.expect_eof()


@both
async def test_our_own_close_is_the_answer(role: str, autojump_clock: MockClock) -> None:
    async def app(ws: WebSocket) -> None:
        assert await ws.receive_text() == "one"
        began = trio.current_time()
        await ws.close(4002)
        assert trio.current_time() - began < 0.1
        assert (ws.close_code, ws.peer_closed_first) == (1001, True)
        assert await ws.receive_text() == "two"  # the peer was the one to close

    async with facing(role, app) as peer:
        await say(peer, "one", "two", then_close=1001)
        assert await texts_before_the_close(peer) == ([], 1001)
        await peer.aclose()


async def test_a_peer_that_does_not_wait_for_it_takes_nothing_away(autojump_clock: MockClock) -> None:
    got: list[str | bytes] = []

    async def app(ws: WebSocket) -> None:
        await ws.send("busy")
        await trio.sleep(2)
        assert ws.closed
        got.extend([message.payload async for message in ws])  # ends as after any clean close

    async with facing("server", app) as peer:
        await wait_until_busy(peer)
        await say(peer, "one", "two")
        await peer.aclose()
        await trio.sleep(3)
    assert got == ["one", "two"]


async def test_a_drain_meanwhile_ends_it(autojump_clock: MockClock) -> None:
    taken: list[str | bytes] = []

    async def app(ws: WebSocket) -> None:
        await ws.accept()
        await trio.sleep(1)
        taken.extend([message.payload async for message in ws])

    async with serving_in_memory(app, options=OPTIONS, debug=True) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await say(peer, "one")
        await trio.testing.wait_all_tasks_blocked(0.1)
        began = trio.current_time()
        assert await memory.server.drain() == (1, 0)
        assert trio.current_time() - began < 1.1
        assert await texts_before_the_close(peer) == ([], 1001)
        await peer.aclose()
    assert taken == ["one"]


async def test_pipelined_echoes_and_a_close_are_all_answered(autojump_clock: MockClock) -> None:
    texts = [str(number) for number in range(500)]
    async with facing("server", echo) as peer:
        await say(peer, *texts)
        assert await texts_before_the_close(peer) == (texts, 1000)


async def test_closing_reads_on_where_a_full_queue_came_before_the_close(autojump_clock: MockClock) -> None:
    # Data after a Close frame is not stored, so a full queue does not delay the end.
    link = Link()
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:

            async def server() -> None:
                peer = await RawPeer.accept(link.server)
                await say(peer, "a", "b")
                while (frame := await peer.receive_frame()) is not None and frame.opcode != 8:
                    pass
                await peer.aclose()

            nursery.start_soon(server)
            options = Options(max_queue_bytes=1, close_timeout=5)
            async with connect("ws://test/", stream=link.client, options=options) as ws:
                assert await ws.receive_text() == "a"
                begun = trio.current_time()
            assert trio.current_time() == begun
            assert ws.close_received == CloseFrame(1000, "")
