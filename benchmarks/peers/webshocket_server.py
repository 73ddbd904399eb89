"""A server of calls on webshocket; see benchmarks/servers.py."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import webshocket

from benchmarks.peers.loops import run


class Handler(webshocket.WebSocketHandler[Any]):
    @webshocket.rpc_method()
    async def add(self, connection: Any, a: int, b: int) -> int:
        return a + b

    @webshocket.rpc_method()
    async def plus(self, connection: Any, a: int, b: int) -> int:
        return a + b

    @webshocket.rpc_method()
    async def count(self, connection: Any, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @webshocket.rpc_method()
    async def join(self, connection: Any, room: str) -> bool:
        connection.subscribe(room)
        return True

    @webshocket.rpc_method()
    async def pub(self, connection: Any, room: str, count: int, size: int) -> int:
        for _ in range(count):
            self.publish(room, b"x" * size)
            await asyncio.sleep(0)
        return count


async def main() -> None:
    async with webshocket.WebSocketServer("127.0.0.1", int(sys.argv[1]), clientHandler=Handler) as server:
        await server.serve_forever()


run(main())
