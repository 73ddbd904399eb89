"""Uploads: the arguments of a call that are streams, which are sent while their call waits.

Invariants:

- Each has a task, in a nursery around the call, so that none outlives it.
- Each is known before the request goes out, so that no credit can come too early for it.
- One that came to its end, or failed, is ended on the other side too. One that was cut short says nothing:
  the other side gave it up, or the abort of its call ends it there. The method never takes it for whole.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from trio_ws._nurseries import first_of, unwrap_exception_group
from trio_ws.codecs.base import Request
from trio_ws.errors import ConnectionClosedError, PacketError, RPCError
from trio_ws.rpc.streams import StreamSender, produce
from trio_ws.wall import judged, only_cancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping

    from trio_ws.rpc.outgoing import OutgoingCalls

__all__ = ["ClientStream", "assign_stream_ids", "find_stream_args", "sending_streams"]


class ClientStream(StreamSender):
    """One of them, under way; whoever cancels its scope gives it up."""

    __slots__ = ("scope",)

    def __init__(self, stream_id: str) -> None:
        super().__init__(Request("", call_id=stream_id), 0)
        self.scope = trio.CancelScope()


def find_stream_args(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, AsyncIterable[Any]] | None:
    """The arguments that are async iterables, by position or name; None where there are none."""
    found: dict[str, AsyncIterable[Any]] | None = None
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
    caller: OutgoingCalls,
    call_id: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    streams: dict[str, AsyncIterable[Any]],
) -> tuple[dict[str, str], tuple[Any, ...], dict[str, Any]]:
    """The ids of a call's streams, and its arguments with None for each of them."""
    if not caller.supports_extensions:
        raise PacketError(f"{caller.codec.name} carries no streams to the other side; trio-ws.v1 does")
    ids = {place: f"{call_id}/{number}" for number, place in enumerate(streams)}
    plain_args = tuple(None if str(place) in streams else value for place, value in enumerate(args))
    plain_kwargs = {name: None if name in streams else value for name, value in kwargs.items()}
    return ids, plain_args, plain_kwargs


@asynccontextmanager
async def sending_streams(
    caller: OutgoingCalls, ids: dict[str, str], streams: dict[str, AsyncIterable[Any]]
) -> AsyncIterator[None]:
    """Send the streams while the block sends the request and waits for what becomes of it.

    The block's exception and those of the streams leave as they were raised, and in a group where several
    failed. A cancellation leaves as Cancelled.
    """
    raised: BaseException | None = None  # by the block
    failures: list[BaseException] = []  # of the streams

    async def send(upload: ClientStream, items: AsyncIterable[Any]) -> None:
        try:
            with upload.scope:
                await produce(caller, upload, aiter(items))
        except BaseException as exc:  # noqa: BLE001 - judged there
            failure = judged(exc)
            if isinstance(failure, ConnectionClosedError) and (caller.over or not caller.ws.connected):
                return  # it met the end of this connection, of which the call is told
            _fail(caller, upload)
            failures.append(failure)
            nursery.cancel_scope.cancel()
        finally:
            del caller._client_streams[upload.request.call_id]

    try:
        async with trio.open_nursery() as nursery:
            for place, items in streams.items():
                # Known from here on: credit may come before the task has run.
                upload = caller._client_streams[ids[place]] = ClientStream(ids[place])
                nursery.start_soon(send, upload, items)
            try:
                yield
            except BaseException as exc:  # noqa: BLE001 - raised below, outside of the nursery
                raised = exc
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # Of all that leaves `send`, only what ends the program is no cancellation.
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
        del raised  # it holds this frame, which would hold it
        failures.clear()


def _fail(caller: OutgoingCalls, upload: ClientStream) -> None:
    """Tell the other side that no more comes."""
    text = "the caller's stream failed"
    payload = caller.codec.error(upload.request, RPCError.default_code, text, stream=True)
    if payload is not None:
        caller.post(payload, cork=False)
