"""The code of docs/how-to/schema.md, run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

import trio_ws


class Item(msgspec.Struct):
    """Something to buy."""

    name: str
    price: float = 0.0


class SoldOutError(trio_ws.RPCError):
    """Nothing is left."""

    default_code = 4001


class Shop(trio_ws.WebSocketHandler):
    """A shop."""

    list_methods = True  # clients may ask: rpc.discover
    channel_types = {"news": str, "prices.*": Item}

    @trio_ws.rpc_method(errors=[SoldOutError])
    async def buy(self, connection: trio_ws.ClientConnection, name: str, count: int = 1) -> Item:
        """Buy something.

        Args:
            name: what it is called.
            count: how many of it.
        """
        return Item(name, 2.5 * count)

    @trio_ws.rpc_method(requires=trio_ws.Is("admin"))
    async def watch(self, connection: trio_ws.ClientConnection) -> AsyncIterator[Item]:
        """Every sale as it happens."""
        yield Item("tea")


app = trio_ws.App()
app.mount("/shop", Shop)


def is_staff(request: trio_ws.Request) -> bool:
    return request.header("Authorization") == "Bearer secret"


app.mount_docs("/docs", allow=is_staff)


def describe(app: trio_ws.App) -> None:
    schema = app.schema()  # or Shop().schema(), or trio_ws.Schema(Shop)
    document = schema.openrpc(version="2.0.0", url="wss://example.com/shop")  # a dict
    messages = schema.asyncapi(url="wss://example.com")
    print(len(document["methods"]), "methods,", len(messages["operations"]), "operations")
    print(schema.typescript())


if __name__ == "__main__":
    describe(app)
