"""The code of docs/how-to/authentication.md, run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import trio

import trio_ws

USERS = {"secret": "ada", "other": "bob"}


async def greet(ws: trio_ws.WebSocket) -> None:
    scheme, _, token = (ws.header("Authorization") or "").partition(" ")
    user = USERS.get(token) if scheme == "Bearer" else None
    if user is None:
        await ws.reject(401, headers=[("WWW-Authenticate", "Bearer")], body=b"who are you?\n")
        return
    await ws.send(f"hello, {user}")


class Bank(trio_ws.WebSocketHandler):
    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        _, _, token = (connection.request.header("Authorization") or "").partition(" ")
        if token not in USERS:
            await connection.reject(401)
            return
        connection.user = USERS[token]
        connection.is_admin = connection.user == "ada"

    @trio_ws.rpc_method()
    def whoami(self, connection: trio_ws.ClientConnection) -> str:
        return str(connection.user)

    @trio_ws.rpc_method(requires=trio_ws.Is("is_admin"))
    def shut_down(self, connection: trio_ws.ClientConnection) -> str:
        return "good night"


app = trio_ws.App()


@app.middleware
async def authenticate(ws: trio_ws.WebSocket) -> AsyncIterator[None]:
    _, _, token = (ws.header("Authorization") or "").partition(" ")
    if token not in USERS:
        await ws.reject(401)
    yield


@app.websocket("/echo")
async def echo(ws: trio_ws.WebSocket) -> None:
    await ws.send("you are in")


async def enter(url: str) -> None:
    async with trio_ws.connect(url, headers={"Authorization": "Bearer secret"}) as ws:
        print(await ws.receive_text())


class Guarded(trio_ws.WebSocketHandler):
    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        connection.expires_at = trio.current_time() + 600  # or the remaining lifetime of its token

    async def may_refresh(self, connection: trio_ws.ClientConnection, token: object) -> bool | float:
        return 600.0 if token in USERS else False  # valid for 600 seconds from now; True: without limit


async def stay(client: trio_ws.WebSocketClient, new_token: Callable[[], str]) -> None:
    while (left := await client.refresh(new_token())) is not None:
        await trio.sleep(0.8 * left)


async def main() -> None:
    async with trio_ws.WebSocketServer(greet, 0, host="127.0.0.1") as server:
        await enter(server.url)
        await refused(server.url)
    async with trio_ws.WebSocketServer(Bank, 0, host="127.0.0.1") as server:
        await refused(server.url)
        for token in USERS:
            headers = {"Authorization": f"Bearer {token}"}
            async with trio_ws.WebSocketClient(server.url, headers=headers) as client:
                print(await client.call("whoami"), (await client.send_rpc("shut_down")).error or "may")
    async with trio_ws.WebSocketServer(app, 0, host="127.0.0.1") as server:
        await refused(server.url + "/echo")
        async with trio_ws.connect(server.url + "/echo", headers={"Authorization": "Bearer other"}) as ws:
            print(await ws.receive_text())

    async with trio_ws.WebSocketServer(Guarded, 0, host="127.0.0.1") as server:
        async with trio_ws.WebSocketClient(server.url) as client:
            print("stays for", await client.refresh("secret"), "seconds")
            try:
                await stay(client, lambda: "an old one")
            except trio_ws.RPCAccessDeniedError as error:
                print("refused:", error)


async def refused(url: str) -> None:
    try:
        async with trio_ws.connect(url):
            print("this is not reached")
    except trio_ws.HandshakeRejectedError as error:
        print("refused:", error.status)


if __name__ == "__main__":
    trio.run(main)
