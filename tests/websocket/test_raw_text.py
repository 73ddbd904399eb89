"""Text as UTF-8 bytes: recv(decode=False) and send(text=True)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.serving import serving, serving_in_memory
from trio_ws import ConnectionClosedError, WebSocket, WebSocketMessage, broadcast, connect


async def test_text_goes_and_comes_as_bytes(autojump_clock: object) -> None:
    async with serving_in_memory() as memory, memory.connect() as ws:
        for data in ("é".encode(), b"ascii", bytearray(b"{}"), memoryview(b"[1]"), b""):
            await ws.send(data, text=True)
            assert await ws.recv(decode=False) == WebSocketMessage("text", bytes(data))
            await ws.send(data, text=True)
            assert await ws.recv() == WebSocketMessage("text", bytes(data).decode())
        await ws.send(b"\xff")
        assert await ws.recv(decode=False) == WebSocketMessage("binary", b"\xff")
        await ws.send("a str is text anyhow", text=True)
        assert await ws.receive_text() == "a str is text anyhow"


async def test_a_message_is_sent_as_what_it_is() -> None:
    async def echo(ws: WebSocket) -> None:
        number = 0
        while (message := await ws.recv(decode=False)) is not None:
            number += 1
            if number % 2:
                await ws.send(message)
            else:
                ws.send_nowait(message)

    messages = [
        WebSocketMessage("text", "é"),
        WebSocketMessage("text", b"raw"),
        WebSocketMessage("text", "é".encode()),
        WebSocketMessage("binary", b"\xff"),
        WebSocketMessage("binary", "é"),
        WebSocketMessage("text", b"x" * 100_000),
    ] * 4
    async with serving(echo) as server, connect(f"ws://127.0.0.1:{server.port}/") as ws:
        for message in messages:
            await ws.send(message)
        for message in messages:
            received = await ws.recv(decode=False)
            payload = message.payload
            data = payload.encode() if isinstance(payload, str) else payload
            assert received == WebSocketMessage(message.msg_type, data)


async def test_a_text_message_of_invalid_bytes_is_not_sent(autojump_clock: object) -> None:
    invalid = WebSocketMessage("text", b"\xff")
    async with serving_in_memory() as memory, memory.connect() as ws:
        with pytest.raises(UnicodeDecodeError):
            await ws.send(invalid)
        with pytest.raises(UnicodeDecodeError):
            ws.send_nowait(invalid)
        with pytest.raises(UnicodeDecodeError):
            broadcast([ws], invalid)
        await ws.send("next")
        assert await ws.receive_text() == "next"


async def test_invalid_utf8_is_not_sent(autojump_clock: object) -> None:
    async with serving_in_memory() as memory, memory.connect() as ws:
        with pytest.raises(UnicodeDecodeError):
            await ws.send(b"\xff", text=True)
        await ws.send("next")
        assert await ws.receive_text() == "next"


@pytest.mark.parametrize("none_when_lost", [True, False])
async def test_the_end_is_told_the_same_way(none_when_lost: bool, autojump_clock: object) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await ws.close(1011 if lost else 1000)

    lost: Any = False
    async with serving_in_memory(handler) as memory:
        async with memory.connect() as ws:
            assert await ws.recv(decode=False, none_when_lost=none_when_lost) is None
        lost = True
        async with memory.connect() as ws:
            if none_when_lost:
                assert await ws.recv(decode=False, none_when_lost=True) is None
            else:
                with pytest.raises(ConnectionClosedError):
                    await ws.recv(decode=False)
