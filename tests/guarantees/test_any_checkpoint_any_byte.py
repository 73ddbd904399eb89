"""Cancelling at every checkpoint, and stopping the network at every byte, leaves nothing behind.

A script uses all methods of a connection. It is run once for each of its checkpoints, and cancelled there. It
is also run once for each byte on its link, and the link is cut or partitioned there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.examples import every
from tests.support.serving import all_tasks, echo
from trio_ws import (
    Compression,
    ConnectionClosedError,
    ConnectionFailedError,
    Options,
    WebSocket,
    WebSocketServer,
    connect,
)
from trio_ws.testing import Link, MemoryListener
from trio_ws.testing.exploring import cancelled_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PLAIN = Options(open_timeout=5, close_timeout=5, ping_interval=30, ping_timeout=5)
COMPRESSED = Options(
    open_timeout=5, close_timeout=5, ping_interval=30, ping_timeout=5, compression=Compression(threshold=0)
)
OPTIONS = pytest.mark.parametrize("options", [PLAIN, COMPRESSED], ids=["plain", "compressed"])


async def parts() -> AsyncIterator[str]:
    yield "one "
    await trio.sleep(1)
    yield "two"


async def use(ws: WebSocket) -> None:
    """Use all methods except for opening and closing, with a peer that echoes."""
    await ws.send("text")
    assert await ws.receive_text() == "text"
    assert await ws.ping() >= 0
    await ws.send(parts())
    assert "".join([str(part) async for part in ws.recv_streaming()]) == "one two"
    await ws.send_json({"x": 1})
    assert await ws.receive_json() == {"x": 1}
    await ws.send(b"x" * 200)
    assert (await anext(ws)).data == b"x" * 200


async def closed_on_both_ends(link: Link) -> bool:
    for end in (link.client, link.server):
        with pytest.raises(trio.ClosedResourceError):
            await end.receive_some()
    return True


@OPTIONS
async def test_a_client_cancelled_at_every_checkpoint(options: Options, autojump_clock: Any) -> None:
    count = 0
    more = True
    while more:
        count += 1
        before = all_tasks()
        listener = MemoryListener()
        async with WebSocketServer(echo, listeners=[listener], options=options) as server:
            link = await listener.open_link(latency=0.125)

            async def script() -> None:
                async with connect("ws://test/", stream=link.client, options=options) as ws:
                    await use(ws)
                    await ws.close(4000, "done")

            began = trio.current_time()
            more = await cancelled_at(count, script)
            if more:
                assert trio.current_time() - began < 60
            with trio.fail_after(30):  # the other side notices the end
                while server._clients:
                    await server._client_done.wait()
        assert await closed_on_both_ends(link)
        assert all_tasks() == before
    assert count > 15


@OPTIONS
async def test_a_use_cancelled_at_every_checkpoint_leaves_a_connection_that_works_or_is_closed(
    options: Options, autojump_clock: Any
) -> None:
    count = 0
    more = True
    worked = 0
    while more:
        count += 1
        listener = MemoryListener()
        async with WebSocketServer(echo, listeners=[listener], options=options):
            stream = await listener.connect(latency=0.125)
            async with connect("ws://test/", stream=stream, options=options) as ws:
                more = await cancelled_at(count, lambda: use(ws))
                try:
                    await ws.send("check")
                    while True:  # after the messages that the script has not received
                        tail = [part async for part in ws.recv_streaming()]
                        if tail == ["check"]:
                            break
                        assert tail != []
                    worked += 1
                except ConnectionClosedError as exc:
                    # Only an unfinished message may have closed the connection.
                    assert exc.sent is not None
                    assert exc.sent.code == 1011
    assert worked > count // 2


@OPTIONS
async def test_a_handler_cancelled_at_every_checkpoint(options: Options, autojump_clock: Any) -> None:
    count = 0
    more = True

    async def handler(ws: WebSocket) -> None:
        nonlocal more

        async def script() -> None:
            await use(ws)
            await ws.close(4000, "done")

        more = await cancelled_at(count, script)

    while more:
        count += 1
        before = all_tasks()
        listener = MemoryListener()
        async with WebSocketServer(handler, listeners=[listener], options=options):
            link = await listener.open_link(latency=0.125)
            async with connect("ws://test/", stream=link.client, options=options) as ws:
                try:
                    await echo(ws)
                except ConnectionClosedError:
                    pass
            assert ws.closed
        assert await closed_on_both_ends(link)
        assert all_tasks() == before
    assert count > 15


async def run_on(link: Link, listener: MemoryListener, options: Options) -> bool:
    """Run the script over a link that may fail, and return whether it was completed."""
    async with WebSocketServer(echo, listeners=[listener], options=options) as server:
        try:
            async with connect("ws://test/", stream=link.client, options=options) as ws:
                await use(ws)
            whole = ws.close_received is not None
        except (ConnectionClosedError, ConnectionFailedError):
            whole = False
        with trio.fail_after(100):  # the other side notices the end
            while server._clients:
                await server._client_done.wait()
    return whole


@pytest.mark.repeats
@OPTIONS
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
@pytest.mark.parametrize("fault", ["cut", "clean cut", "partition"])
async def test_the_network_stops_at_every_byte(
    options: Options, direction: Any, fault: str, autojump_clock: Any
) -> None:
    listener = MemoryListener()
    whole = await listener.open_link()
    assert await run_on(whole, listener, options)
    total = getattr(whole, direction).carried
    before = all_tasks()
    # Partitions last until the timeouts expire, so they are tried only at every seventh byte. Clean ends are
    # similar to cuts, and are tried at every third byte.
    for count in range(0, total, every({"cut": 1, "clean cut": 3, "partition": 7}[fault])):
        listener = MemoryListener()
        link = await listener.open_link(max_read=None)
        if fault == "partition":
            stop_after(link, getattr(link, direction), count)
        else:
            link.cut_after(count, direction=direction, clean=fault == "clean cut")
        with trio.fail_after(100):  # more than all the timeouts together
            assert not await run_on(link, listener, options), count
        assert await closed_on_both_ends(link)
        assert all_tasks() == before


def stop_after(link: Link, direction: Any, count: int) -> None:
    """Deliver ``count`` bytes in one direction, and hold back all others."""
    carry, left = link.carry, count
    name: Any = "to_server" if direction is link.to_server else "to_client"

    def limited(way: Any, data: memoryview) -> int:
        nonlocal left
        if way is direction and left >= 0:
            data = data[: left or 1]
            left -= len(data)
            if left < 0:
                link.partition(direction=name)
        return carry(way, data)

    link.carry = limited  # type: ignore[assignment, method-assign]
