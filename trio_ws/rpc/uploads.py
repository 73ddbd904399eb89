"""Uploads: the arguments of a call that are streams, which are sent while their call waits.

What always holds: each has a task, in a nursery around the call, so that none outlives it; and each is ended
on the other side too, as a stream that came to its end or as one that failed.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from trio_ws.errors import PacketError, RPCError
from trio_ws.rpc.streams import Producer, produce
from trio_ws.wire.packets import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping

    from trio_ws.rpc.calls import Caller

__all__ = ["Upload", "numbered", "streams_in", "uploading"]


class Upload(Producer):
    """One of them, under way; whoever cancels its scope gives it up."""

    __slots__ = ("scope",)

    def __init__(self, stream_id: str) -> None:
        super().__init__(Request("", call_id=stream_id), 0)
        self.scope = trio.CancelScope()


def streams_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, AsyncIterable[Any]] | None:
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


def numbered(
    caller: Caller,
    call_id: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    streams: dict[str, AsyncIterable[Any]],
) -> tuple[dict[str, str], tuple[Any, ...], dict[str, Any]]:
    """The ids of a call's streams, and its arguments with None for each of them."""
    if not caller.extended:
        raise PacketError(f"{caller.dialect.name} carries no streams to the other side; trio-ws.v1 does")
    ids = {place: f"{call_id}/{number}" for number, place in enumerate(streams)}
    plain_args = tuple(None if str(place) in streams else value for place, value in enumerate(args))
    plain_kwargs = {name: None if name in streams else value for name, value in kwargs.items()}
    return ids, plain_args, plain_kwargs


@asynccontextmanager
async def uploading(
    caller: Caller, ids: dict[str, str], streams: dict[str, AsyncIterable[Any]]
) -> AsyncIterator[None]:
    """Send the streams while the block waits for what becomes of them."""
    failure: BaseException | None = None
    failed: list[BaseException] = []

    async def send(stream_id: str, items: AsyncIterable[Any]) -> None:
        upload = caller._uploads[stream_id] = Upload(stream_id)
        try:
            with upload.scope:
                await produce(caller, upload, aiter(items))
                return
            _fail(caller, stream_id, "given up")
        except Exception as exc:  # noqa: BLE001 - it is the caller's, and raised there
            _fail(caller, stream_id, "the caller's stream failed")
            failed.append(exc)
            nursery.cancel_scope.cancel()
        except BaseException:
            _fail(caller, stream_id, "the caller's stream was cancelled")
            raise
        finally:
            del caller._uploads[stream_id]

    async with trio.open_nursery() as nursery:
        for place, items in streams.items():
            nursery.start_soon(send, ids[place], items)
        try:
            yield
        except BaseException as exc:  # noqa: BLE001 - raised below, outside of the nursery
            failure = exc
        nursery.cancel_scope.cancel()
    try:
        if failed:
            raise failed[0]
        if failure is not None:
            raise failure
    finally:
        del failure  # it holds this frame, which would hold it
        failed.clear()


def _fail(caller: Caller, stream_id: str, text: str) -> None:
    """Tell the other side that no more comes."""
    payload = caller.dialect.error(Request("", call_id=stream_id, credits=0), RPCError.default_code, text)
    if payload is not None:
        caller.post(payload, cork=False)
