"""Responses to plain HTTP requests.

Invariant: a response can be sent as it was made; anything wrong with it is an error when it is made. A
response that was modified later is validated again when it is sent.
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
    """A complete response to a plain HTTP request.

    Args:
        status: 200 to 599.
        headers: pairs of name and value, or a mapping. ``Content-Length`` and ``Connection`` are added, and
            ``Content-Type`` if it is missing.
        body: text, bytes, or an object that msgspec encodes as JSON; None or ``b""`` for no body.

    Raises:
        TypeError: the body or a header has an unsupported type.
        ValueError: the status is out of range, a status without a body has one (204 and 304, RFC 9110
            section 6.4.1), or a header is invalid.

    Attributes:
        status: the status.
        headers: the headers, including ``Content-Type``.
        body: the encoded body.
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
                f"status must be an int, not {type(status).__name__}; use HTTPResponse(status, headers, body)"
            )
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not a final HTTP status; use one in 200..599")
        self.status = status
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        fields = list(cast("Iterable[tuple[str, str]]", pairs))
        encode_headers(fields, _OURS)
        self.body, content_type = _encode(body)
        if self.body and status in (204, 304):
            raise ValueError(f"a response with status {status} cannot have a body; omit it or use 200")
        if self.body and not any(name.lower() == "content-type" for name, _ in fields):
            fields.append(("Content-Type", content_type))
        self.headers = Headers(fields)

    def __repr__(self) -> str:
        return f"<HTTPResponse {self.status} {len(self.body)} bytes>"


def as_response(result: object) -> HTTPResponse:
    """Convert the result of an HTTP handler: None to a 204, everything else to a 200."""
    if isinstance(result, HTTPResponse):
        return result
    return HTTPResponse(204) if result is None else HTTPResponse(body=result)


def encode_response(response: HTTPResponse, *, head_only: bool = False) -> bytes:
    """Encode a response that ends its connection.

    Raises:
        Exception: of any type, if the response was modified so that it cannot be sent.
    """
    body = response.body
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(
            f"the body of a response must be bytes, not {type(body).__name__}; make a new response"
        )
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
        raise TypeError(f"cannot encode a body of type {type(body).__name__} as JSON: {exc}") from exc
