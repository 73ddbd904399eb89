"""Properties of a connection's TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from trio_ws._types import JSONObject

__all__ = ["TLSInfo", "check_context", "lacks_certificate"]


def check_context(context: ssl.SSLContext | None, *, server: bool) -> None:
    """Check that an SSL context is for this side.

    Raises:
        TypeError: ``context`` is not an SSL context.
        ValueError: ``context`` is for the other side.
    """
    if context is None:
        return
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(context).__name__}")
    if context.protocol == (ssl.PROTOCOL_TLS_CLIENT if server else ssl.PROTOCOL_TLS_SERVER):
        ours, purpose = ("clients", "ssl.Purpose.CLIENT_AUTH") if server else ("servers", "")
        raise ValueError(f"ssl_context is one for {ours}; make it by ssl.create_default_context({purpose})")


def lacks_certificate(exc: BaseException) -> bool:
    """Whether a server's handshake has failed as it does where its context has no certificate."""
    cause = exc.__cause__
    return isinstance(cause, ssl.SSLError) and cause.reason == "NO_SUITABLE_SIGNATURE_ALGORITHM"


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """Properties of a connection's TLS: ``ws.tls``, ``request.tls``.

    Attributes:
        version: protocol version, such as ``"TLSv1.3"``.
        cipher: name of the cipher suite, such as ``"TLS_AES_256_GCM_SHA384"``.
        peer_certificate: the verified certificate of the peer, as the dict that ``getpeercert`` of
            `ssl.SSLSocket` returns (``subject``, ``subjectAltName``, ...). On a server it is that of the
            client, if the context requests one (mutual TLS). None if the peer sent none, or the context does
            not verify it.
        server_name: the name that the client requested (SNI, RFC 6066 section 3); None if it requested none,
            or if a ``sni_callback`` of yours or a listener with TLS of its own handled it.
    """

    version: str
    cipher: str
    peer_certificate: JSONObject | None
    server_name: str | None
