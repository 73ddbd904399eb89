"""A central system and a charge point of the package ocpp, on websockets.

python ocpp_package.py server VERSION        prints its port, and serves until stdin ends
python ocpp_package.py client VERSION URL    prints what it was answered
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import websockets
from ocpp.routing import on

_, role, version, *rest = sys.argv
if version == "1.6":
    from ocpp.v16 import ChargePoint, call, call_result

    boot_payload: dict[str, Any] = {"charge_point_model": "M", "charge_point_vendor": "V"}
    reset_payload: dict[str, Any] = {"type": "Soft"}
else:
    from ocpp.v201 import ChargePoint, call, call_result

    boot_payload = {"charging_station": {"model": "M", "vendor_name": "V"}, "reason": "PowerUp"}
    reset_payload = {"type": "Immediate"}
SUBPROTOCOL = websockets.Subprotocol(f"ocpp{version}")

ACCEPTED: Any = "Accepted"


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


class Central(ChargePoint):  # type: ignore[misc]
    """Answers a boot, within which it resets the charge point."""

    @on("BootNotification")
    def boot(self, **payload: Any) -> Any:
        asyncio.get_running_loop().create_task(self.reset())
        return call_result.BootNotification(
            current_time="2026-01-01T00:00:00Z", interval=300, status=ACCEPTED
        )

    async def reset(self) -> None:
        answer = await self.call(call.Reset(**reset_payload))
        assert answer.status == "Accepted"


class Point(ChargePoint):  # type: ignore[misc]
    """Is reset."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.was_reset = asyncio.Event()

    @on("Reset")
    def reset(self, **payload: Any) -> Any:
        assert payload == reset_payload
        self.was_reset.set()
        return call_result.Reset(status=ACCEPTED)


async def serve() -> None:
    async def connected(ws: Any) -> None:
        await Central("CP_1", ws).start()

    async with websockets.serve(connected, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as server:
        say(next(iter(server.sockets)).getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def charge(url: str) -> None:
    async with websockets.connect(url, subprotocols=[SUBPROTOCOL], proxy=None) as ws:
        point = Point("CP_1", ws)
        running = asyncio.create_task(point.start())
        answer = await point.call(call.BootNotification(**boot_payload))
        await point.was_reset.wait()
        beat = await point.call(call.Heartbeat())
        try:
            await point.call(call.DataTransfer(vendor_id="nobody"), suppress=False)
        except Exception as exc:  # noqa: BLE001 - of the package's own many
            say(json.dumps([answer.status, answer.interval, beat.current_time, type(exc).__name__]))
        running.cancel()


asyncio.run(serve() if role == "server" else charge(rest[0]))
