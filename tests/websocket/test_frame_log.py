"""The log: the connection of a record, and frames at DEBUG."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.inspect import number_of
from tests.support.serving import serving, serving_in_memory
from tests.support.wire import frame
from trio_ws import ConnectionClosedError, Options, WebSocket, connect
from trio_ws.websocket.frame_log import _FrameScanner

if TYPE_CHECKING:
    from trio.testing import MockClock


async def exchange(ws: WebSocket) -> None:
    await ws.send("hello")
    assert await ws.receive_text() == "hello"
    await ws.send(bytes(70_000))
    assert len(await ws.receive_bytes()) == 70_000
    await ws.ping(b"there?")
    await ws.close(1000, "bye")


@pytest.mark.parametrize("kind", ["sockets", "memory"])
async def test_debug_shows_the_frames_of_both_sides(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_ws.frames")
    if kind == "sockets":
        async with serving() as server, connect(server.url) as ws:
            await exchange(ws)
    else:
        async with serving_in_memory() as memory, memory.connect() as ws:
            await exchange(ws)
    shown = [record.getMessage() for record in caplog.records if record.name == "trio_ws.frames"]
    assert not [line for line in shown if "opcode" in line or "more follow" in line]
    big = f"BINARY, 70000 bytes: {bytes(64)!r}..."
    for role in ("client", "server"):
        mine = [line for line in shown if f" {role} " in line]
        for text, times in (
            ("TEXT, 5 bytes: b'hello'", 2),
            (big, 2),
            ("PING, 6 bytes: b'there?'", 1),
            ("PONG, 6 bytes: b'there?'", 1),
            ("CLOSE, 5 bytes: b'\\x03\\xe8bye'", 1),
            ("CLOSE, 2 bytes: b'\\x03\\xe8'", 1),
        ):
            assert sum(text in line for line in mine) == times, (role, text)
        assert len(mine) == 8, "and nothing else, not even the handshake"


async def test_nothing_is_shown_otherwise(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving_in_memory() as memory, memory.connect() as ws:
        await exchange(ws)
    assert not [record for record in caplog.records if record.name == "trio_ws.frames"]


async def test_records_name_the_connection_and_its_peer(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: WebSocket) -> None:
        raise ValueError("a bug")

    seen: list[Any] = []
    for _ in range(2):
        caplog.clear()
        async with serving(handler) as server:
            with pytest.raises(Exception, match="500"):
                async with connect(server.url):
                    pass
        (record,) = [one for one in caplog.records if one.name == "trio_ws.server"]
        assert record.__dict__["peer"][0] == "127.0.0.1"
        seen.append(record.__dict__["connection"])
    assert seen[1] > seen[0]


async def test_a_violation_names_it_too(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_ws.websocket")
    numbers: list[int] = []

    async def handler(ws: WebSocket) -> None:
        numbers.append(number_of(ws))
        assert f"<WebSocket {number_of(ws)} server" in repr(ws)
        await ws.recv()

    async with serving_in_memory(handler, options=Options(max_message_size=10)) as memory:
        async with memory.connect() as ws:
            await ws.send("x" * 11)
            with pytest.raises(ConnectionClosedError):
                await ws.receive_text()
            await trio.testing.wait_all_tasks_blocked()
    assert [
        record.__dict__["connection"] for record in caplog.records if "1009" in record.getMessage()
    ] == numbers


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_frames_are_found_in_any_pieces(step: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_ws.frames")

    class Connection:
        def _log_extra(self) -> dict[str, Any]:
            return {"connection": 1, "peer": None}

        def __repr__(self) -> str:
            return "it"

    data = b"".join(
        [
            frame(1, b""),
            frame(1, b"part", fin=False),
            frame(0, b"x" * 300),
            frame(9, b"p" * 125),
            frame(2, b"y" * 65536),
            frame(8, b"\x03\xe8"),
        ]
    )
    watch = _FrameScanner(Connection(), "<")
    for start in range(0, len(data), step):
        watch.see(data[start : start + step])
    assert [record.getMessage() for record in caplog.records] == [
        "it < TEXT, 0 bytes: b''",
        "it < TEXT more follow, 4 bytes: b'part'",
        f"it < CONTINUATION, 300 bytes: {b'x' * 64!r}...",
        f"it < PING, 125 bytes: {b'p' * 64!r}...",
        f"it < BINARY, 65536 bytes: {b'y' * 64!r}...",
        "it < CLOSE, 2 bytes: b'\\x03\\xe8'",
    ]
