"""permessage-deflate with servers and clients that negotiate unusual parameters (RFC 7692)."""

from __future__ import annotations

import random
import re
import zlib
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.inspect import deflate_of
from tests.support.serving import serving_in_memory
from trio_ws import Compression, ConnectionFailedError, Options, connect
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

PMD = "permessage-deflate"
FORGETS = "server_no_context_takeover; client_no_context_takeover"

# Repetitions have a large distance, so they can be inflated only with the window of the compressor.
FAR = random.Random(1).randbytes(20_000)
MESSAGES = [FAR, FAR, b"short", FAR[:300]]

WISHES = {
    "default": Compression(),
    "small": Compression(server_max_window_bits=9, client_max_window_bits=9),
    "forgetful": Compression(server_no_context_takeover=True, client_no_context_takeover=True),
    "zlib's own": Compression(server_max_window_bits=15, client_max_window_bits=15),
}

#: Responses of existing servers, which do not depend on the offer.
ANSWERS = [
    f"{PMD}; {FORGETS}",  # gorilla, and Bybit, BitMEX, Gate behind it
    f"{PMD};server_no_context_takeover;client_no_context_takeover",
    PMD,
    f"{PMD}; server_no_context_takeover",
    f"{PMD}; client_no_context_takeover",  # nhooyr
    f"{PMD}; client_max_window_bits=15",  # uWebSockets
    f"{PMD}; server_max_window_bits=15; client_max_window_bits=15",
    f"{PMD}; server_max_window_bits=13",
    f'{PMD}; client_max_window_bits="10"; server_max_window_bits="10"',
]


class Zlib:
    """The compressor and the inflater of the peer, for the parameters in ``answer``."""

    def __init__(self, answer: str, *, client: bool) -> None:
        ours, theirs = ("client", "server") if client else ("server", "client")
        self.bits = {side: int(found[1]) for side in (ours, theirs) if (found := self._bits(answer, side))}
        self.out_forgets = f"{ours}_no_context_takeover" in answer
        self.in_forgets = f"{theirs}_no_context_takeover" in answer
        self.out_bits, self.in_bits = self.bits.get(ours, 15), self.bits.get(theirs, 15)
        self._renew_out()
        self._renew_in()

    @staticmethod
    def _bits(answer: str, side: str) -> re.Match[str] | None:
        return re.search(rf'{side}_max_window_bits="?(\d+)', answer)

    def _renew_out(self) -> None:
        self.compressor = zlib.compressobj(6, zlib.DEFLATED, -self.out_bits)

    def _renew_in(self) -> None:
        self.inflater = zlib.decompressobj(-self.in_bits)

    async def send(self, peer: RawPeer, data: bytes) -> None:
        payload = self.compressor.compress(data) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        await peer.send_frame(2, payload[:-4], rsv1=True)
        if self.out_forgets:
            self._renew_out()

    async def receive(self, peer: RawPeer) -> bytes:
        frame = await peer.receive_frame()
        assert frame is not None
        if not frame.rsv:
            return frame.payload
        data = self.inflater.decompress(frame.payload + b"\x00\x00\xff\xff")
        if self.in_forgets:
            self._renew_in()
        return data


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_client_takes_the_answer(answer: str, wish: Compression, autojump_clock: MockClock) -> None:
    link = Link()

    async def server() -> None:
        peer = await RawPeer.accept(link.server, [("Sec-WebSocket-Extensions", answer)])
        streams = Zlib(answer, client=False)
        for message in MESSAGES:
            await streams.send(peer, message)
            assert await streams.receive(peer) == message
        await peer.receive_until_close()
        await peer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        async with connect("ws://test", stream=link.client, options=Options(compression=wish)) as ws:
            for message in MESSAGES:
                assert await ws.receive_bytes() == message
                await ws.send(message)


@pytest.mark.parametrize(
    "answer",
    [
        f"{PMD}; server_max_window_bits",
        f"{PMD}; server_max_window_bits=7",
        f"{PMD}; client_max_window_bits",
        f"{PMD}; server_no_context_takeover=1",
        f"{PMD}; server_no_context_takeover; server_no_context_takeover",
        f"{PMD}; mux",
        f"{PMD};",
        f"{PMD}, {PMD}",
        "x-webkit-deflate-frame",
    ],
)
async def test_a_client_refuses_the_answer(answer: str, autojump_clock: MockClock) -> None:
    link = Link()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(RawPeer.accept, link.server, [("Sec-WebSocket-Extensions", answer)])
        with pytest.raises(ConnectionFailedError, match=r"compression parameters are invalid|did not offer"):
            async with connect("ws://test", stream=link.client, options=Options(compression=True)):
                pytest.fail("RFC 7692 section 7.1 wants it failed")


@pytest.mark.parametrize("answer", [None, "", " "])
async def test_a_client_goes_without(answer: str | None, autojump_clock: MockClock) -> None:
    link = Link()
    headers = [] if answer is None else [("Sec-WebSocket-Extensions", answer)]
    async with trio.open_nursery() as nursery:
        peers: list[RawPeer] = []

        async def server() -> None:
            peers.append(await RawPeer.accept(link.server, headers))
            await peers[0].send_frame(1, b"plain")
            await peers[0].receive_until_close()
            await peers[0].aclose()

        nursery.start_soon(server)
        async with connect("ws://test", stream=link.client, options=Options(compression=True)) as ws:
            assert await ws.receive_text() == "plain"


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
@pytest.mark.parametrize(
    "offer",
    [
        PMD,  # Firefox
        f"{PMD}; client_max_window_bits",  # Chrome, Safari, ws
        f"{PMD}; {FORGETS}",  # gorilla
        f"{PMD}; client_no_context_takeover; server_no_context_takeover",  # nhooyr
        f"{PMD}; client_max_window_bits=15; server_max_window_bits=15",
        f'{PMD};client_max_window_bits="12" ; server_max_window_bits="12"',
        f"{PMD}; server_max_window_bits=8, {PMD}",
        f"{PMD}; mux, x-webkit-deflate-frame, {PMD}; client_max_window_bits",
    ],
)
async def test_a_server_answers_the_offer(offer: str, wish: Compression, autojump_clock: MockClock) -> None:
    async with serving_in_memory(options=Options(compression=wish)) as memory:
        stream = await memory.stream()
        peer = await RawPeer.connect(stream, headers=[("Sec-WebSocket-Extensions", offer)])
        answer = memory_answer(peer)
        assert answer.count(PMD) == 1
        if "client_max_window_bits" not in offer:
            assert "client_max_window_bits" not in answer
        streams = Zlib(answer, client=True)
        for message in MESSAGES:
            await streams.send(peer, message)
            assert await streams.receive(peer) == message
        await peer.aclose()


def memory_answer(peer: RawPeer) -> str:
    found = re.search(r"(?i)\r\nsec-websocket-extensions: ([^\r]+)", peer.head.decode())
    assert found is not None
    return found[1]


@pytest.mark.parametrize("offer", [PMD, f"{PMD}; client_max_window_bits"])
async def test_an_idle_connection_keeps_no_large_window(offer: str, autojump_clock: MockClock) -> None:
    """For every offer, the window either is small or is dropped after each message."""
    async with serving_in_memory(None, options=Options(compression=True)) as memory:
        peer = await RawPeer.connect(await memory.stream(), headers=[("Sec-WebSocket-Extensions", offer)])
        ws = await memory.server.accept()
        streams = Zlib(memory_answer(peer), client=True)
        await streams.send(peer, FAR)
        assert await ws.receive_bytes() == FAR
        deflate = deflate_of(ws)
        assert deflate is not None
        assert deflate._inflater is None or deflate._in_bits <= 12
        await peer.aclose()
