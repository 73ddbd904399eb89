"""The code about JSON-RPC in docs/how-to/other-servers.md, run against a server of the usual kind."""

from typing import Any

import msgspec
import trio

import trio_ws


async def node(ws: trio_ws.WebSocket) -> None:
    """A simulated node of a chain."""
    answers: dict[str, Any] = {
        "web3_clientVersion": "Node/1.0",
        "eth_subscribe": "0x1",
        "eth_getBalance": "0xff",
        "eth_blockNumber": "0x11",
    }
    async for message in ws:
        call = message.json()
        batch = call if isinstance(call, list) else [call]
        asked = [one for one in batch if "id" in one]
        results = [{"jsonrpc": "2.0", "id": one["id"], "result": answers[one["method"]]} for one in asked]
        if results:
            await ws.send_json(results if isinstance(call, list) else results[0])
        if batch[0]["method"] == "eth_subscribe":
            params = {"subscription": "0x1", "result": {"number": "0x10"}}
            await ws.send_json({"jsonrpc": "2.0", "method": "eth_subscription", "params": params})


class Head(msgspec.Struct):
    subscription: str
    result: dict[str, Any]


async def ask(url: str) -> None:
    async with trio_ws.WebSocketClient(url, dialect="jsonrpc") as client:
        version = await client.call("web3_clientVersion", returns=str)
        async with client.notifications("eth_subscription", items=Head) as heads:
            await client.call("eth_subscribe", "newHeads", returns=str)
            head = await heads.receive()
        async with client.batch() as batch:  # leaving the block sends one message and waits for all responses
            balance = batch.call("eth_getBalance", "0x407d", "latest", returns=str)
            number = batch.call("eth_blockNumber", returns=str)
        print(version, head.result["number"], balance.result(), number.result())
        await client.notify("bye")  # a call that expects no answer


class Bank(trio_ws.WebSocketHandler):
    """Serves clients that have logged in."""

    @trio_ws.rpc_method()
    def login(self, connection: trio_ws.ClientConnection, token: str) -> None:
        connection.token = token

    @trio_ws.rpc_method(requires=trio_ws.Has("token"))
    def balance(self, connection: trio_ws.ClientConnection) -> int:
        return 100


async def fresh_token() -> str:
    await trio.lowlevel.checkpoint()
    return "a-token"


async def log_in(connection: trio_ws.ClientConnection) -> None:
    await connection.call("login", await fresh_token())


async def look(url: str) -> None:
    async with trio_ws.WebSocketClient(url, on_connection=log_in, reconnect=trio_ws.Backoff()) as client:
        print(await client.call("balance", returns=int))  # waits for a connection that is set up


async def main() -> None:
    async with trio_ws.WebSocketServer(node, 0) as server:
        await ask(server.url)
    async with trio_ws.WebSocketServer(Bank, 0) as server:
        await look(server.url)


trio.run(main)
