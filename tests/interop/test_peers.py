"""Other libraries as clients of our server and as servers of our client, over real sockets.

Each runs the same script, without and with compression on our side; see peers/scenario.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.interop.peering import PEERS, run_client, run_server
from tests.interop.peers.scenario import (
    BINARY_PARTS,
    CLIENT_CLOSE,
    MESSAGES,
    PIPELINED,
    REFUSAL,
    SERVER_CLOSE,
    SUBPROTOCOL,
    TEXT_PARTS,
    parts_of,
    pipelined,
)
from tests.support.inspect import deflate_of
from tests.support.serving import guard, serving
from trio_ws import CloseFrame, ConnectionClosedError, HandshakeRejectedError, Options, connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.peering import Peer
    from trio_ws import WebSocket

#: The options of our side.
OPTIONS = {"plain": Options(), "deflate": Options(compression=True)}

pytestmark = pytest.mark.parametrize("compression", OPTIONS)


@pytest.fixture(scope="module", params=PEERS, ids=lambda peer: peer.module)
def peer(request: pytest.FixtureRequest) -> Peer:
    """Return the peers whose library is installed."""
    peer: Peer = request.param
    pytest.importorskip(peer.library, reason=f"{peer.library} is not installed")
    return peer


# -- the peer is the client -------------------------------------------------------------------------


async def test_peers_client_with_our_server(peer: Peer, compression: str) -> None:
    deflated: set[bool] = set()
    recorded: list[Any] = []

    async def target(ws: WebSocket) -> None:
        if ws.path == "/reject":
            await ws.reject(403, body=REFUSAL)
            return
        await ws.accept()
        deflated.add(deflate_of(ws) is not None)
        if ws.path == "/echo":
            async for message in ws:
                await ws.send(message)
        elif ws.path == "/ping":
            assert await ws.ping(b"are you there?") < guard()
            await ws.send("the pong came")
            assert await ws.recv() is None
        elif ws.path == "/close":
            await ws.close(*SERVER_CLOSE)
            recorded.append(("close", ws.close_sent, ws.close_received and ws.close_received.code))
        elif ws.path == "/record":
            with pytest.raises(ConnectionClosedError):
                await ws.recv()
            recorded.append(("record", ws.close_received, ws.peer_closed_first))

    async with serving(
        target, subprotocols=[SUBPROTOCOL], options=OPTIONS[compression], debug=True
    ) as server:
        report = await run_client(peer, server.url, compression)
    assert report == {
        "messages": len(MESSAGES),
        "fragments": ["text", "binary"] if peer.fragments else None,
        "many": PIPELINED,
        "pings_the_server": "after the pong",
        "is_pinged": "the pong came",
        "server_closes": list(SERVER_CLOSE),
        "client_closes": None,
        "subprotocol": [SUBPROTOCOL, None],
        "rejected": 403,
    }
    assert recorded == [
        ("close", CloseFrame(*SERVER_CLOSE), SERVER_CLOSE[0] if peer.echoes_code else 1000),
        ("record", CloseFrame(*CLIENT_CLOSE), True),
    ]
    assert deflated == {peer.deflate and compression == "deflate"}


# -- the peer is the server -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(peer: Peer) -> Iterator[str]:
    """Run the peer's server for all tests with it, and yield its URL."""
    with run_server(peer) as url:
        yield url


async def test_messages_of_all_sizes(peer: Peer, url: str, compression: str) -> None:
    with trio.fail_after(guard()):
        async with connect(f"{url}/echo", options=OPTIONS[compression]) as ws:
            assert (deflate_of(ws) is not None) == (peer.deflate and compression == "deflate")
            for message in MESSAGES:
                await ws.send(message)
                back = await ws.recv()
                assert back is not None
                assert back.payload == message
        assert ws.close_received == CloseFrame(1000, "") or not peer.answers_close


async def test_our_fragments(peer: Peer, url: str, compression: str) -> None:
    with trio.fail_after(guard()):
        async with connect(f"{url}/echo", options=OPTIONS[compression]) as ws:
            await ws.send(parts_of(TEXT_PARTS))  # type: ignore[arg-type]
            assert await ws.receive_text() == "".join(TEXT_PARTS)
            await ws.send(parts_of(BINARY_PARTS))  # type: ignore[arg-type]
            assert await ws.receive_bytes() == b"".join(BINARY_PARTS)


@pytest.mark.parametrize(
    "peer", [peer for peer in PEERS if peer.fragments], ids=lambda peer: peer.module, indirect=True
)
async def test_the_peers_fragments(peer: Peer, url: str, compression: str) -> None:
    with trio.fail_after(guard()):
        async with connect(f"{url}/fragments", options=OPTIONS[compression]) as ws:
            assert "".join([str(part) async for part in ws.recv_streaming()]) == "".join(TEXT_PARTS)
            assert await ws.receive_bytes() == b"".join(BINARY_PARTS)


async def test_many_messages_pipelined(peer: Peer, url: str, compression: str) -> None:
    with trio.fail_after(guard()):
        async with (
            connect(f"{url}/echo", options=OPTIONS[compression]) as ws,
            trio.open_nursery() as nursery,
        ):

            async def send(number: int) -> None:
                await ws.send(pipelined(number))

            for number in range(PIPELINED):
                nursery.start_soon(send, number)
            # Tasks that are started together run in no order.
            back = {await ws.receive_text() for _ in range(PIPELINED)}
    assert back == {pipelined(number) for number in range(PIPELINED)}


async def test_pings_both_ways(peer: Peer, url: str, compression: str) -> None:
    with trio.fail_after(guard()):
        async with connect(f"{url}/echo", options=OPTIONS[compression]) as ws:
            seconds = await ws.ping(b"\x00\xff any bytes")
            assert ws.latency is not None
            assert 0 < ws.latency <= seconds
        async with connect(f"{url}/ping", options=OPTIONS[compression]) as ws:
            assert await ws.receive_text() == "the pong came"


async def test_the_peer_closes(peer: Peer, url: str, compression: str) -> None:
    with trio.fail_after(guard()):
        async with connect(f"{url}/close", options=OPTIONS[compression]) as ws:
            with pytest.raises(ConnectionClosedError) as closed:
                await ws.recv()
            await ws.wait_closed()
    assert (closed.value.code, closed.value.reason) == SERVER_CLOSE
    assert ws.close_received == CloseFrame(*SERVER_CLOSE)
    assert ws.peer_closed_first


async def test_we_close(peer: Peer, url: str, compression: str) -> None:
    with trio.fail_after(guard()):
        async with connect(f"{url}/record", options=OPTIONS[compression]) as ws:
            await ws.close(*CLIENT_CLOSE)
            if ws.close_received is None and not peer.answers_close:
                return  # its records are not known either
            assert ws.close_received is not None
            assert ws.close_received.code == (CLIENT_CLOSE[0] if peer.echoes_code else 1000)
            assert not ws.peer_closed_first
        async with connect(f"{url}/recorded", options=OPTIONS[compression]) as ws:
            assert await ws.receive_json() == list(CLIENT_CLOSE)


async def test_subprotocols(peer: Peer, url: str, compression: str) -> None:
    with trio.fail_after(guard()):
        offered = ["chat.v2", SUBPROTOCOL]
        async with connect(f"{url}/echo", subprotocols=offered, options=OPTIONS[compression]) as ws:
            assert ws.subprotocol == SUBPROTOCOL
        async with connect(f"{url}/echo", options=OPTIONS[compression]) as ws:
            assert ws.subprotocol is None


async def test_the_peer_rejects_us(peer: Peer, url: str, compression: str) -> None:
    with trio.fail_after(guard()), pytest.raises(HandshakeRejectedError) as rejected:
        async with connect(f"{url}/reject", options=OPTIONS[compression]):
            pytest.fail("let in")
    assert rejected.value.status == 403
    assert rejected.value.body.decode().strip() == REFUSAL
