"""ClientPresence: who is in a channel, as a client sees it, over all of its connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import msgspec
from trio.lowlevel import checkpoint

from trio_ws._types import JSONObject, Value
from trio_ws.channels.presence import PresenceChange, PresenceUpdate
from trio_ws.codecs.base import PRESENCE
from trio_ws.codecs.decoded_size import msgpack_size
from trio_ws.errors import ConnectionClosedError, PacketError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from trio_ws.client.reconnect import ConnectionManager
    from trio_ws.rpc.streams import ItemStream

__all__ = ["PRESENCE_BYTES", "ClientPresence"]

#: The memory of a member that has no info: entries of three dicts, and a change to be iterated over.
_MEMBER = 300
#: The size of an info is computed exactly. It arrived in one message, so it is limited.
_MOST = 2**62

#: The default for ``max_bytes`` of ``client.presence``.
PRESENCE_BYTES = 16 * 1024 * 1024


class ClientPresence(Mapping[str, Value]):
    """The members of a channel, as a mapping of uids to their ``info``. Made by ``client.presence(name)``.

    Iterating with ``async for`` updates the mapping and yields each `PresenceChange`. After the client has
    reconnected, these include the members that came and left in the meantime. It raises `PacketError` once
    the members take more than ``max_bytes``.
    """

    def __init__(self, connections: ConnectionManager, name: str, max_bytes: int) -> None:
        self.name = name
        self._max_bytes = max_bytes
        self._sizes: dict[str, int] = {}  # bytes that each member takes
        self._size = 0  # of all members
        self._connections = connections
        self._members: JSONObject = {}
        self._stream: ItemStream[PresenceUpdate] | None = None
        self._context: AbstractAsyncContextManager[ItemStream[PresenceUpdate]] | None = None
        self._changes: deque[PresenceChange] = deque()
        self._unconfirmed: JSONObject | None = None  # while the set of members arrives in parts

    def __getitem__(self, uid: str) -> Value:
        return self._members[uid]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._members))

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"<ClientPresence {self.name!r} {len(self)} members>"

    async def open(self) -> None:
        """Ask the server, and wait for the current members, which are not reported as changes."""
        while await self._receive():
            self._changes.clear()
        self._changes.clear()

    async def aclose(self) -> None:
        """Close the stream to the server."""
        context, self._context, self._stream = self._context, None, None
        if context is not None:
            await context.__aexit__(None, None, None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PresenceChange:
        if self._changes:
            await checkpoint()
        while not self._changes:
            await self._receive()
        return self._changes.popleft()

    async def _receive(self) -> bool:
        """Receive the next update, from a new connection if necessary.

        Returns:
            Whether the set of members is still incomplete.
        """
        try:
            if self._stream is None:
                context = self._connections.stream(PRESENCE, (self.name,), {}, PresenceUpdate)
                self._stream = await context.__aenter__()
                self._context = context
            update = await self._stream.receive()
        except ConnectionClosedError:
            await self.aclose()
            if not self._connections.may_reconnect:
                raise
            return True
        self._take(update)
        return update.more

    def _take(self, update: PresenceUpdate) -> None:
        if update.reset:
            self._unconfirmed = dict(self._members)
        for uid, info in update.joined.items():
            if self._unconfirmed is not None:
                self._unconfirmed.pop(uid, None)
            if uid not in self._members or self._members[uid] != info:
                self._remove(uid)
                self._members[uid] = info
                self._sizes[uid] = _size_of(uid, info)
                self._size += self._sizes[uid]
                self._changes.append(PresenceChange(True, uid, info))
        left = update.left
        if self._unconfirmed is not None and not update.more:
            left = [*left, *self._unconfirmed]
            self._unconfirmed = None
        for uid in left:
            if uid in self._members:
                self._changes.append(PresenceChange(False, uid, self._remove(uid)))
        if self._size > self._max_bytes:
            raise PacketError(
                f"the members of {self.name!r} take {self._size:,} bytes, "
                f"more than max_bytes ({self._max_bytes:,})"
            )

    def _remove(self, uid: str) -> Value:
        self._size -= self._sizes.pop(uid, 0)
        return self._members.pop(uid, None)


def _size_of(uid: str, info: object) -> int:
    """Return the bytes of memory that a member takes, at most."""
    return _MEMBER + msgpack_size(msgspec.msgpack.encode((uid, info)), _MOST)
