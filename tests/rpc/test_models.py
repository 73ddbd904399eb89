"""pydantic models as parameters, results, items, and data of channels."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator  # noqa: TC003 - methods need it
from typing import Any

import msgspec
import pytest

import trio_ws
from tests.support.serving import serving_in_memory
from trio_ws import ClientConnection, Schema

pydantic = pytest.importorskip("pydantic")

if True:  # pydantic may be missing
    from pydantic import AnyUrl, BaseModel, Field, RootModel, computed_field


class Line(BaseModel):
    text: str
    tags: dict[str, int] = {}


class Order(BaseModel):
    """What is to be bought."""

    item: str = Field(alias="itemName")
    count: int = Field(ge=1, default=1)
    lines: list[Line] = []
    when: dt.datetime | None = None
    link: AnyUrl | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def price(self) -> float:
        return 2.5 * self.count


class Names(RootModel[list[str]]):
    pass


class Box(msgspec.Struct):
    order: Order


class Shop(trio_ws.WebSocketHandler):
    channel_types = {"orders": Order}

    @trio_ws.rpc_method()
    async def buy(self, connection: ClientConnection, order: Order, times: int = 1) -> Order:
        assert isinstance(order, Order)
        order.count *= times
        self.publish("orders", order)
        return order

    @trio_ws.rpc_method()
    def many(self, connection: ClientConnection, *orders: Order) -> dict[str, Order]:
        return {one.item: one for one in orders}

    @trio_ws.rpc_method()
    def boxed(self, connection: ClientConnection, box: Box, names: Names | None = None) -> Box:
        return box if names is None else Box(Order(itemName=names.root[0]))

    @trio_ws.rpc_method()
    async def total(self, connection: ClientConnection, orders: AsyncIterator[Order]) -> AsyncIterator[Order]:
        count = 0
        async for order in orders:
            count += order.count
            yield Order(itemName=order.item, count=count)

    async def on_connect(self, connection: ClientConnection) -> None:
        connection.subscribe("orders")


DIALECTS = ["trio-ws.v1", "webshocket.v1", "jsonrpc", "json"]
TEA = {"itemName": "tea", "count": 1, "lines": [], "when": None, "link": None, "price": 2.5}


def client_of(stream: Any, dialect: str | None = None) -> trio_ws.WebSocketClient:
    return trio_ws.WebSocketClient("ws://test/", stream=stream, dialect=dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_calls(autojump_clock: object, dialect: str) -> None:
    async with serving_in_memory(Shop) as server, client_of(await server.stream(), dialect) as client:
        sent = Order(itemName="tea", when=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), link=AnyUrl("http://x/"))
        raw = await client.call("buy", sent, 3)
        assert raw == {**TEA, "count": 3, "price": 7.5, "when": "2026-01-02T00:00:00Z", "link": "http://x/"}
        packet = await client.recv()
        assert packet is not None
        assert (packet.channel, packet.data) == ("orders", raw)
        assert await client.call("buy", {"itemName": "tea"}, returns=Order) == Order(itemName="tea")
        assert await client.call("many", {"itemName": "a"}, {"itemName": "b"}, returns=dict[str, Order]) == {
            "a": Order(itemName="a"),
            "b": Order(itemName="b"),
        }
        assert await client.call("boxed", {"order": {"itemName": "tea"}}, ["a"]) == {
            "order": {**TEA, "itemName": "a"}
        }


async def test_streams(autojump_clock: object) -> None:
    async def orders() -> AsyncIterator[Order]:
        for count in (1, 2):
            yield Order(itemName="tea", count=count)

    async with serving_in_memory(Shop) as server, client_of(await server.stream()) as client:
        async with client.stream("total", orders(), items=Order) as found:
            assert [one.count async for one in found] == [1, 3]


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "path", "text"),
    [
        ("buy", [{"itemName": "a", "count": 0}], {}, "$.order.count", "greater than or equal to 1"),
        ("buy", [], {"order": {"itemName": 7}}, "$.order.itemName", "valid string"),
        ("buy", [7], {}, "$.order", "valid dictionary"),
        ("buy", [{"itemName": "a", "lines": [{}]}], {}, "$.order.lines[0].text", "required"),
        ("many", [{"itemName": "a"}, {"count": 1}], {}, "$.orders[1].itemName", "required"),
        ("boxed", [{"order": {}}], {}, "$.box.order.itemName", "required"),
        ("boxed", [{"order": {"itemName": "a"}}, [7]], {}, "$.names[0]", "valid string"),
    ],
)
async def test_invalid_arguments(
    autojump_clock: object, method: str, args: list[Any], kwargs: dict[str, Any], path: str, text: str
) -> None:
    async with serving_in_memory(Shop) as server, client_of(await server.stream()) as client:
        with pytest.raises(trio_ws.RPCInvalidParamsError, match=text) as caught:
            await client.call(method, *args, **kwargs)
    assert caught.value.data == {"path": path}


async def test_many_errors_are_counted_and_not_listed(autojump_clock: object) -> None:
    async with serving_in_memory(Shop) as server, client_of(await server.stream()) as client:
        with pytest.raises(trio_ws.RPCInvalidParamsError, match="order: 5001 values do not fit") as caught:
            await client.call("buy", {"itemName": 1, "lines": [None] * 5000})
    assert caught.value.data == {"path": "$.order"}


async def test_a_result_that_does_not_fit(autojump_clock: object) -> None:
    async with serving_in_memory(Shop) as server, client_of(await server.stream()) as client:
        with pytest.raises(trio_ws.PacketValidationError, match="the result of buy is not of the"):
            await client.call("buy", {"itemName": "tea"}, returns=Line)


async def test_http_and_plain_messages() -> None:
    assert trio_ws.HTTPResponse(body=Line(text="x")).body == b'{"text":"x","tags":{}}'

    async def handler(ws: trio_ws.WebSocket) -> None:
        line = await ws.receive_json(type=Line)
        await ws.send_json(Line(text=line.text * 2))

    async with serving_in_memory(handler) as server, server.connect() as ws:
        await ws.send_json({"text": "x"})
        assert await ws.receive_json() == {"text": "xx", "tags": {}}


def test_schema() -> None:
    schema = Schema(Shop)
    document = schema.openrpc()
    buy = document["methods"][0]
    assert buy["params"][0]["schema"] == {"$ref": "#/components/schemas/Order-Input"}
    assert buy["result"]["schema"] == {"$ref": "#/components/schemas/Order-Output"}
    components = document["components"]["schemas"]
    assert components["Order-Input"]["required"] == ["itemName"]
    assert "price" in components["Order-Output"]["properties"]
    assert components["Line"]["properties"]["text"] == {"title": "Text", "type": "string"}
    declarations = schema.typescript()
    assert "boxed(params: {\n    box: Box;\n    names?: Names | null;\n  }): Promise<Box>;" in declarations
    assert (
        "buy(params: {\n    order: Order_Input;\n    times?: number;\n  }): Promise<Order_Output>;"
        in declarations
    )


def test_a_struct_and_a_model_of_one_name() -> None:
    other = msgspec.defstruct("Line", [("number", int)])

    class Two(trio_ws.WebSocketHandler):
        channel_types = {"a": other, "b": Line, "c": Order}

    document = Schema(Two).openrpc()
    struct, model, _ = [one["schema"]["$ref"] for one in document["x-channels"]]
    components = document["components"]["schemas"]
    assert "number" in components[struct.rpartition("/")[2]]["properties"]
    assert "text" in components[model.rpartition("/")[2]]["properties"]
    lines = components["Order-Output"]["properties"]["lines"]
    assert lines["items"] == {"$ref": model}
