"""The code of docs/logging.md, run: the frames of one conversation are logged."""

import logging

import trio

import trio_ws


def set_up() -> None:
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("trio_ws.frames").setLevel(logging.DEBUG)  # connections that open from now on


class Count(logging.Handler):
    """Counts log records, and prints nothing."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    async with trio_ws.WebSocketServer(echo, 0, host="127.0.0.1") as server:
        async with trio_ws.connect(server.url) as ws:
            await ws.send("hello")
            await ws.receive_text()


if __name__ == "__main__":
    set_up()
    counter = Count()
    logging.getLogger().handlers = [counter]
    trio.run(main)
    print("frames were logged:", counter.count >= 4)
