"""Three applications for the hosts of hosts.py: ours, one with a framework, and one with neither.

All echo at ``/echo``, and answer JSON-RPC calls of ``add`` at ``/rpc``. A client that negotiates no
subprotocol uses JSON-RPC (RSGI has no subprotocols). The minimal applications check nothing, and the
others validate each call. The framework for RSGI is in hosted_emmett.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import fastapi
import msgspec
import pydantic

import trio_ws

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["framework", "ours", "plain_asgi", "plain_rsgi", "respond"]

decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode

ours = trio_ws.App()


@ours.websocket("/echo")
async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class Calculator(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b


ours.mount("/rpc", Calculator)


# -- with a framework, as its users write it -------------------------------------------------------------


class AddCall(pydantic.BaseModel):
    jsonrpc: Literal["2.0"]
    id: int | str
    method: Literal["add"]
    params: tuple[int, int]


class AddResponse(pydantic.BaseModel):
    jsonrpc: Literal["2.0"] = "2.0"
    id: int | str
    result: int


framework = fastapi.FastAPI()


@framework.websocket("/echo")
async def framework_echo(ws: fastapi.WebSocket) -> None:
    await ws.accept()
    async for message in ws.iter_bytes():
        await ws.send_bytes(message)


@framework.websocket("/rpc")
async def framework_calls(ws: fastapi.WebSocket) -> None:
    await ws.accept()
    async for text in ws.iter_text():
        await ws.send_text(respond(text))


def respond(text: str) -> str:
    """Return the response of ``add``, after validation by pydantic."""
    call = AddCall.model_validate_json(text)
    a, b = call.params
    return AddResponse(id=call.id, result=a + b).model_dump_json()


# -- with neither ----------------------------------------------------------------------------------------


def answer(text: str) -> str:
    """Return the response of ``add``."""
    call = decode(text)
    return encode({"jsonrpc": "2.0", "id": call["id"], "result": sum(call["params"])}).decode()


async def plain_asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        calls = scope["path"] == "/rpc"
        while (event := await receive())["type"] == "websocket.receive":
            if calls:
                await send({"type": "websocket.send", "text": answer(event["text"])})
            else:
                await send({"type": "websocket.send", "bytes": event["bytes"]})


class PlainRSGI:
    """The minimal application for RSGI."""

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        transport = await protocol.accept()
        calls = scope.path == "/rpc"
        while (message := await transport.receive()).kind:
            if calls:
                await transport.send_str(answer(message.data))
            else:
                await transport.send_bytes(message.data)


plain_rsgi = PlainRSGI()
