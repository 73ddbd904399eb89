"""The `aiohttp` library. It sends no fragments."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError, web

from tests.interop.peers.loops import run_on_asyncio
from tests.interop.peers.scenario import REFUSAL, SUBPROTOCOL, Ended, Rejected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.interop.peers.scenario import Serving


class AiohttpSession:
    """Session on a client's or a server's WebSocket. Its pings are seen only without ``autoping``."""

    def __init__(self, ws: Any) -> None:
        self.ws = ws

    @property
    def subprotocol(self) -> str | None:
        server = isinstance(self.ws, web.WebSocketResponse)
        name: str | None = self.ws.ws_protocol if server else self.ws.protocol
        return name

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, str):
            await self.ws.send_str(data)
        else:
            await self.ws.send_bytes(data)

    async def send_fragments(self, parts: list[str] | list[bytes]) -> None:
        raise NotImplementedError

    async def _next(self) -> Any:
        while True:
            message = await self.ws.receive()
            if message.type is WSMsgType.PING:
                await self.ws.pong(message.data)
            elif message.type is WSMsgType.ERROR:
                raise message.data
            elif message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
                raise Ended(message.data, message.extra)
            else:
                return message

    async def recv(self) -> str | bytes:
        message = await self._next()
        assert message.type in (WSMsgType.TEXT, WSMsgType.BINARY), message
        data: str | bytes = message.data
        return data

    async def ping(self) -> None:
        await self.ws.ping(b"are you there?")
        message = await self._next()
        assert (message.type, bytes(message.data)) == (WSMsgType.PONG, b"are you there?"), message

    async def close(self, code: int, reason: str) -> None:
        await self.ws.close(code=code, message=reason.encode())


def open_session(compress: bool) -> Any:
    @asynccontextmanager
    async def session(url: str, subprotocols: list[str]) -> AsyncIterator[AiohttpSession]:
        async with ClientSession() as http:
            try:
                async with http.ws_connect(
                    url, protocols=subprotocols, compress=15 if compress else 0, autoping=False
                ) as ws:
                    yield AiohttpSession(ws)
            except WSServerHandshakeError as exc:
                raise Rejected(exc.status) from exc

    return session


@asynccontextmanager
async def serving(what: Serving) -> AsyncIterator[int]:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/reject":
            return web.Response(status=403, text=REFUSAL)
        ws = web.WebSocketResponse(protocols=[SUBPROTOCOL], autoping=False)
        await ws.prepare(request)
        await what.run(request.path, AiohttpSession(ws))
        return ws

    app = web.Application()
    app.router.add_get("/{path}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


if __name__ == "__main__":
    run_on_asyncio(open_session, serving)
