"""A server on picows; see benchmarks/servers.py."""

from __future__ import annotations

import asyncio
import sys

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.peers.loops import run

subscribers: set[WSTransport] = set()
tasks: set[asyncio.Task[None]] = set()


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            self.on_message(transport, frame)

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())


class Subscriber(Echo):
    def on_ws_connected(self, transport: WSTransport) -> None:
        subscribers.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        subscribers.discard(transport)


class Publisher(Echo):
    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        count, size = map(int, frame.get_payload_as_ascii_text().split())
        task = asyncio.get_running_loop().create_task(self.publish(transport, count, size))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def publish(self, transport: WSTransport, count: int, size: int) -> None:
        for _ in range(count):
            for subscriber in subscribers:
                subscriber.send(WSMsgType.BINARY, b"x" * size)
            await asyncio.sleep(0)
        transport.send(WSMsgType.TEXT, b"done")


LISTENERS = {"/echo": Echo, "/sub": Subscriber, "/pub": Publisher}


def make_listener(request: WSUpgradeRequest) -> Echo:
    path: str | bytes = request.path
    return LISTENERS[path.decode() if isinstance(path, bytes) else path]()


async def main() -> None:
    server = await ws_create_server(make_listener, "127.0.0.1", int(sys.argv[1]), max_frame_size=5 << 20)
    await server.serve_forever()


run(main())
