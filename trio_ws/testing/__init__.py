"""Tools for testing WebSockets without a network: in-memory links with faults, and a raw peer.

Everything runs in memory, and trio's clock is the only clock. With `trio.testing.MockClock`, or pytest-trio's
``autojump_clock``, hours of timeouts pass at once, and tests can assert exact times.

>>> import trio, trio.testing
>>> from trio_ws.testing import MemoryListener, RawPeer
>>> async def main() -> None:
...     listener = MemoryListener()
...     link = await listener.open_link(latency=0.25)
...     async with trio.open_nursery() as nursery:
...         nursery.start_soon(serve, await listener.accept())
...         peer = await RawPeer.connect(link.client, "/chat")
...         print(await peer.receive_frame(), "at", trio.current_time(), "seconds")
...         link.cut()
>>> async def serve(stream: trio.abc.Stream) -> None:
...     peer = await RawPeer.accept(stream)
...     await peer.send_text("hello")
>>> trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
Frame(fin=True, rsv=0, opcode=1, masked=False, payload=b'hello') at 0.5 seconds
"""

from __future__ import annotations

from trio_ws.channels.memory_broker import InMemoryBroker, InMemoryBus
from trio_ws.testing.exploring import Exploration, explore
from trio_ws.testing.link import Direction, Link, LinkOptions, LinkStream, MemoryListener
from trio_ws.testing.memory_server import MemoryServer
from trio_ws.testing.peer import Frame, RawPeer
from trio_ws.testing.recording import mask_secrets, record
from trio_ws.testing.replaying import Replay, replay

__all__ = [
    "Direction",
    "Exploration",
    "Frame",
    "InMemoryBroker",
    "InMemoryBus",
    "Link",
    "LinkOptions",
    "LinkStream",
    "MemoryListener",
    "MemoryServer",
    "RawPeer",
    "Replay",
    "explore",
    "mask_secrets",
    "record",
    "replay",
]
