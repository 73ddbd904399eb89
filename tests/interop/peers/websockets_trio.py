"""The `websockets` library on trio."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import trio
from websockets import exceptions
from websockets.trio.client import connect
from websockets.trio.server import serve

from tests.interop.peers.loops import run_on_trio
from tests.interop.peers.scenario import REFUSAL, Rejected, choose
from tests.interop.peers.websockets_asyncio import WebsocketsSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.interop.peers.scenario import Serving


class TrioSession(WebsocketsSession):
    """What differs from the asyncio flavour."""

    async def ping(self) -> None:
        await (await self.ws.ping(b"are you there?")).wait()

    async def close(self, code: int, reason: str) -> None:
        await self.ws.aclose(code, reason)


def open_session(compress: bool) -> Any:
    @asynccontextmanager
    async def session(url: str, subprotocols: list[Any]) -> AsyncIterator[TrioSession]:
        compression = "deflate" if compress else None
        try:
            async with connect(
                url, subprotocols=subprotocols or None, compression=compression, proxy=None
            ) as ws:
                yield TrioSession(ws, exceptions.ConnectionClosed)
        except exceptions.InvalidStatus as exc:
            raise Rejected(exc.response.status_code) from exc

    return session


@asynccontextmanager
async def serving(what: Serving) -> AsyncIterator[int]:
    async def handler(ws: Any) -> None:
        await what.run(ws.request.path, TrioSession(ws, exceptions.ConnectionClosed))

    def refuse(ws: Any, request: Any) -> Any:
        return ws.respond(HTTPStatus.FORBIDDEN, REFUSAL) if request.path == "/reject" else None

    def select(ws: Any, offered: Any) -> Any:
        return choose(offered)  # a list of its own would make offering none an error

    run = partial(serve, handler, 0, host="127.0.0.1", select_subprotocol=select, process_request=refuse)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(run)
        yield server.listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run_on_trio(open_session, serving)
