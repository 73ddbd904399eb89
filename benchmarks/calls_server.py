"""Our server of calls, as servers.py describes it.

``python -m benchmarks.calls_server PORT``, followed by ``app`` for the same handler mounted in an App.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import trio

import trio_ws


class Rooms(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b

    @trio_ws.rpc_method()
    def plus(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b

    @trio_ws.rpc_method()
    async def count(self, connection: trio_ws.ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @trio_ws.rpc_method()
    def join(self, connection: trio_ws.ClientConnection, room: str) -> bool:
        return connection.subscribe(room)

    @trio_ws.rpc_method()
    async def pub(self, connection: trio_ws.ClientConnection, room: str, count: int, size: int) -> int:
        for _ in range(count):
            self.publish(room, b"x" * size)
            await trio.lowlevel.checkpoint()
        return count


if __name__ == "__main__":
    options = trio_ws.Options(ping_interval=None)
    app = trio_ws.App()
    app.mount("/rpc", Rooms())
    target = app if sys.argv[2:] == ["app"] else Rooms
    trio.run(lambda: trio_ws.serve(target, int(sys.argv[1]), host="127.0.0.1", options=options))
