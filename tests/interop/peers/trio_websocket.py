"""The `trio-websocket` library. It has no compression and sends no fragments."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)

from tests.interop.peers.loops import run_on_trio
from tests.interop.peers.scenario import REFUSAL, Ended, Rejected, choose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.interop.peers.scenario import Serving


class TrioWebsocketSession:
    """Session on one of its connections."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.ws = ws

    @property
    def subprotocol(self) -> str | None:
        return self.ws.subprotocol

    async def send(self, data: str | bytes) -> None:
        await self.ws.send_message(data)

    async def send_fragments(self, parts: list[str] | list[bytes]) -> None:
        raise NotImplementedError

    async def recv(self) -> str | bytes:
        try:
            return await self.ws.get_message()
        except ConnectionClosed as exc:
            raise Ended(*(exc.reason.code, exc.reason.reason) if exc.reason else (None, None)) from exc

    async def ping(self) -> None:
        await self.ws.ping(b"are you there?")

    async def close(self, code: int, reason: str) -> None:
        await self.ws.aclose(code, reason)


def open_session(compress: bool) -> Any:
    @asynccontextmanager
    async def session(url: str, subprotocols: list[str]) -> AsyncIterator[TrioWebsocketSession]:
        try:
            async with open_websocket_url(url, subprotocols=subprotocols) as ws:
                yield TrioWebsocketSession(ws)
        except ConnectionRejected as exc:
            raise Rejected(exc.status_code) from exc

    return session


@asynccontextmanager
async def serving(what: Serving) -> AsyncIterator[int]:
    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/reject":
            await request.reject(403, body=REFUSAL.encode())
            return
        ws = await request.accept(subprotocol=choose(request.proposed_subprotocols))
        await what.run(request.path, TrioWebsocketSession(ws))

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        yield server.port
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run_on_trio(open_session, serving)
