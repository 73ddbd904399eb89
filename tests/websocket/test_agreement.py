"""A client and a server of trio_ws agree on any messages, with any compression and any split into reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.serving import serving_in_memory
from trio_ws import Compression, Options, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ws import WebSocket

bits = st.integers(9, 15)
compressions = st.builds(
    Compression,
    level=st.integers(1, 9),
    memory_level=st.integers(1, 9),
    threshold=st.sampled_from([0, 1, 100, 256]),
    server_max_window_bits=st.none() | bits,
    client_max_window_bits=bits,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
)
# Repeated, so that some are longer than a small window and all are worth compressing.
texts = st.builds(lambda text, n: text * n, st.text(max_size=12), st.sampled_from([1, 1, 40, 1500]))
blobs = st.builds(lambda blob, n: blob * n, st.binary(max_size=12), st.sampled_from([1, 1, 40, 1500]))
fragments = st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=4)
messages = st.lists(texts | blobs | fragments, min_size=1, max_size=6)


async def one_by_one(items: list[str]) -> AsyncIterator[str]:
    for item in items:
        yield item


def expected(sent: list[Any]) -> list[str | bytes]:
    return ["".join(item) if isinstance(item, list) else item for item in sent]


async def send_all(ws: WebSocket, sent: list[Any]) -> None:
    for item in sent:
        await ws.send(one_by_one(item) if isinstance(item, list) else item)


async def receive_all(ws: WebSocket) -> list[str | bytes]:
    return [message.payload async for message in ws]


async def exchange(
    to_server: list[Any], to_client: list[Any], server: Options, client: Options, max_read: int | None
) -> tuple[list[str | bytes], list[str | bytes], bool]:
    """Let both sides send and close; return the received messages, and whether compression was negotiated."""
    at_server: list[str | bytes] = []
    at_client: list[str | bytes] = []

    async def handler(ws: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, ws, to_client)
            at_server.extend(await receive_all(ws))

    async with serving_in_memory(handler, options=server) as memory:
        link = await memory.listener.open_link(max_read=max_read)
        async with connect("ws://test/", stream=link.client, options=client) as ws:
            assert ws.response_headers is not None
            agreed = ws.response_headers.get("Sec-WebSocket-Extensions") is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all, ws, to_server)
                for _ in to_client:
                    message = await ws.recv()
                    assert message is not None
                    at_client.append(message.payload)
    return at_server, at_client, agreed


@examples(40)
@given(
    messages,
    messages,
    compressions | st.booleans(),
    compressions | st.booleans(),
    st.sampled_from([None, 3, 50, 1000]),
)
def test_any_messages_arrive_both_ways(
    to_server: list[Any],
    to_client: list[Any],
    server: Compression | bool,
    client: Compression | bool,
    max_read: int | None,
) -> None:
    at_server, at_client, agreed = trio.run(
        exchange,
        to_server,
        to_client,
        Options(compression=server),
        Options(compression=client),
        max_read,
        clock=trio.testing.MockClock(autojump_threshold=0),
    )
    assert at_server == expected(to_server)
    assert at_client == expected(to_client)
    if server is False or client is False:
        assert not agreed
    elif server is True and client is True:
        assert agreed
