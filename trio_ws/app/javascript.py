"""Serve the JavaScript client to pages.

It is the file ``static/trio-ws.js`` of this package, which is also the npm package of ``clients/js``.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
from typing import TYPE_CHECKING

from trio_ws.server.http import HTTPResponse

if TYPE_CHECKING:
    from trio_ws.protocol.http import Request

__all__ = ["ClientModule"]


class ClientModule:
    """Answers requests for the module, whose file is read once, when this object is created.

    Browsers may cache the response while its ``ETag`` is valid, and pages of other origins may import it.
    """

    def __init__(self) -> None:
        self._plain = importlib.resources.files("trio_ws").joinpath("static", "trio-ws.js").read_bytes()
        self._gzipped = gzip.compress(self._plain, 9, mtime=0)
        self._etag = f'"{hashlib.sha256(self._plain).hexdigest()[:32]}"'

    async def answer(self, request: Request) -> HTTPResponse:
        """Return the module, gzipped if the request accepts that; 304 if the client has this version."""
        headers = {
            "ETag": self._etag,
            "Cache-Control": "no-cache",  # may be stored, but must be revalidated before each use
            "Vary": "Accept-Encoding",
            "Access-Control-Allow-Origin": "*",
        }
        if self._etag in _members(request.headers.get("If-None-Match")):
            return HTTPResponse(304, headers)
        headers |= {"Content-Type": "text/javascript; charset=utf-8", "X-Content-Type-Options": "nosniff"}
        if "gzip" in _members(request.headers.get("Accept-Encoding")):
            return HTTPResponse(200, headers | {"Content-Encoding": "gzip"}, self._gzipped)
        return HTTPResponse(200, headers, self._plain)


def _members(value: str | None) -> list[str]:
    """Split a comma-separated header. The ``W/`` of weak ETags is removed; parameters are kept."""
    return [one.strip().removeprefix("W/") for one in (value or "").split(",")]
