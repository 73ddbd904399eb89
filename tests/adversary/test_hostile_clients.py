"""Random attackers and honest clients: the honest ones are served, and nothing remains of the attackers.

The attackers use every dialect, or none, with their own or foreign ids. They may not read, and their
connections may break at any point. The clock is a mock, so nothing that they do takes time.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.adversary.attackers import SMALL, arrange, attack
from tests.adversary.census import faults, roots_of, weight
from tests.adversary.honest import Methods, call_for_ever, echo, echo_for_ever, get_for_ever, site
from tests.adversary.honest import listener as listening
from tests.adversary.scripts import Script, scripts
from tests.support.examples import examples
from tests.support.serving import all_tasks
from trio_ws import WebSocketServer, connect
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ws import WebSocket

OPTIONS = replace(
    SMALL,
    open_timeout=5,
    close_timeout=3,
    drain_timeout=3,
    ping_interval=4,
    ping_timeout=4,
    max_connections=8,
    max_handshakes=6,
    max_body_bytes=500,
    max_subscribed_channels=5,
)
COMPRESSED = replace(OPTIONS, compression=True)

#: Maximum number of bytes that one connection may hold, whatever it sends.
LIMIT = 40_000
#: Seconds within which the server frees everything of an attacker that has disconnected.
SOON = 20.0


@examples(250)
@given(
    st.sampled_from(["echo", "calls", "listener", "site"]),
    st.booleans(),
    st.lists(scripts(), min_size=1, max_size=3),
)
def test_honest_clients_are_served_and_nothing_is_left(
    target: str, compressed: bool, attackers: list[Script]
) -> None:
    trio.run(run, target, compressed, attackers, clock=trio.testing.MockClock(autojump_threshold=0))


async def run(target: str, compressed: bool, attackers: Sequence[Script]) -> None:
    options = COMPRESSED if compressed else OPTIONS
    methods = Methods()
    listener = MemoryListener()
    before = all_tasks()
    with faults() as found, trio.fail_after(10_000):
        targets: dict[str, Any] = {
            "echo": echo,
            "calls": methods,
            "listener": listening(methods),
            "site": site(methods),
        }
        served = targets[target]
        async with WebSocketServer(served, listeners=[listener], options=options) as server:
            stop = trio.Event()
            async with trio.open_nursery() as honest:
                await start_honest(honest, target, listener, methods, stop)
                known = server.connections
                await meet(server, listener, attackers, known, methods)
                await trio.sleep(SOON)
                assert server.connections == known, "an attacker is left"
                assert methods.running == 0, "a call of an attacker is left"
                stop.set()
            await trio.sleep(SOON)
            assert not server.connections
            assert not methods.channels.statistics().channels, "a subscription is left"
            assert methods.channels.statistics().stalled == 0
            await all_places_are_free(listener, target, OPTIONS.max_connections or 0)
            assert methods.connected == methods.disconnected
        assert found == []
    assert all_tasks() == before


async def start_honest(
    nursery: trio.Nursery, target: str, listener: MemoryListener, methods: Methods, stop: trio.Event
) -> None:
    """Start honest clients, and wait until they are served."""
    if target in ("echo", "listener", "site"):
        nursery.start_soon(echo_for_ever, await listener.connect(), stop)
    if target in ("calls", "site"):
        path = "/calls" if target == "site" else "/"
        for dialect in ("trio-ws.v1", "jsonrpc"):
            nursery.start_soon(call_for_ever, await listener.connect(), path, dialect, methods, stop)
    if target == "site":
        nursery.start_soon(get_for_ever, listener.connect, stop)
    await trio.sleep(0.5)


async def meet(
    server: WebSocketServer,
    listener: MemoryListener,
    attackers: Sequence[Script],
    known: frozenset[WebSocket],
    methods: Methods,
) -> None:
    """Run the attackers, check the memory that they hold, and let them disconnect."""
    at_work, done, leave = len(attackers), trio.Event(), trio.Event()

    def look() -> None:
        for ws in server.connections - known:
            held = weight(roots_of(ws), [server, methods])
            assert held < LIMIT, f"one connection holds {held} bytes"

    async def one(script: Script) -> None:
        nonlocal at_work
        stream = await listener.connect(
            latency=script.latency, capacity=script.capacity, max_read=script.max_read
        )
        arrange(script, stream)
        await attack(script, stream, look)
        at_work -= 1
        if not at_work:
            done.set()
        await leave.wait()
        if script.ends == "reset":
            stream.link.cut()
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        for script in attackers:
            nursery.start_soon(one, script)
        await done.wait()
        look()
        leave.set()


async def all_places_are_free(listener: MemoryListener, target: str, count: int) -> None:
    """Check that the maximum number of clients can connect, and are served."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            stream = await listener.connect()
            ws = await stack.enter_async_context(connect("ws://localhost/", stream=stream, proxy=None))
            await ws.ping()
