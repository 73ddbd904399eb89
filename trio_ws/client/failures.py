"""Error messages for failed connections: the innermost cause, with advice for the common ones."""

from __future__ import annotations

import ssl
from typing import Literal

from trio_ws.errors import ConnectionFailedError, give_hint
from trio_ws.wall import leaves
from trio_ws.websocket.sockets import text_of_cause

__all__ = ["TLSFailure", "explain", "failed", "tls_failure"]

TLSFailure = Literal[
    "wrong name",
    "wrong time",
    "untrusted",
    "no TLS",
    "early end",
    "wants a certificate",
    "distrusts us",
    "nothing in common",
]

#: The reasons that several versions of OpenSSL report for data that is not TLS.
_NO_TLS = frozenset(
    {
        *("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL"),
        *("RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"),
    }
)


def explain(exc: BaseException) -> str:
    """Return the text of the innermost cause; each reason once if several addresses were tried."""
    cause = exc.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return f"{exc}: {'; '.join(dict.fromkeys(map(str, leaves(cause))))}"
    return text_of_cause(exc)


def failed(what: str, exc: BaseException, where: str) -> ConnectionFailedError:
    """Return the error for a failed connection.

    Args:
        what: the start of the message, which says what failed.
        exc: the cause. Advice for it, if there is any, is appended to the message in parentheses. It is also
            what `hint_of` returns, so that the command line can replace it.
        where: the server, as ``host:port``.
    """
    cause = exc if isinstance(exc, ssl.SSLError) else exc.__cause__
    hint = _advice(cause, where) if isinstance(cause, ssl.SSLError) else ""
    error = ConnectionFailedError(f"{what}: {explain(exc)}{f' ({hint})' if hint else ''}")
    give_hint(error, hint)
    return error


def tls_failure(exc: ssl.SSLError) -> TLSFailure | None:
    """Return the reason why TLS failed, if the user can mend it."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        text = getattr(exc, "verify_message", "").lower()
        if "mismatch" in text:
            return "wrong name"
        return "wrong time" if "expired" in text or "not yet valid" in text else "untrusted"
    reason = exc.reason or ""
    if reason in _NO_TLS:
        return "no TLS"
    if isinstance(exc, ssl.SSLEOFError):
        return "early end"
    if "CERTIFICATE_REQUIRED" in reason:
        return "wants a certificate"
    if "ALERT_UNKNOWN_CA" in reason or "ALERT_BAD_CERTIFICATE" in reason:
        return "distrusts us"
    return "nothing in common" if "HANDSHAKE_FAILURE" in reason else None


def _advice(cause: ssl.SSLError, where: str) -> str:
    failure = tls_failure(cause)
    return "" if failure is None else _ADVICE[failure].format(where=where)


_ADVICE: dict[TLSFailure, str] = {
    "wrong name": "connect by a name that its certificate is for",
    "wrong time": "the server needs a new certificate; or the clock of this machine is wrong",
    "untrusted": (
        "its certificate is signed by nobody whom this machine trusts; trust one of your own by"
        " ssl_context=ssl.create_default_context(cafile=...)"
    ),
    "no TLS": "{where} does not speak TLS; use ws:// or another port",
    "early end": "the server closed the connection; {where} may not speak TLS, or not for this name",
    "wants a certificate": (
        "the server wants a client's certificate; give ssl_context one by its load_cert_chain()"
    ),
    "distrusts us": "the server does not trust the certificate of this client",
    "nothing in common": (
        "the server accepts no version or cipher of this client, or wants a client's certificate"
    ),
}
