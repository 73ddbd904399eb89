"""The tests of docs/testing.md that use the fixtures of trio_ws, run by pytest."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import trio

import trio_ws


class Calculator(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b


async def test_a_client_comes_back(trio_ws_server: Any, trio_ws_client: Any, autojump_clock: Any) -> None:
    server = await trio_ws_server(Calculator)
    client = await trio_ws_client(server, reconnect=trio_ws.Backoff())
    assert await client.call("add", 1, 2) == 3
    server.links[-1].cut()
    await trio.sleep(1)  # takes no time; the client notices the loss
    assert await client.call("add", 2, 2) == 4


if __name__ == "__main__":
    # In a process of its own, where pytest loads its plugins before anything else imports trio_ws.
    command = [sys.executable, "-m", "pytest", "-q", "-o", "trio_mode=true", __file__]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    print("failed" if done.returncode else "passed")
    sys.exit(done.returncode)
