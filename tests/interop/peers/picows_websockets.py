"""The `picows` library behind its interface in the manner of `websockets`, with a compression of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from picows.websockets import connect, exceptions, serve

from tests.interop.peers.loops import run_on_asyncio
from tests.interop.peers.scenario import REFUSAL, Rejected, choose
from tests.interop.peers.websockets_asyncio import WebsocketsSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.interop.peers.scenario import Serving


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
            raise Rejected(int(exc.response.status_code)) from exc

    return session


@asynccontextmanager
async def serving(what: Serving) -> AsyncIterator[int]:
    async def handler(ws: Any) -> None:
        await what.run(ws.request.path, WebsocketsSession(ws, exceptions.ConnectionClosed))

    def refuse(ws: Any, request: Any) -> Any:
        return ws.respond(HTTPStatus.FORBIDDEN, REFUSAL) if request.path == "/reject" else None

    def select(ws: Any, offered: Any) -> Any:
        return choose(offered)  # a list of its own would make offering none an error

    server: Any
    async with serve(handler, "127.0.0.1", 0, select_subprotocol=select, process_request=refuse) as server:
        yield server.sockets[0].getsockname()[1]


if __name__ == "__main__":
    run_on_asyncio(open_session, serving)
