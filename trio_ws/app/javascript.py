"""The JavaScript client, as a page gets it.

The package has it as one file, ``static/trio-ws.js``, which is what the npm package of ``clients/js`` holds.
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
    """Answers requests for the module. It is read once, when this is made.

    The answer may be kept for as long as its ``ETag`` holds, and may be imported by pages of other origins.
    """

    def __init__(self) -> None:
        self._plain = importlib.resources.files("trio_ws").joinpath("static", "trio-ws.js").read_bytes()
        self._gzipped = gzip.compress(self._plain, 9, mtime=0)
        self._etag = f'"{hashlib.sha256(self._plain).hexdigest()[:32]}"'

    async def answer(self, request: Request) -> HTTPResponse:
        """The module, gzipped where the request allows it; 304 where the requester has it."""
        headers = {
            "ETag": self._etag,
            "Cache-Control": "no-cache",  # to be kept, and asked for before each use
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
    """The members of a header's list, without their marks of weakness; those with parameters stay whole."""
    return [one.strip().removeprefix("W/") for one in (value or "").split(",")]
