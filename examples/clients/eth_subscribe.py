"""Receive the new heads of a chain from a node with JSON-RPC, over any number of connections."""

import sys

import msgspec
import trio

import trio_ws


class Header(msgspec.Struct):
    number: str


class Head(msgspec.Struct):
    subscription: str
    result: Header


async def subscribe(connection: trio_ws.ClientConnection) -> None:
    await connection.call("eth_subscribe", "newHeads", returns=str)


async def main(url: str) -> None:
    client = trio_ws.WebSocketClient(
        url, dialect="jsonrpc", on_connection=subscribe, reconnect=trio_ws.Backoff(initial=0.1)
    )
    # The stream is opened before the first connection, so that it misses nothing.
    async with client.notifications("eth_subscription", items=Head) as heads, client:
        async for head in heads:
            print(int(head.result.number, 16))
            if head.result.number == "0x14":
                break


trio.run(main, sys.argv[1])
