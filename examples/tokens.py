"""A stream with a slow consumer: the producer is suspended at its ``yield`` until its items are consumed."""

from __future__ import annotations

from collections.abc import AsyncIterator  # annotations of methods are read while the program runs

import trio

import trio_ws

TEXT = "The producer makes no more tokens than the consumer takes, however long the text may be. " * 20
OPTIONS = trio_ws.Options(stream_window=8)


class Model(trio_ws.WebSocketHandler):
    made = 0

    @trio_ws.rpc_method()
    async def generate(self, connection: trio_ws.ClientConnection, prompt: str) -> AsyncIterator[str]:
        try:
            for token in TEXT.split():
                self.made += 1
                yield token
        finally:
            print(f"the generator was closed after {self.made} of {len(TEXT.split())} tokens")


async def main() -> None:
    model = Model()
    async with (
        trio_ws.WebSocketServer(model, host="127.0.0.1", options=OPTIONS) as server,
        trio_ws.WebSocketClient(server.url, options=OPTIONS) as client,
    ):
        async with client.stream("generate", "Tell me about back-pressure", items=str) as tokens:
            for taken in range(1, 25):
                token = await tokens.receive()
                await trio.sleep(0.005)  # a slow reader
                if taken % 8 == 0:
                    print(f"taken {taken}, made {model.made}, last: {token}")
            # Leaving the block before the end cancels the generator on the server.
        print("left the stream; calls go on:", client.connected)
        await trio.sleep(0.1)


if __name__ == "__main__":
    trio.run(main)
