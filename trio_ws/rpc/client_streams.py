"""Client streams: arguments of a call that are streams, which are sent while the call waits.

Invariants:

- Each has a task in a nursery around the call, so none outlives the call.
- Each is registered before the request is sent, so no credit can come too early for it.
- A stream that reached its end, or failed, is ended on the other side too. If it is cancelled, nothing is
  sent: the other side gave it up, or the abort of its call ends it there. So the method never mistakes an
  incomplete stream for a complete one.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from trio_ws._nurseries import first_of, unwrap_exception_group
from trio_ws.codecs.base import Request
from trio_ws.errors import ConnectionClosedError, PacketError, RPCError
from trio_ws.rpc.streams import StreamSender, produce
from trio_ws.wall import judged, only_cancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from trio_ws._types import JSONObject, NamedValues, Values
    from trio_ws.rpc.transport import PacketTransport

__all__ = ["ClientStream", "assign_stream_ids", "find_stream_args", "sending_streams"]


class ClientStream(StreamSender):
    """A client stream that is being sent. Cancelling its scope gives it up."""

    __slots__ = ("scope",)

    def __init__(self, stream_id: str) -> None:
        super().__init__(Request("", call_id=stream_id), 0)
        self.scope = trio.CancelScope()


def find_stream_args(args: Values, kwargs: NamedValues) -> dict[str, AsyncIterable[object]] | None:
    """Return the arguments that are async iterables, by position or name; None if there are none."""
    found: dict[str, AsyncIterable[object]] | None = None
    for place, value in enumerate(args):
        if hasattr(value, "__aiter__"):
            found = found or {}
            found[str(place)] = value
    for name, value in kwargs.items():
        if hasattr(value, "__aiter__"):
            found = found or {}
            found[name] = value
    return found


def assign_stream_ids(
    transport: PacketTransport,
    call_id: str,
    args: Values,
    kwargs: NamedValues,
    streams: dict[str, AsyncIterable[object]],
) -> tuple[dict[str, str], Values, JSONObject]:
    """Return the ids of a call's streams, and its arguments with None in place of each stream."""
    if not transport.supports_extensions:
        raise PacketError(f"{transport.codec.name} carries no streams to the other side; trio-ws.v1 does")
    ids = {place: f"{call_id}/{number}" for number, place in enumerate(streams)}
    plain_args = tuple(None if str(place) in streams else value for place, value in enumerate(args))
    plain_kwargs = {name: None if name in streams else value for name, value in kwargs.items()}
    return ids, plain_args, plain_kwargs


@asynccontextmanager
async def sending_streams(
    transport: PacketTransport,
    table: dict[str, ClientStream],
    ids: dict[str, str],
    streams: dict[str, AsyncIterable[object]],
) -> AsyncIterator[None]:
    """Send the streams while the block sends the request and waits for its end.

    An exception of the block or of a stream leaves as it was raised; several leave in a group. A cancellation
    leaves as Cancelled.

    Args:
        transport: sends the items.
        table: where the streams are registered while they are sent.
        ids: the stream ids, by position or name.
        streams: the streams, by position or name.
    """
    raised: BaseException | None = None  # by the block
    failures: list[BaseException] = []  # of the streams

    async def send(stream: ClientStream, items: AsyncIterable[object]) -> None:
        try:
            with stream.scope:
                await produce(transport, stream, aiter(items))
        except BaseException as exc:  # noqa: BLE001 - judged there
            failure = judged(exc)
            if isinstance(failure, ConnectionClosedError) and (transport.over or not transport.ws.connected):
                return  # the end of this connection, which ends the call too
            _fail(transport, stream)
            failures.append(failure)
            nursery.cancel_scope.cancel()
        finally:
            del table[stream.request.call_id]

    try:
        async with trio.open_nursery() as nursery:
            for place, items in streams.items():
                # Registered already: credit may come before the task has run.
                stream = table[ids[place]] = ClientStream(ids[place])
                nursery.start_soon(send, stream, items)
            try:
                yield
            except BaseException as exc:  # noqa: BLE001 - raised below, outside of the nursery
                raised = exc
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # Except for cancellations, only exceptions that end the program leave `send`.
        struck = unwrap_exception_group(group)
        if not only_cancelled(struck):
            failures.append(struck)
        elif raised is None:
            raised = first_of(struck)
    try:
        if failures and raised is not None and not only_cancelled(raised):
            failures.insert(0, raised)
        if len(failures) > 1:
            raise BaseExceptionGroup("a call and streams that it sent have failed", failures)
        if failures:
            raise failures[0]
        if raised is not None:
            raise raised
    finally:
        del raised  # break the traceback/frame reference cycle
        failures.clear()


def _fail(transport: PacketTransport, stream: ClientStream) -> None:
    """Tell the other side that the stream has failed."""
    text = "the caller's stream failed"
    payload = transport.codec.error(stream.request, RPCError.default_code, text, stream=True)
    if payload is not None:
        transport.post(payload, cork=False)
