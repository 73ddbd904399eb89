"""A request reader that returns a request only with its body, as a server does for HTTP routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.protocol.http_parser import RequestReader

if TYPE_CHECKING:
    from trio_ws.protocol.http import Request

__all__ = ["WholeRequests"]


class WholeRequests(RequestReader):
    """A `RequestReader` that reads the body of every request."""

    def __init__(self, max_header_bytes: int, max_body_bytes: int) -> None:
        super().__init__(max_header_bytes, max_body_bytes)
        self.request: Request | None = None

    def feed(self, data: bytes) -> Request | None:
        """Add `data` and return the request once it is complete with its body, else None."""
        if self.request is None or self.complete:
            self.request = super().feed(data)
            if self.request is None or self.complete:
                return self.request
            data = self.take_rest()
        body = self.feed_body(data)
        if body is None:
            return None
        self.request.body = body
        return self.request
