"""Caddy as a reverse proxy, by the file of examples/deploy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import trio_ws
from tests.support.reverse_proxies import caddy
from tests.support.serving import serving

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = trio_ws.Options(hosts=["chat.example"])


async def test_a_conversation_and_a_page(tmp_path: Path) -> None:
    async def greet(ws: trio_ws.WebSocket) -> None:
        await ws.send_json({"host": ws.header("host")})
        async for message in ws:
            await ws.send(message)

    async with (
        serving(greet, options=OPTIONS) as server,
        caddy(tmp_path, f"127.0.0.1:{server.port}") as path,
        trio_ws.connect(
            "ws://chat.example/", unix_path=path, headers={"Origin": "https://chat.example"}
        ) as ws,
        trio.open_nursery() as nursery,
    ):
        assert await ws.receive_json() == {"host": "chat.example"}
        nursery.start_soon(ws.send, b"x" * 1024 * 1024)
        assert len(await ws.receive_bytes()) == 1024 * 1024
        assert await ws.ping() >= 0
        await server.drain()
        assert await ws.recv() is None
        assert ws.close_code == 1001


async def test_a_page_from_elsewhere_is_refused(tmp_path: Path) -> None:
    async def nothing(ws: trio_ws.WebSocket) -> None:
        raise AssertionError("it was let in")

    async with (
        serving(nothing, options=OPTIONS) as server,
        caddy(tmp_path, f"127.0.0.1:{server.port}") as path,
    ):
        with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
            headers = {"Origin": "https://elsewhere.example"}
            async with trio_ws.connect("ws://chat.example/", unix_path=path, headers=headers):
                pass
    assert caught.value.status == 403
