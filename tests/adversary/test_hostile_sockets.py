"""Random attackers over real sockets: nothing remains of them, above all no file descriptors.

test_hostile_clients.py has more of these tests, without sockets. This module tests TCP and TLS, resets, the
shared reader, and the real clock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st

from tests.adversary.attackers import SMALL, attack
from tests.adversary.census import faults
from tests.adversary.honest import Methods, call_for_ever, echo, echo_for_ever, listener, site
from tests.adversary.process import INNOCENT, dial
from tests.adversary.scripts import Script, scripts
from tests.support.examples import examples
from tests.support.serving import all_tasks
from trio_ws import WebSocketServer, connect

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS = replace(
    SMALL,
    open_timeout=0.5,
    close_timeout=0.5,
    drain_timeout=1,
    ping_interval=0.5,
    ping_timeout=0.5,
    max_connections=16,
    max_handshakes=12,
    max_body_bytes=500,
    max_subscribed_channels=5,
    compression=True,
)
#: Enough connections for the shared reader.
CROWD = 5
#: Seconds of a step; there are at most ten steps.
PATIENCE = 0.02

_authority = trustme.CA()


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts of a server and of its clients."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    _authority.configure_trust(client)
    return server, client


SERVER_CONTEXT, CLIENT_CONTEXT = contexts()


@examples(20)
@given(
    st.sampled_from(["echo", "calls", "listener", "site"]),
    st.booleans(),
    st.booleans(),
    st.lists(scripts(), min_size=1, max_size=4),
)
def test_no_descriptor_is_left_and_honest_clients_are_served(
    target: str, tls: bool, crowded: bool, attackers: list[Script]
) -> None:
    trio.run(run, target, tls, crowded, attackers)


def descriptors() -> int:
    """Return the number of file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def run(target: str, tls: bool, crowded: bool, attackers: Sequence[Script]) -> None:
    methods = Methods()
    tasks, files = all_tasks(), descriptors()
    with faults() as found, trio.fail_after(60):
        targets: dict[str, Any] = {
            "echo": echo,
            "calls": methods,
            "listener": listener(methods),
            "site": site(methods),
        }
        served = targets[target]
        context = SERVER_CONTEXT if tls else None
        async with (
            WebSocketServer(served, host="127.0.0.1", ssl_context=context, options=OPTIONS) as server,
            AsyncExitStack() as crowd,
        ):
            for _ in range(CROWD * crowded):
                stream = await dial(server.port, INNOCENT, tls=tls)
                await crowd.enter_async_context(connect("ws://localhost/", stream=stream, proxy=None))
            stop = trio.Event()
            async with trio.open_nursery() as honest:
                stream = await dial(server.port, INNOCENT, tls=tls)
                if target in ("echo", "listener"):
                    honest.start_soon(echo_for_ever, stream, stop)
                else:
                    path = "/calls" if target == "site" else "/"
                    honest.start_soon(call_for_ever, stream, path, "trio-ws.v1", methods, stop)
                while len(server.connections) < CROWD * crowded + 1:
                    await trio.sleep(0.01)
                known = server.connections
                async with trio.open_nursery() as nursery:
                    for script in attackers:
                        nursery.start_soon(one, script, server.port, tls)
                with trio.fail_after(20):
                    # The honest client's calls run one after the other, with pauses between them.
                    while server._clients != len(known) or methods.running:
                        await trio.sleep(0.02)
                assert server.connections == known
                assert sum(server._shares._connections.values()) == len(known), "a share is left"
                assert not server._shares._handshakes
                stop.set()
            assert methods.connected - methods.disconnected <= len(known)
        assert not methods.channels.statistics().channels, "a subscription is left"
        assert methods.connected == methods.disconnected
        assert found == []
    assert all_tasks() == tasks
    assert descriptors() == files


async def one(script: Script, port: int, tls: bool) -> None:
    """Run one attacker."""
    stream = await dial(port, tls=tls and script.cut is None)
    await attack(script, stream, lambda: None, patience=PATIENCE)
    if script.ends == "reset" and isinstance(stream, trio.SocketStream):
        # Closing with no time to linger sends a reset.
        with contextlib.suppress(OSError):  # the script has closed it
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)
