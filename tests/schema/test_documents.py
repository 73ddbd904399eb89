"""OpenRPC and AsyncAPI documents, checked by the official meta-schemas and by real calls."""

from __future__ import annotations

import json
import subprocess
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT7

import trio_ws
from tests.schema import shop
from tests.schema.shop import Shop
from tests.support.npm import node, npm_package
from tests.support.serving import serving_in_memory

OPENRPC = trio_ws.Schema(Shop).openrpc()


@pytest.fixture(scope="module")
def openrpc_judge() -> Any:
    folder = npm_package("@open-rpc/meta-schema")
    script = f"process.stdout.write(JSON.stringify(require({json.dumps(str(folder))}).openrpcDocument))"
    meta = json.loads(subprocess.run([node(), "-e", script], check=True, capture_output=True).stdout)
    # What it calls the schema of schemas is a copy of draft 7.
    draft = DRAFT7.create_resource(jsonschema.Draft7Validator.META_SCHEMA)
    registry = Registry().with_resource("https://meta.json-schema.tools", draft)
    return jsonschema.Draft7Validator(meta, registry=registry)


@pytest.fixture(scope="module")
def asyncapi_judge() -> Any:
    folder = npm_package("@asyncapi/specs")
    return jsonschema.Draft7Validator(json.loads((folder / "schemas" / "3.0.0.json").read_text()))


def plain(document: dict[str, Any]) -> Any:
    """What a reader of its JSON gets."""
    return json.loads(msgspec.json.encode(document))


def method(name: str) -> Any:
    return next(one for one in OPENRPC["methods"] if one["name"] == name)


# -- the meta-schemas -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path"), [(Shop, None), (shop.app, "/shop"), (shop.app, "/tills/{number:int}")]
)
def test_openrpc_is_valid(openrpc_judge: Any, target: Any, path: str | None) -> None:
    document = plain(trio_ws.Schema(target).openrpc(path, title="T", version="2.1.0", url="ws://h/rpc"))
    assert [str(one) for one in openrpc_judge.iter_errors(document)] == []
    assert document["openrpc"].startswith("1.3.")
    assert (document["info"]["title"], document["info"]["version"]) == ("T", "2.1.0")
    assert document["servers"][0]["url"] == "ws://h/rpc"


def test_the_judge_of_openrpc_finds_what_is_wrong(openrpc_judge: Any) -> None:
    document = plain(OPENRPC)
    del document["methods"][0]["params"][0]["schema"]
    assert not openrpc_judge.is_valid(document)


@pytest.mark.parametrize("target", [Shop, shop.app])
def test_asyncapi_is_valid(asyncapi_judge: Any, target: Any) -> None:
    document = plain(trio_ws.Schema(target).asyncapi(url="wss://example.com/api"))
    assert [str(one) for one in asyncapi_judge.iter_errors(document)] == []
    assert document["asyncapi"] == "3.0.0"


def test_the_judge_of_asyncapi_finds_what_is_wrong(asyncapi_judge: Any) -> None:
    document = plain(trio_ws.Schema(Shop).asyncapi())
    document["operations"]["buy"]["action"] = "buy"
    assert not asyncapi_judge.is_valid(document)


def test_every_reference_leads_somewhere() -> None:
    schema = trio_ws.Schema(shop.app)
    for document in (schema.asyncapi(), *(schema.openrpc(path) for path in schema.paths)):
        targets = set()
        todo: list[Any] = [document]
        while todo:
            one = todo.pop()
            if isinstance(one, dict):
                targets |= {one["$ref"]} if "$ref" in one else set()
                todo += one.values()
            elif isinstance(one, list):
                todo += one
        assert targets
        for target in targets:
            found: Any = document
            for part in target.removeprefix("#/").split("/"):
                found = found[part]


# -- content ----------------------------------------------------------------------------------------


def test_docstrings_become_descriptions() -> None:
    assert OPENRPC["info"]["description"] == "A shop.\n\nIt sells things."
    buy = method("buy")
    assert (buy["summary"], buy["description"]) == ("Buy something.", "It is paid later.")
    assert [one["description"] for one in buy["params"]] == [
        "what to buy.",
        "not before this; now by default.",
    ]
    assert buy["result"]["description"] == "the order as it was kept."
    assert OPENRPC["components"]["schemas"]["Order"]["description"] == "What is to be bought."


def test_errors() -> None:
    assert method("buy")["errors"][0] == {"code": 4001, "message": "nothing is left of it."}
    assert {-32000, -32002} <= {one["code"] for one in method("stock.total")["errors"]}
    assert not {-32000, -32002} & {one["code"] for one in method("ping")["errors"]}


def test_rights_and_rate_limits_are_told_without_secrets() -> None:
    total = method("stock.total")
    assert total["x-requires"] == "admin and not region = ?"
    assert total["x-rate-limit"] == {"limit": 5, "period": 60.0}
    assert b"secret" not in msgspec.json.encode([OPENRPC, trio_ws.Schema(Shop).asyncapi()])


@pytest.mark.parametrize(
    ("predicate", "text"),
    [
        (trio_ws.Has("user"), "has user"),
        (trio_ws.Any(trio_ws.Is("a"), trio_ws.Is("b")) & trio_ws.Is("c"), "(a or b) and c"),
        (~(trio_ws.Is("a") | trio_ws.Is("b")), "not (a or b)"),
        (lambda connection: True, "a condition"),
        (test_errors, "test_errors"),
    ],
)
def test_rights_in_words(predicate: Any, text: str) -> None:
    class Guarded(trio_ws.WebSocketHandler):
        @trio_ws.rpc_method(requires=predicate)
        def go(self, connection: trio_ws.ClientConnection) -> None: ...

    assert trio_ws.Schema(Guarded).openrpc()["methods"][0]["x-requires"] == text


def test_streams_and_uploads() -> None:
    watch, total = method("watch"), method("stock.total")
    assert watch["x-stream"] == {"schema": {"$ref": "#/components/schemas/Item"}}
    assert watch["result"]["schema"] == {"type": "null"}
    numbers = total["params"][0]
    assert (numbers["schema"], numbers["x-stream"]) == ({"type": "null"}, {"schema": {"type": "number"}})


def test_places_of_parameters() -> None:
    structures = {one["name"]: one["paramStructure"] for one in OPENRPC["methods"]}
    assert structures["places"] == "by-position"
    assert structures["watch"] == structures["names"] == "by-name"
    assert structures["buy"] == structures["ping"] == "either"
    kinds = [one.get("x-kind") for name in ("places", "names") for one in method(name)["params"]]
    assert kinds == ["positional", "positional", "positional_rest", None, "keyword_rest"]
    assert method("places")["params"][1]["schema"] == {"type": "string", "default": "x"}


def test_default_rate_limit_is_that_of_methods_without_one() -> None:
    class Limited(Shop):
        default_rate_limit = trio_ws.RateLimit(7, 2)

    methods = trio_ws.Schema(Limited).openrpc()["methods"]
    limits = {one["name"]: one["x-rate-limit"]["limit"] for one in methods}
    assert (limits["ping"], limits["stock.total"]) == (7, 5)


def test_channels() -> None:
    assert OPENRPC["x-channels"] == [
        {"name": "news", "schema": {"type": "string"}},
        {
            "name": "prices.*",
            "schema": {"description": "a new price", "allOf": [{"$ref": "#/components/schemas/Item"}]},
            "description": "a new price",
        },
        {"name": "prices.gold", "schema": {"type": "number"}},
    ]
    document = trio_ws.Schema(Shop).asyncapi()
    assert document["channels"]["prices._"]["address"] == "prices.{part}"
    assert document["operations"]["news.publish"]["action"] == "send"


def test_an_address_has_braces_for_parameters_alone() -> None:
    class Braces(trio_ws.WebSocketHandler):
        channel_types = {"a{b}.*.?": int, "50%": str}

    channels = trio_ws.Schema(Braces).asyncapi()["channels"].values()
    assert [(one["address"], list(one.get("parameters", ()))) for one in channels] == [
        ("a%7Bb%7D.{part1}.{part2}", ["part1", "part2"]),
        ("50%25", []),
    ]


class Inner(msgspec.Struct):
    """Something in it."""


class Outer(msgspec.Struct):
    """A box.

    Attributes:
        inner: what is in it.
        size: in metres,
            on each side.
    """

    inner: Inner
    size: Annotated[int, msgspec.Meta(ge=0)] = 1
    other: Annotated[str, msgspec.Meta(description="its own")] = ""


def test_fields_are_described_by_the_docstring_of_their_type() -> None:
    class Boxes(trio_ws.WebSocketHandler):
        channel_types = {"boxes": Outer}

    described = trio_ws.Schema(Boxes).openrpc()["components"]["schemas"]["Outer"]
    assert described["description"] == "A box."
    texts = {name: one.get("description") for name, one in described["properties"].items()}
    assert texts == {"inner": "what is in it.", "size": "in metres, on each side.", "other": "its own"}


def test_asyncapi_of_an_app_has_a_server_for_each_handler() -> None:
    document = trio_ws.Schema(shop.app).asyncapi(url="wss://example.com/api/")
    assert document["servers"]["Till"] == {
        "host": "example.com",
        "protocol": "wss",
        "pathname": "/api/tills/{number}",
        "variables": {"number": {}},
    }
    assert {"Shop.buy", "Till.pay"} <= document["operations"].keys()


def test_only_what_is_used_is_in_a_document() -> None:
    schema = trio_ws.Schema(shop.app)
    assert list(schema.openrpc("/tills/{number:int}")["components"]["schemas"]) == ["Color", "Item"]


# -- against the wire -------------------------------------------------------------------------------


def judge_of(schema: dict[str, Any]) -> Any:
    return jsonschema.Draft7Validator({**schema, "components": OPENRPC["components"]})


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("buy", [{"item": "tea"}]),
        ("buy", [{"item": "tea", "count": 2, "notes": {"a": None}}, "2026-01-02T03:04:05Z"]),
        ("buy", [{"item": "tea", "count": 0}]),
        ("buy", [{"count": 1}]),
        ("buy", [{"item": "tea"}, 7]),
        ("pet", [{"type": "cat", "lives": 9}]),
        ("pet", [{"type": "dog"}, None, "AA=="]),
        ("pet", [{"type": "cow"}]),
        ("pet", [{"type": "cat"}, "b"]),
        ("pet", [{"type": "cat", "lives": 9}, "b"]),
    ],
)
async def test_a_schema_takes_what_the_method_takes(
    autojump_clock: object, name: str, args: list[Any]
) -> None:
    fits = all(
        judge_of(one["schema"]).is_valid(value)
        for one, value in zip(method(name)["params"], args, strict=False)
    )
    async with serving_in_memory(Shop) as server:
        client = trio_ws.WebSocketClient("ws://test/", stream=await server.stream(), dialect="json")
        async with client:
            response = await client.send_rpc(name, *args)
    assert (response.error is None) == fits
    if fits:
        assert judge_of(method(name)["result"]["schema"]).is_valid(response.data)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [("places", [1, "b", 2, 3], {}), ("names", [], {"a": 3, "b": "c"}), ("ping", [], {})],
)
async def test_results_fit_their_schemas(
    autojump_clock: object, name: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    async with serving_in_memory(Shop) as server:
        client = trio_ws.WebSocketClient("ws://test/", stream=await server.stream(), dialect="json")
        async with client:
            result = await client.call(name, *args, **kwargs)
    judge_of(method(name)["result"]["schema"]).validate(result)


async def test_items_fit_their_schema(autojump_clock: object) -> None:
    async with serving_in_memory(Shop) as server:
        client = trio_ws.WebSocketClient("ws://test/", stream=await server.stream(), dialect="json")
        async with client, client.stream("watch", "tea", limit=2) as items:
            seen = [item async for item in items]
    assert len(seen) == 2
    for item in seen:
        judge_of(method("watch")["x-stream"]["schema"]).validate(item)
    assert not judge_of(method("watch")["x-stream"]["schema"]).is_valid({"name": "", "price": 1})


@pytest.mark.parametrize(
    ("message", "packet", "valid"),
    [
        ("buy.request", {"method": "buy", "args": [{"item": "x"}]}, True),
        ("buy.request", {"method": "buy", "args": [], "kwargs": {"order": {"item": "x"}}}, True),
        ("buy.request", {"method": "buy", "args": [{"item": 1}]}, False),
        ("buy.request", {"method": "sell", "args": []}, False),
        ("buy.request", {"method": "buy", "kwargs": {"odd": 1}}, False),
        ("places.request", {"method": "places", "args": [1, "b", 2, 3], "timeout": 1.5}, True),
        ("places.request", {"method": "places", "args": [1, "b", "c"]}, False),
        ("names.request", {"method": "names", "kwargs": {"b": "c", "d": None}}, True),
        ("names.request", {"method": "names", "kwargs": {"b": 1}}, False),
        ("stock.total.request", {"method": "stock.total", "args": [None], "streams": {"0": "7/0"}}, True),
        ("ping.request", {"method": "ping", "args": [1]}, False),
    ],
)
def test_packets_of_asyncapi(message: str, packet: dict[str, Any], valid: bool) -> None:
    document = trio_ws.Schema(Shop).asyncapi()
    payload = document["channels"]["calls"]["messages"][message]["payload"]
    judge = jsonschema.Draft7Validator({**payload, "components": document["components"]})
    assert judge.is_valid({"source": 5, "rpc": {"type": "request", "call_id": "7", **packet}}) == valid
