"""JSON-RPC 2.0 with a client library that is not ours: jsonrpcclient makes requests and parses responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.support.serving import guard, serving
from trio_ws import ClientConnection, RPCError, WebSocketHandler, rpc_method

jsonrpcclient = pytest.importorskip("jsonrpcclient", reason="jsonrpcclient is not installed")
websockets_trio = pytest.importorskip("websockets.trio.client", reason="websockets.trio is not installed")


class Handler(WebSocketHandler):
    def __init__(self) -> None:
        self.noted: list[str] = []

    @rpc_method()
    async def add(self, connection: ClientConnection, a: int, b: int) -> int:
        return a + b

    @rpc_method()
    async def slow(self, connection: ClientConnection, value: int) -> int:
        await trio.sleep(0.01)
        return value

    @rpc_method()
    def note(self, connection: ClientConnection, text: str) -> None:
        self.noted.append(text)

    @rpc_method()
    async def refuse(self, connection: ClientConnection) -> None:
        raise RPCError("no", code=-31000, data={"why": "because"})


def ok(result: Any, request_id: Any) -> Any:
    return jsonrpcclient.Ok(result, request_id)


@pytest.mark.parametrize("subprotocols", [None, ["jsonrpc"]])
async def test_requests_notifications_batches_and_errors(subprotocols: Any) -> None:
    handler = Handler()
    with trio.fail_after(guard()):
        async with (
            serving(handler) as server,
            websockets_trio.connect(server.url, subprotocols=subprotocols, proxy=None) as ws,
        ):

            async def ask(payload: Any) -> Any:
                await ws.send(payload if isinstance(payload, str) else json.dumps(payload))
                return jsonrpcclient.parse(json.loads(await ws.recv()))

            request = jsonrpcclient.request
            assert await ask(request("add", [1, 2], id=1)) == ok(3, 1)
            assert await ask(request("add", {"a": 1, "b": 2}, id="one")) == ok(3, "one")
            with_uuid = jsonrpcclient.request_uuid("add", [3, 4])
            assert await ask(with_uuid) == ok(7, with_uuid["id"])

            await ws.send(json.dumps(jsonrpcclient.notification("note", ["hello"])))
            batch = [
                request("slow", [7], id=2),
                request("add", [1, 1], id=3),
                jsonrpcclient.notification("note", ["there"]),
                request("nobody", id=4),
            ]
            answers = {answer.id: answer for answer in await ask(batch)}
            assert answers[2] == ok(7, 2)
            assert answers[3] == ok(2, 3)
            assert answers[4].code == -32601
            assert len(answers) == 3
            assert handler.noted == ["hello", "there"]

            error = await ask(request("add", [1, "x"], id=5))
            assert (error.code, error.data, error.id) == (-32602, {"path": "$.b"}, 5)
            error = await ask(request("refuse", id=6))
            assert (error.code, error.message, error.data) == (-31000, "no", {"why": "because"})
            error = await ask('{"jsonrpc": "2.0", "method": "add", "params": [1')
            assert (error.code, error.id) == (-32700, None)
            error = await ask([])
            assert error.code == -32600

            # Many at once; each answer finds its request.
            for number in range(100, 200):
                await ws.send(json.dumps(request("slow", [number], id=number)))
            got = [jsonrpcclient.parse(json.loads(await ws.recv())) for _ in range(100)]
            assert {(answer.id, answer.result) for answer in got} == {(n, n) for n in range(100, 200)}
