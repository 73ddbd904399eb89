"""Message listeners: a function of one message."""

import msgspec
import trio

import trio_ws

app = trio_ws.App()


class Move(msgspec.Struct):
    player: str
    square: int


class Ack(msgspec.Struct):
    accepted: bool


@app.listener("/games/{game:int}")
async def move(ws: trio_ws.WebSocket, data: Move, game: int) -> Ack:
    return Ack(accepted=data.square < 64)


async def main() -> None:
    async with trio_ws.WebSocketServer(app) as server:
        async with trio_ws.connect(f"{server.url}/games/7") as ws:
            await ws.send_json(Move("ann", 12))
            print(await ws.receive_text())
            await ws.send('{"player": "ann", "square": "b4"}')
            await ws.recv(none_when_lost=True)
            print(ws.close_code, ws.close_reason)


trio.run(main)
