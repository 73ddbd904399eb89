"""Both sides of the opening handshake as plain functions and objects (RFC 6455 section 4).

The server's side is a set of functions of a `Request`: `check_upgrade`, `origin_allowed`, the offers, then
`accept_response` or `http_response`. The client's side is `ClientHandshake`: it makes the request, is fed the
response, and returns a `Response` or raises.

Invariants:

- A handshake is accepted only if the other side follows every rule of RFC 6455. In doubt, it is refused.
- Neither our server nor our client accepts an extension or a subprotocol that the client did not offer.
- Invalid data of the peer raises `HTTPError` on a server, and an error of `trio_ws.errors` on a client.
  Invalid arguments raise ValueError or TypeError, whose message says how to fix them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, cast

import h11
from wsproto.utilities import generate_accept_token, generate_nonce

from trio_ws.errors import ConnectionFailedError, HandshakeRejectedError, SubprotocolError
from trio_ws.protocol.http import (
    Headers,
    HTTPError,
    Request,
    comma_list,
    encode_headers,
    http_response,
    is_token,
    key_of,
    require_str,
)
from trio_ws.protocol.http_parser import GarbageError, HeadReader, HeadTooLongError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ClientHandshake",
    "HTTPError",
    "Headers",
    "Request",
    "Response",
    "accept_response",
    "around_key",
    "check_subprotocols",
    "check_upgrade",
    "http_response",
    "offered_extensions",
    "offered_subprotocols",
    "origin_allowed",
]

MAX_REJECTION_BYTES = 64 * 1024

# 16 bytes in base64. The four spare bits of the last digit are ignored: RFC 4648 section 3.5 allows that, and
# some clients use 22 random digits as key.
_is_key = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch
_KEY_LINE = b"\r\nSec-WebSocket-Key: "
_KEY_SIZE = 24
_plain_key = re.compile(rb"\r\n[-A-Za-z]+: [A-Za-z0-9+/]{22}==\r\n").match
_plain_start = re.compile(rb"GET /[!-~]*+ HTTP/1\.1\r\nHost: [!-~]").match
_AUTHORITY = r"(\[[0-9a-f:.]+\]|[^\s\[\]:/?#@,]+)(?::([0-9]*))?"
_authority = re.compile(_AUTHORITY).fullmatch
_origin = re.compile(r"([a-z][-+.0-9a-z]*)://" + _AUTHORITY).fullmatch
_is_target = re.compile(r"/[!-~]*").fullmatch
_DEFAULT_PORTS = {"http": "80", "ws": "80", "https": "443", "wss": "443"}
_STATUS_LINE = re.compile(rb"HTTP/[0-9]\.[0-9] [0-9]{3}[ \r\n]")
_final_status = re.compile(rb"HTTP/[0-9]\.[0-9] [2-9][0-9][0-9]").match
_framing_lines = re.compile(rb"(?i)(?<=\n)(?:content-length|transfer-encoding)[ \t]*:.*\n(?:[ \t].*\n)*")
_OWN_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)
_ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)


# ---- Server --------------------------------------------------------------------------------------------


def check_upgrade(request: Request) -> None:
    """Check that `request` is a valid WebSocket handshake (RFC 6455 section 4.2.1).

    Raises:
        HTTPError: 405 for a method other than GET, 426 for a missing upgrade or another version of the
            protocol, 400 for any other violation.
    """
    if not _is_plain_upgrade(request):
        check_rules(request)


def check_rules(request: Request) -> None:
    """Check each rule of `check_upgrade` separately."""
    fields = request.fields()
    nothing: list[bytes] = []
    if request.method != "GET":
        raise HTTPError(405, "only GET is supported", [("Allow", "GET")])
    if "websocket" not in _lowered(comma_list(fields.get(b"upgrade", nothing))):
        raise HTTPError(
            426,
            "this resource requires a WebSocket connection",
            [("Upgrade", "websocket"), ("Connection", "Upgrade")],
        )
    if request.http_version == "1.0":
        raise HTTPError(400, "a WebSocket handshake requires HTTP/1.1")
    if "upgrade" not in _lowered(comma_list(fields.get(b"connection", nothing))):
        raise HTTPError(400, "the Connection header does not contain Upgrade")
    if not request.host:
        raise HTTPError(400, "the Host header is missing or empty")
    if fields.get(b"sec-websocket-version", nothing) != [b"13"]:
        raise HTTPError(
            426,
            "only version 13 of the WebSocket protocol is supported",
            [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")],
        )
    keys = fields.get(b"sec-websocket-key", nothing)
    if len(keys) != 1 or _is_key(keys[0]) is None:
        raise HTTPError(400, "exactly one Sec-WebSocket-Key with 16 bytes in base64 is required")
    lengths = fields.get(b"content-length", nothing)
    if fields.get(b"transfer-encoding", nothing) or any(length.strip(b"0") for length in lengths):
        # Bytes that a proxy in front of us takes for a body must not become frames, and vice versa.
        raise HTTPError(400, "a WebSocket handshake cannot have a body")


# Fast path: a few searches instead of checking each rule, which takes eight times as long. It accepts
# requests in the form that nearly all clients use, and never refuses one: `check_rules` decides about all
# others. A test checks that it accepts nothing that the rules refuse.
def _is_plain_upgrade(request: Request) -> bool:
    head = request.head
    lowered = head.lower()
    key = lowered.find(b"\r\nsec-websocket-key: ")
    return (
        key > 0
        and _plain_key(head, key) is not None
        and _plain_start(head) is not None
        and b"\r\nupgrade: websocket\r\n" in lowered
        and b"\r\nconnection: upgrade\r\n" in lowered
        and b"\r\nsec-websocket-version: 13\r\n" in lowered
        and lowered.count(b"\r\nsec-websocket-version:") == 1
        and lowered.count(b"\r\nsec-websocket-key:") == 1
        and b"\r\ntransfer-encoding:" not in lowered
        and b"\r\ncontent-length:" not in lowered
    )


def around_key(head: bytes) -> tuple[bytes, bytes] | None:
    """Return what is before and after the value of a handshake's key; None if that is not in the usual form.

    Two plain GETs (see http_parser.py) with the same result differ only in their keys. Both keys are valid:
    they have the right length, and do not contain the end of a line.
    """
    start = head.find(_KEY_LINE) + len(_KEY_LINE)
    end = start + _KEY_SIZE
    if start < len(_KEY_LINE) or _is_key(head, start, end) is None:
        return None
    return head[:start], head[end:]


def offered_subprotocols(request: Request) -> list[str]:
    """Return the subprotocols that the client offers, in its order of preference (RFC 6455 section 4.2.2).

    Values that are not tokens or are repeated are omitted, so that no response can contain them.
    """
    offers = dict.fromkeys(comma_list(request.raw_values(b"sec-websocket-protocol")))
    return [offer for offer in offers if is_token(offer)]


def offered_extensions(request: Request) -> list[str]:
    """Return the values of ``Sec-WebSocket-Extensions`` unchanged, one for each header line."""
    return [value.decode("latin-1") for value in request.raw_values(b"sec-websocket-extensions")]


def origin_allowed(request: Request, origins: Sequence[str] | None) -> bool:
    """Return whether the page that sent `request` may connect (RFC 6455 section 10.2).

    Args:
        request: the handshake.
        origins: as in `trio_ws.Options`: allowed origins, ``"*"`` for all, or None for pages of the requested
            host, whatever their port. Case and the default port of a scheme are ignored.

    Returns:
        True also for a request without ``Origin``, which does not come from a browser. False for several of
        them, and for an invalid one, such as ``null``, unless `origins` contains it.
    """
    sent = request.raw_values(b"origin")
    if not sent or (origins is not None and "*" in origins):
        return True
    if len(sent) > 1:
        return False
    origin = sent[0].decode("latin-1").lower()
    if origins is not None:
        return _normal_origin(origin) in {_normal_origin(allowed.lower()) for allowed in origins}
    page = _origin(origin)
    asked = _authority(request.host.lower())
    return page is not None and asked is not None and page[2] == asked[1]


def accept_response(
    request: Request,
    *,
    subprotocol: str | None = None,
    extensions: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """Build the 101 that accepts a handshake (RFC 6455 section 4.2.2).

    Args:
        request: the handshake; it has passed `check_upgrade`.
        subprotocol: one of `offered_subprotocols`, or None.
        extensions: the value of ``Sec-WebSocket-Extensions``, or None.
        headers: additional headers, such as cookies.

    Raises:
        TypeError, ValueError: a subprotocol that was not offered, or an invalid header; the message says
            which.
    """
    parts = [_ACCEPTED, generate_accept_token(key_of(request)), b"\r\n"]
    if subprotocol is None and extensions is None and not headers:
        parts.append(b"\r\n")
        return b"".join(parts)
    if subprotocol is not None:
        offers = offered_subprotocols(request)
        if subprotocol not in offers:
            raise SubprotocolError(subprotocol, offers)
        parts.append(b"Sec-WebSocket-Protocol: %s\r\n" % subprotocol.encode("ascii"))
    if extensions is not None:
        parts += [b"%s: %s\r\n" % item for item in encode_headers([("Sec-WebSocket-Extensions", extensions)])]
    parts += [b"%s: %s\r\n" % item for item in encode_headers(headers, _OWN_HEADERS)]
    parts.append(b"\r\n")
    return b"".join(parts)


# ---- Client --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Response:
    """The validated 101 with which a server accepted our handshake.

    Attributes:
        status: 101.
        headers: all headers in order, duplicates included.
        subprotocol: the one that the server selected, or None.
        extensions: the complete ``Sec-WebSocket-Extensions``, or None. Each extension in it was offered; its
            parameters are not validated here.
    """

    status: int
    headers: Headers
    subprotocol: str | None
    extensions: str | None


class ClientHandshake:
    """The client's side of one opening handshake (RFC 6455 section 4.1).

    Args:
        host_header: the value of ``Host``: the server's name, with its port unless that is the default.
        target: path and query, such as ``"/rooms/7?x=1"``, percent-encoded.
        subprotocols: offered subprotocols, most preferred first.
        extensions: the offered ``Sec-WebSocket-Extensions``, or None.
        headers: additional headers.
        max_header_bytes: maximum size of the response's head, including any 1xx before it.

    Raises:
        TypeError, ValueError: an argument cannot be sent; the message says which.

    Attributes:
        request: the bytes to send.
        trailing: bytes after the response: the server's first frames.
    """

    __slots__ = (
        "_body",
        "_extensions",
        "_h11",
        "_heads",
        "_key",
        "_max_header_bytes",
        "_rejection",
        "_sent",
        "_subprotocols",
        "request",
        "trailing",
    )

    def __init__(
        self,
        host_header: str,
        target: str,
        *,
        subprotocols: Sequence[str] = (),
        extensions: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        max_header_bytes: int,
    ) -> None:
        if _is_target(target) is None:
            raise ValueError(f"{target!r} is not a request target; start with / and percent-encode the rest")
        self._subprotocols = check_subprotocols(subprotocols)
        self._extensions = _extension_names(extensions or "")
        self._key = generate_nonce()
        self._max_header_bytes = max_header_bytes
        self._heads = HeadReader(max_header_bytes, _STATUS_LINE, b"HTTP/")
        self._body = bytearray()
        self._rejection: tuple[int, Headers] | None = None
        self.trailing = b""
        own = [
            ("Host", host_header),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key.decode("ascii")),
            ("Sec-WebSocket-Version", "13"),
        ]
        if self._subprotocols:
            own.append(("Sec-WebSocket-Protocol", ", ".join(self._subprotocols)))
        if extensions is not None:
            own.append(("Sec-WebSocket-Extensions", extensions))
        fields = encode_headers(own) + encode_headers(headers, _OWN_HEADERS | {"host"})
        self._sent = h11.Request(method=b"GET", target=target, headers=fields)
        self._h11, self.request = self._begin_parsing()

    def _begin_parsing(self) -> tuple[h11.Connection, bytes]:
        # h11 needs the request to parse the response, so it also encodes the request.
        connection = h11.Connection(h11.CLIENT)
        request = connection.send(self._sent) or b""
        connection.send(h11.EndOfMessage())
        return connection, request

    def feed(self, data: bytes) -> Response | None:
        """Add `data`, and return the response once it is complete and valid, else None.

        Raises:
            HandshakeRejectedError: the server responded with a status other than 101; its body is complete,
                or has reached 64 KiB.
            ConnectionFailedError: the response is not HTTP, or violates RFC 6455 section 4.1.
        """
        if self._rejection is None:
            event = self._next_answer(data)
            if event is None:
                return None
            if isinstance(event, h11.InformationalResponse):
                self.trailing = self._heads.take_rest()
                return self._check_answer(event)
            self._rejection = event.status_code, _decode_headers(event)
            data = self._heads.take_rest()
        self._read_body(data, self._rejection)
        return None

    @property
    def rejected(self) -> bool:
        """Whether the server has responded with another status than 101, and more of its body may arrive."""
        return self._rejection is not None

    def eof(self) -> NoReturn:
        """Handle the end of the stream before the handshake was complete, or a timeout.

        Raises:
            HandshakeRejectedError: a refusal had arrived, with its body so far.
            ConnectionFailedError: otherwise.
        """
        if self._rejection is not None:
            self._reject(self._rejection)
        if self._heads:
            raise ConnectionFailedError(
                "the server closed the connection in the middle of its handshake response"
            )
        raise ConnectionFailedError(
            "the server closed the connection without a handshake response; if it expects TLS, use wss://"
        )

    def _next_answer(self, data: bytes) -> h11.InformationalResponse | h11.Response | None:
        """Return the next final response: any 1xx except 101 is skipped (RFC 9110 section 15.2)."""
        while True:
            try:
                head = self._heads.feed(data)
            except HeadTooLongError:
                raise ConnectionFailedError(
                    f"the head of the server's response exceeds max_header_bytes={self._max_header_bytes}"
                ) from None
            except GarbageError:
                tls = self._heads.take_rest()[:2] in (b"\x15\x03", b"\x16\x03")
                raise ConnectionFailedError(
                    "the server does not speak HTTP/1.1 but TLS; use wss://"
                    if tls
                    else "the server does not speak HTTP/1.1"
                ) from None
            if head is None:
                return None
            try:
                event = self._parse(head)
            except h11.RemoteProtocolError as exc:
                raise ConnectionFailedError("the server's response is malformed HTTP") from exc
            if isinstance(event, h11.Response) or event.status_code == 101:
                return event
            data = b""

    def _parse(self, head: bytes) -> h11.InformationalResponse | h11.Response:
        """Parse one head. If a refusal contradicts itself about its body, the end of the stream ends it."""
        try:
            self._h11.receive_data(head)
            # A complete head results in one of these or an error.
            return cast("h11.InformationalResponse | h11.Response", self._h11.next_event())
        except h11.RemoteProtocolError:
            if _final_status(head) is None:
                raise
            self._h11 = self._begin_parsing()[0]
            self._h11.receive_data(_framing_lines.sub(b"", head))
            return cast("h11.Response", self._h11.next_event())

    def _check_answer(self, event: h11.InformationalResponse) -> Response:
        headers = _decode_headers(event)
        if event.http_version != b"1.1":
            raise _bad_answer("it is not HTTP/1.1")
        if _lowered(_header_list(headers, "Upgrade")) != ["websocket"]:
            raise _bad_answer("its Upgrade header is not websocket")
        if "upgrade" not in _lowered(_header_list(headers, "Connection")):
            raise _bad_answer("its Connection header does not contain Upgrade")
        if headers.get_all("Sec-WebSocket-Accept") != [generate_accept_token(self._key).decode("ascii")]:
            raise _bad_answer("its Sec-WebSocket-Accept does not match our key")
        chosen = headers.get_all("Sec-WebSocket-Protocol")
        if len(chosen) > 1 or not set(chosen).issubset(self._subprotocols):
            raise _bad_answer("it selects a subprotocol that we did not offer")
        # An empty header accepts no extension.
        extensions = ", ".join(filter(None, headers.get_all("Sec-WebSocket-Extensions"))) or None
        if not self._extensions.issuperset(_extension_names(extensions or "")):
            raise _bad_answer("it uses an extension that we did not offer")
        return Response(101, headers, chosen[0] if chosen else None, extensions)

    def _read_body(self, data: bytes, rejection: tuple[int, Headers]) -> None:
        if data:
            self._h11.receive_data(data)
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                # The status is more informative than the broken framing after it.
                self._reject(rejection, exc)
            if isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) >= MAX_REJECTION_BYTES:
                    self._reject(rejection)
            elif isinstance(event, h11.EndOfMessage):
                self._reject(rejection)
            else:
                return

    def _reject(self, rejection: tuple[int, Headers], cause: Exception | None = None) -> NoReturn:
        status, headers = rejection
        raise HandshakeRejectedError(status, headers, bytes(self._body[:MAX_REJECTION_BYTES])) from cause


# ---- Both ----------------------------------------------------------------------------------------------


def _lowered(items: Iterable[str]) -> list[str]:
    return [item.lower() for item in items]


def _header_list(headers: Headers, name: str) -> list[str]:
    return comma_list(value.encode("latin-1") for value in headers.get_all(name))


def _decode_headers(event: h11.Response | h11.InformationalResponse) -> Headers:
    items = event.headers.raw_items()
    return Headers((name.decode("ascii"), value.decode("latin-1")) for name, value in items)


def _normal_origin(origin: str) -> str:
    match = _origin(origin)
    if match is None:
        return origin
    scheme, host, port = match.groups()
    return f"{scheme}://{host}:{port or _DEFAULT_PORTS.get(scheme, '')}"


def _extension_names(value: str) -> set[str]:
    return {element.partition(";")[0].strip(" \t").lower() for element in value.split(",")} - {""}


def check_subprotocols(subprotocols: Sequence[str]) -> list[str]:
    """Validate subprotocols to offer or to support.

    Raises:
        TypeError, ValueError: they are not a sequence of different tokens; the message says how to fix it.
    """
    if isinstance(subprotocols, str):
        raise TypeError(f"subprotocols must be a sequence of str; use subprotocols=[{subprotocols!r}]")
    names = list(subprotocols)
    for name in names:
        require_str("a subprotocol", name)
        if not is_token(name):
            raise ValueError(f"{name!r} is not a subprotocol name; use letters, digits, dots and hyphens")
    if len(set(names)) != len(names):
        raise ValueError("a subprotocol is repeated; list each once (RFC 6455 section 4.1)")
    return names


def _bad_answer(why: str) -> ConnectionFailedError:
    return ConnectionFailedError(f"the server's 101 is not a valid WebSocket handshake: {why}")
