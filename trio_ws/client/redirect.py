"""Redirects: where a refused handshake leads, and which headers may be sent there.

Invariants: a redirect never leads from ``wss`` to ``ws``. Credentials for one scheme, host and port are sent
to no other, and not back again either (RFC 9110 section 15.4).
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
# Bytes beyond ASCII have no meaning in a header, so they are percent-encoded; the rest stays unchanged.
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


def redirect_location(rejected: HandshakeRejectedError) -> str | None:
    """Return the ``Location`` of a redirect; None if there is none, or more than one."""
    locations = rejected.headers.get_all("Location")
    if rejected.status not in _STATUSES or len(locations) != 1:
        return None
    return quote(locations[0].encode("latin-1"), safe=_ASCII)


def resolve_redirect(uri: WebSocketURI, location: str) -> WebSocketURI:
    """Return the URI that a server at ``uri`` redirects to. ``http`` and ``https`` mean ``ws`` and ``wss``.

    A fragment is dropped, since it applies to documents (RFC 9110 section 10.2.2).

    Raises:
        ConnectionFailedError: it is not a WebSocket URI, or leads from ``wss`` to ``ws``.
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
            f"{uri} redirects to an invalid WebSocket URI: {shown(str(exc), 200)}"
        ) from exc
    except ValueError:
        where = shown(masked(location))
        raise ConnectionFailedError(f"{uri} redirects to '{where}', which is not a URI") from None
    if uri.secure and not new.secure:
        raise ConnectionFailedError(
            f"{uri} redirects to {shown(str(new))}, which is not followed from wss:// to ws://"
        )
    return new


def without_credentials(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers that may also be sent to another server."""
    return [(name, value) for name, value in headers if name.lower() not in _CREDENTIALS]
