"""Programs for the statements of the page on wsproto's events."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_ws
from tests.coming_from.forms import in_another_form
from tests.support.serving import guard, serving_in_memory
from trio_ws import CloseCode, CloseFrame, Compression, Options, WebSocket, WebSocketMessage
from trio_ws.testing import Frame, RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def raw_client_of(function: Any, headers: Any = ()) -> AsyncIterator[RawPeer]:
    async with serving_in_memory(function) as server:
        async with await RawPeer.connect(await server.stream(), headers=headers) as peer:
            yield peer


def payload_of(frame: Frame | None) -> bytes:
    assert frame is not None
    return frame.payload


@in_another_form
async def test_p01_request() -> None:
    """`Request`: host, target and extra headers: `ws.request.host`, `.target`, `.headers`."""
    seen: list[Any] = []

    async def handler(ws: WebSocket) -> None:
        seen.append((ws.request.host, ws.request.target, ws.request.headers["x-name"]))
        await ws.accept()

    async with serving_in_memory(handler) as server:
        async with server.connect("/a%20b?c=d", headers=[("X-Name", "ada")]):
            pass
    assert seen == [("test", "/a%20b?c=d", "ada")]


@in_another_form
async def test_p02_proposals() -> None:
    """`Request.subprotocols` and `.extensions`, the client's offers: `ws.offered_subprotocols`, `ws.offered_extensions`."""
    seen: list[list[str]] = []

    async def handler(ws: WebSocket) -> None:
        seen.extend((ws.offered_subprotocols, ws.offered_extensions))
        await ws.accept()

    headers = [
        ("Sec-WebSocket-Protocol", "chat.v2, chat.v1"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits, x-other"),
    ]
    async with raw_client_of(handler, headers) as peer:
        await peer.receive_until_close()
    assert seen == [["chat.v2", "chat.v1"], ["permessage-deflate; client_max_window_bits", "x-other"]]


@in_another_form
async def test_p03_accept() -> None:
    """`AcceptConnection(subprotocol, extra_headers)`: `ws.accept(subprotocol, headers)`."""

    async def handler(ws: WebSocket) -> None:
        offered = ws.offered_subprotocols
        await ws.accept("chat.v1" if "chat.v1" in offered else None, [("X-Served-By", "us")])

    async with serving_in_memory(handler) as server:
        async with server.connect(subprotocols=["chat.v1"]) as ws:
            assert ws.subprotocol == "chat.v1"
            assert ws.response_headers is not None
            assert ws.response_headers["x-served-by"] == "us"


@in_another_form
@pytest.mark.parametrize("compression", [False, True, Compression(server_max_window_bits=10)])
async def test_p04_agreed(compression: bool | Compression) -> None:
    """`AcceptConnection.extensions`, the negotiated extensions: `ws.extensions`, on both sides."""
    seen: list[list[str]] = []
    options = Options(compression=compression)

    async def handler(ws: WebSocket) -> None:
        assert ws.extensions == []
        await ws.accept()
        seen.append(ws.extensions)

    async with serving_in_memory(handler, options=options) as server:
        async with server.connect(options=options) as ws:
            seen.append(ws.extensions)
            await ws.wait_closed()
    assert seen[0] == seen[1]
    assert [one.split(";")[0] for one in seen[0]] == (["permessage-deflate"] if compression else [])


@in_another_form
async def test_p05_reject() -> None:
    """`RejectConnection(status_code, headers)`: `ws.reject(status, headers, body)`; in a client `HandshakeRejectedError`."""

    async def handler(ws: WebSocket) -> None:
        await ws.reject(404, [("Content-Type", "text/plain")], "Path not found")

    with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
        async with serving_in_memory(handler) as server, server.connect():
            pass
    assert (caught.value.status, caught.value.body) == (404, b"Path not found")
    assert caught.value.headers.get("content-type") == "text/plain"


@in_another_form
@pytest.mark.parametrize("fails", [False, True])
async def test_p06_reject_data(fails: bool) -> None:
    """`RejectData`, a body in parts: `ws.reject(status, headers, body)` with an async iterable."""

    async def parts() -> AsyncIterator[bytes | str]:
        yield b"Path "
        await trio.sleep(0)
        yield "not found"
        if fails:
            raise ZeroDivisionError
        yield b"x" * 200_000

    async def handler(ws: WebSocket) -> None:
        await ws.reject(404, [("X-A", "b")], parts())

    async with serving_in_memory(handler) as server:
        stream = await server.stream()
        await stream.send_all(
            b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = b""
        try:
            async for piece in stream:
                answer += piece
        except trio.BrokenResourceError:
            assert fails
    head, _, body = answer.partition(b"\r\n\r\n")
    if not fails:
        assert head.startswith(b"HTTP/1.1 404")
        assert b"\r\nX-A: b" in head
        assert b"Content-Length" not in head
        assert body == b"Path not found" + b"x" * 200_000
    assert len(body) <= 200_014


@in_another_form
async def test_p07_messages() -> None:
    """`TextMessage` and `BytesMessage`, whole: `ws.recv()`, whose `text` or `data` is the payload."""

    async def handler(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(f"Echo: {message.text}" if message.is_text() else b"Echo: " + (message.data or b""))

    async with raw_client_of(handler) as peer:
        await peer.send_frame(1, b"a", fin=False)
        await peer.send_frame(0, b"b")
        await peer.send_frame(2, b"\x89PNG")
        frames = [await peer.receive_frame() for _ in range(2)]
        assert [(one.opcode, one.payload) for one in frames if one] == [
            (1, b"Echo: ab"),
            (2, b"Echo: \x89PNG"),
        ]


@in_another_form
async def test_p08_chunks() -> None:
    """`message_finished`, a message in parts as they arrive: `ws.recv_streaming()`."""
    parts: list[Any] = []
    first = trio.Event()

    async def handler(ws: WebSocket) -> None:
        async for part in ws.recv_streaming():
            parts.append(part)
            first.set()
        await ws.send("done")

    async with raw_client_of(handler) as peer:
        await peer.send_frame(1, b"Start of ", fin=False)
        with trio.fail_after(guard()):
            await first.wait()
        await peer.send_frame(0, b"long message")
        answer = await peer.receive_frame()
        assert answer is not None
    assert parts == ["Start of ", "long message"]


@in_another_form
async def test_p09_sending_fragments() -> None:
    """Sending fragments with `message_finished=False`: `ws.send()` with an async iterable."""

    async def handler(ws: WebSocket) -> None:
        async def fragments() -> AsyncIterator[str]:
            yield "Start of "
            yield "long message"

        await ws.send(fragments())

    async with raw_client_of(handler) as peer:
        frames: list[Frame] = []
        while not frames or not frames[-1].fin:
            frame = await peer.receive_frame()
            assert frame is not None
            frames.append(frame)
        assert [one.opcode for one in frames][:2] == [1, 0]
        assert b"".join(one.payload for one in frames) == b"Start of long message"


@in_another_form
async def test_p10_close() -> None:
    """`CloseConnection(code, reason)`: `ws.close(code, reason)`; that of the peer is in `close_received` and the exception."""
    ended: list[Any] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        try:
            await ws.receive_text()
        except trio_ws.ConnectionClosedError as exc:
            ended.append((exc.code, exc.reason, ws.close_received))

    async with raw_client_of(handler) as peer:
        await peer.send_close(4000, "enough")
        assert await peer.receive_until_close() == (4000, "")
    assert ended == [(4000, "enough", CloseFrame(4000, "enough"))]


@in_another_form
async def test_p11_close_is_answered() -> None:
    """A close event must be answered with `event.response()`: this is automatic."""

    async def handler(ws: WebSocket) -> None:
        assert await ws.recv() is None

    async with raw_client_of(handler) as peer:
        await peer.send_close(1000, "Goodbye")
        assert await peer.receive_until_close() == (1000, "")


@in_another_form
def test_p12_close_reasons() -> None:
    """`CloseReason.NORMAL_CLOSURE` and the others: `CloseCode.NORMAL_CLOSURE`."""
    from wsproto.frame_protocol import CloseReason  # noqa: PLC0415

    theirs = {one.name: int(one) for one in CloseReason}
    assert {
        name: theirs[name] for name in ("NORMAL_CLOSURE", "GOING_AWAY", "PROTOCOL_ERROR", "INTERNAL_ERROR")
    } == {
        name: CloseCode[name] for name in ("NORMAL_CLOSURE", "GOING_AWAY", "PROTOCOL_ERROR", "INTERNAL_ERROR")
    }
    assert set(theirs.values()) <= {int(one) for one in CloseCode}
    assert CloseCode(1000) is CloseCode.NORMAL_CLOSURE


@in_another_form
async def test_p13_pings_come(caplog: pytest.LogCaptureFixture) -> None:
    """A received `Ping` must be answered: this is automatic; `ws.on_ping` is called with its payload."""
    pings: list[bytes] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        assert ws.on_ping is None
        ws.on_ping = pings.append
        assert await ws.receive_text() == "on"
        ws.on_ping = lambda payload: 1 / 0
        await ws.send("ready")
        await ws.recv()

    async with raw_client_of(handler) as peer:
        await peer.send_text("on")
        assert payload_of(await peer.receive_frame()) == b"ready"
        await peer.send_frame(9, b"broken")
        assert payload_of(await peer.receive_frame()) == b"broken"
    assert "ZeroDivisionError" in caplog.text

    async def watching(ws: WebSocket) -> None:
        ws.on_ping = pings.append
        await ws.recv()

    async with raw_client_of(watching) as peer:
        await peer.send_frame(9, b"ping-payload")
        frame = await peer.receive_frame()
        assert frame is not None
        assert (frame.opcode, frame.payload) == (10, b"ping-payload")
    assert pings == [b"ping-payload"]


@in_another_form
async def test_p14_pongs_come() -> None:
    """A received `Pong`: `await ws.ping()` returns the round-trip time; `ws.on_pong` is called for unsolicited pongs."""
    pongs: list[bytes] = []
    times: list[float] = []

    async def handler(ws: WebSocket) -> None:
        ws.on_pong = pongs.append
        assert ws.on_pong == pongs.append
        times.append(await ws.ping(b"mine"))
        await ws.recv()

    async with raw_client_of(handler) as peer:
        frame = await peer.receive_frame()
        assert frame is not None
        assert (frame.opcode, frame.payload) == (9, b"mine")
        await peer.send_frame(10, b"unasked")
        await peer.send_frame(10, b"mine")
        await peer.send_close()
        await peer.receive_until_close()
    assert pongs == [b"unasked"]
    assert len(times) == 1


@in_another_form
async def test_p15_sending_a_ping() -> None:
    """Sending `Ping(payload)` and `Pong(payload)`: `ws.ping(payload)`, `ws.send(WebSocketMessage.pong(payload))`."""

    async def handler(ws: WebSocket) -> None:
        await ws.send(WebSocketMessage.ping(b"ping-payload"))
        await ws.send(WebSocketMessage.pong(b"pong-payload"))

    async with raw_client_of(handler) as peer:
        frames = [await peer.receive_frame() for _ in range(2)]
        assert [(one.opcode, one.payload) for one in frames if one] == [
            (9, b"ping-payload"),
            (10, b"pong-payload"),
        ]


@in_another_form
async def test_p16_echo_server() -> None:
    """A server over plain sockets, event by event: `trio_ws.serve(handler, port)`, which runs each client in a task."""

    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_ws.serve, echo, 0)
        async with trio_ws.connect(server.url) as ws:
            await ws.send("hi")
            assert await ws.receive_text() == "hi"
        nursery.cancel_scope.cancel()
