"""A charge point: OCPP 1.6, in both directions."""

import sys

import trio

import trio_ws
from trio_ws.dialects import OCPP16


class ChargePoint(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method("RemoteStartTransaction")
    async def start(
        self, connection: trio_ws.ClientConnection, /, idTag: str, connectorId: int = 1
    ) -> dict[str, str]:
        print("start for", idTag, "at", connectorId)
        return {"status": "Accepted"}


async def boot(connection: trio_ws.ClientConnection) -> None:
    answer = await connection.call("BootNotification", chargePointModel="M1", chargePointVendor="ACME")
    if answer["status"] != "Accepted":
        raise trio_ws.Reconnect(f"the central system said {answer['status']}")


async def main(url: str) -> None:
    async with trio_ws.WebSocketClient(
        url, dialect=OCPP16(), handler=ChargePoint, on_connection=boot, reconnect=trio_ws.Backoff()
    ) as client:
        for _ in range(2):
            print("heartbeat:", (await client.call("Heartbeat"))["currentTime"])
            await trio.sleep(0.1)


trio.run(main, sys.argv[1])
