"""What is known of a connection's TLS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["TLSInfo"]


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What is known of a connection's TLS: ``ws.tls``, ``request.tls``.

    Attributes:
        version: the protocol's version, such as ``"TLSv1.3"``.
        cipher: the name of the cipher suite, such as ``"TLS_AES_256_GCM_SHA384"``.
        peer_certificate: the certificate that the peer showed and that was checked, as the dict that
            ``getpeercert`` of `ssl.SSLSocket` gives (``subject``, ``subjectAltName``, ...). On a server it is
            that of the client, where the context asks for one (mutual TLS). None where the peer showed none,
            or the context does not check it.
        server_name: the name that the client asked for (SNI, RFC 6066 section 3); None where it named none,
            or where it went to a ``sni_callback`` of your own, or to a listener that does TLS itself.
    """

    version: str
    cipher: str
    peer_certificate: dict[str, Any] | None
    server_name: str | None
