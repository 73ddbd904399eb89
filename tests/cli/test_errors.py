"""Errors of commands: one line that says what to do, and an exit code."""

from __future__ import annotations

import errno
import ssl

import pytest
import trio

import trio_ws
from trio_ws.cli.errors import Failure, explain, on_one_line, printable, unwrap
from trio_ws.protocol.http import Headers


def rejected(status: int, body: bytes = b"") -> trio_ws.HandshakeRejectedError:
    return trio_ws.HandshakeRejectedError(status, Headers([]), body)


def failed(cause: BaseException) -> trio_ws.ConnectionFailedError:
    error = trio_ws.ConnectionFailedError("could not reach h:1")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("exc", "code", "text"),
    [
        (Failure("no", 2), 2, "no"),
        (trio_ws.InvalidURIError("'x' has no WebSocket scheme"), 2, "such as ws://localhost"),
        (rejected(401), 3, "--header 'Authorization"),
        (rejected(403, b"members only\n"), 3, "403 (members only)"),
        (rejected(404), 3, "no such path"),
        (rejected(200, b"<html>hello"), 3, "200; is there a WebSocket"),
        (rejected(503), 3, "try again later"),
        (failed(OSError("no route")), 3, "could not reach h:1"),
        (failed(ExceptionGroup("", [ConnectionRefusedError()])), 3, "is the server running"),
        (failed(ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED")), 3, "--cafile"),
        (trio_ws.ConnectionClosedError(1008, "too much"), 3, "code 1008 (too much)"),
        (trio_ws.RPCTimeoutError("the deadline passed"), 4, "--timeout"),
        (trio.TooSlowError(), 4, "--timeout"),
        (trio_ws.RateLimitError("slower", retry_after=2), 1, "slower; try again in 2.0 seconds"),
        (trio_ws.RPCError(""), 1, "the call failed (code -32001)"),
        (trio_ws.BrokerError("no Redis at h:1"), 1, "no Redis"),
        (OSError(errno.EADDRINUSE, "cannot listen on port 1"), 1, "choose another with --port"),
        (OSError(errno.EACCES, "cannot listen on port 1"), 1, "below 1024"),
        (OSError(errno.EADDRNOTAVAIL, "cannot listen on 1.2.3.4"), 1, "cannot listen on 1.2.3.4"),
    ],
)
def test_explanations(exc: Exception, code: int, text: str) -> None:
    explanation = explain(exc)
    assert explanation is not None
    assert explanation.code == code
    assert text in explanation.text
    assert "\n" not in explanation.text


def test_a_defect_is_not_explained_away() -> None:
    assert explain(KeyError("x")) is None


def test_control_characters_of_a_server_are_escaped() -> None:
    explanation = explain(trio_ws.RPCError("a\nb\x1b[2J"))
    assert explanation is not None
    assert explanation.text == "a b\\x1b[2J (code -32001)"
    assert printable("ä\tb\n\x9b") == "ä\tb\n\\x9b"
    assert on_one_line(" a \r\n b ") == "a b"


def test_one_cause_leaves_its_groups() -> None:
    inner = ValueError()
    assert unwrap(ExceptionGroup("", [ExceptionGroup("", [inner])])) is inner
    two = ExceptionGroup("", [inner, KeyError()])
    assert unwrap(two) is two
    own = Failure("because")
    assert unwrap(ExceptionGroup("", [trio_ws.ConnectionClosedError(), own])) is own
    struck = KeyboardInterrupt()
    assert unwrap(BaseExceptionGroup("", [inner, BaseExceptionGroup("", [struck])])) is struck
