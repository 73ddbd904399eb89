"""`__methods__`: the list of methods, if a handler allows it."""

from __future__ import annotations

from typing import Any

import pytest

import trio_ws
from tests.support.serving import serving_in_memory


class Open(trio_ws.WebSocketHandler):
    list_methods = True

    @trio_ws.rpc_method()
    def add(self, connection: trio_ws.ClientConnection, a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @trio_ws.rpc_method()
    def log_in(self, connection: trio_ws.ClientConnection) -> None:
        connection.admin = True

    @trio_ws.rpc_method(requires=trio_ws.Is("admin"))
    def shut_down(self, connection: trio_ws.ClientConnection) -> None: ...


class Closed(Open):
    list_methods = False


ADD = {
    "name": "add",
    "kind": "plain",
    "parameters": [
        {"name": "a", "type": "int", "required": True},
        {"name": "b", "type": "int", "required": False, "default": 1},
    ],
    "returns": "int",
    "doc": "Add two numbers.",
}


def client_of(stream: Any, dialect: str | None = None) -> trio_ws.WebSocketClient:
    return trio_ws.WebSocketClient("ws://test/", stream=stream, dialect=dialect)


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "webshocket.v1", "jsonrpc", "json"])
async def test_a_client_is_told_what_it_may_call_now(autojump_clock: object, dialect: str) -> None:
    async with serving_in_memory(Open) as server, client_of(await server.stream(), dialect) as client:
        listed = await client.call("__methods__")
        assert [one["name"] for one in listed] == ["add", "log_in"]
        assert listed[0] == ADD
        await client.call("log_in")
        assert [one["name"] for one in await client.call("__methods__")] == ["add", "log_in", "shut_down"]


async def test_by_default_nothing_is_told(autojump_clock: object) -> None:
    assert trio_ws.WebSocketHandler.list_methods is False
    async with serving_in_memory(Closed) as server, client_of(await server.stream()) as client:
        with pytest.raises(trio_ws.RPCMethodNotFoundError):
            await client.call("__methods__")


async def test_list_methods_takes_no_arguments(autojump_clock: object) -> None:
    async with serving_in_memory(Open) as server, client_of(await server.stream()) as client:
        with pytest.raises(trio_ws.RPCInvalidParamsError):
            await client.call("__methods__", 1)


async def test_a_method_that_is_registered_later_is_listed_and_the_list_is_not(
    autojump_clock: object,
) -> None:
    handler = Open()
    assert set(handler.rpc_methods) == {"add", "log_in", "shut_down"}
    async with serving_in_memory(handler) as server, client_of(await server.stream()) as client:
        handler.register_rpc_method(lambda connection: 7, "seven")
        assert [one["name"] for one in await client.call("__methods__")] == ["add", "log_in", "seven"]


async def test_a_server_may_ask_its_client(autojump_clock: object) -> None:
    class Asking(trio_ws.WebSocketHandler):
        @trio_ws.rpc_method()
        async def ask(self, connection: trio_ws.ClientConnection) -> Any:
            return await connection.call("__methods__")

    async with serving_in_memory(Asking) as server:
        client = trio_ws.WebSocketClient("ws://test/", stream=await server.stream(), handler=Open)
        async with client:
            assert (await client.call("ask"))[0] == ADD
