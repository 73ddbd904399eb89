"""A server of the npm package graphql-ws, by a dialect of one's own: operations, subscriptions, its login.

https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md, the subprotocol ``graphql-transport-ws``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.daemons import said_port
from tests.support.npm import CACHE, node, npm_package
from tests.support.serving import guard
from trio_ws import Backoff, ClientConnection, ConnectionFailedError, RPCError, WebSocketClient
from trio_ws.dialects import Answer, Call, Dialect, Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROGRAM = Path(__file__).parent / "peers" / "node_peers.mjs"


class GraphQL(Dialect):
    """``call("query", query=...)`` for one result, ``notify("prices", query=...)`` for a subscription."""

    name = "graphql"
    subprotocols = ("graphql-transport-ws",)

    def read(self, message: Any) -> Call | Answer | Failure | None:
        match message:
            case {"type": "connection_ack"}:
                return Answer("1", None)  # the first call is the login
            case {"type": "ping"}:
                return Call("ping", [], {}, "ping")
            case {"type": "next", "id": number, "payload": {"data": data}} if number.isdecimal():
                return Answer(number, data)
            case {"type": "error", "id": number, "payload": [{"message": text}, *_]}:
                return Failure(number, -32001, text)
            case {"type": "next", "id": name, "payload": {"data": data}}:
                return Call(name, [], data)
            case {"type": "complete", "id": name} if not name.isdecimal():
                return Call(name, [], {})
            case _:
                return None

    def call(self, call_id: str, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if method == "connection_init":
            return {"type": method, "payload": kwargs}
        return {"id": call_id, "type": "subscribe", "payload": kwargs}

    def notification(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return {"id": method, "type": "subscribe", "payload": kwargs}

    def failure(self, call: Call, code: int, text: str, data: Any) -> Any:
        return {"type": "pong"}  # the only call of a server

    def cancel(self, call_id: str) -> Any:
        return {"id": call_id, "type": "complete"}


@pytest.fixture
def url() -> Iterator[str]:
    for package in ("graphql", "graphql-ws", "ws"):
        npm_package(package)
    with said_port([node(), str(PROGRAM), str(CACHE), "server", "graphql-ws"]) as port:
        yield f"ws://127.0.0.1:{port}/"


async def log_in(connection: ClientConnection[Any]) -> None:
    await connection.call("connection_init", token="secret")


async def test_operations_and_subscriptions(url: str) -> None:
    with trio.fail_after(guard()):
        async with WebSocketClient(
            url, dialect=GraphQL(), on_connection=log_in, reconnect=Backoff(), proxy=None
        ) as client:
            assert client.dialect == "graphql"
            query = "query($a: Int!, $b: Int!) { add(a: $a, b: $b) }"
            for number in range(20):
                found = await client.call("query", query=query, variables={"a": number, "b": 1})
                assert found == {"add": number + 1}
            with pytest.raises(RPCError, match="Cannot query field"):
                await client.call("query", query="{ nothing }")
            async with client.notifications("counting") as counting:
                await client.notify("counting", query="subscription { count(to: 3) }")
                assert [await counting.receive() for _ in range(3)] == [{"count": n} for n in (1, 2, 3)]
                assert await counting.receive() == {}  # complete


async def test_a_login_that_is_refused(url: str) -> None:
    async def wrong(connection: ClientConnection[Any]) -> None:
        await connection.call("connection_init", token="wrong")

    with trio.fail_after(guard()), pytest.raises(ConnectionFailedError, match="4403"):
        async with WebSocketClient(url, dialect=GraphQL(), on_connection=wrong, proxy=None):
            pytest.fail("the token is wrong")
