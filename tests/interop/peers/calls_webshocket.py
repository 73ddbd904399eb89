"""The package webshocket, as a server and as a client of calls; see test_calls_webshocket.py.

``server`` prints its port as JSON and runs until it is killed; ``client URL`` does everything once and prints
what it saw as JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

import webshocket

BIG = "0123456789" * 30_000


class Handler(webshocket.WebSocketHandler[Any]):
    async def on_connect(self, connection: Any) -> None:
        return

    async def on_disconnect(self, connection: Any) -> None:
        return

    async def on_receive(self, connection: Any, packet: Any) -> None:
        connection.send({"echo": packet.data})

    @webshocket.rpc_method()
    async def add(self, connection: Any, a: int, b: int) -> int:
        return a + b

    @webshocket.rpc_method()
    async def echo(self, connection: Any, value: Any) -> Any:
        return value

    @webshocket.rpc_method()
    async def slow(self, connection: Any, value: int) -> int:
        await asyncio.sleep(0.05)
        return value

    @webshocket.rpc_method()
    async def count(self, connection: Any, n: int) -> Any:
        for number in range(n):
            yield number

    @webshocket.rpc_method()
    async def broken_count(self, connection: Any) -> Any:
        yield 1
        raise ValueError("broken")

    @webshocket.rpc_method()
    async def fail(self, connection: Any) -> None:
        raise ValueError("it failed")

    @webshocket.rpc_method()
    async def join(self, connection: Any, room: str) -> bool:
        connection.subscribe(room)
        self.publish(room, {"joined": room})
        return True


async def serve() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = webshocket.WebSocketServer("127.0.0.1", port, clientHandler=Handler)
    async with server:
        sys.stdout.write(f"{json.dumps(port)}\n")
        sys.stdout.flush()
        await server.serve_forever()


async def ask(url: str) -> dict[str, Any]:
    report: dict[str, Any] = {}
    async with webshocket.WebSocketClient(url) as client:
        response = await client.send_rpc("add", 10, 20)
        report["add"] = [response.response, response.error]
        report["kwargs"] = (await client.send_rpc("add", a=1, b=2)).response
        report["big"] = (await client.send_rpc("echo", BIG)).response == BIG
        report["bytes"] = (await client.send_rpc("echo", b"\x00\xff")).response == b"\x00\xff"
        report["stream"] = [packet.response async for packet in client.stream_rpc("count", 100)]
        seen = []
        stream = client.stream_rpc("ticks")  # slow, since its client loses what comes in a flood
        async for packet in stream:
            seen.append(packet.response)
            if len(seen) == 5:
                break
        await stream.aclose()
        report["abandoned"] = seen
        for name, method in (("unknown", "nobody"), ("failing", "fail"), ("invalid", "add")):
            try:
                response = await client.send_rpc(method)
                report[name] = response.error
            except webshocket.RPCError as exc:
                report[name] = type(exc).__name__
        report["broken_stream"] = [packet.error async for packet in client.stream_rpc("broken_count")]
        answers = await asyncio.gather(*(client.send_rpc("slow", number) for number in range(500)))
        report["many"] = [answer.response for answer in answers] == list(range(500))
        client.send({"hello": 1})
        report["packet"] = (await client.recv()).data
    return report


if __name__ == "__main__":
    if sys.argv[1] == "server":
        asyncio.run(serve())
    else:
        sys.stdout.write(json.dumps(asyncio.run(ask(sys.argv[2]))))
