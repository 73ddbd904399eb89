"""An echo server of trio_ws for Autobahn's fuzzing client: ``python server.py PORT``."""

from __future__ import annotations

import sys

import trio

import trio_ws

# Case 9.1.6 echoes a message of 16 MiB; groups 12 and 13 are about compression.
OPTIONS = trio_ws.Options(max_message_size=64 * 1024 * 1024, compression=True)


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    await trio_ws.serve(echo, port, host="127.0.0.1", options=OPTIONS)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
