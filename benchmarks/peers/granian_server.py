"""A server on granian, which is written in Rust; see benchmarks/servers.py.

``python -m benchmarks.peers.granian_server PORT``: its own interface, RSGI, without a framework. Followed by
``starlette``: ASGI, with Starlette. The program is one process, as those of the others.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from granian.constants import Interfaces
from granian.server.embed import Server
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.peers.loops import run

CLOSED = 0  # the kind of a message of RSGI that is the end
subscribers: set[Any] = set()


async def rsgi(scope: Any, protocol: Any) -> None:
    ws = await protocol.accept()
    if scope.path == "/sub":
        subscribers.add(ws)
    while True:
        message = await ws.receive()
        if message.kind == CLOSED:
            break
        if scope.path == "/echo":
            await ws.send_bytes(message.data)
        elif scope.path == "/pub":
            await publish(message.data, [one.send_bytes for one in subscribers])
            await ws.send_str("done")
    subscribers.discard(ws)
    protocol.close()


async def publish(command: str, sends: list[Any]) -> None:
    count, size = map(int, command.split())
    for _ in range(count):
        for send in sends:
            await send(b"x" * size)
        await asyncio.sleep(0)


async def echo(ws: WebSocket) -> None:
    await ws.accept()
    try:
        while True:
            await ws.send_bytes(await ws.receive_bytes())
    except WebSocketDisconnect:
        pass


async def subscribe(ws: WebSocket) -> None:
    await ws.accept()
    subscribers.add(ws)
    try:
        while True:
            await ws.receive()
    except (WebSocketDisconnect, RuntimeError):
        subscribers.discard(ws)


async def publish_by_starlette(ws: WebSocket) -> None:
    await ws.accept()
    try:
        while True:
            await publish(await ws.receive_text(), [one.send_bytes for one in subscribers])
            await ws.send_text("done")
    except WebSocketDisconnect:
        pass


async def main() -> None:
    logging.disable()
    paths = {"/echo": echo, "/sub": subscribe, "/pub": publish_by_starlette}
    with_starlette = sys.argv[2:] == ["starlette"]
    server = Server(
        Starlette(routes=[WebSocketRoute(path, serve) for path, serve in paths.items()])
        if with_starlette
        else rsgi,
        port=int(sys.argv[1]),
        interface=Interfaces.ASGI if with_starlette else Interfaces.RSGI,
        log_enabled=False,
    )
    await server.serve()


run(main())
