"""Plain HTTP beside the upgrade: what a function may answer, and the response that becomes of it.

What always holds: a response can be sent as it was made; what is wrong with it is said there. One that was
changed since is checked again when it is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import cast

import msgspec

from trio_ws.models import encode_model
from trio_ws.protocol.http import Headers, encode_headers, http_response

__all__ = ["HTTPResponse", "as_response", "encode_response"]

_TEXT = "text/plain; charset=utf-8"
_BYTES = "application/octet-stream"
_JSON = "application/json"
_OURS = frozenset({"connection", "content-length", "transfer-encoding"})


class HTTPResponse:
    """A whole response to a plain HTTP request.

    Args:
        status: 200 to 599.
        headers: pairs of name and value, or a mapping. ``Content-Length`` and ``Connection`` are added, and
            ``Content-Type`` where there is none.
        body: text, bytes, or what msgspec encodes as JSON; None or ``b""`` for none.

    Raises:
        TypeError: the body or a header is of no such type.
        ValueError: the status is out of range, has no body and got one (204 and 304, RFC 9110 section 6.4.1),
            or a header is not legal.

    Attributes:
        status: the status.
        headers: the headers, ``Content-Type`` among them.
        body: the body as it is sent.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: object = None,
    ) -> None:
        if isinstance(status, bool) or not isinstance(status, int):
            raise TypeError(
                f"status is an int, not {type(status).__name__}; write HTTPResponse(status, headers, body)"
            )
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is no final HTTP status; use one in 200..599")
        self.status = status
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        fields = list(cast("Iterable[tuple[str, str]]", pairs))
        encode_headers(fields, _OURS)
        self.body, content_type = _encode(body)
        if self.body and status in (204, 304):
            raise ValueError(f"a response with status {status} has no body; leave it out or use 200")
        if self.body and not any(name.lower() == "content-type" for name, _ in fields):
            fields.append(("Content-Type", content_type))
        self.headers = Headers(fields)

    def __repr__(self) -> str:
        return f"<HTTPResponse {self.status} {len(self.body)} bytes>"


def as_response(result: object) -> HTTPResponse:
    """What becomes of the result of an HTTP handler: None is a 204, everything else a 200."""
    if isinstance(result, HTTPResponse):
        return result
    return HTTPResponse(204) if result is None else HTTPResponse(body=result)


def encode_response(response: HTTPResponse, *, head_only: bool = False) -> bytes:
    """The bytes of a response that ends its connection.

    Raises:
        Exception: of any kind, where a response was changed into one that cannot be sent.
    """
    body = response.body
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"the body of a response is bytes, not {type(body).__name__}; make another response")
    headers = list(response.headers)
    if "date" not in response.headers:
        headers.append(("Date", formatdate(usegmt=True)))  # RFC 9110 section 6.6.1
    return http_response(response.status, headers, bytes(body), head_only=head_only)


def _encode(body: object) -> tuple[bytes, str]:
    if body is None:
        return b"", _BYTES
    if isinstance(body, str):
        return body.encode(), _TEXT
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), _BYTES
    try:
        return msgspec.json.encode(body, enc_hook=encode_model), _JSON
    except (TypeError, ValueError, RecursionError) as exc:
        raise TypeError(f"a body of {type(body).__name__} is no text, no bytes and no JSON: {exc}") from exc
