"""Both sides of the opening handshake as plain functions and objects (RFC 6455 section 4).

The server's side is a row of functions over a `Request`: `check_upgrade`, `origin_allowed`, the offers, then
`accept_response` or `http_response`. The client's side is `ClientHandshake`: it makes the request, is fed the
answer, and gives a `Response` or raises.

What always holds here:

- A handshake is taken only if every rule that RFC 6455 lays on the other side is kept; a doubt is a refusal.
- Nothing is accepted that the client did not offer, neither by us as server nor by us as client.
- Only `HTTPError` (server) and the errors of `trio_ws.errors` (client) tell of a bad peer. ValueError and
  TypeError tell of a bad argument, with the fix in the message.
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
    "check_subprotocols",
    "check_upgrade",
    "http_response",
    "offered_extensions",
    "offered_subprotocols",
    "origin_allowed",
]

MAX_REJECTION_BYTES = 64 * 1024

# 16 bytes in base64. The four spare bits of the last digit are not looked at: RFC 4648 section 3.5 leaves
# that free, and there are clients that take 22 random digits for a key.
_is_key = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch
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
    """Check that `request` is a WebSocket handshake that may be accepted (RFC 6455 section 4.2.1).

    Raises:
        HTTPError: 405 for a method other than GET, 426 for no upgrade or another version of the protocol,
            400 for everything else that the RFC demands.
    """
    if not _is_plain_upgrade(request):
        check_rules(request)


def check_rules(request: Request) -> None:
    """The rules of `check_upgrade`, one by one."""
    fields = request.fields()
    nothing: list[bytes] = []
    if request.method != "GET":
        raise HTTPError(405, "only GET is served here", [("Allow", "GET")])
    if "websocket" not in _lowered(comma_list(fields.get(b"upgrade", nothing))):
        raise HTTPError(
            426,
            "only WebSocket connections are served here",
            [("Upgrade", "websocket"), ("Connection", "Upgrade")],
        )
    if request.http_version == "1.0":
        raise HTTPError(400, "a WebSocket handshake needs HTTP/1.1")
    if "upgrade" not in _lowered(comma_list(fields.get(b"connection", nothing))):
        raise HTTPError(400, "the Connection header does not say Upgrade")
    if not request.host:
        raise HTTPError(400, "the Host header is missing or empty")
    if fields.get(b"sec-websocket-version", nothing) != [b"13"]:
        raise HTTPError(
            426,
            "only version 13 of the WebSocket protocol is spoken here",
            [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")],
        )
    keys = fields.get(b"sec-websocket-key", nothing)
    if len(keys) != 1 or _is_key(keys[0]) is None:
        raise HTTPError(400, "Sec-WebSocket-Key must be there once, with 16 bytes in base64")
    lengths = fields.get(b"content-length", nothing)
    if fields.get(b"transfer-encoding", nothing) or any(length.strip(b"0") for length in lengths):
        # What a proxy in front of us took for a body, or did not, must not become frames.
        raise HTTPError(400, "a WebSocket handshake has no body")


# The fast lane: a few searches, where the rules one by one take eight times as long. It only ever lets in,
# and only what is written as nearly all clients write it, so the rules remain the judge of everything else;
# a test holds that nothing is let in here that would be refused there.
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


def offered_subprotocols(request: Request) -> list[str]:
    """The subprotocols that the client offers, in its order of preference (RFC 6455 section 4.2.2).

    What is no token or comes twice is left out, so that no answer can repeat it.
    """
    offers = dict.fromkeys(comma_list(request.raw_values(b"sec-websocket-protocol")))
    return [offer for offer in offers if is_token(offer)]


def offered_extensions(request: Request) -> list[str]:
    """The values of ``Sec-WebSocket-Extensions`` as they came, one for each header line."""
    return [value.decode("latin-1") for value in request.raw_values(b"sec-websocket-extensions")]


def origin_allowed(request: Request, origins: Sequence[str] | None) -> bool:
    """Whether the page that `request` comes from may connect (RFC 6455 section 10.2).

    Args:
        request: the handshake.
        origins: as in `trio_ws.Options`: the origins let in, ``"*"`` for all, None for the pages of the host
            that is asked, whatever their port. Case and a scheme's default port make no difference.

    Returns:
        True also for a request without ``Origin``, which comes from no browser. False for two of them, and
        for one that is no origin, such as ``null``, unless `origins` names it.
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
    """The 101 that accepts a handshake (RFC 6455 section 4.2.2).

    Args:
        request: the handshake; it has passed `check_upgrade`.
        subprotocol: one of `offered_subprotocols`, or None.
        extensions: the value of ``Sec-WebSocket-Extensions``, or None.
        headers: more headers, such as cookies.

    Raises:
        TypeError, ValueError: a subprotocol that was not offered, or a header that cannot be sent; the
            message says which.
    """
    key = request.raw_values(b"sec-websocket-key")[0]
    parts = [_ACCEPTED, generate_accept_token(key), b"\r\n"]
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
    """The 101 with which a server accepted our handshake, checked.

    Attributes:
        status: 101.
        headers: every header in order, duplicates kept.
        subprotocol: the one that the server chose, or None.
        extensions: the whole of ``Sec-WebSocket-Extensions`` as it came, or None. Each extension in it was
            offered; whether its parameters are right is for the extension to say.
    """

    status: int
    headers: Headers
    subprotocol: str | None
    extensions: str | None


class ClientHandshake:
    """The client's side of one opening handshake (RFC 6455 section 4.1). Spent once it is answered.

    Args:
        host_header: the value of ``Host``: the server's name, with its port unless that is the default.
        target: path and query, such as ``"/rooms/7?x=1"``, percent-encoded.
        subprotocols: those offered, best first.
        extensions: the value of ``Sec-WebSocket-Extensions`` offered, or None.
        headers: more headers.
        max_header_bytes: bytes of the answer's head, any 1xx before it included.

    Raises:
        TypeError, ValueError: an argument that cannot be sent; the message says which.

    Attributes:
        request: the bytes to send.
        trailing: what came behind the answer: the server's first frames.
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
            raise ValueError(f"{target!r} is no request target; start it with / and percent-encode the rest")
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
        # h11 has to know the request to judge the answer, so it may as well write it.
        connection = h11.Connection(h11.CLIENT)
        request = connection.send(self._sent) or b""
        connection.send(h11.EndOfMessage())
        return connection, request

    def feed(self, data: bytes) -> Response | None:
        """Add `data` and return the answer once it is there and right, else None.

        Raises:
            HandshakeRejectedError: the server answered with another status than 101; its body is complete,
                or has reached 64 KiB.
            ConnectionFailedError: the answer is no HTTP, or breaks a rule of RFC 6455 section 4.1.
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
        """Whether the server has answered with another status than 101, of whose body more may come."""
        return self._rejection is not None

    def eof(self) -> NoReturn:
        """Tell that the stream ended before the handshake was done, or that no more of it is waited for.

        Raises:
            HandshakeRejectedError: a refusal had come, with the body so far.
            ConnectionFailedError: otherwise.
        """
        if self._rejection is not None:
            self._reject(self._rejection)
        if self._heads:
            raise ConnectionFailedError(
                "the server closed the connection in the middle of its handshake answer"
            )
        raise ConnectionFailedError("the server closed the connection without answering the handshake")

    def _next_answer(self, data: bytes) -> h11.InformationalResponse | h11.Response | None:
        """The next answer that counts: any 1xx but 101 is skipped (RFC 9110 section 15.2)."""
        while True:
            try:
                head = self._heads.feed(data)
            except HeadTooLongError:
                raise ConnectionFailedError(
                    f"the head of the server's answer is over max_header_bytes={self._max_header_bytes}"
                ) from None
            except GarbageError:
                raise ConnectionFailedError("the server does not answer in HTTP/1.1") from None
            if head is None:
                return None
            try:
                event = self._parse(head)
            except h11.RemoteProtocolError as exc:
                raise ConnectionFailedError("the server's answer is malformed HTTP") from exc
            if isinstance(event, h11.Response) or event.status_code == 101:
                return event
            data = b""

    def _parse(self, head: bytes) -> h11.InformationalResponse | h11.Response:
        """Parse one head. Where a refusal contradicts itself about its body, the stream's end ends it."""
        try:
            self._h11.receive_data(head)
            # A whole head gives one of these or an error.
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
            raise _bad_answer("its Connection header does not say Upgrade")
        if headers.get_all("Sec-WebSocket-Accept") != [generate_accept_token(self._key).decode("ascii")]:
            raise _bad_answer("its Sec-WebSocket-Accept does not fit our key")
        chosen = headers.get_all("Sec-WebSocket-Protocol")
        if len(chosen) > 1 or not set(chosen).issubset(self._subprotocols):
            raise _bad_answer("it chooses a subprotocol that we did not offer")
        # An empty header accepts nothing.
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
                # The status tells more than the broken framing of what follows it.
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
    """Check names that are to be offered or spoken.

    Raises:
        TypeError, ValueError: they are no sequence of different tokens; the message says what to mend.
    """
    if isinstance(subprotocols, str):
        raise TypeError(f"subprotocols is a sequence of str; write subprotocols=[{subprotocols!r}]")
    names = list(subprotocols)
    for name in names:
        require_str("a subprotocol", name)
        if not is_token(name):
            raise ValueError(f"{name!r} is no subprotocol name; use letters, digits, dots and hyphens")
    if len(set(names)) != len(names):
        raise ValueError("a subprotocol is offered twice; name each once (RFC 6455 section 4.1)")
    return names


def _bad_answer(why: str) -> ConnectionFailedError:
    return ConnectionFailedError(f"the server's 101 is no WebSocket handshake: {why}")
