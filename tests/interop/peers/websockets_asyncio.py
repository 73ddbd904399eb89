"""The `websockets` library on asyncio."""

from __future__ import annotations

from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from websockets import exceptions
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from tests.interop.peers.loops import run_on_asyncio
from tests.interop.peers.scenario import REFUSAL, Ended, Rejected, choose, parts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.interop.peers.scenario import Serving


class WebsocketsSession:
    """Session on a connection of `websockets`, or of what has the same interface."""

    def __init__(self, ws: Any, closed: type[Exception]) -> None:
        self.ws = ws
        self.closed = closed

    @property
    def subprotocol(self) -> str | None:
        name: str | None = self.ws.subprotocol
        return name

    async def send(self, data: str | bytes) -> None:
        await self.ws.send(data)

    async def send_fragments(self, parts: list[str] | list[bytes]) -> None:
        await self.ws.send(parts_of(parts))

    async def recv(self) -> str | bytes:
        try:
            data: str | bytes = await self.ws.recv()
        except self.closed as exc:
            received = getattr(exc, "rcvd", None)
            raise Ended(*(received.code, received.reason) if received else (None, None)) from exc
        return data

    async def ping(self) -> None:
        await (await self.ws.ping(b"are you there?"))

    async def close(self, code: int, reason: str) -> None:
        await self.ws.close(code, reason)


def open_session(compress: bool) -> Any:
    @asynccontextmanager
    async def session(url: str, subprotocols: list[Any]) -> AsyncIterator[WebsocketsSession]:
        compression = "deflate" if compress else None
        try:
            async with connect(
                url, subprotocols=subprotocols or None, compression=compression, proxy=None
            ) as ws:
                yield WebsocketsSession(ws, exceptions.ConnectionClosed)
        except exceptions.InvalidStatus as exc:
            raise Rejected(exc.response.status_code) from exc

    return session


@asynccontextmanager
async def serving(what: Serving) -> AsyncIterator[int]:
    async def handler(ws: Any) -> None:
        await what.run(ws.request.path, WebsocketsSession(ws, exceptions.ConnectionClosed))

    def refuse(ws: Any, request: Any) -> Any:
        return ws.respond(HTTPStatus.FORBIDDEN, REFUSAL) if request.path == "/reject" else None

    def select(ws: Any, offered: Any) -> Any:
        return choose(offered)  # a list of its own would make offering none an error

    async with serve(handler, "127.0.0.1", 0, select_subprotocol=select, process_request=refuse) as server:
        yield server.sockets[0].getsockname()[1]


if __name__ == "__main__":
    run_on_asyncio(open_session, serving)
