"""Schema: its targets, its errors, and ``rpc.discover``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable  # noqa: TC003 - methods need them
from typing import Any

import pytest

import trio_ws
from tests.schema import shop
from tests.schema.shop import Shop
from tests.support.serving import serving_in_memory
from trio_ws import ClientConnection, Schema, WebSocketHandler, rpc_method
from trio_ws.schema.docstring import parse_docstring


class Opaque:
    """What nothing knows a schema of."""


def test_a_class_an_instance_and_an_app_with_one_handler_are_the_same() -> None:
    app = trio_ws.App()
    app.mount("/", Shop)
    expected = Schema(Shop).openrpc()
    assert Shop().schema().openrpc() == Schema(Shop()).openrpc() == app.schema().openrpc() == expected
    assert Schema(Shop).typescript() == app.schema().typescript()


@pytest.mark.parametrize("target", [None, 7, "shop:Shop", Opaque, Opaque(), trio_ws.App, len])
def test_no_target(target: object) -> None:
    with pytest.raises(TypeError, match="a schema is of an App or a WebSocketHandler"):
        Schema(target)


def test_an_app_without_handlers() -> None:
    with pytest.raises(ValueError, match="no WebSocketHandler is mounted in"):
        trio_ws.App().schema()


def test_the_handler_of_an_app_is_chosen_by_its_path() -> None:
    schema = shop.app.schema()
    assert schema.paths == ("/shop", "/tills/{number:int}")
    assert schema.openrpc("/shop")["info"]["title"] == "Shop"
    with pytest.raises(ValueError, match=r"give the path of one of /shop, /tills/\{number:int\}"):
        schema.openrpc()
    with pytest.raises(ValueError, match="there is no handler at '/'"):
        schema.openrpc("/")


def with_method(function: Any, name: str | None = None) -> type[WebSocketHandler[Any]]:
    return type("Made", (WebSocketHandler,), {"method": rpc_method(name)(function)})


def gives_opaque(self: Any, connection: ClientConnection) -> list[Opaque]: ...  # type: ignore[empty-body]
def gives_unknown(self: Any, connection: ClientConnection) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821
async def no_stream(self: Any, connection: ClientConnection) -> AsyncIterator[int]:
    yield 1


no_stream.__annotations__["return"] = int


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (gives_opaque, "Made: method: the result has no JSON Schema: type .*Opaque.* Annotate it with"),
        (
            gives_unknown,
            "method: the result: Nowhere cannot be resolved: .* Define or import it",
        ),
        (no_stream, r"the result: int is not the type of a stream; write AsyncIterator\[T\]"),
    ],
)
def test_a_result_without_a_schema(function: Any, text: str) -> None:
    handler = with_method(function)
    with pytest.raises(TypeError, match=text):
        Schema(handler)
    # Where clients may ask for it, the mistake shows when the handler is first used.
    handler.list_methods = True
    with pytest.raises(TypeError, match=text):
        trio_ws.App().mount("/", handler)


@pytest.mark.parametrize("name", ["add two", "7up", "a-b", "a..b", ".", "a.", "a/b", "naïve!", "a\nb"])
def test_a_name_that_is_not_an_identifier(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"Made: the method name .* must be an identifier, or several identifiers"
    ):
        Schema(with_method(lambda self, connection: None, name))


async def test_any_name_is_listed_and_discovered(autojump_clock: object) -> None:
    name = "\x1b]0;not an identifier\x07"
    handler = with_method(lambda self, connection: None, name)
    handler.list_methods = True
    async with serving_in_memory(handler) as server, client_of(await server.stream()) as client:
        listed = await client.call("__methods__")
        assert [one["name"] for one in listed] == [name]
        assert [one["name"] for one in (await client.call("rpc.discover"))["methods"]] == [name]


@pytest.mark.parametrize("name", ["a", "_a", "$a", "user.get", "größe", "a1.b2.c3"])
def test_a_name_that_is_one(name: str) -> None:
    assert Schema(with_method(lambda self, connection: None, name)).openrpc()["methods"][0]["name"] == name


def test_names_that_differ_in_case_only() -> None:
    class Cases(WebSocketHandler):
        @rpc_method("user.Get")
        def first(self, connection: ClientConnection) -> None: ...

        @rpc_method("user.get")
        def second(self, connection: ClientConnection) -> None: ...

    with pytest.raises(ValueError, match=r"Cases: the methods 'user.Get' and 'user.get' differ in case only"):
        Cases().schema()


@pytest.mark.parametrize(
    ("channels", "error", "text"),
    [
        (["news"], TypeError, "Bad.channel_types is a mapping of names to types"),
        ({"": int}, ValueError, "a channel name must have 1 to"),
        ({7: int}, TypeError, "a channel name must be a str"),
        ({"news": Opaque}, TypeError, "Bad: the channel 'news' has no JSON Schema"),
    ],
)
def test_a_bad_declaration_of_channels(channels: Any, error: type[Exception], text: str) -> None:
    handler = type("Bad", (WebSocketHandler,), {"channel_types": channels})
    with pytest.raises(error, match=text):
        Schema(handler)


@pytest.mark.parametrize("errors", [shop.OutOfStockError, [ValueError], ["4001"], 4001])
def test_bad_errors_of_a_method(errors: Any) -> None:
    with pytest.raises(TypeError, match="errors is a list of classes of RPCError"):
        rpc_method(errors=errors)


def test_results_that_are_awaited_or_any() -> None:
    class Results(WebSocketHandler):
        @rpc_method()
        def later(self, connection: ClientConnection) -> Awaitable[int]: ...  # type: ignore[empty-body]

        @rpc_method()
        async def items(self, connection: ClientConnection) -> AsyncIterator:  # type: ignore[type-arg]
            yield 1

        @rpc_method()
        def whatever(self, connection: ClientConnection, x: object = len) -> object: ...

    later, items, whatever = Schema(Results).openrpc()["methods"]
    assert later["result"]["schema"] == {"type": "integer"}
    assert items["x-stream"]["schema"] == whatever["result"]["schema"] == {}
    assert whatever["params"] == [{"name": "x", "required": False, "schema": {}}]


def test_two_types_of_one_name() -> None:
    def struct(kind: type) -> Any:
        import msgspec  # noqa: PLC0415

        return msgspec.defstruct("Same", [("value", kind)], module=f"of_{kind.__name__}")

    class Two(WebSocketHandler):
        channel_types = {"a": struct(int), "b": struct(str)}

    schema = Schema(Two)
    assert set(schema.openrpc()["components"]["schemas"]) == {"of_int.Same", "of_str.Same"}
    assert "a: of_int_Same;\n  b: of_str_Same;" in schema.typescript()


def test_a_schema_is_a_snapshot() -> None:
    handler = Shop()
    before = handler.schema()
    handler.register_rpc_method(lambda connection: 7, "seven")
    names = [[one["name"] for one in schema.openrpc()["methods"]] for schema in (before, handler.schema())]
    assert names[1] == [*names[0], "seven"]


# -- rpc.discover -----------------------------------------------------------------------------------


def client_of(stream: Any, dialect: str | None = None) -> trio_ws.WebSocketClient:
    return trio_ws.WebSocketClient("ws://test/", stream=stream, dialect=dialect)


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "jsonrpc", "json"])
async def test_discover_tells_what_may_be_called_now(autojump_clock: object, dialect: str) -> None:
    async with serving_in_memory(Shop) as server, client_of(await server.stream(), dialect) as client:
        before = await client.call("rpc.discover")
        await client.call("log_in")
        after = await client.call("rpc.discover")
    expected = Schema(Shop).openrpc()
    assert after == expected
    assert before["methods"] == [one for one in expected["methods"] if one["name"] != "stock.total"]


async def test_discover_tells_no_types_of_what_may_not_be_called(autojump_clock: object) -> None:
    class Secret(shop.Till):
        list_methods = True

        @rpc_method(requires=trio_ws.Is("admin"))
        def hidden(self, connection: ClientConnection, order: shop.Order) -> shop.Point: ...  # type: ignore[empty-body]

    async with serving_in_memory(Secret) as server, client_of(await server.stream()) as client:
        document = await client.call("rpc.discover")
    assert list(document["components"]["schemas"]) == ["Color", "Item"]


async def test_by_default_nothing_is_told(autojump_clock: object) -> None:
    async with serving_in_memory(shop.Till) as server, client_of(await server.stream()) as client:
        with pytest.raises(trio_ws.RPCMethodNotFoundError):
            await client.call("rpc.discover")


async def test_a_method_of_ones_own_comes_first(autojump_clock: object) -> None:
    class Own(Shop):
        @rpc_method("rpc.discover")
        def tell(self, connection: ClientConnection) -> str:
            return "mine"

    assert "rpc.discover" in Own().rpc_methods
    assert "rpc.discover" not in Shop().rpc_methods
    async with serving_in_memory(Own) as server, client_of(await server.stream()) as client:
        assert await client.call("rpc.discover") == "mine"


async def test_a_method_that_is_registered_later_is_discovered(autojump_clock: object) -> None:
    handler = Shop()
    with pytest.raises(TypeError, match="no JSON Schema"):
        handler.register_rpc_method(_gives_opaque, "opaque")
    with pytest.raises(ValueError, match="'PING' differ in case only"):
        handler.register_rpc_method(lambda connection: 7, "PING")
    async with serving_in_memory(handler) as server, client_of(await server.stream()) as client:
        handler.register_rpc_method(lambda connection: 7, "seven")
        names = [one["name"] for one in (await client.call("rpc.discover"))["methods"]]
    assert names[-1] == "seven"
    assert not {"opaque", "PING"} & set(names)


def _gives_opaque(connection: ClientConnection) -> Opaque:
    return Opaque()


# -- docstrings -------------------------------------------------------------------------------------


def test_a_docstring_in_parts() -> None:
    found = parse_docstring(
        """Do it,
        and well.

        First paragraph.

        Example:
            stays here

        Args:
            a (int): one: two.
            *rest: others,
                over lines.

            odd line
        Yields:
            items of
            a stream.

        Raises:
            some.Error: at times.

        Attributes:
            size: in bytes.
        And an end.
        """
    )
    assert found.summary == "Do it, and well."
    assert found.description == "First paragraph.\n\nExample:\n    stays here\n\nAnd an end."
    assert found.parameters == {"a": "one: two.", "rest": "others, over lines."}
    assert found.returns == "items of a stream."
    assert found.raises == {"some.Error": "at times."}
    assert found.attributes == {"size": "in bytes."}


@pytest.mark.parametrize("text", ["", "\n", "   "])
def test_no_docstring(text: str) -> None:
    assert parse_docstring(text) == parse_docstring("")
    assert parse_docstring(text).text == ""
