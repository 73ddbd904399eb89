"""HTTP/1.1 requests, headers and plain responses, as far as an opening handshake needs them.

Invariants:

- A `Request` stores its head as one bytes object, or shares all but its key with others. Lists and dicts are
  made on demand and not stored, because a request lives as long as its connection.
- Text from the peer is decoded as ISO-8859-1, which cannot fail and loses nothing (RFC 9110 section 5.5).
- No header with a CR, LF or NUL is ever sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast, overload
from urllib.parse import parse_qs, unquote

from trio_ws._types import ANY_VALUE
from trio_ws.decoding import decode_json
from trio_ws.logs import shown

if TYPE_CHECKING:
    from trio_ws._types import JSONObject, PathParameters, SocketAddress, Value
    from trio_ws.decoding import JSONAdapter
    from trio_ws.protocol.tls import TLSInfo

__all__ = [
    "TOKEN",
    "Forwarded",
    "HTTPError",
    "Headers",
    "Request",
    "comma_list",
    "encode_headers",
    "http_response",
    "is_token",
    "require_str",
]

T = TypeVar("T")

TOKEN = r"[-!#$%&'*+.^_`|~0-9A-Za-z]"  # one character of a token, RFC 9110 section 5.6.2
_is_token = re.compile(TOKEN + "+").fullmatch
_is_value = re.compile(r"[\t -~\x80-\xff]*").fullmatch
_absolute_form = re.compile(r"[A-Za-z][-+.0-9A-Za-z]*://([^/?]*)(.*)", re.DOTALL).fullmatch
_FRAMING = frozenset({"content-length", "transfer-encoding"})


class HTTPError(Exception):
    """The response to a request that a server refuses. Internal: it never reaches a user.

    Attributes:
        status: the HTTP status code.
        headers: the headers of the response; `http_response` adds the framing.
        body: the reason as plain text.
        reason: one line for the log, without any text of the peer.
        logged: whether it was already logged, with the option that caused it.
    """

    def __init__(
        self, status: int, reason: str, headers: Sequence[tuple[str, str]] = (), *, logged: bool = False
    ) -> None:
        super().__init__(f"{status}: {reason}")
        self.logged = logged
        self.status = status
        self.reason = reason
        self.headers: list[tuple[str, str]] = [("Content-Type", "text/plain; charset=utf-8"), *headers]
        self.body = f"{reason}\n".encode()


class Headers:
    """Immutable header fields. Order, duplicates and the case of names are preserved.

    ``headers["name"]`` is the first value of that name, and ``"name" in headers`` tests for a name. Names are
    looked up case-insensitively (RFC 9110 section 5.1). Iterating yields pairs of name and value.
    """

    # Not a subclass of Sequence: type checkers would accept only pairs on the left of `in`.

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = tuple(items)

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of the header ``name``, or ``default``."""
        wanted = name.lower()
        for key, value in self._items:
            if key.lower() == wanted:
                return value
        return default

    def get_all(self, name: str) -> list[str]:
        """Return every value of the header ``name``, in order; empty if there is none."""
        wanted = name.lower()
        return [value for key, value in self._items if key.lower() == wanted]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    @overload
    def __getitem__(self, index: str) -> str: ...
    @overload
    def __getitem__(self, index: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, index: slice) -> Headers: ...
    def __getitem__(self, index: str | int | slice) -> str | tuple[str, str] | Headers:
        if isinstance(index, str):
            value = self.get(index)
            if value is None:
                raise KeyError(index)
            return value
        if isinstance(index, slice):
            return Headers(self._items[index])
        return self._items[index]

    def keys(self) -> list[str]:
        """The names in order, each once, in the case of its first field."""
        return list({name.lower(): name for name, _ in reversed(self._items)}.values())[::-1]

    def values(self) -> list[str]:
        """All values in order."""
        return [value for _, value in self._items]

    def items(self) -> list[tuple[str, str]]:
        """The fields in order, each a name and a value; the same as iterating."""
        return list(self._items)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Headers) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"Headers({shown(repr(list(self._items)), 2000)})"


class Forwarded(NamedTuple):
    """The origin of a request according to trusted proxies. Internal.

    Attributes:
        address: the client's socket address.
        scheme: "http" or "https", as used by the client; None to use that of our connection.
        host: the host that the client requested; None to use that of the request.
    """

    address: SocketAddress
    scheme: str | None = None
    host: str | None = None


class Request:
    """One HTTP request.

    Attributes:
        body: the body, complete when a handler gets it; empty for a WebSocket handshake.
        client_address: the client's socket address: a tuple of host and port for TCP. Behind a proxy in
            `Options.trusted_proxies`, the address that the proxy reports, with port 0 if it reports none.
            None if the connection has no address.
        tls: properties of the connection's TLS, or None. Behind a proxy, of the connection to the proxy.
    """

    __slots__ = (
        "_forwarded",
        "_head",
        "_json",
        "_path_params",
        "_shared",
        "body",
        "client_address",
        "tls",
    )

    def __init__(self, head: bytes, body: bytes = b"", path_params: JSONObject | None = None) -> None:
        # One of the parsers has validated the head: a request line, then one CRLF-ended line per header,
        # unfolded, then an empty line.
        self._head = head  # or only the key, see `with_shared_head`
        self._shared: SharedHead | None = None
        self.body = body
        self._path_params = path_params
        self._forwarded: Forwarded | None = None
        self._json: JSONAdapter | None = None  # of the App
        self.client_address: SocketAddress = None
        self.tls: TLSInfo | None = None

    @property
    def path_params(self) -> JSONObject:
        """The path parameters of the route of an `App`; empty without one."""
        if self._path_params is None:
            self._path_params = {}
        return self._path_params

    @property
    def params(self) -> JSONObject:
        """Alias of `path_params`."""
        return self.path_params

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name (RFC 6265 section 4.2), without quotes around values. A new dict.

        If a name is repeated, the first one counts, which browsers send for the longest path.
        """
        cookies: dict[str, str] = {}
        for value in self.raw_values(b"cookie"):
            for pair in value.decode("latin-1").split(";"):
                name, equals, text = pair.partition("=")
                text = text.strip(" \t")
                if len(text) >= 2 and text[0] == text[-1] == '"':
                    text = text[1:-1]
                if equals:
                    cookies.setdefault(name.strip(" \t"), text)
        return cookies

    @overload
    def json(self) -> Value: ...
    @overload
    def json(self, type: type[T]) -> T: ...
    def json(self, type: object = ANY_VALUE) -> Value:
        """Decode the body as JSON, and validate it against ``type`` with msgspec.

        Raises:
            MessageError: the body is not JSON, or not of that type; the message contains the path to the bad
                value. If it escapes from an HTTP handler of an `App`, the client gets it with status 400.
        """
        return decode_json("body", self.body, type, self, self._json)

    @property
    def head(self) -> bytes:
        """The request line and the headers unchanged, with the empty line that ends them."""
        if self._shared is None:
            return self._head
        return self._head.join((self._shared.before, self._shared.after))

    def _request_line(self) -> list[str]:
        head = self.head
        return head[: head.index(b"\r\n")].decode("ascii").split(" ")

    @property
    def method(self) -> str:
        """The method, such as ``"GET"``, in its original case."""
        return self._request_line()[0]

    @property
    def target(self) -> str:
        """The unchanged request target (RFC 9112 section 3.2)."""
        return self._request_line()[1]

    @property
    def http_version(self) -> str:
        """The HTTP version, ``"1.1"`` or ``"1.0"``."""
        return self._request_line()[2][5:]

    @property
    def path(self) -> str:
        """The path of the target, percent-decoded as UTF-8; invalid bytes become U+FFFD.

        ``%2F`` becomes ``/`` like any other escape. Use `target` if the difference matters.
        """
        if self._shared is not None:
            return self._shared.path
        return unquote(self._path_and_query().partition("?")[0])

    @property
    def query_string(self) -> str:
        """The part of the target after the first ``?``, not decoded; empty if there is none."""
        return self._path_and_query().partition("?")[2]

    @property
    def query_params(self) -> dict[str, list[str]]:
        """The query, decoded as a form: each name with all its values, including empty ones. A new dict."""
        return parse_qs(self.query_string, keep_blank_values=True)

    @property
    def host(self) -> str:
        """The requested authority, with its port if there is one; empty if the client names none.

        It is taken from a target in absolute form, or from the ``Host`` header (RFC 9112 section 3.2.2).
        Behind a proxy in `Options.trusted_proxies`, it is the one that the client requested.
        """
        if self._forwarded is not None and self._forwarded.host is not None:
            return self._forwarded.host
        head = self.head
        if not head.startswith(b"/", head.index(b" ") + 1):  # the target, after the method
            absolute = _absolute_form(self.target)
            if absolute:
                return absolute[1]
        values = self.raw_values(b"host")
        return values[0].decode("latin-1") if values else ""

    @property
    def scheme(self) -> str:
        """``"https"`` if the client used TLS, else ``"http"``, also for a WebSocket's opening request.

        Behind a proxy in `Options.trusted_proxies`, it is the scheme between the client and the proxy.
        """
        if self._forwarded is not None and self._forwarded.scheme is not None:
            return self._forwarded.scheme
        return "http" if self.tls is None else "https"

    @property
    def headers(self) -> Headers:
        """Every header in order, duplicates included. Parsed on each access."""
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        fields = (line.partition(":") for line in lines)
        return Headers((name, value.strip(" \t")) for name, _, value in fields)

    def header(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of the header ``name``, case-insensitively, or ``default``."""
        return self.headers.get(name, default)

    def fields(self) -> dict[bytes, list[bytes]]:
        """Return the values of all headers by name in lower case. A new dict."""
        fields: dict[bytes, list[bytes]] = {}
        for line in self.head.split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b":")
            fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
        return fields

    def raw_values(self, name: bytes) -> list[bytes]:
        """Return every value of one header, without parsing the others; ``name`` is a token in lower case."""
        head = self.head
        lowered = head.lower()
        needle = b"\r\n" + name + b":"
        values: list[bytes] = []
        at = lowered.find(needle)
        while at != -1:
            start = at + len(needle)
            at = head.index(b"\r\n", start)
            values.append(head[start:at].strip(b" \t"))
            at = lowered.find(needle, at)
        return values

    def _path_and_query(self) -> str:
        target = self.target
        absolute = None if target.startswith("/") else _absolute_form(target)
        if absolute is None:
            return target
        rest = absolute[2]
        return rest if rest.startswith("/") else "/" + rest

    def __repr__(self) -> str:
        # Headers contain secrets, and a repr ends up in logs.
        return f"<Request {shown(self.method, 20)} '{shown(self.target)}' HTTP/{self.http_version}>"


def is_token(text: str) -> bool:
    """Whether `text` is a token (RFC 9110 section 5.6.2), as a header name or a subprotocol must be."""
    return _is_token(text) is not None


def require_str(what: str, value: object) -> None:
    """Raise a TypeError that mentions `what`, unless `value` is a str."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")


def comma_list(values: Iterable[bytes]) -> list[str]:
    """Split a comma-separated header over all its values, without empty elements (RFC 9110 5.6.1)."""
    pieces = b",".join(values).decode("latin-1").split(",")
    return [piece for piece in (raw.strip(" \t") for raw in pieces) if piece]


def encode_headers(
    headers: Iterable[tuple[str, str]], reserved: frozenset[str] = frozenset()
) -> list[tuple[bytes, bytes]]:
    """Validate and encode outgoing headers.

    Args:
        headers: pairs of name and value.
        reserved: names in lower case that are not allowed.

    Raises:
        TypeError: a name or a value is not a str.
        ValueError: a name is not a token, or is reserved, or a value contains a control character or one
            beyond ISO-8859-1; the message names the header.
    """
    if isinstance(headers, Mapping):
        raise TypeError("headers must be pairs of name and value; use headers=list(headers.items())")
    encoded: list[tuple[bytes, bytes]] = []
    for pair in cast("Iterable[object]", headers):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                "headers must be pairs of name and value, such as ('X-Name', 'value'), not"
                f" {type(pair).__name__}s"
            )
        name, value = pair
        require_str("the name of a header", name)
        require_str(f"the value of the header {name}", value)
        if _is_token(name) is None:
            raise ValueError(f"{name!r} is not a header name; use letters, digits and hyphens")
        if name.lower() in reserved:
            raise ValueError(f"the header {name} is set by trio_ws; omit it")
        if _is_value(value) is None:
            raise ValueError(
                f"the value of the header {name} contains a control character or one beyond ISO-8859-1;"
                " percent-encode it"
            )
        encoded.append((name.encode("ascii"), value.strip(" \t").encode("latin-1")))
    return encoded


def http_response(
    status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"", *, head_only: bool = False
) -> bytes:
    """Build a complete HTTP/1.1 response that ends the connection, with its ``Content-Length``.

    Args:
        status: 200 to 599.
        headers: additional headers. Their ``Connection`` options are kept in addition to ours.
        body: the content; not allowed with 204 and 304 (RFC 9110 section 6.4.1).
        head_only: omit the body but send its length, as the response to HEAD.

    Raises:
        TypeError, ValueError: an argument cannot be sent; the message says which.
    """
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is not a final HTTP status; use one in 200..599")
    bodyless = status in (204, 304)
    if bodyless and body:
        raise ValueError(f"a response with status {status} cannot have a body; omit it or use 200")
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode("ascii"))]
    lines += [b"%s: %s\r\n" % item for item in encode_headers(headers, _FRAMING)]
    if not bodyless:
        lines.append(b"Content-Length: %d\r\n" % len(body))
    lines.append(b"Connection: close\r\n\r\n")
    if not head_only:
        lines.append(body)
    return b"".join(lines)


# -- for servers: properties of a request that are not in its bytes ------------------------------------------


def routed(request: Request, path_params: PathParameters, json: JSONAdapter | None = None) -> None:
    """Store the route of a request.

    Args:
        request: the request.
        path_params: the path parameters.
        json: decodes the body, in place of msgspec.
    """
    request._path_params = path_params or None  # most routes have none
    request._json = json


class SharedHead(NamedTuple):
    """The common part of requests that differ only in the value of ``Sec-WebSocket-Key``.

    Attributes:
        before: the part of their heads before that value.
        after: the part after it.
        path: their path.
    """

    before: bytes
    after: bytes
    path: str


def with_shared_head(head: bytes, shared: SharedHead) -> Request:
    """Return a request that keeps only its key, and the rest once for all requests with the same."""
    request = Request(head[len(shared.before) : -len(shared.after)])
    request._shared = shared
    return request


def key_of(request: Request) -> bytes:
    """Return the value of ``Sec-WebSocket-Key`` of a handshake."""
    return request.raw_values(b"sec-websocket-key")[0] if request._shared is None else request._head


def forwarded_as(request: Request, forwarded: Forwarded) -> None:
    """Store the address and scheme that a trusted proxy, or the host of an ASGI application, reported."""
    request._forwarded = forwarded


def is_forwarded(request: Request) -> bool:
    """Whether `forwarded_as` was called for a request."""
    return request._forwarded is not None


def adapter_of(request: Request) -> JSONAdapter | None:
    """Return the JSON library of the App that a request was routed by, if it has one."""
    return request._json
