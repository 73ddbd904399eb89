"""Error messages for failed connections: the innermost cause, with advice for the common ones."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from trio_ws.errors import ConnectionFailedError, give_hint

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["explain", "failed"]

#: The reasons that several versions of OpenSSL report for data that is not TLS.
_NO_TLS = frozenset(
    {
        *("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL"),
        *("RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"),
    }
)


def explain(exc: BaseException) -> str:
    """Return the text of the innermost cause, since trio only reports that a stream broke."""
    cause = exc.__cause__
    if isinstance(cause, BaseExceptionGroup):  # of several addresses: each reason once
        reasons = list(dict.fromkeys(map(str, _leaves(cause))))
        return f"{exc}: {'; '.join(reasons)}"
    return str(cause if isinstance(cause, OSError) else exc) or type(exc).__name__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc


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


def _advice(cause: ssl.SSLError, where: str) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        text = getattr(cause, "verify_message", "").lower()
        if "mismatch" in text:
            return "connect by a name that its certificate is for"
        if "expired" in text or "not yet valid" in text:
            return "the server needs a new certificate; or the clock of this machine is wrong"
        return (
            "its certificate is signed by nobody whom this machine trusts; trust one of your own by"
            " ssl_context=ssl.create_default_context(cafile=...)"
        )
    reason = cause.reason or ""
    if reason in _NO_TLS:
        return f"{where} does not speak TLS; use ws:// or another port"
    if isinstance(cause, ssl.SSLEOFError):
        return f"the server closed the connection; {where} may not speak TLS, or not for this name"
    if "CERTIFICATE_REQUIRED" in reason:
        return "the server wants a client's certificate; give ssl_context one by its load_cert_chain()"
    if "ALERT_UNKNOWN_CA" in reason or "ALERT_BAD_CERTIFICATE" in reason:
        return "the server does not trust the certificate of this client"
    if "HANDSHAKE_FAILURE" in reason:
        return "the server accepts no version or cipher of this client, or wants a client's certificate"
    return ""
