"""Rooms, a health check and a small JSON API: ``python examples/app.py [port]``. Ctrl+C ends it."""

import logging
import sys
from collections import defaultdict

import trio_ws

app = trio_ws.App()
rooms: dict[int, set[trio_ws.WebSocket]] = defaultdict(set)


@app.websocket("/rooms/{room_id:int}")
async def room(ws: trio_ws.WebSocket, room_id: int) -> None:
    rooms[room_id].add(ws)
    try:
        async for message in ws:
            trio_ws.broadcast(rooms[room_id], message, exclude=[ws])
    finally:
        rooms[room_id].remove(ws)


@app.http("/healthz")
async def healthz(request: trio_ws.Request) -> dict[str, bool]:
    return {"ok": True}


@app.http("/api/rooms/{room_id:int}", methods=["POST"])
async def announce(request: trio_ws.Request, room_id: int) -> dict[str, int]:
    lines = request.json(type=list[str])  # anything else is answered with 400
    return {"reached": trio_ws.broadcast(rooms[room_id], "\n".join(lines))}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    app.run(int(sys.argv[1]) if len(sys.argv) > 1 else 8000, host="127.0.0.1")
