"""The targets of the fuzzer, and the properties that hold for any input. It also runs without the fuzzer.

The first byte of an input selects the target, the second its settings, and the third how the rest is split
into reads. Each target is fed the same bytes once in pieces and once as a whole, and the results are
compared.

Invariant: `run` returns None for any bytes. An exception is a finding.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsproto.utilities import generate_accept_token

from tests.support.requests import WholeRequests
from trio_ws.errors import CloseFrame, ConnectionFailedError, HandshakeRejectedError, check_close
from trio_ws.options import Compression
from trio_ws.protocol.deflate import DeflateParams, PerMessageDeflate, answer, confirm
from trio_ws.protocol.frames import FrameReader, Ping, Pong, ProtocolViolation
from trio_ws.protocol.handshake import (
    MAX_REJECTION_BYTES,
    ClientHandshake,
    accept_response,
    check_upgrade,
    http_response,
    offered_extensions,
    offered_subprotocols,
    origin_allowed,
)
from trio_ws.protocol.http import HTTPError, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ACCEPT", "TARGETS", "run"]

LIMIT = 200
MAX_HEAD, MAX_BODY = 512, 64
COMPRESSIONS = (
    Compression(),
    Compression(server_max_window_bits=15, client_max_window_bits=15),
    Compression(server_max_window_bits=9, client_max_window_bits=10),
    Compression(server_no_context_takeover=True, client_no_context_takeover=True),
)
#: Replaced in an input by the token for our random key, which a fuzzer cannot guess.
ACCEPT = b"{accept}"

_KEY = re.compile(rb"Sec-WebSocket-Key: (\S+)\r\n", re.IGNORECASE)


def run(data: bytes) -> None:
    """Give one input to the target that it chooses."""
    if len(data) >= 3:
        TARGETS[data[0] % len(TARGETS)](data[3:], data[1], data[2])


def pieces(data: bytes, how: int) -> Iterator[bytes]:
    """Split ``data``: 0 byte by byte, else in pieces that grow and shrink by a pattern from ``how``."""
    size, start = 1 + how % 16, 0
    while start < len(data):
        yield data[start : start + size]
        start += size
        size = 1 + (size * 5 + how) % 67 if how else 1


# -- frames -------------------------------------------------------------------------------------------


def frames(data: bytes, settings: int, how: int) -> None:
    """`FrameReader`, in both roles, with and without a limit and compression, taken in parts or not."""
    client, limited, compressed = bool(settings & 1), bool(settings & 2), bool(settings & 4)
    limit = LIMIT if limited else None
    split, whole = (_reader(client, limit, compressed, settings >> 3 & 1) for _ in range(2))
    taken: list[str | bytes] = []
    for piece in pieces(data, how):
        before = len(split.messages)
        silent = split.done
        events = len(split.events)
        split.feed(piece)
        _check_frames(split, limit)
        if silent:
            assert (len(split.messages), len(split.events)) == (before, events), "done and not silent"
        if settings & 16:
            _take(split, taken, before)
    whole.feed(data)
    _check_frames(whole, limit)
    if settings & 16:
        _compare_parts(taken, whole)
        return
    assert split.messages == whole.messages
    if compressed and _violated(split) and _violated(whole):
        # One frame may be out of turn, too big, corrupt and no UTF-8 at once; which of these is met first is
        # a matter of reads.
        assert split.events[:-1] == whole.events[:-1]
    else:
        assert split.events == whole.events
        assert (split.held, split.wanted) == (whole.held, whole.wanted)


def _reader(client: bool, limit: int | None, compressed: bool, forgets: int) -> FrameReader:
    deflate = None
    if compressed:
        deflate = PerMessageDeflate(
            client=client,
            params=DeflateParams(15, 15, bool(forgets), bool(forgets)),
            compression=Compression(),
            max_message_size=limit,
        )
    return FrameReader([], client=client, max_message_size=limit, deflate=deflate)


def _check_frames(reader: FrameReader, limit: int | None) -> None:
    if limit is not None:
        assert reader.held <= limit
        for message in reader.messages:
            assert len(message.encode() if isinstance(message, str) else message) <= limit
    ends = [isinstance(event, CloseFrame | ProtocolViolation) for event in reader.events]
    assert not any(ends[:-1]), "something came after the last event"
    assert reader.done is (bool(ends) and ends[-1])
    assert reader.at_once in (0, reader.wanted + 14)
    if reader.done:
        assert (reader.held, reader.wanted, reader.at_once, reader.take_part()) == (0, 0, 0, None)
    for event in reader.events:
        if isinstance(event, Ping | Pong):
            assert len(event.payload) <= 125
        elif isinstance(event, ProtocolViolation):
            assert event.code in (1002, 1007, 1009)
            check_close(event.code, event.reason)
        elif event != CloseFrame(1005, ""):
            check_close(event.code, event.reason)


def _violated(reader: FrameReader) -> bool:
    return bool(reader.events) and isinstance(reader.events[-1], ProtocolViolation)


def _take(reader: FrameReader, taken: list[str | bytes], before: int) -> None:
    taken.extend(list(reader.messages)[before:])
    part = reader.take_part()
    if part is not None:
        assert part
        taken.append(part)


def _compare_parts(taken: list[str | bytes], whole: FrameReader) -> None:
    """All that was taken, joined, begins with all the finished messages, joined."""
    got, expected = _joined(taken), _joined(whole.messages)
    assert got.startswith(expected)


def _joined(items: list[str | bytes] | object) -> bytes:
    assert isinstance(items, list)
    return b"".join(item.encode() if isinstance(item, str) else item for item in items)


# -- the opening handshake ----------------------------------------------------------------------------


def requests(data: bytes, settings: int, how: int) -> None:
    """A server's side: `WholeRequests`, then everything that is asked of a request."""
    split = _read_request(pieces(data, how))
    whole = _read_request(iter([data] if data else []))
    if isinstance(split, HTTPError) or isinstance(whole, HTTPError):
        assert isinstance(split, HTTPError)
        assert isinstance(whole, HTTPError)
        for error in (split, whole):
            assert error.status in (400, 413, 431, 501, 505)
            http_response(error.status, error.headers, error.body)
        return
    if split is None or whole is None:
        assert split is whole
        return
    for name in ("method", "target", "http_version", "headers", "body", "path", "host"):
        assert getattr(split[0], name) == getattr(whole[0], name), name
    assert split[1] == whole[1][: len(split[1])]
    _use_request(whole[0], settings)


def _read_request(parts: Iterator[bytes]) -> HTTPError | tuple[Request, bytes] | None:
    reader = WholeRequests(MAX_HEAD, MAX_BODY)
    try:
        for part in parts:
            request = reader.feed(part)
            if request is not None:
                assert not reader.eof()
                return request, reader.trailing
    except HTTPError as error:
        return error
    reader.eof()
    return None


def _use_request(request: Request, settings: int) -> None:
    assert len(request.body) <= MAX_BODY
    assert request.http_version.startswith("1.")  # a higher minor version is served as 1.1, RFC 9110 2.5
    assert all(isinstance(value, str) for values in request.query_params.values() for value in values)
    assert "\n" not in repr(request)
    for name, value in request.headers:
        values = [raw.decode("latin-1") for raw in request.raw_values(name.lower().encode())]
        assert value in values
        assert values == request.headers.get_all(name)
    for origins in (None, ["*"], ["https://example.com", "null"]):
        assert isinstance(origin_allowed(request, origins), bool)
    refusal = None
    try:
        check_upgrade(request)
    except HTTPError as error:
        refusal = error
    if refusal is not None:
        assert refusal.status in (400, 405, 426)
        http_response(refusal.status, refusal.headers, refusal.body)
        return
    agreed = answer(COMPRESSIONS[settings % 4], offered_extensions(request))
    subprotocols = offered_subprotocols(request)
    response = accept_response(
        request,
        subprotocol=subprotocols[0] if subprotocols else None,
        extensions=agreed[0] if agreed else None,
    )
    assert response.startswith(b"HTTP/1.1 101 ")
    assert response.index(b"\r\n\r\n") == len(response) - 4


def responses(data: bytes, settings: int, how: int) -> None:
    """A client's side: `ClientHandshake`."""
    split = _shake_hands(data, lambda whole: pieces(whole, how))
    whole = _shake_hands(data, lambda whole: iter([whole] if whole else []))
    assert split[:2] == whole[:2], (split, whole)
    assert whole[2].startswith(split[2])
    if split[0] == "opened" and split[1] is not None:
        try:
            params = confirm(COMPRESSIONS[settings % 4], str(split[1]))
        except ValueError:
            return
        assert params.client_max_window_bits <= COMPRESSIONS[settings % 4].client_max_window_bits
        assert params.server_max_window_bits <= 15


def _shake_hands(data: bytes, cut: Callable[[bytes], Iterator[bytes]]) -> tuple[str, object, bytes]:
    """The end of a parse: its kind, its result, and the bytes after the response or in its body."""
    handshake = ClientHandshake(
        "test", "/", subprotocols=["a", "b"], extensions="permessage-deflate", max_header_bytes=MAX_HEAD
    )
    key = _KEY.search(handshake.request)
    assert key is not None
    try:
        for piece in cut(data.replace(ACCEPT, generate_accept_token(key[1]))):
            response = handshake.feed(piece)
            if response is not None:
                assert response.status == 101
                assert response.subprotocol in (None, "a", "b")
                return "opened", response.extensions, handshake.trailing
        handshake.eof()
    except ConnectionFailedError as error:
        failure = error
    assert str(failure)
    if not isinstance(failure, HandshakeRejectedError):
        return "failed", None, b""
    assert failure.status != 101
    assert len(failure.body) <= MAX_REJECTION_BYTES
    return "rejected", failure.status, b""


# -- compression --------------------------------------------------------------------------------------


def offers(data: bytes, settings: int, how: int) -> None:
    """A server's `answer` to offers, one a line, which a client that asked for nothing special `confirm`s."""
    compression = COMPRESSIONS[settings % 4]
    agreed = answer(compression, data.decode("latin-1").split("\n"))
    if agreed is None:
        return
    value, params = agreed
    assert 9 <= params.server_max_window_bits <= (compression.server_max_window_bits or 12)
    assert 8 <= params.client_max_window_bits <= 15
    if params.client_max_window_bits >= 9:
        confirmed = confirm(COMPRESSIONS[1], value)
        assert confirmed.server_max_window_bits >= params.server_max_window_bits
        assert confirmed.client_max_window_bits <= params.client_max_window_bits


def confirmations(data: bytes, settings: int, how: int) -> None:
    """A client's `confirm` of an answer."""
    compression = COMPRESSIONS[settings % 4]
    try:
        params = confirm(compression, data.decode("latin-1"))
    except ValueError:
        return
    assert 8 <= params.server_max_window_bits <= 15
    assert 9 <= params.client_max_window_bits <= compression.client_max_window_bits
    assert params.client_no_context_takeover >= compression.client_no_context_takeover


TARGETS: tuple[Callable[[bytes, int, int], None], ...] = (
    frames,
    requests,
    responses,
    offers,
    confirmations,
)
