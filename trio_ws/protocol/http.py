"""HTTP/1.1 requests, headers and plain answers: what of HTTP an opening handshake stands on.

What always holds here:

- A `Request` keeps its head as one bytes object. Lists and dicts are made when asked for and not kept,
  because a request lives as long as its connection.
- Text from the peer is decoded as ISO-8859-1, which cannot fail and loses nothing (RFC 9110 section 5.5).
- Nothing goes out that has a CR, LF or NUL inside a header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload
from urllib.parse import parse_qs, unquote

from trio_ws.decoding import decode_json
from trio_ws.logs import shown

if TYPE_CHECKING:
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
    """What a server answers to a request that it does not take. Internal: it never reaches a user.

    Attributes:
        status: the HTTP status code.
        headers: the headers of the answer; `http_response` adds the framing.
        body: the reason as plain text.
        reason: one line for the log, without any text of the peer's.
        logged: the log has a line about it already, with the option that it depends on.
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
    """Header fields as they came: order, duplicates and case of names kept; immutable.

    ``headers["name"]`` is the first value of that name, and ``"name" in headers`` asks for one. Names are
    looked up without regard to case (RFC 9110 section 5.1). It iterates over its fields, each a name and a
    value.
    """

    # Not a Sequence by inheritance: type checkers would hold that only a pair can be in it.

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = tuple(items)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of the header ``name``, or ``default``."""
        wanted = name.lower()
        for key, value in self._items:
            if key.lower() == wanted:
                return value
        return default

    def get_all(self, name: str) -> list[str]:
        """Every value of the header ``name``, in order; empty where there is none."""
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
        """The names in order, each once, as they came first."""
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
    """Where a request comes from, as far as what is trusted says. Internal.

    Attributes:
        address: of the client, as sockets have it.
        scheme: "http" or "https", as the client spoke it; None for as we see it.
        host: that it asked for; None for as we see it.
    """

    address: Any
    scheme: str | None = None
    host: str | None = None


class Request:
    """One HTTP request.

    Attributes:
        body: the request's body, complete when a handler gets it; empty for a WebSocket handshake.
        client_address: of the client, as sockets have it: a tuple of host and port for TCP. Behind a proxy
            that `Options.trusted_proxies` names it is what that says, with port 0 where it says none. None
            where the connection has no address.
        tls: of the connection, or None without TLS. Behind a proxy it is what the proxy speaks.
    """

    __slots__ = ("_forwarded", "_head", "_json", "_path_params", "body", "client_address", "tls")

    def __init__(self, head: bytes, body: bytes = b"", path_params: dict[str, Any] | None = None) -> None:
        # The head has been checked by one of the lanes: a request line, then one CRLF-ended line for each
        # header, unfolded, then an empty line.
        self._head = head
        self.body = body
        self._path_params = path_params
        self._forwarded: Forwarded | None = None
        self._json: JSONAdapter | None = None  # of the App
        self.client_address: Any = None
        self.tls: TLSInfo | None = None

    @property
    def path_params(self) -> dict[str, Any]:
        """What the route of an `App` took from the path; empty without one."""
        return self._path_params if self._path_params is not None else {}

    @property
    def params(self) -> dict[str, Any]:
        """The same as `path_params`."""
        return self.path_params

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by their names (RFC 6265 section 4.2), without the quotes around a value. A new dict.

        Of several with one name it is the first, which browsers send for the longest path.
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
    def json(self) -> Any: ...
    @overload
    def json(self, type: type[T]) -> T: ...
    def json(self, type: Any = Any) -> Any:
        """The body decoded from JSON, and validated against ``type`` by msgspec.

        Raises:
            MessageError: the body is no JSON, or not of that type; the text has the path to the bad value.
                Where an HTTP handler of an `App` lets it escape, the client gets it with status 400.
        """
        return decode_json("body", self.body, type, self, self._json)

    @property
    def head(self) -> bytes:
        """The request line and the headers as they came, with the empty line that ends them."""
        return self._head

    def _request_line(self) -> list[str]:
        return self._head[: self._head.index(b"\r\n")].decode("ascii").split(" ")

    @property
    def method(self) -> str:
        """The method, such as ``"GET"``, in the case that it came in."""
        return self._request_line()[0]

    @property
    def target(self) -> str:
        """The request target as it came (RFC 9112 section 3.2)."""
        return self._request_line()[1]

    @property
    def http_version(self) -> str:
        """The HTTP version, ``"1.1"`` or ``"1.0"``."""
        return self._request_line()[2][5:]

    @property
    def path(self) -> str:
        """The path of the target, percent-decoded as UTF-8; bytes that are none become U+FFFD.

        ``%2F`` becomes ``/`` like any other escape. Use `target` where the difference matters.
        """
        return unquote(self._path_and_query().partition("?")[0])

    @property
    def query_string(self) -> str:
        """What follows the first ``?`` of the target, not decoded; empty where there is none."""
        return self._path_and_query().partition("?")[2]

    @property
    def query_params(self) -> dict[str, list[str]]:
        """The query decoded as a form: each name with all its values, empty ones kept. A new dict."""
        return parse_qs(self.query_string, keep_blank_values=True)

    @property
    def host(self) -> str:
        """The authority asked for, with its port if there is one; empty where the client names none.

        It is the target's own in absolute form, else that of the ``Host`` header (RFC 9112 section 3.2.2).
        Behind a proxy that `Options.trusted_proxies` names it is the one that the client asked for.
        """
        if self._forwarded is not None and self._forwarded.host is not None:
            return self._forwarded.host
        head = self._head
        if not head.startswith(b"/", head.index(b" ") + 1):  # the target, behind the method
            absolute = _absolute_form(self.target)
            if absolute:
                return absolute[1]
        values = self.raw_values(b"host")
        return values[0].decode("latin-1") if values else ""

    @property
    def scheme(self) -> str:
        """``"https"`` where the client spoke TLS, else ``"http"``; so for a WebSocket's opening request, too.

        Behind a proxy that `Options.trusted_proxies` names it is what the client spoke to that.
        """
        if self._forwarded is not None and self._forwarded.scheme is not None:
            return self._forwarded.scheme
        return "http" if self.tls is None else "https"

    @property
    def headers(self) -> Headers:
        """Every header in order, duplicates kept. Parsed anew each time."""
        lines = self._head.decode("latin-1").split("\r\n")[1:-2]
        fields = (line.partition(":") for line in lines)
        return Headers((name, value.strip(" \t")) for name, _, value in fields)

    def header(self, name: str, default: str | None = None) -> str | None:
        """The first value of the header ``name``, without regard to case, or ``default``."""
        return self.headers.get(name, default)

    def fields(self) -> dict[bytes, list[bytes]]:
        """The values of every header by its name in lower case. A new dict."""
        fields: dict[bytes, list[bytes]] = {}
        for line in self._head.split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b":")
            fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
        return fields

    def raw_values(self, name: bytes) -> list[bytes]:
        """Every value of one header, without parsing the others; ``name`` is a token in lower case."""
        head = self._head
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
        # Headers carry secrets; a repr ends up in logs.
        return f"<Request {shown(self.method, 20)} '{shown(self.target)}' HTTP/{self.http_version}>"


def is_token(text: str) -> bool:
    """Whether `text` is a token of RFC 9110 section 5.6.2: a header name, a subprotocol."""
    return _is_token(text) is not None


def require_str(what: str, value: object) -> None:
    """Raise TypeError, with `what` in it, unless `value` is a str."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is a str, not {type(value).__name__}")


def comma_list(values: Iterable[bytes]) -> list[str]:
    """The elements of a comma-separated header over all its values, without empty ones (RFC 9110 5.6.1)."""
    pieces = b",".join(values).decode("latin-1").split(",")
    return [piece for piece in (raw.strip(" \t") for raw in pieces) if piece]


def encode_headers(
    headers: Iterable[tuple[str, str]], reserved: frozenset[str] = frozenset()
) -> list[tuple[bytes, bytes]]:
    """Check headers that go out and encode them.

    Args:
        headers: pairs of name and value.
        reserved: names in lower case that may not be among them.

    Raises:
        TypeError: a name or a value is no str.
        ValueError: a name is no token, or reserved, or a value has a control character or is beyond
            ISO-8859-1; the message names the header.
    """
    if isinstance(headers, Mapping):
        raise TypeError("headers are pairs of name and value; write headers=list(headers.items())")
    encoded: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        require_str("the name of a header", name)
        require_str(f"the value of the header {name}", value)
        if _is_token(name) is None:
            raise ValueError(f"{name!r} is no header name; use letters, digits and hyphens")
        if name.lower() in reserved:
            raise ValueError(f"the header {name} is set by trio_ws; leave it out")
        if _is_value(value) is None:
            raise ValueError(
                f"the value of the header {name} has a control character or one beyond ISO-8859-1;"
                " percent-encode it"
            )
        encoded.append((name.encode("ascii"), value.strip(" \t").encode("latin-1")))
    return encoded


def http_response(
    status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"", *, head_only: bool = False
) -> bytes:
    """A whole HTTP/1.1 response that ends the connection, with its ``Content-Length``.

    Args:
        status: 200 to 599.
        headers: more headers. ``Connection`` options in them are kept beside ours.
        body: the content; none may go with 204 and 304 (RFC 9110 section 6.4.1).
        head_only: leave the body out but tell its length, as the answer to HEAD.

    Raises:
        TypeError, ValueError: an argument that cannot be sent; the message says which.
    """
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is no final HTTP status; use one in 200..599")
    bodyless = status in (204, 304)
    if bodyless and body:
        raise ValueError(f"a response with status {status} has no body; leave it out or use 200")
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
