"""The commands ``call``, ``connect`` and ``record`` with servers of other authors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_ws
from tests.support.commands import environment
from tests.support.serving import exchange, guard, request, serving, status_of
from trio_ws import WebSocket
from trio_ws.cli import main
from trio_ws.testing import replay

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("measured")


async def node(ws: WebSocket) -> None:
    """A JSON-RPC server that requires a token, and selects no subprotocol."""
    if ws.header("Authorization") != "Bearer very-secret":
        await ws.reject(401)
        return
    async for message in ws:
        call = message.json()
        assert call["jsonrpc"] == "2.0"
        if call["method"] == "fail":
            error = {"code": -32042, "message": "no such account", "data": [1]}
            await ws.send_json({"jsonrpc": "2.0", "id": call["id"], "error": error})
            continue
        await ws.send_json({"jsonrpc": "2.0", "method": "event", "params": {"of": call["method"]}})
        await ws.send_json({"jsonrpc": "2.0", "id": call["id"], "result": call.get("params")})


async def run(*words: str, said: str = "") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "trio_ws", *words]
    with trio.fail_after(2 * guard()):
        return await trio.run_process(
            command,
            stdin=said.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(),
        )


HEADER = ("--header", "Authorization: Bearer very-secret")


async def test_call() -> None:
    async with serving(node) as server:
        done = await run("call", server.url, "echo", "1", "x", "--dialect", "jsonrpc", *HEADER)
        assert (done.stdout, done.stderr, done.returncode) == (b'[1,"x"]\n', b"", 0)
        done = await run("call", server.url, "echo", "--kwargs", '{"a": 1}', "--dialect=jsonrpc", *HEADER)
        assert json.loads(done.stdout) == {"a": 1}
        done = await run("call", server.url, "fail", "--json", "--dialect=jsonrpc", *HEADER)
        assert json.loads(done.stdout)["error"] == {"code": -32042, "message": "no such account", "data": [1]}
        assert done.returncode == 1
        done = await run("call", server.url, "echo", "--dialect=jsonrpc")
        assert b"401" in done.stderr
        assert done.returncode == 3


async def test_connect_prints_what_is_pushed() -> None:
    async with serving(node) as server:
        done = await run("connect", server.url, "--dialect=jsonrpc", "--expect=1", *HEADER, said="echo 5\n")
        assert (done.stderr, done.returncode) == (b"", 0)
        assert sorted(done.stdout.decode().splitlines()) == ["[5]", 'event: {"of":"echo"}']


def test_a_dialect_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", "ws://127.0.0.1:1/", "x", "--dialect", "soap"]) == 2
    assert "jsonrpc" in capsys.readouterr().err


async def test_record(tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"

    async def talk(url: str, **settings: Any) -> Any:
        async with trio_ws.WebSocketClient(
            url, dialect="jsonrpc", headers={"Authorization": "Bearer very-secret"}, **settings
        ) as client:
            return await client.call("echo", password="very-secret", value=1)

    large = trio_ws.Options(max_message_size=2**23)
    async with serving(node, options=large) as server:
        command = [sys.executable, "-m", "trio_ws", "record", server.url, str(path)]
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
        try:
            with trio.fail_after(2 * guard()):
                assert process.stdout is not None
                said = (await process.stdout.receive_some()).decode()
                url = said.split()[-1]
                assert url.startswith("ws://127.0.0.1:")
                assert await talk(url, proxy=None) == {"password": "very-secret", "value": 1}
                header = {"Authorization": "Bearer very-secret"}
                async with trio_ws.connect(url, headers=header, proxy=None, options=large) as ws:
                    call = {"jsonrpc": "2.0", "method": "echo", "params": ["x" * 2_000_000], "id": 1}
                    await ws.send_json(call)
                    assert (await ws.receive_json())["method"] == "event"
                    assert (await ws.receive_json())["result"] == call["params"]
                # A page of another host, which uses DNS rebinding, gets nothing of the server.
                page = request("Host: rebound.example", leave_out=["host"])
                port = int(url.rstrip("/").rpartition(":")[2])
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    assert status_of(await exchange(stream, page)) == 403
                again = await run("record", server.url, str(path))
                assert b"exists already" in again.stderr
                assert again.returncode == 2
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 0
        finally:
            process.kill()
    assert "very-secret" not in path.read_text(encoding="utf-8")
    async with replay(path) as played:
        assert await talk(played.url, stream=played.stream) == {"password": "***", "value": 1}
