"""The application of hosted.py with Emmett55, a framework for RSGI."""

from __future__ import annotations

from typing import Any

import emmett55  # type: ignore[import-not-found,import-untyped,unused-ignore]

from benchmarks.hosted import respond

__all__ = ["framework"]

framework: Any = emmett55.App(__name__)
websocket: Any = emmett55.websocket


async def echo() -> None:
    await websocket.accept()
    while True:
        await websocket.send(await websocket.receive())


async def calls() -> None:
    await websocket.accept()
    while True:
        await websocket.send(respond(await websocket.receive()))


framework.websocket("/echo")(echo)
framework.websocket("/rpc")(calls)
