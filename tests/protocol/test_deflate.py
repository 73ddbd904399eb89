"""permessage-deflate: negotiation, inflation, and agreement with wsproto."""

from __future__ import annotations

import random
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from trio_ws.options import Compression
from trio_ws.protocol.deflate import DeflateParams, PerMessageDeflate, answer, confirm, offer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PLAIN = Compression(server_max_window_bits=15, client_max_window_bits=15)
MESSAGE = "permessage-deflate"


class Message(NamedTuple):
    """A binary message as its fragments, with optional pings in between."""

    fragments: tuple[bytes, ...]
    compressed: bool = True
    pings: bool = False

    @property
    def payload(self) -> bytes:
        return b"".join(self.fragments)


def frame(
    payload: bytes, *, opcode: int = 2, fin: bool = True, rsv1: bool = False, mask: bool = True
) -> bytes:
    """One frame on the wire. The mask is all zeros, which is a legal key and keeps payloads readable."""
    head = bytes([fin << 7 | rsv1 << 6 | opcode])
    bit = mask << 7
    if len(payload) <= 125:
        head += bytes([bit | len(payload)])
    elif len(payload) <= 0xFFFF:
        head += struct.pack("!BH", bit | 126, len(payload))
    else:
        head += struct.pack("!BQ", bit | 127, len(payload))
    return head + (bytes(4) if mask else b"") + payload


def frames(sender: PerMessageDeflate, message: Message, *, mask: bool) -> bytes:
    """A message as our side puts it on the wire."""
    wire = b""
    last = len(message.fragments) - 1
    for index, part in enumerate(message.fragments):
        fin = index == last
        wire += frame(
            sender.compress(part, fin=fin) if message.compressed else part,
            opcode=0 if index else 2,
            fin=fin,
            rsv1=message.compressed and index == 0,
            mask=mask,
        )
        if message.pings and not fin:
            wire += frame(b"ping", opcode=9, mask=mask)
    return wire


def read(protocol: FrameProtocol, pieces: Iterable[bytes]) -> tuple[list[bytes], int]:
    """The binary messages that came out whole, and how many pings."""
    messages, pings, current = [], 0, b""
    for piece in pieces:
        protocol.receive_bytes(piece)
        for got in protocol.received_frames():
            if got.opcode is Opcode.PING:
                assert got.payload == b"ping"
                pings += 1
                continue
            assert isinstance(got.payload, bytes)
            current += got.payload
            if got.message_finished:
                messages.append(current)
                current = b""
    assert current == b""
    return messages, pings


def split(wire: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The wire cut into pieces of these sizes, over and over."""
    pieces, position, turn = [], 0, 0
    while position < len(wire):
        size = sizes[turn % len(sizes)]
        pieces.append(wire[position : position + size])
        position, turn = position + size, turn + 1
    return pieces


def extension(
    *, client: bool = False, params: DeflateParams | None = None, limit: int | None = None
) -> PerMessageDeflate:
    return PerMessageDeflate(
        client=client, params=params or DeflateParams(), compression=PLAIN, max_message_size=limit
    )


def server(limit: int | None = None, params: DeflateParams | None = None) -> FrameProtocol:
    return FrameProtocol(client=False, extensions=[extension(params=params, limit=limit)])


def deflated(data: bytes, *, bits: int = 15, mode: int = zlib.Z_SYNC_FLUSH) -> bytes:
    compressor = zlib.compressobj(wbits=-bits)
    return compressor.compress(data) + compressor.flush(mode)


def refused(protocol: FrameProtocol, wire: bytes) -> CloseReason:
    """The close code with which these bytes end the connection."""
    with pytest.raises(ParseFailed) as caught:
        read(protocol, [wire])
    return caught.value.code


# Negotiation


def test_zlib_still_refuses_to_deflate_with_8_bits() -> None:
    # If this fails, zlib has learnt it, and the refusals of 8 in deflate.py can go.
    with pytest.raises(ValueError, match="Invalid initialization option"):
        zlib.compressobj(wbits=-8)


@pytest.mark.parametrize(
    ("compression", "value"),
    [
        (Compression(), f"{MESSAGE}; client_max_window_bits, {MESSAGE}"),
        (PLAIN, f"{MESSAGE}; client_max_window_bits, {MESSAGE}"),
        (
            Compression(server_max_window_bits=12, client_max_window_bits=9),
            (
                f"{MESSAGE}; client_max_window_bits; server_max_window_bits=12"
                f", {MESSAGE}; client_max_window_bits, {MESSAGE}"
            ),
        ),
        (
            Compression(
                server_max_window_bits=9,
                client_max_window_bits=15,
                server_no_context_takeover=True,
                client_no_context_takeover=True,
            ),
            (
                f"{MESSAGE}; client_max_window_bits; server_max_window_bits=9"
                "; client_no_context_takeover; server_no_context_takeover"
                f", {MESSAGE}; client_max_window_bits, {MESSAGE}"
            ),
        ),
    ],
)
def test_offer(compression: Compression, value: str) -> None:
    assert offer(compression) == value


@pytest.mark.parametrize(
    ("asked", "value", "params"),
    [
        (
            "",
            "; client_no_context_takeover",
            DeflateParams(12, 15, client_no_context_takeover=True),
        ),
        (
            "; client_max_window_bits",
            "; client_max_window_bits=12",
            DeflateParams(12, 12),
        ),
        (
            "; client_max_window_bits=8; server_max_window_bits=9",
            "; server_max_window_bits=9; client_max_window_bits=8",
            DeflateParams(9, 8),
        ),
        (
            "; client_max_window_bits=15; server_max_window_bits=15",
            "; server_max_window_bits=12; client_max_window_bits=12",
            DeflateParams(12, 12),
        ),
        (
            "; server_no_context_takeover; client_no_context_takeover",
            "; server_no_context_takeover; client_no_context_takeover",
            DeflateParams(12, 15, server_no_context_takeover=True, client_no_context_takeover=True),
        ),
        (
            '\t ;\tserver_max_window_bits = "10" \t; client_max_window_bits',
            "; server_max_window_bits=10; client_max_window_bits=12",
            DeflateParams(10, 12),
        ),
        (
            '; client_max_window_bits; server_max_window_bits="\\1\\0"',
            "; server_max_window_bits=10; client_max_window_bits=12",
            DeflateParams(10, 12),
        ),
    ],
)
def test_answer(asked: str, value: str, params: DeflateParams) -> None:
    assert answer(Compression(), [MESSAGE + asked]) == (MESSAGE + value, params)


def test_answer_says_the_servers_own_wishes() -> None:
    wish = Compression(server_no_context_takeover=True, client_no_context_takeover=True)
    assert answer(wish, [MESSAGE]) == (
        f"{MESSAGE}; server_no_context_takeover; client_no_context_takeover",
        DeflateParams(12, 15, server_no_context_takeover=True, client_no_context_takeover=True),
    )


def test_answer_repeats_a_window_of_15_only_if_the_server_was_asked_for_it() -> None:
    assert answer(PLAIN, [f"{MESSAGE}; client_max_window_bits=15"]) == (MESSAGE, DeflateParams())
    assert answer(PLAIN, [f"{MESSAGE}; server_max_window_bits=15"]) == (
        f"{MESSAGE}; server_max_window_bits=15",
        DeflateParams(),
    )


@pytest.mark.parametrize(
    "asked",
    [
        "; server_max_window_bits",
        "; server_max_window_bits=8",
        "; server_max_window_bits=7",
        "; server_max_window_bits=16",
        "; server_max_window_bits=010",
        "; server_max_window_bits=+9",
        "; server_max_window_bits=-9",
        "; server_max_window_bits=",
        '; server_max_window_bits=""',
        '; server_max_window_bits=" 9"',
        '; server_max_window_bits="9',
        '; server_max_window_bits="9\\',
        "; server_max_window_bits=\u0661\u0660",
        "; client_max_window_bits=ten",
        "; client_max_window_bits; client_max_window_bits",
        "; client_max_window_bits=9; client_max_window_bits=9",
        "; server_no_context_takeover=1",
        '; client_no_context_takeover=""',
        "; client_no_context_takeover; client_no_context_takeover",
        "; Server_no_context_takeover",
        "; unknown",
        ";",
        "; ; client_max_window_bits",
        " client_max_window_bits",
        "-frame",
    ],
)
def test_an_offer_that_cannot_be_kept_is_declined(asked: str) -> None:
    assert answer(PLAIN, [MESSAGE + asked]) is None


@pytest.mark.parametrize(
    "offers",
    [
        [f"{MESSAGE}; unknown, {MESSAGE}; server_max_window_bits=9, {MESSAGE}"],
        [f"{MESSAGE}; unknown", f"{MESSAGE}; server_max_window_bits=9", MESSAGE],
        [f', x-other; a=", {MESSAGE}; \\", ",, =bad ,{MESSAGE}; server_max_window_bits=9'],
    ],
)
def test_the_first_acceptable_offer_is_taken(offers: list[str]) -> None:
    assert answer(PLAIN, offers) == (f"{MESSAGE}; server_max_window_bits=9", DeflateParams(9, 15))


@pytest.mark.parametrize("offers", [[], [""], [" , "], ["x-webkit-deflate-frame"]])
def test_without_an_offer_there_is_no_compression(offers: list[str]) -> None:
    assert answer(PLAIN, offers) is None


@pytest.mark.parametrize(
    ("value", "params"),
    [
        ("; server_max_window_bits=12", DeflateParams(12, 12)),
        ("; server_max_window_bits=8; client_max_window_bits=9", DeflateParams(8, 9)),
        # Fewer parameters than we wished, more, and larger windows: one of our offers had none.
        ("", DeflateParams(15, 12)),
        ("; server_max_window_bits=13", DeflateParams(13, 12)),
        (
            "; server_no_context_takeover; client_no_context_takeover",
            DeflateParams(15, 12, server_no_context_takeover=True, client_no_context_takeover=True),
        ),
        # A server may ignore the hint; we stay within it all the same.
        ('; server_max_window_bits="12"; client_max_window_bits=15', DeflateParams(12, 12)),
        (
            "; server_max_window_bits=12; server_no_context_takeover; client_no_context_takeover",
            DeflateParams(12, 12, server_no_context_takeover=True, client_no_context_takeover=True),
        ),
    ],
)
def test_confirm(value: str, params: DeflateParams) -> None:
    assert confirm(Compression(), MESSAGE + value) == params


def test_confirm_keeps_our_own_promise_to_forget() -> None:
    wish = Compression(server_max_window_bits=15, client_no_context_takeover=True)
    assert confirm(wish, MESSAGE) == DeflateParams(15, 12, client_no_context_takeover=True)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (f"{MESSAGE}; server_max_window_bits", "requires a value"),
        (f"{MESSAGE}; server_max_window_bits=9; client_max_window_bits", "requires a value"),
        (f"{MESSAGE}; server_max_window_bits=9; client_max_window_bits=8", "zlib needs 9"),
        (f"{MESSAGE}; server_max_window_bits=9; server_max_window_bits=9", "is repeated"),
        (f"{MESSAGE}; server_max_window_bits=9; unknown", "not a parameter"),
        (f"{MESSAGE}; server_max_window_bits=9; server_no_context_takeover=1", "takes no value"),
        (f"{MESSAGE}; server_max_window_bits=9;", "malformed"),
        (f"{MESSAGE}; server_max_window_bits=9, {MESSAGE}; server_max_window_bits=9", "accepted 2"),
        ("", "accepted 0"),
        ("x-other", "not permessage-deflate"),
        ("=", "not permessage-deflate"),
    ],
)
def test_confirm_refuses(value: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        confirm(Compression(), value)


def test_confirm_takes_a_server_that_will_not_forget() -> None:
    assert confirm(Compression(server_no_context_takeover=True), MESSAGE) == DeflateParams(15, 12)


compressions = st.builds(
    Compression,
    level=st.integers(1, 9),
    memory_level=st.integers(1, 9),
    server_max_window_bits=st.none() | st.integers(9, 15),
    client_max_window_bits=st.integers(9, 15),
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
)


@given(compressions, compressions)
def test_client_and_server_agree_on_the_same(ours: Compression, theirs: Compression) -> None:
    agreed = answer(theirs, [offer(ours)])
    assert agreed is not None
    value, params = agreed
    confirmed = confirm(ours, value)
    # Each side's window for inflating is at least the other's for deflating, and it resets no more often.
    assert confirmed.server_max_window_bits >= params.server_max_window_bits
    assert confirmed.client_max_window_bits <= params.client_max_window_bits
    assert confirmed.client_max_window_bits <= ours.client_max_window_bits
    assert confirmed.server_no_context_takeover == params.server_no_context_takeover
    assert confirmed.client_no_context_takeover == params.client_no_context_takeover


@given(st.text() | st.text(alphabet='permessage-deflate; ,="\\_0189').map(MESSAGE.__add__))
def test_any_header_is_answered_or_declined(value: str) -> None:
    agreed = answer(Compression(), [value])
    if agreed is not None:
        # Duplicates, unknown and bad values were declined. A client can confirm the rest.
        text, params = agreed
        assert text.startswith(MESSAGE)
        assert params.server_max_window_bits <= 12


# Messages

words = st.sampled_from(
    [b"", b"a", b"hello world, " * 20, bytes(range(256)) * 3, b"x" * 5000, b"\0" * 70_000]
)
payloads = words | st.binary(max_size=300)
messages = st.lists(
    st.builds(Message, st.lists(payloads, min_size=1, max_size=4).map(tuple), st.booleans(), st.booleans()),
    max_size=6,
)
cuts = st.lists(st.sampled_from([1, 2, 3, 7, 64, 4096, 1 << 20]), min_size=1, max_size=4).filter(
    lambda sizes: max(sizes) >= 64
)


@given(compressions, compressions, messages, cuts, st.booleans())
def test_client_and_server_round_trip(
    ours: Compression, theirs: Compression, sent: list[Message], sizes: list[int], to_server: bool
) -> None:
    agreed = answer(theirs, [offer(ours)])
    assert agreed is not None
    limit = max((len(message.payload) for message in sent), default=1)
    sender = PerMessageDeflate(client=to_server, params=agreed[1], compression=ours, max_message_size=None)
    receiver = PerMessageDeflate(
        client=not to_server, params=agreed[1], compression=theirs, max_message_size=limit
    )
    wire = b"".join(frames(sender, message, mask=to_server) for message in sent)
    protocol = FrameProtocol(client=not to_server, extensions=[receiver])
    got, pings = read(protocol, split(wire, sizes))
    assert got == [message.payload for message in sent]
    assert pings == sum(len(message.fragments) - 1 for message in sent if message.pings)


def wsproto_deflate(params: DeflateParams) -> WsprotoDeflate:
    made = WsprotoDeflate(
        client_no_context_takeover=params.client_no_context_takeover,
        client_max_window_bits=params.client_max_window_bits,
        server_no_context_takeover=params.server_no_context_takeover,
        server_max_window_bits=params.server_max_window_bits,
    )
    made.finalize(MESSAGE)
    return made


agreements = st.builds(DeflateParams, st.integers(9, 15), st.integers(9, 15), st.booleans(), st.booleans())


@given(agreements, messages, cuts, st.booleans())
def test_wsproto_reads_what_we_send(
    params: DeflateParams, sent: list[Message], sizes: list[int], to_server: bool
) -> None:
    # wsproto takes a control frame for the end of a compressed message, so it gets none.
    sent = [message._replace(pings=False) for message in sent]
    sender = extension(client=to_server, params=params)
    wire = b"".join(frames(sender, message, mask=to_server) for message in sent)
    protocol = FrameProtocol(client=not to_server, extensions=[wsproto_deflate(params)])
    assert read(protocol, split(wire, sizes))[0] == [message.payload for message in sent]


@given(agreements, messages, cuts, st.booleans())
def test_we_read_what_wsproto_sends(
    params: DeflateParams, sent: list[Message], sizes: list[int], to_server: bool
) -> None:
    sender = FrameProtocol(client=to_server, extensions=[wsproto_deflate(params)])
    wire = b""
    for message in sent:
        for index, part in enumerate(message.fragments):
            fin = index == len(message.fragments) - 1
            wire += sender.send_data(part, fin=fin)
            if message.pings and not fin:
                wire += sender.ping(b"ping")
    receiver = FrameProtocol(
        client=not to_server, extensions=[extension(client=not to_server, params=params)]
    )
    assert read(receiver, split(wire, sizes))[0] == [message.payload for message in sent]


def test_each_fragment_can_be_inflated_as_it_comes() -> None:
    sender, protocol = extension(client=True), server()
    for index, part in enumerate([b"first", b"second", b"third"]):
        protocol.receive_bytes(
            frame(sender.compress(part, fin=False), opcode=0 if index else 2, fin=False, rsv1=not index)
        )
        assert b"".join(bytes(got.payload) for got in protocol.received_frames()) == part  # type: ignore[arg-type]


def test_an_empty_message_is_one_byte() -> None:
    # RFC 7692 section 7.2.3.6.
    sender = extension(client=True)
    assert [sender.compress(data, fin=True) for data in (b"", b"data", b"")][::2] == [b"\0", b"\0"]
    assert sender.compress(b"", fin=False) == b""


def test_context_is_taken_over_unless_agreed_otherwise() -> None:
    data = bytes(range(256))
    keeps = extension(client=True)
    sizes = [len(keeps.compress(data, fin=True)) for _ in range(2)]
    assert sizes[1] < 20 < sizes[0]
    forgets = extension(client=True, params=DeflateParams(client_no_context_takeover=True))
    assert forgets.compress(data, fin=True) == forgets.compress(data, fin=True)


@given(st.lists(st.tuples(words, st.booleans()), max_size=6), st.sampled_from([1, 100, 65536]), st.booleans())
def test_messages_in_pieces_and_whole_ones(sent: list[tuple[bytes, bool]], size: int, forgets: bool) -> None:
    params = DeflateParams(client_no_context_takeover=forgets)
    sender, protocol = extension(client=True, params=params), server(params=params)
    for data, in_pieces in sent:
        if in_pieces and data:
            started = sender.alone_in_pieces(data, max(size, len(data) // 50))
            next(started)  # one that is given up
            payload = b"".join(sender.alone_in_pieces(data, max(size, len(data) // 50)))
            sender.restart()
        else:
            payload = sender.compress(data, fin=True)
        protocol.receive_bytes(frame(payload, opcode=2, fin=True, rsv1=True))
        assert b"".join(bytes(got.payload) for got in protocol.received_frames()) == data  # type: ignore[arg-type]


def test_a_receiver_forgets_too() -> None:
    # The second message refers to the first one's window, which the sender had promised not to do.
    sender = extension(client=True)
    wire = b"".join(frames(sender, Message((bytes(range(256)),)), mask=True) for _ in range(2))
    params = DeflateParams(client_no_context_takeover=True)
    assert refused(server(params=params), wire) is CloseReason.INVALID_FRAME_PAYLOAD_DATA


def test_a_peer_that_compresses_with_8_bits_is_read() -> None:
    # Distances of no more than 256 bytes, as a window of 8 bits allows.
    data = bytes(range(200)) * 50
    protocol = server(params=DeflateParams(client_max_window_bits=8))
    assert read(protocol, [frame(deflated(data, bits=9)[:-4], rsv1=True)])[0] == [data]


@pytest.mark.parametrize("client", [True, False])
def test_windows_are_kept_by_the_sender_and_enforced_by_the_receiver(client: bool) -> None:
    # The second message repeats data from 2000 bytes before, which is not in a window of 512 bytes.
    message = Message((random.Random(7692).randbytes(2000),))
    small, large = DeflateParams(9, 9), DeflateParams()
    for kept in (small, large):
        sender = extension(client=client, params=kept)
        wire = b"".join(frames(sender, message, mask=client) for _ in range(2))
        receiver = FrameProtocol(client=not client, extensions=[extension(client=not client, params=small)])
        if kept is small:
            assert read(receiver, [wire])[0] == [message.payload] * 2
        else:
            assert refused(receiver, wire) is CloseReason.INVALID_FRAME_PAYLOAD_DATA


def test_wsproto_finds_it_enabled_and_without_an_offer() -> None:
    assert extension().enabled()
    assert extension().offer() is False


# The bound


ZLIBS_DECOMPRESSOBJ = zlib.decompressobj


class CountingInflater:
    """zlib's decompressor, which counts the bytes of its input and output."""

    def __init__(self, bits: int) -> None:
        self.real = ZLIBS_DECOMPRESSOBJ(bits)
        self.produced = 0
        self.taken = 0

    def decompress(self, data: bytes, max_length: int) -> bytes:
        result = self.real.decompress(data, max_length)
        self.produced += len(result)
        self.taken += len(data)
        return result

    @property
    def eof(self) -> bool:
        return self.real.eof

    @property
    def unused_data(self) -> bytes:
        return self.real.unused_data


@pytest.fixture
def inflaters(monkeypatch: pytest.MonkeyPatch) -> list[CountingInflater]:
    """Every inflater that the test makes. zlib is stood in for by itself; none of our code is replaced."""
    made: list[CountingInflater] = []

    def make(bits: int) -> CountingInflater:
        made.append(CountingInflater(bits))
        return made[-1]

    monkeypatch.setattr(zlib, "decompressobj", make)
    return made


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """64 MiB of zeros, deflated to 64 KiB."""
    compressor = zlib.compressobj(wbits=-15)
    mebibyte = bytes(1 << 20)
    parts = [compressor.compress(mebibyte) for _ in range(64)]
    return b"".join(parts) + compressor.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize("limit", [1, 1000, 1 << 20])
@pytest.mark.parametrize("fragment", [1000, 1 << 20])
def test_a_bomb_is_cut_one_byte_past_the_limit(
    inflaters: list[CountingInflater], bomb: bytes, limit: int, fragment: int
) -> None:
    wire = b"".join(
        frame(bomb[start : start + fragment], opcode=0 if start else 2, fin=False, rsv1=not start)
        for start in range(0, len(bomb), fragment)
    )
    assert refused(server(limit), wire) is CloseReason.MESSAGE_TOO_BIG
    assert [inflater.produced for inflater in inflaters] == [limit + 1]


@pytest.mark.parametrize("parts", [1, 3])
def test_the_limit_is_met_to_the_byte(parts: int) -> None:
    sender = extension(client=True)
    fits = Message((b"x" * 100,) * parts)
    size = len(fits.payload)
    wire = b"".join(frames(sender, fits, mask=True) for _ in range(3))
    assert read(server(size), [wire])[0] == [fits.payload] * 3
    assert refused(server(size - 1), wire) is CloseReason.MESSAGE_TOO_BIG


def test_the_limit_holds_over_streams_that_end() -> None:
    one = deflated(b"x" * 10, mode=zlib.Z_FINISH)
    assert read(server(100), [frame(one * 10, rsv1=True)])[0] == [b"x" * 100]
    assert refused(server(99), frame(one * 10, rsv1=True)) is CloseReason.MESSAGE_TOO_BIG


def test_an_uncompressed_message_is_not_counted() -> None:
    assert read(server(1), [frame(b"plain")])[0] == [b"plain"]


# Blocks with BFINAL (RFC 7692 section 7.2.3.4)

HELLO_FINAL = bytes.fromhex("f348cdc9c907 0000")


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (HELLO_FINAL, b"Hello"),
        # Without the octet that begins the block which the tail completes.
        (HELLO_FINAL[:-1], b"Hello"),
        # A final stored block whose length is the tail.
        (b"\x01", b""),
        (HELLO_FINAL[:-1] + deflated(b" world")[:-4], b"Hello world"),
        (HELLO_FINAL[:-1] * 400, b"Hello" * 400),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_message_with_a_final_block_and_those_after_it(payload: bytes, data: bytes, size: int) -> None:
    protocol = server()
    sender = extension(client=True)
    after = Message((b"after " * 10, b"it"))
    wire = frame(payload, rsv1=True) + frames(sender, after, mask=True)
    wire += frame(payload, rsv1=True) + frame(b"plain") + frame(HELLO_FINAL, rsv1=True)
    got = read(protocol, split(wire, [size]))[0]
    assert got == [data, after.payload, data, b"plain", b"Hello"]


def test_many_streams_in_a_frame_are_not_copied_over_and_over(inflaters: list[CountingInflater]) -> None:
    # zlib copies the data after a stream's end, so a long frame of short streams is passed in small steps.
    assert read(server(), [frame(HELLO_FINAL[:-1] * 1000, rsv1=True)])[0] == [b"Hello" * 1000]
    assert len(inflaters) == 1000
    assert max(inflater.taken for inflater in inflaters[1:]) == 1024


def test_the_window_of_an_unfinished_stream_is_kept() -> None:
    sender = extension(client=True)
    data = bytes(range(256))
    wire = frames(sender, Message((data,)), mask=True) + frame(b"", rsv1=True)
    wire += frame(b"plain") + frames(sender, Message((b"", data, b"")), mask=True)
    assert read(server(), [wire])[0] == [data, b"", b"plain", data]


# Violations


@pytest.mark.parametrize("opcode", [8, 9, 10])
def test_rsv1_on_a_control_frame(opcode: int) -> None:
    assert refused(server(), frame(b"", opcode=opcode, rsv1=True)) is CloseReason.PROTOCOL_ERROR


@pytest.mark.parametrize("first", [True, False])
def test_rsv1_on_a_continuation(first: bool) -> None:
    wire = frame(deflated(b"data"), fin=False, rsv1=first) + frame(b"\0", opcode=0, rsv1=True)
    assert refused(server(), wire) is CloseReason.PROTOCOL_ERROR


def test_a_new_message_within_a_message() -> None:
    wire = frame(deflated(b"data"), fin=False, rsv1=True) + frame(b"\0", rsv1=True)
    assert refused(server(), wire) is CloseReason.PROTOCOL_ERROR


def test_a_continuation_of_nothing() -> None:
    sender = extension(client=True)
    wire = frames(sender, Message((b"data",)), mask=True) + frame(b"\xff" * 9, opcode=0)
    assert refused(server(), wire) is CloseReason.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff" * 20,
        # Cut short: the tail is taken for its data, and the next message too.
        deflated(b"x" * 300)[:2],
        # A distance to before the window's beginning.
        bytes.fromhex("4b040200"),
    ],
)
def test_corrupt_data(payload: bytes) -> None:
    wire = frame(payload, rsv1=True) + frame(b"\xff" * 70, rsv1=True)
    assert refused(server(), wire) is CloseReason.INVALID_FRAME_PAYLOAD_DATA


@given(st.binary(max_size=200), cuts)
def test_any_bytes_end_in_a_message_or_a_close_code(payload: bytes, sizes: list[int]) -> None:
    protocol = server(1000)
    code, got = None, [b""]
    try:
        got = read(protocol, split(frame(payload, rsv1=True), sizes))[0]
    except ParseFailed as error:
        code = error.code
    assert code in (None, CloseReason.INVALID_FRAME_PAYLOAD_DATA, CloseReason.MESSAGE_TOO_BIG)
    assert len(got) == 1
    assert len(got[0]) <= 1000


def test_corrupt_data_that_the_tail_uncovers() -> None:
    # A stored block's length with a wrong complement: 00 00 is not the complement of 05 00.
    wire = frame(b"\x00\x05\x00", rsv1=True)
    assert refused(server(), wire) is CloseReason.INVALID_FRAME_PAYLOAD_DATA
