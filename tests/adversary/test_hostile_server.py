"""A random server and our client: the client's block always ends in time, with errors of trio_ws only.

The server uses every dialect, or none, answers calls that it never received, sends unexpected data, may not
read, and may break the connection at any point. The clock is a mock, so nothing that it does takes time.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.adversary.attackers import PATIENCE, SMALL, Gate, arrange, play
from tests.adversary.census import faults, roots_of, weight
from tests.adversary.honest import Methods, numbers
from tests.adversary.scripts import DIALECTS, Script, scripts
from tests.support.examples import examples
from tests.support.serving import all_tasks
from trio_ws import Backoff, WebSocketClient, WebSocketError, connect
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ws import WebSocket

OPTIONS = replace(
    SMALL,
    open_timeout=5,
    close_timeout=3,
    ping_interval=4,
    ping_timeout=4,
    compression=True,
)
#: Maximum number of bytes that the client may hold, whatever the server sends.
LIMIT = 60_000

HEADS = (
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 3000,
    b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nA\r\n" * 600,
    b"HTTP/1.1 503 Busy\r\nRetry-After: 99999999999999999999\r\n\r\n",
    b"HTTP/1.1 301 Moved\r\nLocation: ws://\xff\xff/\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
    b"HTTP/1.1 999 What\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300,
    b"HTTP/1.1 100 Continue\r\n\r\n" * 40,
    b"HTTP/9.9 101 x\r\n\r\n",
    b"SSH-2.0-OpenSSH\r\n",
    b"\0" * 3000,
    b"",
)
OPERATIONS = ("call", "stream", "upload", "receive", "subscribe", "send", "give up")


@examples(150)
@given(
    scripts(),
    st.sampled_from(["as spoken", "as spoken", "as spoken", None, *DIALECTS]),
    st.sampled_from([None] * 3 * len(HEADS) + [*HEADS]),
    st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=6),
    st.sampled_from(["calls", "calls", "reconnecting", "messages"]),
)
def test_a_client_ends_in_time_with_errors_of_ours(
    script: Script, offers: str | None, head: bytes | None, operations: list[str], what: str
) -> None:
    if offers == "as spoken":
        offers = script.dialect or "json"
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(run, script, offers, head, operations, what, clock=clock)


async def run(
    script: Script, offers: str | None, head: bytes | None, operations: Sequence[str], what: str
) -> None:
    before = all_tasks()
    with faults() as found, trio.fail_after(1000):
        inside: list[WebSocket] = []
        async with trio.open_nursery() as nursery:

            async def dial() -> trio.abc.Stream:
                link = Link(latency=script.latency, capacity=script.capacity, max_read=script.max_read)
                nursery.start_soon(serve, script, head, link, lambda: look(inside))
                await trio.lowlevel.checkpoint()
                return link.client

            began = trio.current_time()
            with contextlib.suppress(WebSocketError):
                if what == "messages":
                    await use_websocket(await dial(), inside)
                elif what == "reconnecting":
                    await use_client(dial, inside, offers, operations, Backoff(initial=0.2, maximum=1))
                else:
                    await use_client(await dial(), inside, offers, operations, None)
            # The operations take at most ten seconds.
            assert trio.current_time() - began < 10 + OPTIONS.open_timeout + 2 * OPTIONS.close_timeout
            nursery.cancel_scope.cancel()
        assert found == []
    assert all_tasks() == before


def look(inside: Sequence[WebSocket]) -> None:
    """Check the memory that the client holds."""
    for ws in inside:
        held = weight(roots_of(ws))
        assert held < LIMIT, f"the client holds {held} bytes"


async def serve(script: Script, head: bytes | None, link: Link, watch: Any) -> None:
    """Run the server."""
    stream = link.server
    with contextlib.suppress(OSError, EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
        if head is not None:
            await RawPeer(stream, client=False).receive_head()
            await stream.send_all(head)
        else:
            headers = [("Sec-WebSocket-Protocol", script.dialect)] if script.dialect else []
            if script.deflate:
                headers.append(("Sec-WebSocket-Extensions", "permessage-deflate"))
            await RawPeer.accept(stream, headers)
            arrange(script, stream)
            await trio.sleep(script.latency + 0.1)  # so that the client has made a call
        async with trio.open_nursery() as nursery:
            gate = Gate()
            gate.set(script.reads)
            nursery.start_soon(gate.read, stream)
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await play(script.steps, script.speaks, stream, gate, watch, masked=False)
                if script.ends == "stays":
                    await trio.sleep_forever()
                await trio.sleep(PATIENCE)
                if script.ends == "reset":
                    link.cut()
            nursery.cancel_scope.cancel()
        await stream.aclose()


async def use_websocket(stream: trio.abc.Stream, inside: list[WebSocket]) -> None:
    """Send and receive."""
    async with connect("ws://test/", stream=stream, proxy=None, options=OPTIONS) as ws:
        inside.append(ws)
        with trio.move_on_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tolerant, ws.ping)
                nursery.start_soon(tolerant, ws.send, "x" * 5000)
                nursery.start_soon(tolerant, take_all, ws)


async def take_all(ws: WebSocket) -> None:
    async for message in ws:
        assert message.is_text() or message.is_binary()


async def tolerant(function: Any, *args: Any) -> None:
    """Run a function, and ignore errors of trio_ws."""
    with contextlib.suppress(WebSocketError):
        await function(*args)


async def use_client(
    stream: Any, inside: list[WebSocket], offers: str | None, operations: Sequence[str], again: Backoff | None
) -> None:
    """Run all operations concurrently."""
    with trio.move_on_after(10 + OPTIONS.open_timeout):  # a client that reconnects would retry forever
        async with WebSocketClient(
            "ws://test/",
            stream=stream,
            proxy=None,
            options=OPTIONS,
            dialect=offers,
            handler=Answering,
            reconnect=again,
        ) as client:
            with trio.move_on_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch_states, client, inside)
                    async with trio.open_nursery() as workers:
                        for operation in operations:
                            workers.start_soon(tolerant, operate, client, operation)
                    nursery.cancel_scope.cancel()


async def watch_states(client: WebSocketClient, inside: list[WebSocket]) -> None:
    """Record each connection of the client."""
    while True:
        if client._connections.session is not None:
            inside[:] = [client._connections.session.ws]
        await trio.sleep(0.05)


class Answering(Methods):
    """The methods that the server may call. Packets are received with recv()."""


async def operate(client: WebSocketClient, operation: str) -> None:
    match operation:
        case "call":
            for _ in range(5):
                with contextlib.suppress(WebSocketError):
                    assert isinstance(await client.call("echo", 1, returns=int), int)
        case "stream":
            async with client.stream("numbers", 5, items=int) as items:
                async for item in items:
                    assert isinstance(item, int)
        case "upload":
            await client.call("total", numbers(20))
        case "receive":
            async with client.stream("pages") as pages:
                async for _ in pages:
                    await trio.sleep(1)
        case "subscribe":
            async with client.subscribe("a") as subscription:
                async for _ in subscription:
                    pass
        case "send":
            await client.send("x" * 1500)
        case "give up":
            with trio.move_on_after(0.5):
                await client.call("wait", numbers(20))
        case _:
            pass
