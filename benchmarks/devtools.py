"""Measure what a command of the Chrome DevTools Protocol costs its client, beside trio-websocket.

``python -m benchmarks.devtools`` sends ``Runtime.evaluate``, 50 at a time, to a server on picows that answers
each command at once, so that no browser limits the client. The client of trio-websocket is as the programs
have it that use it: ``json``, and a task that reads and wakes the caller of each command. Each client has its
own process. Rounds of both are interleaved; the ratio is the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import picows
import trio
import trio_websocket

import trio_ws
from trio_ws.dialects import CDP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.connection import Connection

    Command = Callable[[], Awaitable[Any]]

__all__ = ["main"]

EXPRESSION = "document.title.length"
RESULT = b'"result":{"result":{"type":"number","value":5,"description":"5"}}}'


class Round(NamedTuple):
    cpu_us: float  # of the client's process for one command
    rate: float  # commands a second


# -- the server --------------------------------------------------------------------------------------------


class _Command(msgspec.Struct):
    id: int


class Browser(picows.WSListener):
    """Answers each command with the same result."""

    decode = msgspec.json.Decoder(_Command).decode

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        command = self.decode(frame.get_payload_as_bytes())
        transport.send(picows.WSMsgType.TEXT, b'{"id":%d,%b' % (command.id, RESULT))


def serve(pipe: Connection) -> None:
    async def run() -> None:
        server = await picows.ws_create_server(lambda _: Browser(), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, wait_for_end, pipe)
        server.close()

    asyncio.run(run())


def wait_for_end(pipe: Connection) -> None:
    try:
        pipe.recv()
    except EOFError:
        return


# -- the clients -------------------------------------------------------------------------------------------


async def measure(command: Command, at_once: int, count: int) -> Round:
    async def worker(commands: int) -> None:
        for _ in range(commands):
            await command()

    async def run(commands: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(worker, commands)

    await run(1)
    began, cpu = time.perf_counter(), time.process_time()
    await run(count // at_once)
    done = count // at_once * at_once
    return Round((time.process_time() - cpu) / done * 1e6, done / (time.perf_counter() - began))


async def ours(url: str, at_once: int, count: int) -> Round:
    async with trio_ws.WebSocketClient(url, dialect=CDP(), proxy=None) as client:

        async def command() -> None:
            result: Any = await client.call(
                "Runtime.evaluate", expression=EXPRESSION, returnByValue=True, awaitPromise=False
            )
            assert result["result"]["value"] == 5

        return await measure(command, at_once, count)


async def theirs(url: str, at_once: int, count: int) -> Round:
    waiting: dict[int, trio.MemorySendChannel[Any]] = {}
    ids = iter(range(1, count * 2))

    async def read(ws: trio_websocket.WebSocketConnection) -> None:
        while True:
            message = json.loads(await ws.get_message())
            if "id" in message:
                await waiting.pop(message["id"]).send(message)

    async with trio_websocket.open_websocket_url(url) as ws, trio.open_nursery() as nursery:
        nursery.start_soon(read, ws)

        async def command() -> None:
            number = next(ids)
            sender, receiver = trio.open_memory_channel[Any](1)
            waiting[number] = sender
            params = {"expression": EXPRESSION, "returnByValue": True, "awaitPromise": False}
            await ws.send_message(json.dumps({"id": number, "method": "Runtime.evaluate", "params": params}))
            message = await receiver.receive()
            assert message["result"]["result"]["value"] == 5

        result = await measure(command, at_once, count)
        nursery.cancel_scope.cancel()
    return result


def client(pipe: Connection, name: str, url: str, at_once: int, count: int) -> None:
    pipe.send(trio.run(ours if name == "trio_ws" else theirs, url, at_once, count))


# ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devtools")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--commands", type=int, default=5000, help="of each client in each round")
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--url", help="of a browser or a page, in place of the local server")
    arguments = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    end, served = processes.Pipe()
    server = processes.Process(target=serve, args=(served,))
    server.start()
    served.close()
    url = arguments.url or f"ws://127.0.0.1:{end.recv()}/"
    names = ("trio-websocket", "trio_ws")
    rounds: list[list[Round]] = []
    for _ in range(arguments.rounds):
        rounds.append([])
        for name in names:
            ours_end, theirs_end = processes.Pipe()
            process = processes.Process(
                target=client, args=(theirs_end, name, url, arguments.at_once, arguments.commands)
            )
            process.start()
            rounds[-1].append(ours_end.recv())
            process.join()
    end.close()
    server.join()
    print("| client | CPU us a command | commands a second |\n| --- | --- | --- |")
    for index, name in enumerate(names):
        cpu, rate = (statistics.median(each[index][part] for each in rounds) for part in (0, 1))
        print(f"| {name} | {cpu:.0f} | {rate:.0f} |")
    cpu = statistics.median(them.cpu_us / us.cpu_us for them, us in rounds)
    rate = statistics.median(us.rate / them.rate for them, us in rounds)
    print(f"\ntrio_ws: {cpu:.1f} times less CPU time, {rate:.1f} times as many commands a second")


if __name__ == "__main__":
    main()
