"""Text of a peer is logged on one line, printable and truncated, and cannot flood the log."""

from __future__ import annotations

import ast
import io
import logging
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trio_ws
from tests.support.faults import Panic
from tests.support.serving import exchange, request, serving, serving_in_memory
from trio_ws import Backoff, Headers, Options, WebSocket, WebSocketClient, WebSocketHandler, rpc_method
from trio_ws.logs import BURST, MINUTE, TRACEBACKS, logger_for, shown
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

PACKAGE = Path(trio_ws.__file__).parent
#: A forged line, an escape sequence, C1 controls, DEL, bidirectional overrides, and separators.
EVIL = "\nCRITICAL root: forged\r\n\x1b]0;title\x07\x9b31m\x7f\u202e\u2066\u200f\u2028\u2029\ufeff\U000e0041"
ESCAPED = quote(EVIL)


def controls(text: str) -> set[str]:
    """Return the characters in a text that a log must not contain, except for line ends."""
    bad = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return {char for char in text if char != "\n" and unicodedata.category(char) in bad}


def check(text: str) -> None:
    assert not controls(text)
    assert not any(line.startswith("CRITICAL") for line in text.splitlines())


@given(st.text(), st.integers(0, 200))
def test_shown_text_is_one_printable_line_within_its_limit(text: str, limit: int) -> None:
    written = shown(text, limit)
    assert written.isprintable()
    assert len(written.encode()) <= limit + 3
    if text.isprintable() and len(text.encode()) <= limit:
        assert written == text
    assert shown(text.encode(errors="surrogatepass"), limit).isprintable()


@pytest.mark.parametrize(
    ("text", "limit", "written"),
    [
        ("plain", 80, "plain"),
        ("12345", 5, "12345"),
        ("123456", 5, "12345..."),
        ("grüße", 80, "grüße"),
        ("漢字漢字", 6, "漢字..."),
        ("a\nb", 80, "a\\nb"),
        ("\x9b\u202e\ud800", 80, "\\x9b\\u202e\\ud800"),
        (b"\xff\n", 80, "\\xff\\n"),
        ("", 0, ""),
    ],
)
def test_shown_text(text: str | bytes, limit: int, written: str) -> None:
    assert shown(text, limit) == written


def test_all_loggers_of_the_package_have_the_filter() -> None:
    """No module creates a logger in another way, or uses the root logger."""
    for path in PACKAGE.rglob("*.py"):
        if path.name == "logs.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                on = node.func.value
                if isinstance(on, ast.Name) and on.id == "logging":
                    # Reading the level of the root logger, and configuring the log of a program.
                    assert not node.args or node.func.attr == "basicConfig", f"{path}:{node.lineno}"
                    assert node.func.attr in ("getLogger", "basicConfig", "getLevelNamesMapping"), path


async def failing(ws: WebSocket) -> None:
    raise ValueError(EVIL)


def failing_in_a_thread(ws: Any) -> None:
    raise ValueError(EVIL)


class Calls(WebSocketHandler[Any]):
    async def on_connect(self, connection: Any) -> None:
        if "fail" in connection.request.query_params:
            raise ValueError(EVIL)

    def may_subscribe(self, connection: Any, name: str) -> bool:
        raise ValueError(EVIL)

    @rpc_method()
    def fails(self, connection: Any) -> None:
        raise ValueError(EVIL)


HOSTILE: dict[str, tuple[Any, bytes]] = {
    "path": (failing, request(target=f"/{ESCAPED}")),
    "path of a thread": (failing_in_a_thread, request(target=f"/{ESCAPED}")),
    "query": (Calls, request(target=f"/?fail&x={ESCAPED}")),
    "origin": (failing, request(f"Origin: http://\x9b{'x' * 2000}")),
    "host": (failing, request("Host: \x9b\x7f" + "x" * 2000, leave_out=["host"])),
    "garbage": (failing, EVIL.encode() * 50 + b"\r\n\r\n"),
    "method": (failing, request(method="\x9bGET")),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_requests_leave_nothing_raw_in_the_log(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_ws")
    target, asked = HOSTILE[what]
    async with serving(target) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await exchange(stream, asked)
    assert caplog.records
    check(caplog.text)
    for record in caplog.records:
        assert len(record.getMessage().encode()) <= 400


@pytest.mark.parametrize(
    ("opcode", "payload"),
    [
        (8, b"\x0f\xa0" + EVIL.encode()),
        (3, EVIL.encode()),
        (1, b"\xff" + EVIL.encode()),
        (2, b"\x82\xa6source\x05\xa3rpc\x83" + b"\xa4type\xa7request\xa6method\xd9\xff" + EVIL.encode() * 9),
    ],
)
async def test_frames_leave_nothing_raw_in_the_log(
    opcode: int, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_ws")
    async with serving_in_memory(Calls) as memory:
        headers = [("Sec-WebSocket-Protocol", "trio-ws.v1")]
        peer = await RawPeer.connect(await memory.stream(), headers=headers)
        await peer.send_frame(opcode, payload[:125] if opcode == 8 else payload)
        await peer.receive_until_close()
        await peer.aclose()
    check(caplog.text)
    assert not any(record.exc_info for record in caplog.records)
    assert not any(record.levelno >= logging.ERROR for record in caplog.records)


async def close_with_evil(ws: WebSocket) -> None:
    await ws.accept()
    await ws.recv()
    await ws.close(4000, EVIL[:60])


async def reject_with_evil(ws: WebSocket) -> None:
    await ws.reject(503, [("X-Why", "\x9b31m")], EVIL.encode())


@pytest.mark.parametrize("target", [close_with_evil, reject_with_evil])
async def test_servers_leave_nothing_raw_in_the_log_of_a_client(
    target: Callable[[WebSocket], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    caplog.set_level(logging.INFO, "trio_ws")
    async with serving_in_memory(target) as memory:
        backoff = Backoff(initial=0.01, maximum=0.02, attempts=2)
        with pytest.raises(trio_ws.WebSocketError) as info:
            async with WebSocketClient(
                "ws://test/", stream=memory.stream, reconnect=backoff, options=Options(ping_interval=None)
            ) as client:
                while True:
                    await client.send(1)
                    await trio.sleep(1)
    check(caplog.text)
    check(str(info.value))
    if target is close_with_evil:
        assert "closed: code 4000" in caplog.text


def test_errors_and_reprs_are_shown_and_keep_what_was_said() -> None:
    for error in (
        trio_ws.RPCError(EVIL),
        trio_ws.ConnectionClosedError(4000, EVIL),
        trio_ws.CloseConnection(4000, EVIL[:60]),
    ):
        assert str(error).isprintable()
        assert repr(error).isprintable()
    assert trio_ws.RPCError(EVIL).message == EVIL
    assert trio_ws.ConnectionClosedError(4000, EVIL).reason == EVIL
    assert repr(Headers([("X", "\x9b" + "x" * 10_000)])).isprintable()
    assert len(repr(Headers([("X", "\x9b" + "x" * 10_000)]))) < 2100


def test_a_traceback_has_each_message_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log = logger_for("trio_ws.test_of_logs")
    try:
        try:
            raise ValueError(EVIL)
        except ValueError as exc:
            raise ExceptionGroup(EVIL, [exc, KeyError(1)]) from exc
    except ExceptionGroup:
        log.exception("it failed")
    check(caplog.text)
    assert caplog.text.count("forged") == 3
    assert "\nThe above exception was the direct cause" in caplog.text
    assert caplog.text.count('File "') == 3


async def test_a_peer_does_not_flood(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.INFO, "trio_ws")
    log = logger_for("trio_ws.test_of_logs")

    def repeat(times: int, host: str, text: str = "refused %s") -> int:
        before = len(caplog.records)
        for port in range(times):
            log.info(text, "this", extra={"peer": (host, port)})
        return len(caplog.records) - before

    assert repeat(BURST + 50, "192.0.2.1") == BURST
    assert repeat(1, "192.0.2.2") == 1  # records about another peer are written
    assert repeat(1, "192.0.2.1", "closed %s") == 1  # and other records about the same peer
    await trio.sleep(MINUTE)
    assert repeat(2, "192.0.2.1") == 2
    assert caplog.records[-2].getMessage() == "refused this (50 more of these were omitted)"
    assert caplog.records[-1].getMessage() == "refused this"


async def test_one_failure_does_not_flood_with_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    """A client calls a method that fails repeatedly."""
    async with serving_in_memory(Calls) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            ids = []
            for _ in range(TRACEBACKS + 5):
                with pytest.raises(trio_ws.RPCInternalError) as info:
                    await client.call("fails")
                ids.append(info.value.data["id"])
    assert [bool(record.exc_info) for record in caplog.records] == [True] * TRACEBACKS + [False] * 5
    for mark, record in zip(ids, caplog.records, strict=True):
        assert mark in record.getMessage()  # the id that the client received
    last = caplog.records[-1].getMessage()
    assert last.startswith("call of fails failed [")
    assert "ValueError: \\nCRITICAL root: forged" in last
    assert len(last.encode()) <= 200
    check(caplog.text)


class Raises(logging.Handler):
    """A handler, or a filter, that raises an exception for each record."""

    def __init__(self, raised: type[BaseException]) -> None:
        super().__init__()
        self.raised = raised
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        raise self.raised("of the application")

    def filter(self, record: logging.LogRecord) -> bool:
        self.emit(record)
        return True


@pytest.mark.parametrize("raised", [ValueError, Panic])
@pytest.mark.parametrize("how", ["handler", "filter", "closed stderr"])
async def test_a_handler_that_raises_costs_a_record_and_no_connection(
    how: str,
    raised: type[BaseException],
    autojump_clock: MockClock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(WebSocketHandler):
        @rpc_method()
        async def fail(self, connection: trio_ws.ClientConnection) -> None:
            raise KeyError

    app = trio_ws.App()
    app.mount("/calls", Failing)

    @app.websocket("/fails")
    async def fails(ws: WebSocket) -> None:
        await ws.accept()
        raise KeyError

    @app.websocket("/echo")
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    bad = Raises(raised)
    async with serving_in_memory(app) as memory, memory.connect("/echo") as innocent:
        if how == "closed stderr":
            closed = io.StringIO()
            closed.close()
            monkeypatch.setattr(sys, "stderr", closed)
        for name in ("trio_ws.server", "trio_ws.rpc"):
            if how == "filter":
                logging.getLogger(name).addFilter(bad)
            else:
                logging.getLogger(name).addHandler(bad)
        try:
            with pytest.raises(trio_ws.ConnectionClosedError, match="1011"):
                async with memory.connect("/fails") as ws:
                    await ws.receive()
            async with WebSocketClient("ws://test/calls", stream=await memory.stream()) as client:
                with pytest.raises(trio_ws.RPCInternalError):
                    await client.call("fail")
            assert b" 404 " in await exchange(await memory.stream(), request(target="/nowhere"))
            await innocent.send("still here?")
            assert await innocent.receive_text() == "still here?"
        finally:
            for name in ("trio_ws.server", "trio_ws.rpc"):
                logging.getLogger(name).removeHandler(bad)
                logging.getLogger(name).removeFilter(bad)
        assert bad.count >= 2
    if how != "closed stderr":
        assert "of the application" in capsys.readouterr().err
