"""`trio_ws.testing.peer`: the bytes on the wire, checked against RFC 6455's samples and another library."""

from __future__ import annotations

import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from trio_ws.testing import Frame, Link, RawPeer


def pair() -> tuple[RawPeer, RawPeer]:
    link = Link(max_read=3)
    return RawPeer(link.client, client=True), RawPeer(link.server, client=False)


@pytest.mark.parametrize(
    ("client", "wire"),
    [
        (False, bytes.fromhex("810548656c6c6f")),
        (True, bytes.fromhex("818537fa213d7f9f4d5158")),
    ],
)
async def test_the_sample_frames_of_rfc_6455(client: bool, wire: bytes) -> None:
    link = Link()
    peer = RawPeer(link.client, client=client)
    await peer.send_text("Hello")
    assert await link.server.receive_some() == wire
    await link.server.send_all(wire)
    assert await peer.receive_frame() == Frame(True, 0, 1, client, b"Hello")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70001])
@pytest.mark.parametrize("mask", [None, True, False])
async def test_any_size_goes_through(size: int, mask: bool | None) -> None:
    link = Link()
    client, server = RawPeer(link.client, client=True), RawPeer(link.server, client=False)
    payload = bytes(n % 251 for n in range(size))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: client.send_frame(2, payload, mask=mask))
        frame = await server.receive_frame()
        assert frame == Frame(True, 0, 2, mask is not False, payload)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.send_frame(2, payload, mask=mask))
        frame = await client.receive_frame()
        assert frame == Frame(True, 0, 2, mask is True, payload)


@pytest.mark.parametrize(("bit", "rsv"), [("rsv1", 4), ("rsv2", 2), ("rsv3", 1)])
async def test_bits_and_opcodes_go_as_told(bit: str, rsv: int) -> None:
    client, server = pair()
    flags = {bit: True}
    await client.send_frame(15, b"x", fin=False, key=b"\0\0\0\1", **flags)
    assert await server.receive_frame() == Frame(False, rsv, 15, True, b"x")


async def test_a_length_that_lies() -> None:
    link = Link()
    peer = RawPeer(link.client, client=False)
    await peer.send_frame(2, b"ab", length=2**63)
    assert await link.server.receive_some() == bytes.fromhex("827f8000000000000000") + b"ab"
    await peer.send_frame(9, b"ab", length=126)
    assert await link.server.receive_some() == bytes.fromhex("897e007e") + b"ab"


async def test_values_that_fit_no_field_are_refused() -> None:
    peer, _ = pair()
    with pytest.raises(ValueError, match="opcode is from 0 to 15"):
        await peer.send_frame(16)
    with pytest.raises(ValueError, match="key is 4 bytes"):
        await peer.send_frame(1, key=b"abc")
    for length in (-1, 2**64):
        with pytest.raises(ValueError, match="length must be from 0"):
            await peer.send_frame(1, length=length)


async def test_receive_frame_at_the_end_of_the_stream() -> None:
    client, server = pair()
    await client.send_frame(10, b"last")
    await client.aclose()
    assert await server.receive_frame() == Frame(True, 0, 10, True, b"last")
    assert await server.receive_frame() is None
    await server.expect_eof()


@pytest.mark.parametrize("wire", [b"\x81", b"\x82\x7e\x00", b"\x81\x05Hell", b"\x81\x85\x01\x02"])
async def test_an_end_inside_a_frame_is_told(wire: bytes) -> None:
    client, server = pair()
    await client.send_raw(wire)
    await client.aclose()
    with pytest.raises(EOFError, match="inside a frame"):
        await server.receive_frame()


async def test_a_cancelled_receive_frame_has_lost_no_bytes(autojump_clock: object) -> None:
    client, server = pair()
    await client.send_raw(b"\x81\x05He")
    with trio.move_on_after(1) as scope:
        await server.receive_frame()
    assert scope.cancelled_caught
    await client.send_raw(b"llo")
    assert await server.receive_frame() == Frame(True, 0, 1, False, b"Hello")


async def test_receive_until_close_skips_other_frames() -> None:
    client, server = pair()
    await client.send_text("a")
    await client.send_frame(9)
    await client.send_close(4000, "bye é")
    assert await server.receive_until_close() == (4000, "bye é")
    await client.send_close(None)
    assert await server.receive_until_close() == (1005, "")
    await client.send_close()
    assert await server.receive_until_close() == (1000, "")
    await client.send_text("b")
    await client.aclose()
    assert await server.receive_until_close() is None


async def test_expect_eof_shows_what_came_instead() -> None:
    client, server = pair()
    await client.send_raw(b"xyz")
    with pytest.raises(AssertionError, match="xyz"):
        await server.expect_eof()
    with pytest.raises(AssertionError, match="xyz"):
        await server.expect_eof()  # from the buffer this time


async def test_two_peers_shake_hands(autojump_clock: object) -> None:
    link = Link(latency=0.5, max_read=7)
    servers: list[RawPeer] = []

    async def serve() -> None:
        servers.append(await RawPeer.accept(link.server, [("Sec-WebSocket-Protocol", "chat")]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        client = await RawPeer.connect(link.client, "/a?b=c", [("X-One", "1"), ("X-One", "2")], host="shop")
    assert trio.current_time() == 1.0
    head = servers[0].head
    assert head.startswith(b"GET /a?b=c HTTP/1.1\r\nHost: shop\r\n")
    assert head.endswith(b"X-One: 1\r\nX-One: 2\r\n\r\n")
    assert b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n" in client.head
    assert (
        b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in client.head
    )  # RFC 6455 section 1.3
    assert client.client
    assert not servers[0].client


async def test_frames_behind_the_head_are_kept() -> None:
    link = Link()
    peer = RawPeer(link.client, client=True)
    await link.server.send_all(b"HTTP/1.1 200 OK\r\n\r\n\x81\x02hi")
    assert await peer.receive_head() == b"HTTP/1.1 200 OK\r\n\r\n"
    assert await peer.receive_frame() == Frame(True, 0, 1, False, b"hi")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_connect_shows_a_response_other_than_an_upgrade(answer: bytes) -> None:
    link = Link()
    await link.server.send_all(answer)
    with pytest.raises(AssertionError, match="did not upgrade: b'HTTP/1"):
        await RawPeer.connect(link.client)


async def test_accept_shows_a_request_other_than_an_upgrade() -> None:
    link = Link()
    await link.client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(AssertionError, match="asked for no WebSocket"):
        await RawPeer.accept(link.server)


async def test_an_end_inside_a_head_is_told() -> None:
    link = Link()
    await link.client.send_all(b"GET / HT")
    await link.client.send_eof()
    with pytest.raises(EOFError, match="GET / HT"):
        await RawPeer.accept(link.server)


async def test_a_client_is_understood_by_wsproto() -> None:
    link = Link()
    wsproto = WSConnection(ConnectionType.SERVER)

    async def serve() -> list[str]:
        texts: list[str] = []
        while True:
            wsproto.receive_data(await link.server.receive_some())
            for event in wsproto.events():
                if isinstance(event, Request):
                    await link.server.send_all(wsproto.send(AcceptConnection()))
                elif isinstance(event, TextMessage):
                    texts.append(event.data)
                elif isinstance(event, CloseConnection):
                    await link.server.send_all(wsproto.send(event.response()))
                    await link.server.send_all(b"")
                    return texts

    texts: list[str] = []

    async def run() -> None:
        texts.extend(await serve())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        peer = await RawPeer.connect(link.client, "/x")
        await peer.send_text("héllo")
        await peer.send_close(1001, "going")
        assert await peer.receive_until_close() == (1001, "going")
    assert texts == ["héllo"]


async def test_a_server_is_understood_by_wsproto() -> None:
    link = Link()
    wsproto = WSConnection(ConnectionType.CLIENT)
    await link.client.send_all(wsproto.send(Request(host="localhost", target="/")))
    peer = await RawPeer.accept(link.server)
    await peer.send_text("hi")
    wsproto.receive_data(await link.client.receive_some())
    assert [type(event) for event in wsproto.events()] == [AcceptConnection, TextMessage]
    await link.client.send_all(wsproto.send(TextMessage("yo")))
    assert await peer.receive_frame() == Frame(True, 0, 1, True, b"yo")


async def test_leaving_the_block_closes_the_stream() -> None:
    client, server = pair()
    async with client:
        pass
    assert await server.receive_frame() is None
