"""A server of SignalR's hub protocol in JSON, as far as `benchmarks.javascript` needs it.

``python -m benchmarks.signalr_server PORT``. It has the methods ``add`` and ``count`` of calls_server.py. A
message of the protocol is a JSON object with a ``type``, and ends with a record separator.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import trio

import trio_ws

_END = "\x1e"
_INVOCATION, _ITEM, _COMPLETION, _STREAM_INVOCATION, _CANCEL = 1, 2, 3, 4, 5

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(dict[str, Any])


async def _send(ws: trio_ws.WebSocket, **members: object) -> None:
    await ws.send_text(_encoder.encode(members).decode() + _END)


async def _count(ws: trio_ws.WebSocket, call: str, end: int, scope: trio.CancelScope) -> None:
    with scope:
        for number in range(end):
            await _send(ws, type=_ITEM, invocationId=call, item=number)
    await _send(ws, type=_COMPLETION, invocationId=call)


async def hub(ws: trio_ws.WebSocket) -> None:
    """One connection, which begins with the handshake of the protocol."""
    handshake = await ws.receive_text()
    if _decoder.decode(handshake.rstrip(_END))["protocol"] != "json":
        await ws.close(1002, "only json is spoken here")
        return
    await ws.send_text("{}" + _END)
    scopes: dict[str, trio.CancelScope] = {}
    async with trio.open_nursery() as nursery:
        async for message in ws:
            for text in str(message.text).split(_END)[:-1]:
                said = _decoder.decode(text)
                kind = said["type"]
                if kind == _INVOCATION:
                    a, b = said["arguments"]
                    await _send(ws, type=_COMPLETION, invocationId=said["invocationId"], result=a + b)
                elif kind == _STREAM_INVOCATION:
                    call = said["invocationId"]
                    scopes[call] = trio.CancelScope()
                    nursery.start_soon(_count, ws, call, said["arguments"][0], scopes[call])
                elif kind == _CANCEL:
                    scopes[said["invocationId"]].cancel()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    options = trio_ws.Options(ping_interval=None)
    trio.run(lambda: trio_ws.serve(hub, int(sys.argv[1]), host="127.0.0.1", options=options))
