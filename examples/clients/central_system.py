"""A central system for charge points: OCPP 1.6 and 2.0.1."""

import sys
from typing import Any

import trio

import trio_ws
from trio_ws.dialects import OCPP16, OCPP201, OCPPError

TIME = "2026-01-01T00:00:00Z"


class CentralSystem(trio_ws.WebSocketHandler):
    dialects = (OCPP201(), OCPP16())

    @trio_ws.rpc_method("BootNotification")
    async def boot(self, connection: trio_ws.ClientConnection, /, **payload: Any) -> dict[str, Any]:
        if payload.get("chargePointVendor") != "ACME":
            raise OCPPError("SecurityError", "an unknown vendor")
        # The charge point is waiting for our response, but answers this call nevertheless.
        print(await connection.call("RemoteStartTransaction", idTag="ada"))
        return {"status": "Accepted", "currentTime": TIME, "interval": 300}

    @trio_ws.rpc_method("Heartbeat")
    def heartbeat(self, connection: trio_ws.ClientConnection) -> dict[str, str]:
        return {"currentTime": TIME}


async def main(port: str) -> None:
    async with trio_ws.WebSocketServer(CentralSystem, int(port)) as server:
        print(server.url, flush=True)
        await trio.sleep_forever()


trio.run(main, sys.argv[1])
