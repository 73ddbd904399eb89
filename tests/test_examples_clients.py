"""The examples of clients for other people's servers, each run against a scripted server of its kind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.chromium import devtools
from tests.support.serving import guard, serving

if TYPE_CHECKING:
    from trio_ws import WebSocket

EXAMPLES = Path(__file__).parents[1] / "examples" / "clients"


async def run(name: str, *args: str) -> list[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *args]
    with trio.fail_after(2 * guard()):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert (done.stderr, done.returncode) == (b"", 0)
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 40


async def test_home_assistant() -> None:
    said: list[Any] = []

    async def server(ws: WebSocket) -> None:
        await ws.send_json({"type": "auth_required"})
        async for message in ws:
            call = message.json()
            said.append(call)
            if call["type"] == "auth":
                await ws.send_json({"type": "auth_ok"})
                continue
            await ws.send_json({"id": call["id"], "type": "result", "success": True, "result": None})
            if call["type"] == "call_service":
                event = {"event_type": "state_changed", "data": {"entity_id": "light.kitchen"}}
                await ws.send_json({"id": 2, "type": "event", "event": event})

    async with serving(server) as running:
        assert await run("home_assistant.py", running.url, "secret") == ["light.kitchen"]
    assert said == [
        {"type": "auth", "access_token": "secret"},
        {"id": 2, "type": "subscribe_events", "event_type": "state_changed"},
        {"id": 3, "type": "call_service", "domain": "light", "service": "turn_on"},
    ]


async def test_eth_subscribe() -> None:
    """The node stops after four heads, and another one replaces it."""
    heads = iter(range(14, 25))
    subscriptions: list[str] = []

    async def node(ws: WebSocket) -> None:
        await ws.accept()
        call = await ws.receive_json()
        assert (call["method"], call["params"]) == ("eth_subscribe", ["newHeads"])
        subscriptions.append(f"0x{len(subscriptions)}")
        await ws.send_json({"jsonrpc": "2.0", "id": call["id"], "result": subscriptions[-1]})
        for _ in range(4):
            result = {"number": hex(next(heads)), "hash": "0x0"}
            params = {"subscription": subscriptions[-1], "result": result}
            await ws.send_json({"jsonrpc": "2.0", "method": "eth_subscription", "params": params})
        if len(subscriptions) == 1:
            await ws.close(1001)
        else:
            await ws.recv(none_when_lost=True)

    async with serving(node) as running:
        assert await run("eth_subscribe.py", running.url) == [str(number) for number in range(14, 21)]
    assert len(subscriptions) == 2


async def test_order_book() -> None:
    """The first connection loses update 3."""
    connections = 0

    async def exchange(ws: WebSocket) -> None:
        nonlocal connections
        connections += 1
        assert (await ws.receive_json())["op"] == "subscribe"
        if connections == 1:
            await ws.send_json({"number": 1, "bids": {"100": 1, "99": 2}, "snapshot": True})
            await ws.send_json({"number": 2, "bids": {"101": 1}})
            await ws.send_json({"number": 4, "bids": {"200": 1}})
            await ws.send_json({"number": 5, "bids": {"300": 1}})
            await ws.recv(none_when_lost=True)  # the client ends it
        else:
            await ws.send_json({"number": 8, "bids": {"102": 1, "98": 5}, "snapshot": True})
            await ws.send_json({"number": 9, "bids": {"102": 0}})
            await ws.send_json({"number": 10, "bids": {"97": 1}})
            await ws.recv(none_when_lost=True)

    async with serving(exchange) as running:
        lines = await run("order_book.py", running.url)
    assert lines == ["1 100.0", "2 101.0", "8 102.0", "9 98.0", "10 98.0"]
    assert connections == 2


async def test_devtools(tmp_path: Path) -> None:
    async with devtools(tmp_path) as url:
        assert await run("devtools.py", url) == ["Hello"]


def test_charge_point_and_central_system() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "central_system.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            assert trio.run(run, "charge_point.py", f"{url}/CP_1") == [
                "start for ada at 1",
                "heartbeat: 2026-01-01T00:00:00Z",
                "heartbeat: 2026-01-01T00:00:00Z",
            ]
            server.send_signal(signal.SIGINT)
            said, _ = server.communicate(timeout=60)
            assert said == "{'status': 'Accepted'}\n"
        finally:
            server.kill()
