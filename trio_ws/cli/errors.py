"""Errors of commands: from an exception to a line of text that says what to do, and an exit code.

Invariant: the text is one line without control characters, even if parts of it come from a server.
"""

from __future__ import annotations

import errno
import ssl
from typing import NamedTuple

import trio

import trio_ws
from trio_ws.client.failures import TLSFailure, tls_failure
from trio_ws.errors import hint_of
from trio_ws.wall import leaves

__all__ = [
    "CONNECTION",
    "FAILED",
    "INTERRUPTED",
    "OK",
    "TIMEOUT",
    "USAGE",
    "Explanation",
    "Failure",
    "explain",
    "on_one_line",
    "printable",
    "unwrap",
]

OK = 0
FAILED = 1  # the call failed, or the server could not be started
USAGE = 2  # invalid arguments, or the module or file that they name cannot be used
CONNECTION = 3
TIMEOUT = 4
INTERRUPTED = 130  # a shell's exit code for programs that SIGINT ended

_HINTS = {
    401: "it wants credentials: ws://user:password@host, or --header 'Authorization: ...'",
    403: "it refuses this client: look at --header, --subprotocol, and the server's origins and log",
    404: "there is no such path: look at the end of the URL",
    407: "the proxy wants credentials",
    429: "too many requests: try again later",
    502: "the proxy in front of it does not reach the server",
    503: "the server is full, or about to stop: try again later",
}


class Failure(Exception):  # noqa: N818 - it ends the program, and its text is shown as it is
    """A command cannot continue.

    Attributes:
        code: the exit code.
    """

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


class Explanation(NamedTuple):
    """The text for the user, and the exit code."""

    text: str
    code: int


def explain(exc: BaseException) -> Explanation | None:
    """Return the explanation of an exception; None for a bug, whose traceback should be shown."""
    found = _explain(exc)
    return found and Explanation(on_one_line(found[0]), found[1])


def _explain(exc: BaseException) -> tuple[str, int] | None:
    match exc:
        case Failure():
            return str(exc), exc.code
        case trio_ws.InvalidURIError():
            return f"{exc}; a URL is such as ws://localhost:8000/path", USAGE
        case trio_ws.HandshakeRejectedError():
            return _explain_status(exc), CONNECTION
        case trio_ws.ConnectionFailedError():
            return _explain_connecting(exc), CONNECTION
        case trio_ws.ConnectionClosedError():
            reason = f" ({exc.reason})" if exc.reason else ""
            return f"the connection ended: code {exc.code}{reason}", CONNECTION
        case trio_ws.RPCTimeoutError():
            return f"{exc.message or 'the deadline passed'}; give it more with --timeout", TIMEOUT
        case trio.TooSlowError():
            return "no answer in time; give it more with --timeout", TIMEOUT
        case trio_ws.RateLimitError():
            told = "try again" in exc.message  # as our own servers do
            return exc.message + ("" if told else f"; try again in {exc.retry_after:.1f} seconds"), FAILED
        case trio_ws.RPCError():
            return f"{exc.message or 'the call failed'} (code {exc.code})", FAILED
        case trio_ws.BrokerError() | trio_ws.WorkerError() | trio_ws.WebSocketError():
            return str(exc), FAILED
        case OSError(errno=errno.EADDRINUSE):
            return f"{exc.strerror}; choose another with --port, or end the program that has it", FAILED
        case OSError(errno=errno.EACCES):
            return f"{exc.strerror}; ports below 1024 are for root, choose another with --port", FAILED
        case OSError():
            return exc.strerror or str(exc), FAILED
        case _:
            return None


def _explain_status(exc: trio_ws.HandshakeRejectedError) -> str:
    said = exc.body.decode(errors="replace").strip().partition("\n")[0]
    # An HTML page is not readable here.
    detail = f" ({said})" if said and not said.startswith("<") and len(said) <= 200 else ""
    hint = _HINTS.get(exc.status, "is there a WebSocket at this URL?")
    return f"the server answered with HTTP status {exc.status}{detail}; {hint}"


def _explain_connecting(exc: trio_ws.ConnectionFailedError) -> str:
    causes: list[BaseException] = []
    cause: BaseException | None = exc
    while cause is not None and len(causes) < 10:
        causes += cause.exceptions if isinstance(cause, BaseExceptionGroup) else [cause]
        cause = cause.__cause__
    if any(isinstance(one, ConnectionRefusedError) for one in causes):
        return f"{exc}; is the server running, and is this its port?"
    failures = [one for one in causes if isinstance(one, ssl.SSLError)]
    if failures:
        hint = hint_of(exc)
        text = str(exc).removesuffix(f" ({hint})") if hint else str(exc)
        failure = tls_failure(failures[0])
        advice = _TLS_ADVICE.get(failure) if failure is not None else None
        return f"{text}; {advice or hint or 'look at the log of the server'}"
    return str(exc)


#: Advice for users of the command line, if it differs from that of `connect`.
_TLS_ADVICE: dict[TLSFailure, str] = {
    "wrong name": "connect by a name that its certificate is for, or trust it with --insecure",
    "wrong time": "it needs a new one, or the clock here is wrong; --insecure trusts it nevertheless",
    "untrusted": "name the authority that signed its certificate with --cafile, or trust it with --insecure",
    "wants a certificate": "if it wants a certificate of yours, give it with --cert and --key",
    "nothing in common": "if it wants a certificate of yours, give it with --cert and --key",
}


def unwrap(exc: BaseException) -> BaseException:
    """Return the cause inside exception groups.

    A KeyboardInterrupt takes precedence. Of several exceptions that can all be explained, it is the first.
    """
    causes = list(leaves(exc))
    struck = [one for one in causes if isinstance(one, KeyboardInterrupt)]
    if struck:
        return struck[0]
    if len(causes) > 1 and not all(isinstance(one, BrokenPipeError) or explain(one) for one in causes):
        return exc
    # A Failure takes precedence over exceptions that it has caused.
    return next((one for one in causes if isinstance(one, Failure)), causes[0])


def on_one_line(text: str) -> str:
    """Return the text on one line, without control characters."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Return the text with its control characters escaped, except for tabs and line ends."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )
