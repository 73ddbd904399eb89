"""Sending without waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import serving_in_memory
from trio_ws import (
    Compression,
    ConnectionClosedError,
    ConnectionClosedLocallyError,
    Options,
    WebSocket,
    WebSocketMessage,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SENT: list[Any] = [
    "hé",
    b"\x00",
    bytearray(b"\x01"),
    memoryview(b"\x02"),
    WebSocketMessage.text("t" * 300),
    WebSocketMessage.binary(b"b" * 70_000),
]
ARRIVED = ["hé", b"\x00", b"\x01", b"\x02", "t" * 300, b"b" * 70_000]


@pytest.mark.parametrize("compression", [False, Compression(threshold=100)])
async def test_sends_the_same_as_send(compression: bool | Compression, autojump_clock: object) -> None:
    options = Options(compression=compression, ping_interval=None, send_high_water=2**20)

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        for value in SENT:
            ws.send_nowait(value)
        assert [message.payload async for message in ws] == ARRIVED

    async with (
        serving_in_memory(handler, options=options, debug=True) as memory,
        memory.connect(options=options) as ws,
    ):
        for value in SENT:
            ws.send_nowait(value)
        for payload in ARRIVED:
            message = await ws.recv()
            assert message is not None
            assert message.payload == payload


async def test_keeps_the_order_of_other_sends(autojump_clock: object) -> None:
    async def handler(ws: WebSocket) -> None:
        async for message in ws:  # they come in one read, so that the answers are gathered
            await ws.send(b"1" + message.payload)  # type: ignore[operator]
            ws.send_nowait(b"2" + message.payload)  # type: ignore[operator]

    async with serving_in_memory(handler, debug=True) as memory, memory.connect() as ws:
        for name in (b"a", b"b", b"c"):
            ws.send_nowait(name)
        assert [await ws.receive_bytes() for _ in range(6)] == [b"1a", b"2a", b"1b", b"2b", b"1c", b"2c"]


async def test_where_send_would_wait_for_room_it_would_block(autojump_clock: object) -> None:
    async with (
        serving_in_memory(options=Options(ping_interval=None)) as memory,
        memory.connect(options=Options(ping_interval=None, send_high_water=1000)) as ws,
    ):
        ws.send_nowait(b"x" * 900)
        ws.send_nowait(b"y" * 500)  # one message comes on top
        with pytest.raises(trio.WouldBlock):
            ws.send_nowait(b"z")
        await ws.send(b"sent")
        assert [len(await ws.receive_bytes()) for _ in range(3)] == [900, 500, 4]


async def test_a_fragmented_message_holds_it_up(autojump_clock: object) -> None:
    async with serving_in_memory() as memory, memory.connect() as ws:

        async def parts() -> AsyncIterator[str]:
            yield "one, "
            with pytest.raises(trio.WouldBlock):
                ws.send_nowait("between")
            yield "two"

        await ws.send(parts())
        ws.send_nowait("after")
        assert [await ws.receive_text(), await ws.receive_text()] == ["one, two", "after"]


async def test_before_the_accept_it_would_block(autojump_clock: object) -> None:
    async def handler(ws: WebSocket) -> None:
        with pytest.raises(trio.WouldBlock):
            ws.send_nowait("too early")
        assert not ws.accepted
        await ws.accept()
        ws.send_nowait("now")

    async with serving_in_memory(handler, debug=True) as memory, memory.connect() as ws:
        assert await ws.receive_text() == "now"


async def test_on_a_closed_connection_it_raises_as_send_does(autojump_clock: object) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await ws.close(4001, "enough")
        with pytest.raises(ConnectionClosedLocallyError):
            ws.send_nowait("after our own close")

    async with serving_in_memory(handler, debug=True) as memory, memory.connect() as ws:
        await ws.wait_closed()
        with pytest.raises(ConnectionClosedError) as closed:
            ws.send_nowait("after the peer's")
        assert (closed.value.code, closed.value.reason) == (4001, "enough")


@pytest.mark.parametrize(
    ("value", "kind"), [(1, "int"), (None, "NoneType"), (WebSocketMessage.ping(b"x"), "ping")]
)
async def test_other_things_are_refused_with_what_to_use(
    value: Any, kind: str, autojump_clock: object
) -> None:
    async with serving_in_memory() as memory, memory.connect() as ws:
        with pytest.raises(TypeError, match=rf"not {kind}; use send\(\)"):
            ws.send_nowait(value)
        ws.send_nowait("still fine")
        assert await ws.receive_text() == "still fine"
