"""The `picows` library as it is: frames and callbacks. It has no compression."""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from picows import (
    WSFrame,
    WSInvalidStatusError,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_connect,
    ws_create_server,
)

from tests.interop.peers.loops import run_on_asyncio
from tests.interop.peers.scenario import REFUSAL, Ended, Rejected, choose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.interop.peers.scenario import Serving


class PicowsSession(WSListener):
    """Session as a listener: puts messages together, and answers a Close as its examples do."""

    def __init__(self, what: Serving | None = None, path: str = "", subprotocol: str | None = None) -> None:
        self.subprotocol = subprotocol
        self._what = what
        self._path = path
        self._came: asyncio.Queue[str | bytes | Ended] = asyncio.Queue()
        self._ponged = asyncio.Event()
        self._kind: WSMsgType | None = None
        self._parts: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._transport: WSTransport

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self._what is not None:
            self._task = asyncio.get_running_loop().create_task(self._what.run(self._path, self))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            payload = frame.get_payload_as_bytes()
            (code,) = struct.unpack("!H", payload[:2])
            self._came.put_nowait(Ended(code, payload[2:].decode()))
            if not transport.is_close_frame_sent:
                transport.send(WSMsgType.CLOSE, payload)
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PONG:
            assert frame.get_payload_as_bytes() == b"are you there?"
            self._ponged.set()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            if frame.msg_type != WSMsgType.CONTINUATION:
                self._kind = frame.msg_type
            self._parts.append(frame.get_payload_as_bytes())
            if frame.fin:
                data = b"".join(self._parts)
                self._parts.clear()
                self._came.put_nowait(data.decode() if self._kind == WSMsgType.TEXT else data)

    async def send(self, data: str | bytes) -> None:
        self._transport.send(WSMsgType.TEXT if isinstance(data, str) else WSMsgType.BINARY, data)

    async def send_fragments(self, parts: list[str] | list[bytes]) -> None:
        kind = WSMsgType.TEXT if isinstance(parts[0], str) else WSMsgType.BINARY
        for part in parts:
            self._transport.send(kind, part, fin=False)
            kind = WSMsgType.CONTINUATION
        self._transport.send(kind, b"")

    async def recv(self) -> str | bytes:
        data = await self._came.get()
        if isinstance(data, Ended):
            raise data
        return data

    async def ping(self) -> None:
        self._transport.send_ping(b"are you there?")
        await self._ponged.wait()

    async def close(self, code: int, reason: str) -> None:
        self._transport.send(WSMsgType.CLOSE, struct.pack("!H", code) + reason.encode())
        await self._transport.wait_disconnected()


def open_session(compress: bool) -> Any:
    @asynccontextmanager
    async def session(url: str, subprotocols: list[str]) -> AsyncIterator[PicowsSession]:
        listener = PicowsSession()
        headers = {"Sec-WebSocket-Protocol": ", ".join(subprotocols)} if subprotocols else None
        try:
            transport, _ = await ws_connect(lambda: listener, url, extra_headers=headers)
        except WSInvalidStatusError as exc:
            raise Rejected(exc.response.status if exc.response else 0) from exc
        listener.subprotocol = transport.response.headers.get("Sec-WebSocket-Protocol")
        yield listener
        transport.send(WSMsgType.CLOSE, struct.pack("!H", 1000))
        await transport.wait_disconnected()

    return session


@asynccontextmanager
async def serving(what: Serving) -> AsyncIterator[int]:
    def listener(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        path = request.path.decode()
        if path == "/reject":
            refusal = WSUpgradeResponse.create_error_response(403, REFUSAL.encode())
            return WSUpgradeResponseWithListener(refusal, None)
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        agreed = choose([name.strip() for name in offered.split(",")])
        response = WSUpgradeResponse.create_101_response(
            {"Sec-WebSocket-Protocol": agreed} if agreed else None
        )
        return WSUpgradeResponseWithListener(response, PicowsSession(what, path, agreed))

    server = await ws_create_server(listener, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


if __name__ == "__main__":
    run_on_asyncio(open_session, serving)
