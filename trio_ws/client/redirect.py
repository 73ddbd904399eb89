"""Redirects: where a refused handshake sends the client, and what may go there with it.

What always holds: a redirect never leads from ``wss`` to ``ws``, and credentials that were meant for one
scheme, host and port go to no other, nor back again (RFC 9110 section 15.4).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote, urldefrag, urljoin

from trio_ws.client.uri import parse_uri
from trio_ws.errors import ConnectionFailedError, InvalidURIError
from trio_ws.logs import shown
from trio_ws.protocol.urls import masked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ws.client.uri import WebSocketURI
    from trio_ws.errors import HandshakeRejectedError

__all__ = ["redirect_location", "resolve_redirect", "without_credentials"]

_STATUSES = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
# Bytes beyond ASCII have no meaning in a header, so they are escaped as they are; nothing else is touched.
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


def redirect_location(rejected: HandshakeRejectedError) -> str | None:
    """What the ``Location`` of a refusal says; None if it is no redirect, or does not say one thing."""
    locations = rejected.headers.get_all("Location")
    if rejected.status not in _STATUSES or len(locations) != 1:
        return None
    return quote(locations[0].encode("latin-1"), safe=_ASCII)


def resolve_redirect(uri: WebSocketURI, location: str) -> WebSocketURI:
    """The URI that a server at ``uri`` sends us to; ``http`` and ``https`` are read as ``ws`` and ``wss``.

    A fragment is dropped: it is for what shows a document (RFC 9110 section 10.2.2).

    Raises:
        ConnectionFailedError: it names no WebSocket, or leads from ``wss`` to ``ws``.
    """
    base = f"http{'s' if uri.secure else ''}://{uri.host_header}{uri.target}"
    try:
        target = urldefrag(urljoin(base, location)).url
        if target[:4].lower() == "http":
            target = "ws" + target[4:]
        new = parse_uri(target)
        if new.host == uri.host and not new.zone:
            new = replace(new, zone=uri.zone)
    except InvalidURIError as exc:
        # InvalidURIError itself would blame the caller.
        raise ConnectionFailedError(
            f"{uri} redirects to what is no WebSocket: {shown(str(exc), 200)}"
        ) from exc
    except ValueError:
        where = shown(masked(location))
        raise ConnectionFailedError(f"{uri} redirects to '{where}', which is no URI") from None
    if uri.secure and not new.secure:
        raise ConnectionFailedError(
            f"{uri} redirects to {shown(str(new))}, which is not followed from wss:// to ws://"
        )
    return new


def without_credentials(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers that may go to another server too."""
    return [(name, value) for name, value in headers if name.lower() not in _CREDENTIALS]
