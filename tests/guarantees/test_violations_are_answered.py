"""Protocol violations are answered with the right code, in both roles.

The frames before a violation are still delivered, and the application's responses to them are sent before the
Close frame. Invalid UTF-8 is refused at its first invalid byte. tests/conformance runs Autobahn's suite, and
tests/protocol/test_frames.py tests each rule.
"""

from __future__ import annotations

import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.serving import echo, serving, serving_in_memory
from trio_ws import Compression, ConnectionClosedError, Options, connect
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from trio_ws import WebSocket

OPTIONS = Options(max_message_size=1000, close_timeout=5)
DEFLATED = Options(max_message_size=1000, close_timeout=5, compression=Compression(threshold=0))
OFFER = [("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=12")]
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
WRONG_MASK = "wrong mask"

BOTH = pytest.mark.parametrize("role", ["server", "client"])

# The frames of the peer, as arguments of `RawPeer.send_frame`, and the resulting close code.
VIOLATIONS: dict[str, tuple[list[tuple[int, bytes, dict[str, Any]]], int]] = {
    "reserved opcode": ([(3, b"x", {})], 1002),
    "reserved control opcode": ([(11, b"x", {})], 1002),
    "RSV1 without an extension": ([(TEXT, b"x", {"rsv1": True})], 1002),
    "RSV2": ([(TEXT, b"x", {"rsv2": True})], 1002),
    "RSV3 on a ping": ([(PING, b"x", {"rsv3": True})], 1002),
    "wrong mask": ([(TEXT, b"x", {"mask": WRONG_MASK})], 1002),
    "wrong mask on a ping": ([(PING, b"x", {"mask": WRONG_MASK})], 1002),
    "continuation of nothing": ([(CONT, b"x", {})], 1002),
    "a message within a message": ([(TEXT, b"x", {"fin": False}), (TEXT, b"y", {})], 1002),
    "a fragmented ping": ([(PING, b"x", {"fin": False})], 1002),
    "a long ping": ([(PING, b"x" * 126, {})], 1002),
    "a length with its highest bit": ([(BINARY, b"", {"length": 1 << 63})], 1009),
    "a close of one byte": ([(CLOSE, b"\x03", {})], 1002),
    "a close with 1005": ([(CLOSE, b"\x03\xed", {})], 1002),
    "a close with 999": ([(CLOSE, b"\x03\xe7", {})], 1002),
    "a close whose reason is no UTF-8": ([(CLOSE, b"\x03\xe8\xff", {})], 1007),
    "text that is no UTF-8": ([(TEXT, b"ok\xff", {})], 1007),
    "text that ends within a character": ([(TEXT, b"a\xc3", {"fin": False}), (CONT, b"", {})], 1007),
    "a message over the limit": ([(BINARY, b"", {"length": 1001})], 1009),
    "fragments over the limit": ([(BINARY, b"x" * 900, {"fin": False}), (CONT, b"x" * 101, {})], 1009),
}
EACH = pytest.mark.parametrize("violation", VIOLATIONS)


@asynccontextmanager
async def facing(
    role: str, app: Callable[[WebSocket], Awaitable[None]], options: Options = OPTIONS, **link: Any
) -> AsyncIterator[RawPeer]:
    """Connect a raw peer to a server, or to a client, that runs ``app``."""
    compressed = options.deflate is not None
    if role == "server":
        async with serving_in_memory(app, options=options) as memory:
            peer = await RawPeer.connect(await memory.stream(**link), headers=OFFER if compressed else ())
            yield peer
            await peer.aclose()
        return
    line = Link(**link)

    async def client() -> None:
        async with connect("ws://test/", stream=line.client, options=options) as ws:
            await app(ws)

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            peer = await RawPeer.accept(line.server, headers=OFFER if compressed else ())
            yield peer
            await peer.aclose()


async def misbehave(peer: RawPeer, violation: str) -> None:
    for opcode, payload, how in VIOLATIONS[violation][0]:
        mask = not peer.client if how.get("mask") == WRONG_MASK else None
        await peer.send_frame(opcode, payload, **{**how, "mask": mask})


async def echo_to_the_end(ws: WebSocket) -> None:
    """Echo all messages, and return when the connection fails."""
    try:
        await echo(ws)
    except ConnectionClosedError:
        return


def end_of(ends: list[ConnectionClosedError]) -> Callable[[WebSocket], Awaitable[None]]:
    """Return an application that echoes, and records the error that ended it."""

    async def app(ws: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError) as info:
            await echo(ws)
        ends.append(info.value)

    return app


async def next_text(peer: RawPeer) -> str:
    frame = await peer.receive_frame()
    assert frame is not None
    assert frame.opcode == TEXT, frame
    return frame.payload.decode()


@BOTH
@EACH
@pytest.mark.parametrize("max_read", [None, 1], ids=["whole", "byte by byte"])
async def test_a_violation_has_its_code_after_the_answers_to_what_came_before(
    role: str, violation: str, max_read: int | None, autojump_clock: MockClock
) -> None:
    ends: list[ConnectionClosedError] = []
    async with facing(role, end_of(ends), max_read=max_read) as peer:
        await peer.send_text("one")
        await peer.send_frame(TEXT, b"t", fin=False)
        await peer.send_frame(CONT, b"wo")
        await misbehave(peer, violation)
        assert await next_text(peer) == "one"
        assert await next_text(peer) == "two"
        closed = await peer.receive_until_close()
        assert closed is not None
        code, reason = closed
        assert code == VIOLATIONS[violation][1]
        assert reason
        with trio.fail_after(1.5):  # after a violation, the server waits less than close_timeout for the peer
            await peer.expect_eof()
    [end] = ends
    assert end.sent == (code, reason)
    assert end.received is None
    assert (end.code, end.reason) == (code, reason)


@BOTH
@EACH
async def test_a_slow_application_still_answers_first(
    role: str, violation: str, autojump_clock: MockClock
) -> None:
    async def slow(ws: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError):
            async for message in ws:
                await trio.sleep(1)
                await ws.send(message)

    async with facing(role, slow) as peer:
        for text in ("one", "two", "three"):
            await peer.send_text(text)
        await misbehave(peer, violation)
        began = trio.current_time()
        assert [await next_text(peer) for _ in range(3)] == ["one", "two", "three"]
        closed = await peer.receive_until_close()
        assert closed is not None
        assert closed[0] == VIOLATIONS[violation][1]
        assert trio.current_time() - began == pytest.approx(3, abs=0.1)


@BOTH
async def test_an_application_that_takes_nothing_is_waited_for_no_longer_than_close_timeout(
    role: str, autojump_clock: MockClock
) -> None:
    async def busy(ws: WebSocket) -> None:
        await ws.send("busy")
        await trio.sleep(60)

    async with facing(role, busy) as peer:
        assert await next_text(peer) == "busy"
        await peer.send_text("never taken")
        began = trio.current_time()
        await misbehave(peer, "reserved opcode")
        assert (await peer.receive_until_close() or (0,))[0] == 1002
        await peer.expect_eof()
        assert trio.current_time() - began == pytest.approx(OPTIONS.close_timeout, abs=0.1)


@BOTH
async def test_an_application_that_has_taken_all_is_not_waited_for(
    role: str, autojump_clock: MockClock
) -> None:
    async def busy(ws: WebSocket) -> None:
        await ws.send("busy")
        await trio.sleep(60)

    async with facing(role, busy) as peer:
        assert await next_text(peer) == "busy"
        began = trio.current_time()
        await misbehave(peer, "reserved opcode")
        assert (await peer.receive_until_close() or (0,))[0] == 1002
        assert trio.current_time() - began < 0.1


@BOTH
async def test_nothing_behind_a_violation_counts(role: str, autojump_clock: MockClock) -> None:
    async with facing(role, echo_to_the_end) as peer:
        await misbehave(peer, "RSV2")
        try:
            await peer.send_text("late")
            await peer.send_frame(PING, b"late")
            await peer.send_close(4000, "late")
        except trio.BrokenResourceError:
            pass  # the stream was already closed
        frame = await peer.receive_frame()
        assert frame is not None
        assert (frame.opcode, int.from_bytes(frame.payload[:2], "big")) == (CLOSE, 1002)
        await peer.expect_eof()


@BOTH
async def test_a_sender_learns_of_a_violation(role: str, autojump_clock: MockClock) -> None:
    ends: list[ConnectionClosedError] = []

    async def ticker(ws: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError) as info:
            while True:
                await ws.send("tick")
                await trio.sleep(1)
        ends.append(info.value)

    async with facing(role, ticker) as peer:
        assert await next_text(peer) == "tick"
        await misbehave(peer, "continuation of nothing")
        assert (await peer.receive_until_close() or (0,))[0] == 1002
    assert [end.code for end in ends] == [1002]


async def test_unsent_data_is_sent_before_the_close() -> None:
    """Over a socket, which is shut down for sending only after the Close frame."""
    large = bytes(range(256)) * 4 * 16 * 1024  # more than the capacity of the system's buffers

    taken = trio.Event()

    async def handler(ws: WebSocket) -> None:
        assert await ws.receive_text() == "go"
        await ws.send(large)
        taken.set()
        with pytest.raises(ConnectionClosedError):
            await ws.recv()

    async with serving(handler) as server:
        peer = await RawPeer.connect(await trio.open_tcp_stream("127.0.0.1", server.port))
        await peer.send_text("go")
        await taken.wait()
        await misbehave(peer, "reserved opcode")
        while not [ws for ws in server.connections if ws.close_sent is not None]:
            await trio.testing.wait_all_tasks_blocked(0.01)
        frame = await peer.receive_frame()
        assert frame is not None
        assert len(frame.payload) == len(large)
        assert bytes(frame.payload) == large, "in full, and unchanged"
        assert (await peer.receive_until_close() or (0,))[0] == 1002
        await peer.expect_eof()
        await peer.aclose()


# -- UTF-8 --------------------------------------------------------------------------------------------

BAD_UTF8 = {
    "a lone continuation byte": b"gr\x80",
    "0xff": b"gr\xff",
    "an overlong form": b"gr\xc0",
    "a broken sequence": b"gr\xe2\x82a",
    "beyond U+10FFFF": b"gr\xf4\x90",
}


@BOTH
@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
@pytest.mark.parametrize("fragmented", [False, True])
async def test_invalid_utf8_is_refused_at_its_first_bad_byte(
    role: str, bad: bytes, fragmented: bool, autojump_clock: MockClock
) -> None:
    """The header declares 500 bytes. Only the last sent byte is invalid, and the others are never sent."""
    async with facing(role, echo_to_the_end) as peer:
        await peer.send_text("fine")
        if fragmented:
            await peer.send_frame(TEXT, "grüß".encode(), fin=False)
        opcode = CONT if fragmented else TEXT
        await peer.send_frame(opcode, bad[:-1], length=500)
        assert await next_text(peer) == "fine"
        with trio.move_on_after(1) as quiet:
            await peer.receive_frame()
        assert quiet.cancelled_caught, "it was refused before its first bad byte"
        last = bad[-1] ^ (b"\x37\xfa\x21\x3d"[(len(bad) - 1) % 4] if peer.client else 0)
        began = trio.current_time()
        await peer.send_raw(bytes([last]))
        assert await peer.receive_until_close() == (1007, "text is not valid UTF-8")
        assert trio.current_time() == pytest.approx(began, abs=0.1)


@BOTH
async def test_a_character_cut_by_fragments_and_reads_is_fine(role: str, autojump_clock: MockClock) -> None:
    async with facing(role, echo_to_the_end, max_read=1) as peer:
        text = "grüße €😀"
        *first, last = [text.encode()[i : i + 1] for i in range(len(text.encode()))]
        for i, byte in enumerate(first):
            await peer.send_frame(CONT if i else TEXT, byte, fin=False)
        await peer.send_frame(CONT, last)
        assert await next_text(peer) == text
        await peer.send_close()
        assert await peer.receive_until_close() == (1000, "")


# -- compression --------------------------------------------------------------------------------------


def deflated(data: bytes) -> bytes:
    sender = zlib.compressobj(6, zlib.DEFLATED, -12)
    return (sender.compress(data) + sender.flush(zlib.Z_SYNC_FLUSH))[:-4]


BAD_DEFLATE: dict[str, tuple[list[tuple[int, bytes, dict[str, Any]]], int]] = {
    "corrupt": ([(BINARY, b"\xff\xff\xff", {"rsv1": True})], 1007),
    "no UTF-8": ([(TEXT, deflated(b"a\xff"), {"rsv1": True})], 1007),
    "RSV1 on a ping": ([(PING, b"", {"rsv1": True})], 1002),
    "RSV1 on a continuation": (
        [(TEXT, deflated(b"a"), {"rsv1": True, "fin": False}), (CONT, b"", {"rsv1": True})],
        1002,
    ),
    "RSV2": ([(TEXT, deflated(b"a"), {"rsv1": True, "rsv2": True})], 1002),
    "a bomb": ([(BINARY, deflated(bytes(1 << 20)), {"rsv1": True})], 1009),
}


@BOTH
@pytest.mark.parametrize("violation", BAD_DEFLATE)
@pytest.mark.parametrize("max_read", [None, 1], ids=["whole", "byte by byte"])
async def test_with_compression(
    role: str, violation: str, max_read: int | None, autojump_clock: MockClock
) -> None:
    ends: list[ConnectionClosedError] = []
    frames, code = BAD_DEFLATE[violation]
    async with facing(role, end_of(ends), DEFLATED, max_read=max_read) as peer:
        await peer.send_frame(TEXT, deflated(b"one"), rsv1=True)
        for opcode, payload, how in frames:
            await peer.send_frame(opcode, payload, **how)
        frame = await peer.receive_frame()
        assert frame is not None
        assert (frame.opcode, frame.rsv) == (TEXT, 4)
        assert zlib.decompressobj(-15).decompress(frame.payload + b"\x00\x00\xff\xff") == b"one"
        closed = await peer.receive_until_close()
        assert closed is not None
        assert closed[0] == code
    assert [end.code for end in ends] == [code]


# -- valid frames -------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999])
async def test_a_legal_close_is_answered_with_its_code(
    role: str, code: int, autojump_clock: MockClock
) -> None:
    async with facing(role, echo_to_the_end) as peer:
        await peer.send_text("one")
        assert await next_text(peer) == "one"
        await peer.send_close(code, "tschüß")
        assert await peer.receive_until_close() == (code, "")


@BOTH
async def test_pings_within_a_message_are_answered_at_once(role: str, autojump_clock: MockClock) -> None:
    async with facing(role, echo_to_the_end) as peer:
        await peer.send_frame(TEXT, b"o", fin=False)
        await peer.send_frame(PING, b"x" * 125)
        pong = await peer.receive_frame()
        assert pong is not None
        assert (pong.opcode, pong.payload) == (PONG, b"x" * 125)
        await peer.send_frame(CONT, b"ne")
        assert await next_text(peer) == "one"
