"""A handler that uses every feature of schemas."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - methods need these
import enum
from collections.abc import AsyncIterator  # noqa: TC003
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

import trio_ws
from trio_ws import ClientConnection


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct, array_like=True):
    x: float
    y: float = 0.0


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    good: bool = True


class Item(msgspec.Struct):
    """Something to buy."""

    name: Annotated[str, msgspec.Meta(min_length=1, description="as it says on the shelf")]
    price: float
    color: Color = Color.RED
    parts: list[Item] = []


@dataclass
class Order:
    """What is to be bought."""

    item: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    notes: dict[str, str | None] = field(default_factory=dict)


class OutOfStockError(trio_ws.RPCError):
    """There is none left."""

    default_code = 4001


class Shop(trio_ws.WebSocketHandler):
    """A shop.

    It sells things.
    """

    list_methods = True
    channel_types = {
        "news": str,
        "prices.*": Annotated[Item, msgspec.Meta(description="a new price")],
        "prices.gold": float,
    }

    @trio_ws.rpc_method(errors=[OutOfStockError])
    async def buy(self, connection: ClientConnection, order: Order, when: dt.datetime | None = None) -> Order:
        """Buy something.

        It is paid later.

        Args:
            order: what to buy.
            when: not before this;
                now by default.

        Returns:
            the order as it was kept.

        Raises:
            OutOfStockError: nothing is left of it.
        """
        return order

    @trio_ws.rpc_method()
    async def watch(self, connection: ClientConnection, name: str, *, limit: int = 10) -> AsyncIterator[Item]:
        """Prices as they come."""
        for price in range(limit):
            yield Item(name, price)

    @trio_ws.rpc_method("stock.total", requires=trio_ws.Is("admin") & ~trio_ws.IsEqual("region", "secret"))
    @trio_ws.rate_limit(5, "1m")
    async def total(
        self, connection: ClientConnection, numbers: AsyncIterator[float], scale: float = 1
    ) -> float:
        return scale * sum([number async for number in numbers])

    @trio_ws.rpc_method()
    def places(
        self, connection: ClientConnection, a: int, b: str = "x", /, *rest: int
    ) -> tuple[int, str, None]:
        return a + sum(rest), b, None

    @trio_ws.rpc_method()
    def names(self, connection: ClientConnection, /, a: int = 1, **rest: str | None) -> dict[int, Point]:
        return {a: Point(float(len(rest)))}

    @trio_ws.rpc_method()
    def pet(
        self,
        connection: ClientConnection,
        pet: Cat | Dog,
        mode: Literal["a", 1] | None = "a",
        raw: bytes = b"",
    ) -> list[Cat | Dog | None]:
        return [pet, None]

    @trio_ws.rpc_method()
    def ping(self, connection: ClientConnection) -> None: ...

    @trio_ws.rpc_method()
    def log_in(self, connection: ClientConnection) -> None:
        connection.admin = True


class Till(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    def pay(self, connection: ClientConnection, items: list[Item]) -> float:
        return sum(item.price for item in items)


app = trio_ws.App()
app.mount("/shop", Shop)
app.mount("/tills/{number:int}", Till)
