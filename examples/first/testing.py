import trio
import trio.testing

import trio_ws
from trio_ws.testing import MemoryListener


async def nothing(ws: trio_ws.WebSocket) -> None:
    await ws.recv()


async def main() -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(nothing, listeners=[listener]):
        stream = await listener.connect(latency=2.5)
        async with trio_ws.connect("ws://test/", stream=stream) as ws:
            print(await ws.ping(), "seconds there and back, at", trio.current_time())


trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
