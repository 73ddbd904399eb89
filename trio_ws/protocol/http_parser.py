"""Parse one HTTP request, its head first, or the head of any HTTP message, within limits.

h11 is the parser. A strict fast path handles heads in the form that nearly every client sends
(`_parse_plain_get`). h11 parses all others, and only h11 rejects a head.

Invariants:

- Every byte of a head is counted as it arrives and examined a bounded number of times. A head of any length
  in pieces of any size therefore takes linear time, and never more memory than its limit and one read.
- Every problem with a request is an `HTTPError`: no exception of h11 and no UnicodeError escapes.
- Requests that two servers in a row may interpret differently are refused: a body with two lengths, a
  repeated length, a folded header line.
"""

from __future__ import annotations

import re
from typing import cast

import h11

from trio_ws.protocol.http import TOKEN, HTTPError, Request

__all__ = ["MAX_LINES", "GarbageError", "HeadReader", "HeadTooLongError", "RequestReader"]

#: Maximum size of the line before a chunk, with its extensions, and of all trailers; more are refused with
#: 431.
_MAX_CHUNK_LINE = 4096
#: Maximum number of lines in a request's head. Each costs time whatever its length; more are refused with
#: 431.
MAX_LINES = 256

_blank_line = re.compile(rb"\n\r?\n").search
_REQUEST_LINE = re.compile(TOKEN.encode() + rb"+ [!-~]+ HTTP/[0-9]\.[0-9]\r?\n")
# Possessive quantifiers, so that a head that does not match fails in linear time.
_plain_get = re.compile(
    rb"GET /[!-~]*+ HTTP/1\.1\r\n(?:" + TOKEN.encode() + rb"++:[\t -~]*+\r\n)++\r\n"
).fullmatch
_content_lengths = re.compile(rb"\ncontent-length:([^\n]*)", re.IGNORECASE).findall
_BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
_is_absolute_form = re.compile(r"[A-Za-z][-+.0-9A-Za-z]*://").match


class HeadTooLongError(Exception):
    """The head exceeds its limit. Internal."""


class GarbageError(Exception):
    """The data cannot be the beginning of an HTTP message. Internal."""


class HeadReader:
    """Collects bytes up to the blank line that ends an HTTP head, and rejects invalid data early.

    Args:
        limit: maximum total size of all heads that it returns.
        first_line: pattern of the first line, including its line end.
        start: bytes with which every head begins; empty if they vary.
    """

    __slots__ = ("_buffer", "_first_line", "_limit", "_line_checked", "_looked", "_start")

    def __init__(self, limit: int, first_line: re.Pattern[bytes], start: bytes = b"") -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._first_line = first_line
        self._start = start
        self._looked = 0
        self._line_checked = False

    def feed(self, data: bytes) -> bytes | None:
        """Add `data`, and return the next head with its blank line, or None if more is needed.

        Raises:
            HeadTooLongError: the head exceeds the limit, complete or not.
            GarbageError: the first line does not match, or cannot match any more.
        """
        buffer = self._buffer
        buffer += data
        if not buffer:
            return None
        if not self._line_checked:
            self._check_first_line()
        match = _blank_line(buffer, self._looked)
        end = match.end() if match else len(buffer)
        if end > self._limit:
            raise HeadTooLongError
        if match is None:
            # The blank line may be split between two reads, so examine its first two bytes again.
            self._looked = max(0, end - 2)
            return None
        head = bytes(buffer[:end])
        del buffer[:end]
        self._limit -= end
        self._looked = 0
        self._line_checked = False
        return head

    def _check_first_line(self) -> None:
        # RFC 9112 section 2.2 lets a server skip an initial empty line; we have no need for that.
        buffer = self._buffer
        if buffer[0] <= 0x20 or not self._start.startswith(buffer[: len(self._start)]):
            raise GarbageError
        if buffer.find(b"\n", self._looked) == -1:
            return
        if self._first_line.match(buffer) is None:
            raise GarbageError
        self._line_checked = True

    def take_rest(self) -> bytes:
        """Return what came after the heads returned so far, or the incomplete head."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def __bool__(self) -> bool:
        return bool(self._buffer)


class RequestReader:
    """Reads one request from a client: first its head, then its body.

    Args:
        max_header_bytes: maximum size of the head; more is refused with 431 as soon as it has arrived.
        max_body_bytes: maximum size of the body; more is refused with 413, if possible by its
            ``Content-Length``.

    Attributes:
        chunked: whether the body is chunked.
        complete: whether the body is complete, or there is none.
        trailing: bytes after the request; set once it is complete.
    """

    __slots__ = (
        "_body",
        "_h11",
        "_heads",
        "_max_body_bytes",
        "_max_header_bytes",
        "chunked",
        "complete",
        "trailing",
    )

    def __init__(self, max_header_bytes: int, max_body_bytes: int) -> None:
        self._heads: HeadReader | None = None  # created if the head is not complete and plain
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes
        self._h11: h11.Connection | None = None  # created if there may be a body
        self._body = bytearray()
        self.chunked = False
        self.complete = False
        self.trailing = b""

    def feed(self, data: bytes) -> Request | None:
        """Add `data`, and return the request once its head is complete, else None. `feed_body` reads its
        body.

        Raises:
            HTTPError: 400, 413, 431, 501 or 505; send it and close.
            RuntimeError: the head was complete already.
        """
        if self.complete or self._h11 is not None:
            raise RuntimeError("the head is complete; pass the body to feed_body")
        if self._heads is None:
            if len(data) <= self._max_header_bytes and data.count(b"\n") <= MAX_LINES:
                request = _parse_plain_get(data)
                if request is not None:
                    self.complete = True
                    return request
            self._heads = HeadReader(self._max_header_bytes, _REQUEST_LINE)
        try:
            head = self._heads.feed(data)
        except HeadTooLongError:
            raise HTTPError(431, f"the request head exceeds {self._max_header_bytes} bytes") from None
        except GarbageError:
            raise HTTPError(400, "this is not an HTTP/1.1 request") from None
        if head is None:
            return None
        if head.count(b"\n") > MAX_LINES:
            raise HTTPError(431, f"the request head has more than {MAX_LINES} lines")
        request = _parse_plain_get(head)
        if request is not None:
            self.complete = True
            self.trailing = self._heads.take_rest()
            return request
        # The head is passed as a whole, so the limit applies to lines between and after chunks.
        most = min(_MAX_CHUNK_LINE, self._max_header_bytes)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=most)
        request = Request(self._parse_by_h11(self._h11, head))
        self.complete = isinstance(_next_event(self._h11), h11.EndOfMessage)
        if self.complete:
            self.trailing = self._heads.take_rest()
        return request

    @property
    def wants_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends its body (RFC 9110 section 10.1.1)."""
        waits = self._h11 is not None and self._h11.they_are_waiting_for_100_continue
        return waits and not self.complete and not self._heads

    def take_rest(self) -> bytes:
        """Return the part of the body that arrived with the head; pass it to `feed_body` first."""
        return self._heads.take_rest() if self._heads is not None else b""

    def feed_body(self, data: bytes) -> bytes | None:
        """Add `data`, and return the body once it is complete, else None.

        Since a chunk may have only a few bytes, parsing takes long if the body is `chunked`: pass one KiB at
        a time.

        Raises:
            HTTPError: 400 or 413; send it and close.
        """
        assert self._h11 is not None
        if data:  # for h11, empty data is the end of the stream
            self._h11.receive_data(data)
        while True:
            event = _next_event(self._h11)
            if isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._max_body_bytes:
                    raise self._too_large()
            elif isinstance(event, h11.EndOfMessage):
                self.complete = True
                self.trailing = self._h11.trailing_data[0]
                return bytes(self._body)
            else:
                return None

    def eof(self) -> bool:
        """Whether the end of the stream truncates a request. False if nothing or everything arrived."""
        return not self.complete and (bool(self._heads) or self._h11 is not None)

    def _parse_by_h11(self, connection: h11.Connection, head: bytes) -> bytes:
        if b"\n " in head or b"\n\t" in head:
            # RFC 9112 section 5.2 allows a server to reject it, and some proxies see two headers.
            raise HTTPError(400, "a header line is folded")
        lengths = _content_lengths(head)
        if len(lengths) > 1 or any(b"," in length for length in lengths):
            # RFC 9110 section 8.6 allows a server to reject it, whatever the values are.
            raise HTTPError(400, "Content-Length is repeated")
        connection.receive_data(head)
        event = cast("h11.Request", _next_event(connection))  # a complete head results in that or an error
        if not event.http_version.startswith(b"1."):
            raise HTTPError(505, "only HTTP/1.1 is supported")
        _check_target(event.method, event.target.decode("ascii"))
        framing = {name: value for name, value in event.headers if name in _BODY_HEADERS}
        if len(framing) > 1:
            # Two lengths for one body are used to smuggle requests past a proxy (RFC 9112 section 6.1).
            raise HTTPError(400, "Content-Length and Transfer-Encoding are mutually exclusive")
        self.chunked = b"transfer-encoding" in framing
        if event.http_version == b"1.0" and self.chunked:
            raise HTTPError(400, "Transfer-Encoding requires HTTP/1.1")  # RFC 9112 section 6.1
        if int(framing.get(b"content-length", 0)) > self._max_body_bytes:
            raise self._too_large()
        lines = [b"%s %s HTTP/%s\r\n" % (event.method, event.target, event.http_version)]
        lines += [b"%s:%s\r\n" % item for item in event.headers.raw_items()]
        return b"".join([*lines, b"\r\n"])

    def _too_large(self) -> HTTPError:
        return HTTPError(413, f"the request body exceeds {self._max_body_bytes} bytes")


def _next_event(connection: h11.Connection) -> object:
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as exc:
        raise HTTPError(exc.error_status_hint, "malformed HTTP request") from exc


def _check_target(method: bytes, target: str) -> None:
    # RFC 9112 section 3.2: the form of the target depends on the method.
    if target.startswith("/") or _is_absolute_form(target):
        return
    if method == b"CONNECT" or (method == b"OPTIONS" and target == "*"):
        return
    raise HTTPError(400, "the request target is neither a path nor a URI")


# ---- Fast path -----------------------------------------------------------------------------------------
# h11 takes about ten times as long for the same head. The fast path accepts only a GET of a path over
# HTTP/1.1 with CRLF line ends, header names that are tokens, values of visible ASCII, no folded lines,
# exactly one Host, and no body. It never rejects a request; it leaves all others to h11. A property test
# compares the results.
def _parse_plain_get(head: bytes) -> Request | None:
    if _plain_get(head) is None:
        return None
    lowered = head.lower()
    if (
        lowered.count(b"\r\nhost:") != 1
        or b"\r\ncontent-length:" in lowered
        or b"\r\ntransfer-encoding:" in lowered
    ):
        return None
    return Request(head)
