"""The code of docs/topics/shutdown.md and docs/deployment.md, run; it sends itself SIGTERM."""

from __future__ import annotations

import functools
import os
import signal

import trio
import trio.testing

import trio_ws


async def save_history() -> None:
    await trio.sleep(0.01)
    print("the history is saved")


async def chat(ws: trio_ws.WebSocket) -> None:
    try:
        async for message in ws:
            print(message.text)
    finally:
        with trio.move_on_after(1, shield=True):
            await save_history()


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int = 8000) -> None:
    with trio_ws.cancel_on_signals():  # SIGTERM and Ctrl+C
        await trio_ws.serve(echo, port)


async def talk(server: trio_ws.WebSocketServer) -> None:
    async with trio_ws.connect(server.url) as ws:
        await ws.send("hello")
        await ws.ping()
        os.kill(os.getpid(), signal.SIGTERM)
        await ws.recv()
        print("told", ws.close_code)


async def watched() -> None:
    async with trio.open_nursery() as nursery:
        with trio_ws.cancel_on_signals():
            async with trio.open_nursery() as inner:
                server = await inner.start(functools.partial(trio_ws.serve, chat, 0, host="127.0.0.1"))
                nursery.start_soon(talk, server)


async def stopped() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(main, 0)
        await trio.testing.wait_all_tasks_blocked(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
    print("ended in order")


if __name__ == "__main__":
    trio.run(watched)
    trio.run(stopped)
