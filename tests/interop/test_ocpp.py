"""OCPP-J with the package ocpp, each side in turn, in both versions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.daemons import said_port
from tests.support.serving import guard, serving
from trio_ws import ClientConnection, WebSocketClient, WebSocketHandler, rpc_method
from trio_ws.dialects import OCPP16, OCPP201

pytest.importorskip("ocpp", reason="the package ocpp is not installed")

PROGRAM = Path(__file__).parent / "peers" / "ocpp_package.py"
VERSIONS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "1.6": (
        OCPP16(),
        {"chargePointModel": "M", "chargePointVendor": "V"},
        {"type": "Soft"},
    ),
    "2.0.1": (
        OCPP201(),
        {"chargingStation": {"model": "M", "vendorName": "V"}, "reason": "PowerUp"},
        {"type": "Immediate"},
    ),
}


class Central(WebSocketHandler[Any]):
    dialects = (OCPP16(), OCPP201())

    def __init__(self) -> None:
        self.booted: list[Any] = []
        self.reset: dict[str, Any] = {}

    @rpc_method("BootNotification")
    async def boot(self, connection: ClientConnection[Any], /, **payload: Any) -> dict[str, Any]:
        self.booted.append(payload)
        answer = await connection.call("Reset", self.reset)  # nested: the charge point waits for us
        self.booted.append(answer)
        return {"currentTime": "2026-01-01T00:00:00Z", "interval": 300, "status": "Accepted"}

    @rpc_method("Heartbeat")
    def beat(self, connection: ClientConnection[Any]) -> dict[str, str]:
        return {"currentTime": "2026-01-01T00:00:00Z"}


class Point(WebSocketHandler[Any]):
    def __init__(self) -> None:
        self.resets: list[Any] = []
        self.was_reset = trio.Event()

    @rpc_method("Reset")
    def reset(self, connection: ClientConnection[Any], /, **payload: Any) -> dict[str, str]:
        self.resets.append(payload)
        self.was_reset.set()
        return {"status": "Accepted"}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_charge_point_of_the_package_ocpp(version: str) -> None:
    handler = Central()
    _, boot, handler.reset = VERSIONS[version]
    async with serving(handler) as server:
        command = [sys.executable, str(PROGRAM), "client", version, server.url]
        done = await trio.run_process(command, capture_stdout=True)
    status, interval, time, failure = json.loads(done.stdout)
    assert (status, interval, time) == ("Accepted", 300, "2026-01-01T00:00:00Z")
    assert failure == "NotImplementedError"
    assert handler.booted == [boot, {"status": "Accepted"}]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_central_system_of_the_package_ocpp(version: str) -> None:
    handler = Point()
    dialect, boot, reset = VERSIONS[version]
    command = [sys.executable, str(PROGRAM), "server", version]
    with trio.fail_after(guard()), said_port(command) as port:
        url = f"ws://127.0.0.1:{port}/CP_1"
        async with WebSocketClient(url, dialect=dialect, handler=handler, proxy=None) as client:
            answer = await client.call("BootNotification", **boot)
            assert (answer["status"], answer["interval"]) == ("Accepted", 300)
            await handler.was_reset.wait()
    assert handler.resets == [reset]
