"""Calls from JavaScript without a library: a page in Chromium, and Node's built-in WebSocket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator  # noqa: TC003 - the handler's annotations are read
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.interop.test_chromium import address, browsing, page, reporting
from tests.support.chromium import CHROMIUM
from tests.support.node import node_command
from tests.support.serving import guard, serving
from trio_ws import ClientConnection, Options, Packet, WebSocketHandler, rpc_method

HERE = Path(__file__).parent

__all__ = ["page"]  # a fixture, which tests here ask for by name


class Handler(WebSocketHandler):
    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        await connection.send({"you said": packet.data})

    @rpc_method()
    async def add(self, connection: ClientConnection, a: int, b: int) -> int:
        return a + b

    @rpc_method()
    async def slow(self, connection: ClientConnection, value: int) -> int:
        await trio.sleep(0.01)
        return value

    @rpc_method()
    async def count(self, connection: ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number


@pytest.mark.skipif(CHROMIUM is None, reason="neither Chromium nor Chrome is installed")
@pytest.mark.parametrize("binary", [False, True])
async def test_a_page_without_a_library(page: int, tmp_path: Path, binary: bool) -> None:
    async with (
        reporting() as (report, reports),
        serving(Handler(), options=Options(json_in_binary=binary)) as server,
    ):
        url = address(page, server=server.url, report=report).replace("page.html", "calls.html")
        with browsing(url, tmp_path):
            seen = await reports.receive()
    assert seen == {
        "frames": "object" if binary else "string",
        "add": 42,
        "unknown": -32601,
        "invalid": -32602,
        "stream": [0, 1, 2, 3, 4],
        "together": list(range(50)),
        "packet": {"you said": {"hello": "server"}},
    }


async def test_nodes_own_websocket() -> None:
    command = node_command()
    async with serving(Handler()) as server:
        with trio.fail_after(guard()):
            done = await trio.run_process(
                [*command, str(HERE / "calls_node.mjs"), server.url], capture_stdout=True, capture_stderr=True
            )
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen == {
        "protocol": "jsonrpc",
        "add": {"jsonrpc": "2.0", "result": 3, "id": 7},
        "stream": [
            {"jsonrpc": "2.0", "method": "rpc.item", "params": {"id": "s", "item": 0}},
            {"jsonrpc": "2.0", "method": "rpc.item", "params": {"id": "s", "item": 1}},
            {"jsonrpc": "2.0", "result": None, "id": "s"},
        ],
        "batch": [2, -32601],
        "packets": 42,
        "data": {"you said": {"hello": "server"}},
    }
