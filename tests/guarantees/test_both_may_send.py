"""Both sides may send without limit while they receive, and the reader never waits for a sender."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trio
import trio.testing
import trustme

from tests.support.inspect import waiting_messages
from tests.support.serving import guard, serving, serving_in_memory
from trio_ws import Options, WebSocket, connect
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

MESSAGE = bytes(range(256)) * 1024  # 256 KiB
COUNT = 50


async def echo_all(ws: WebSocket) -> None:
    async def send() -> None:
        for _ in range(COUNT):
            await ws.send(MESSAGE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(COUNT):
            assert await ws.receive_bytes() == MESSAGE


async def test_fifty_pipelined_echoes_of_256_kib_finish_over_tcp() -> None:
    async with serving() as server, connect(server.url) as ws:
        await echo_all(ws)


async def test_fifty_pipelined_echoes_of_256_kib_finish_over_tls() -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    async with serving(ssl_context=server_context) as server:
        async with connect(server.url, ssl_context=client_context) as ws:
            await echo_all(ws)


async def test_pings_are_answered_while_a_sender_is_blocked(autojump_clock: MockClock) -> None:
    blocked: list[WebSocket] = []

    async def flood(ws: WebSocket) -> None:
        blocked.append(ws)
        while True:
            await ws.send(bytes(8192))

    async with serving_in_memory(flood, options=Options(ping_interval=None)) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await trio.testing.wait_all_tasks_blocked()
        held = blocked[0].buffered_bytes
        assert held >= 65536  # the handler waits in send()
        await peer.send_frame(9, b"are you there")
        await trio.testing.wait_all_tasks_blocked()
        assert blocked[0].buffered_bytes > held  # the pong is queued
        while True:
            frame = await peer.receive_frame()
            assert frame is not None
            if frame.opcode == 0xA:
                assert frame.payload == b"are you there"
                break
        await peer.aclose()


async def test_pongs_have_a_small_bounded_room_and_the_latest_is_kept(autojump_clock: MockClock) -> None:
    blocked: list[WebSocket] = []

    async def flood(ws: WebSocket) -> None:
        blocked.append(ws)
        while True:
            await ws.send(bytes(8192))

    async with serving_in_memory(flood, options=Options(ping_interval=None)) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await trio.testing.wait_all_tasks_blocked()
        held = blocked[0].buffered_bytes
        for number in range(5000):
            await peer.send_frame(9, b"%08d" % number)
        await trio.testing.wait_all_tasks_blocked()
        assert blocked[0].buffered_bytes <= held + 4096
        pongs: list[bytes] = []
        while not pongs or pongs[-1] != b"00004999":
            frame = await peer.receive_frame()
            assert frame is not None
            if frame.opcode == 0xA:
                pongs.append(frame.payload)
        assert pongs == sorted(pongs)
        assert len(pongs) < 5000
        await peer.aclose()


async def test_a_close_is_answered_while_a_sender_is_blocked(autojump_clock: MockClock) -> None:
    async def flood(ws: WebSocket) -> None:
        while True:
            await ws.send(bytes(8192))

    async with serving_in_memory(flood) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await trio.testing.wait_all_tasks_blocked()
        await peer.send_close(1000)
        with trio.fail_after(guard()):
            assert await peer.receive_until_close() == (1000, "")
            await peer.expect_eof()


async def test_senders_on_both_sides_without_a_receiver_wait_and_can_be_cancelled(
    autojump_clock: MockClock,
) -> None:
    async def flood(ws: WebSocket) -> None:
        while True:
            await ws.send(bytes(100_000))

    async with serving_in_memory(flood) as memory:
        async with connect("ws://test/", stream=await memory.stream(latency=0.1)) as ws:
            with trio.move_on_after(5) as scope:
                await flood(ws)
            assert scope.cancelled_caught
            assert ws.connected


async def test_a_sender_that_never_has_to_wait_gives_way_to_others() -> None:
    """With and without unread input, because a sender with unread input sends in batches."""
    for unread in (False, True):
        async with serving(drop) as server, connect(server.url) as ws:
            if unread:
                await ws.send("answer me")
                while not waiting_messages(ws):
                    await trio.sleep(0.001)
            others = 0

            async def other() -> None:
                nonlocal others
                while True:
                    others += 1
                    await trio.sleep(0)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                for _ in range(10_000):
                    await ws.send(b"x")
                nursery.cancel_scope.cancel()
            assert others >= 8


async def drop(ws: WebSocket) -> None:
    async for message in ws:
        if message.is_text():
            await ws.send("here")
