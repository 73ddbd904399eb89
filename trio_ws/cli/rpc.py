"""The commands ``call``, ``stream``, ``listen`` and ``publish``."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import trio_ws
from trio_ws.cli.errors import CONNECTION, OK, Failure
from trio_ws.cli.methods import not_found
from trio_ws.cli.output import remark

if TYPE_CHECKING:
    from trio_ws import WebSocketClient
    from trio_ws._types import JSONObject, Value
    from trio_ws.cli.output import Output
    from trio_ws.cli.target import ServerTarget

__all__ = ["call", "call_once", "listen", "publish", "stream", "stream_once"]


async def publish(publisher: trio_ws.Publisher, channel: str, data: Value, out: Output) -> int:
    """Publish, and print how many processes received it."""
    async with publisher:
        count = await publisher.publish(channel, data)
    out.value("processes", count)
    return OK


async def call(place: ServerTarget, method: str, args: list[Value], kwargs: JSONObject, out: Output) -> int:
    """Call a method and print its result."""
    async with place.client() as client:
        await call_once(client, method, args, kwargs, out)
    return OK


async def call_once(
    client: WebSocketClient, method: str, args: list[Value], kwargs: JSONObject, out: Output
) -> None:
    """Call a method over an existing connection and print its result."""
    response = await client.send_rpc(method, *args, **kwargs)
    error = response.error
    if error is not None:
        if isinstance(error, trio_ws.RPCMethodNotFoundError):
            error = await not_found(client, method, error)
        out.rpc_error(error)
        raise error
    out.value("result", response.data)


async def stream(
    place: ServerTarget,
    method: str,
    args: list[Value],
    kwargs: JSONObject,
    limit: int | None,
    out: Output,
) -> int:
    """Print the items of a stream."""
    async with place.client() as client:
        await stream_once(client, method, args, kwargs, limit, out)
    return OK


async def stream_once(
    client: WebSocketClient,
    method: str,
    args: list[Value],
    kwargs: JSONObject,
    limit: int | None,
    out: Output,
) -> None:
    """Print the items of a stream over an existing connection."""
    count = 0
    try:
        async with aclosing(client.stream_rpc(method, *args, **kwargs)) as packets:
            async for packet in packets:
                out.value("item", packet.data)
                count += 1
                if count == limit:
                    return
    except trio_ws.RPCError as exc:
        error = exc
        if isinstance(exc, trio_ws.RPCMethodNotFoundError):
            error = await not_found(client, method, exc)
        out.rpc_error(error)
        raise error from None


async def listen(place: ServerTarget, channels: tuple[str, ...], limit: int | None, out: Output) -> int:
    """Print the messages that are published to channels."""
    count = 0
    async with place.client() as client, client.subscribe(channels) as subscription:
        remark(f"listening to {', '.join(channels)}")
        async for packet in subscription:
            out.packet(packet)
            count += 1
            if count == limit:
                return OK
    if limit is not None:
        raise Failure(f"the server closed the connection after {count} of {limit} messages", CONNECTION)
    remark("the server closed the connection")
    return OK
