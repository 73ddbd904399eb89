"""The code of docs/how-to/patterns.md, run."""

from __future__ import annotations

import mimetypes
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import httpx
import msgspec
import trio

import trio_ws

# -- a consumer and a producer in one handler ----------------------------------------------------------


async def prices(ws: trio_ws.WebSocket) -> None:
    wanted = {"ABC"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_prices, ws, wanted)
        async for message in ws:  # ends when the client closes
            wanted.add(str(message.text))
        nursery.cancel_scope.cancel()


async def send_prices(ws: trio_ws.WebSocket, wanted: set[str]) -> None:
    while True:
        await ws.send_json({symbol: len(symbol) for symbol in sorted(wanted)})
        await trio.sleep(0.1)


# -- shared state ----------------------------------------------------------------------------------------


class Database:
    """A placeholder for a pool of connections to a database."""

    async def __aenter__(self) -> Self:
        self.names = {1: "ada"}
        return self

    async def __aexit__(self, *_: object) -> None:
        self.names.clear()

    async def name(self, user: int) -> str:
        return self.names[user]


class Users(trio_ws.WebSocketHandler):
    def __init__(self, database: Database) -> None:
        self.database = database
        self.asked = 0

    @trio_ws.rpc_method()
    async def name(self, connection: trio_ws.ClientConnection, user: int) -> str:
        self.asked += 1  # no lock: there is no await in between
        return await self.database.name(user)


app = trio_ws.App()
database = Database()
app.mount("/users", Users(database))


@app.lifespan
async def lifespan(app: trio_ws.App) -> AsyncIterator[None]:
    async with database:  # before the server listens
        yield  # while it serves
    # closed after the last client has left


# -- pages, files and cookies ------------------------------------------------------------------------------

ROOT = Path(__file__).parent.resolve()
SESSIONS: dict[str, str] = {}
PAGE = """<!doctype html>
<title>Chat</title>
<script type="module">
  const socket = new WebSocket(`ws://${location.host}/chat`)
</script>
"""


@app.http("/")
def page(request: trio_ws.Request) -> trio_ws.HTTPResponse:
    return trio_ws.HTTPResponse(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)


@app.http("/static/{name:path}")
def static(request: trio_ws.Request, name: str) -> trio_ws.HTTPResponse:
    path = (ROOT / name).resolve()
    if not path.is_relative_to(ROOT) or not path.is_file():
        return trio_ws.HTTPResponse(404)
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return trio_ws.HTTPResponse(200, {"Content-Type": kind}, path.read_bytes())


class Login(msgspec.Struct):
    name: str
    password: str


@app.http("/login", methods=["POST"])
async def login(request: trio_ws.Request) -> trio_ws.HTTPResponse:
    given = request.json(type=Login)
    if given.password != "secret":
        return trio_ws.HTTPResponse(403)
    session = secrets.token_urlsafe(32)
    SESSIONS[session] = given.name
    cookie = f"session={session}; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age=86400"
    return trio_ws.HTTPResponse(204, {"Set-Cookie": cookie})


@app.websocket("/chat")
async def chat(ws: trio_ws.WebSocket) -> None:
    name = SESSIONS.get(ws.request.cookies.get("session", ""))
    if name is None:
        await ws.reject(401)
        return
    await ws.send(f"hello, {name}")


# -- a token as a subprotocol --------------------------------------------------------------------------------

TOKENS = {"s3cret": "bob"}


@app.websocket("/with-token")
async def with_token(ws: trio_ws.WebSocket) -> None:
    offered = ws.offered_subprotocols
    token = next((one.removeprefix("token.") for one in offered if one.startswith("token.")), "")
    name = TOKENS.get(token)
    if name is None:
        await ws.reject(401)
        return
    await ws.accept(subprotocol="chat")  # never the token: it would be sent back
    await ws.send(f"hello, {name}")


async def main() -> None:
    async with trio_ws.WebSocketServer(prices, 0, host="127.0.0.1") as server:
        async with trio_ws.connect(server.url) as ws:
            print(await ws.receive_json())
            await ws.send("LONGER")
            while len(update := await ws.receive_json()) < 2:
                pass
            print(update)

    async with trio_ws.WebSocketServer(app, 0, host="127.0.0.1") as server:
        url = server.url.rstrip("/")
        async with trio_ws.WebSocketClient(f"{url}/users") as client:
            print(await client.call("name", 1))
        async with httpx.AsyncClient(base_url=url.replace("ws", "http", 1)) as http:
            print((await http.get("/")).text.splitlines()[1])
            print((await http.get("/static/patterns.py")).headers["content-type"])
            print((await http.get("/static/../echo_server.py")).status_code)
            print((await http.post("/login", json={"name": "ada", "password": "guess"})).status_code)
            cookie = (await http.post("/login", json={"name": "ada", "password": "secret"})).headers[
                "set-cookie"
            ]
        headers = {"Cookie": cookie.partition(";")[0]}
        async with trio_ws.connect(f"{url}/chat", headers=headers) as ws:
            print(await ws.receive_text())
        async with trio_ws.connect(f"{url}/with-token", subprotocols=["chat", "token.s3cret"]) as ws:
            print(await ws.receive_text(), "by", ws.subprotocol)


if __name__ == "__main__":
    trio.run(main)
