"""The code of docs/app.md, run."""

from __future__ import annotations

import mimetypes
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

import trio_ws

SECRET = "secret"


class MathHandler(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b


async def end_soon() -> None:
    await trio.testing.wait_all_tasks_blocked(0.05)
    signal.raise_signal(signal.SIGTERM)


def serve() -> None:
    app = trio_ws.App()

    @app.websocket("/rooms/{room_id:int}")
    async def room(ws: trio_ws.WebSocket, room_id: int) -> None:
        async for message in ws:
            print("room", room_id, "hears", message.text)

    @app.http("/healthz")
    async def healthz(request: trio_ws.Request) -> dict[str, bool]:
        return {"ok": True}

    app.mount("/rpc", MathHandler)

    @app.lifespan
    async def stop_soon(app: trio_ws.App) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_soon)
            yield

    app.run(port=0)
    print("ended in order")


app = trio_ws.App()


@app.middleware
async def authenticate(ws: trio_ws.WebSocket) -> AsyncIterator[None]:  # around each connection
    if ws.header("Authorization") != SECRET:
        await ws.reject(401)  # the route is not run
    yield


async def timing(ws: trio_ws.WebSocket, call_next: Callable[[trio_ws.WebSocket], Awaitable[None]]) -> None:
    before = trio.current_time()
    await call_next(ws)  # the rest
    print(ws.path, "took less than a minute:", trio.current_time() - before < 60)


app.add_middleware(timing)


@app.http_middleware
async def no_store(
    request: trio_ws.Request, call_next: Callable[[trio_ws.Request], Awaitable[trio_ws.HTTPResponse]]
) -> trio_ws.HTTPResponse:
    response = await call_next(request)  # the rest; or return another response without it
    response.headers = trio_ws.Headers([*response.headers, ("Cache-Control", "no-store")])
    return response


@asynccontextmanager
async def open_pool() -> AsyncIterator[list[str]]:
    print("the pool is open")
    yield ["a connection"]
    print("the pool is closed")


async def tick() -> None:
    print("ticks")
    await trio.sleep_forever()


@app.lifespan
async def lifespan(app: trio_ws.App) -> AsyncIterator[None]:
    async with open_pool() as app.state.pool, trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        yield  # served from here
        nursery.cancel_scope.cancel()


@app.websocket("/pool")
async def pool(ws: trio_ws.WebSocket) -> None:
    await ws.send_json(app.state.pool)


ROOT = Path(__file__).parent.resolve()


@app.http("/static/{name:path}")
def static(request: trio_ws.Request, name: str) -> trio_ws.HTTPResponse:  # a plain def: in a thread
    path = (ROOT / name).resolve()
    if not path.is_relative_to(ROOT) or not path.is_file():
        return trio_ws.HTTPResponse(404)
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return trio_ws.HTTPResponse(200, {"Content-Type": kind}, path.read_bytes())


async def get(port: int, path: str) -> str:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return b"".join([data async for data in stream]).partition(b"\r\n")[0].decode()


async def main() -> None:
    async with trio_ws.WebSocketServer(app, 0, host="127.0.0.1") as server:
        async with trio_ws.connect(server.url + "/pool", headers={"Authorization": SECRET}) as ws:
            print(await ws.receive_json())
        try:
            async with trio_ws.connect(server.url + "/pool"):
                print("this is not reached")
        except trio_ws.HandshakeRejectedError as error:
            print("refused:", error.status)
        for path in ("/static/app.py", "/static/..%2f..%2fREADME.md"):
            print(path, await get(server.port, path))


if __name__ == "__main__":
    serve()
    trio.run(main)
