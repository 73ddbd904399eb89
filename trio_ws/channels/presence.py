"""Presence: the members of channels in all processes, and their changes.

A connection becomes and stays present at its own request, and no longer than it is open. Each process sends
the changes of its own members to the others through the broker, in messages with sequence numbers. A process
from which no message arrives for the time of a lease counts as gone, and its members are removed.

Invariants:

- The members of another process, as they are known here, are those of one of its states plus all changes
  since. A missed change is detected by its sequence number, or by that of the next heartbeat. Then the state
  is requested again.
- A process has a new random name each time it is connected to a broker, so that messages of an earlier
  process are never mistaken for its own.
- A watcher holds the members that it has reported, and a position in a bounded log of changes. If it falls
  behind the log, it compares the sets instead, so it always arrives at the current set.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple, Self
from weakref import WeakValueDictionary

import msgspec
import trio
from trio.lowlevel import checkpoint

from trio_ws._types import JSONObject, NamedValues, Value
from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError
from trio_ws.logs import is_milestone, logger_for
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

__all__ = [
    "PRESENCE",
    "Members",
    "Presence",
    "PresenceChange",
    "PresenceChanges",
    "PresenceRegistry",
    "PresenceUpdate",
    "updates",
]

logger = logger_for("trio_ws.channels")

#: Follows the namespace in the name of this topic at a broker.
PRESENCE = "\0presence"

#: The length of a channel's log of changes. A watcher that is further behind compares the sets.
_LOG = 256
#: The maximum size of a member's info, in bytes of msgpack.
_MAX_INFO = 4096
#: The maximum number of members in one message to other processes.
_MEMBERS_AT_ONCE = 500
#: The number of heartbeats that a process sends in the time of a lease.
_HEARTBEATS = 3

_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder().decode


class PresenceChange(NamedTuple):
    """A member has joined, changed its info, or left.

    Attributes:
        joined: True if the member joined or changed its info, False if it left.
        uid: the ``uid`` of the member's connection.
        info: the member's info.
    """

    joined: bool
    uid: str
    info: Value


_Kind = Literal["change", "state", "alive", "gone", "ask"]


class _Message(msgspec.Struct, array_like=True):
    """A message from one process to the others.

    Attributes:
        process: the name of the process.
        sequence: the number of its last change.
        kind: "change", "state", "alive", "gone", or "ask", which requests the state of the process that
            ``wanted`` names, or of all processes.
        changes: for each change, the name of the channel, the uid, and the info as msgpack, or None for a
            member that left.
        first, last: whether it is the first or last message of a state.
        wanted: the name of a process, for "ask".
    """

    process: str
    sequence: int
    kind: _Kind
    changes: list[tuple[str, str, bytes | None]] = []
    first: bool = True
    last: bool = True
    wanted: str = ""


_to_message = msgspec.msgpack.Decoder(_Message).decode


class Members:
    """The members of one channel.

    Attributes:
        infos: by uid, as msgpack.
        log: the last changes.
        version: counts all changes.
    """

    __slots__ = ("__weakref__", "changed", "infos", "log", "name", "version")

    def __init__(self, name: str) -> None:
        self.name = name
        self.infos: dict[str, bytes] = {}
        self.log: deque[tuple[str, bytes | None]] = deque(maxlen=_LOG)
        self.version = 0
        self.changed = Notification()

    def set(self, uid: str, info: bytes | None) -> bool:
        """Add a member, change its info, or remove it with None. Return whether that changes anything."""
        if self.infos.get(uid) == info:
            return False
        if info is None:
            del self.infos[uid]
        else:
            self.infos[uid] = info
        self.log.append((uid, info))
        self.version += 1
        self.changed.notify_all()
        return True


class Presence(NamedValues):
    """The members of a channel, as a mapping of uids to their info.

    ``channels.presence(name)`` returns it. It is a view of the current members.
    """

    def __init__(self, registry: PresenceRegistry, name: str) -> None:
        self._registry = registry
        self.name = name

    def __getitem__(self, uid: str) -> Value:
        return _from_msgpack(self._infos()[uid])

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._infos()))

    def __len__(self) -> int:
        return len(self._infos())

    def __contains__(self, uid: object) -> bool:
        return uid in self._infos()

    def __repr__(self) -> str:
        return f"<Presence {self.name!r} {len(self)} members>"

    def _infos(self) -> dict[str, bytes]:
        members = self._registry.find(self.name)
        return members.infos if members is not None else {}

    def changes(self) -> PresenceChanges:
        """Iterate over the current members, as changes with ``joined``, and then over all changes."""
        return PresenceChanges(self._registry.watched(self.name))


class PresenceChanges:
    """The changes of a presence, one by one: ``async for change in presence.changes()``.

    A slow consumer misses members that joined and left in the meantime, and nothing else.
    """

    def __init__(self, members: Members) -> None:
        self._members = members
        self._version = 0
        self._returned: dict[str, bytes] = {}
        self._waiting: deque[tuple[str, bytes | None]] = deque(members.infos.items())
        self._version = members.version

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PresenceChange:
        await checkpoint()
        while True:
            change = self.next_nowait()
            if change is not None:
                return change
            await self._members.changed.wait()

    def next_nowait(self) -> PresenceChange | None:
        """Return the next change, or None if there is none."""
        while True:
            if not self._waiting:
                self._collect_changes()
                if not self._waiting:
                    return None
            uid, info = self._waiting.popleft()
            known = self._returned.get(uid)
            if info == known:
                continue
            if info is None:
                assert known is not None
                del self._returned[uid]
                return PresenceChange(False, uid, _from_msgpack(known))
            self._returned[uid] = info
            return PresenceChange(True, uid, _from_msgpack(info))

    def _collect_changes(self) -> None:
        """Find the changes since the previous call."""
        members = self._members
        behind = members.version - self._version
        self._version = members.version
        if behind <= len(members.log):
            self._waiting.extend(list(members.log)[len(members.log) - behind :])
            return
        self._waiting.extend((uid, None) for uid in self._returned if uid not in members.infos)
        self._waiting.extend(members.infos.items())


class PresenceUpdate(msgspec.Struct, omit_defaults=True):
    """An update of a channel's members for a client.

    Attributes:
        joined: the members that joined or changed their info: their info by uid.
        left: the uids of members that left.
        reset: whether the set of members starts over with this update.
        more: whether the set is incomplete until the next update.
    """

    joined: JSONObject = {}
    left: list[str] = []
    reset: bool = False
    more: bool = False


async def updates(members: Members) -> AsyncGenerator[PresenceUpdate, None]:
    """Yield the members, and then their changes, for one client. It stores no set of members."""
    while True:
        version = members.version
        items = list(members.infos.items())
        for start in range(0, len(items) or 1, _MEMBERS_AT_ONCE):
            part = items[start : start + _MEMBERS_AT_ONCE]
            joined = {uid: _from_msgpack(info) for uid, info in part}
            yield PresenceUpdate(joined, reset=not start, more=start + _MEMBERS_AT_ONCE < len(items))
        while True:
            while members.version == version:
                await members.changed.wait()
            behind = members.version - version
            if behind > len(members.log):
                break  # to the whole set
            version = members.version
            changed = dict(list(members.log)[len(members.log) - behind :])
            joined = {uid: _from_msgpack(info) for uid, info in changed.items() if info is not None}
            yield PresenceUpdate(joined, [uid for uid, info in changed.items() if info is None])


class _Process:
    """The known state of another process."""

    def __init__(self, now: float) -> None:
        self.last_heard = now
        self.sequence: int | None = None  # of its last change; None until its state is known
        self.requested_at = -1e9
        self.members: dict[str, set[str]] = {}
        self.state: list[tuple[str, str, bytes | None]] | None = None  # while it comes in parts


class PresenceRegistry:
    """The members of a hub's channels, in all processes.

    Attributes:
        lease: seconds without a message of another process after which its members are removed.
    """

    def __init__(self, lease: float = 10.0) -> None:
        self.lease = lease
        self._members: dict[str, Members] = {}  # of channels with members
        self._watched: WeakValueDictionary[str, Members] = WeakValueDictionary()
        self._local: dict[str, dict[str, bytes]] = {}  # by channel
        self._processes: dict[str, _Process] = {}
        self._send: Callable[[bytes], None] | None = None
        self._attached = Notification()
        self._name = ""
        self._sequence = 0
        self.rejected = 0

    def find(self, name: str) -> Members | None:
        """Return the members of a channel; None if it has none."""
        return self._members.get(name)

    def watched(self, name: str) -> Members:
        """Return the members of a channel, in an object that the caller keeps while it watches them."""
        members = self._members.get(name) or self._watched.get(name)
        if members is None:
            members = self._watched[name] = Members(name)
        return members

    def _set(self, name: str, uid: str, info: bytes | None) -> None:
        members = self.watched(name)
        members.set(uid, info)
        if members.infos:
            self._members[name] = self._watched[name] = members
        else:
            self._members.pop(name, None)

    # -- members of this process --------------------------------------------------------------------

    def enter(self, name: str, uid: str, info: Value) -> None:
        """Make a connection present, or change its info.

        Raises:
            PacketError: ``info`` cannot be encoded, or is larger than 4,096 bytes.
        """
        try:
            encoded = _to_msgpack(info)
        except Exception as exc:  # an application's own types may raise anything
            raise PacketError(f"cannot encode the info of a member: {exc}") from exc
        if len(encoded) > _MAX_INFO:
            raise PacketError(f"the info of a member has at most {_MAX_INFO} bytes, not {len(encoded)}")
        self._local.setdefault(name, {})[uid] = encoded
        self._set(name, uid, encoded)
        self._send_changes([(name, uid, encoded)])

    def leave(self, name: str, uid: str) -> None:
        """End the presence of a connection."""
        local = self._local.get(name)
        if local is None or local.pop(uid, None) is None:
            return
        if not local:
            del self._local[name]
        self._set(name, uid, None)
        self._send_changes([(name, uid, None)])

    def is_present(self, name: str, uid: str) -> bool:
        """Whether a connection of this process is present."""
        return uid in self._local.get(name, ())

    # -- other processes ----------------------------------------------------------------------------

    def attach(self, send: Callable[[bytes], None] | None) -> None:
        """Exchange members with other processes, by messages that ``send`` publishes; stop with None."""
        if send is None:
            if self._send is not None:
                self._send_message("gone")
            self._send = None
            for name in list(self._processes):
                self._remove_process(name)
            return
        self._name = secrets.token_hex(8)
        self._sequence = 0
        self._send = send
        self._attached.notify_all()
        self._send_message("ask")
        self._send_state()

    def missed(self) -> None:
        """Exchange all states again, because messages in both directions may have been lost."""
        for process in self._processes.values():
            process.sequence = None
        self._send_message("ask")
        self._send_state()

    async def run(self) -> None:
        """Send heartbeats, and remove processes whose heartbeats are missing, until cancelled."""
        interval = min(self.lease / _HEARTBEATS, 1.0)
        last_sent = now = trio.current_time()
        while True:
            while self._send is None:
                await self._attached.wait()
                now = trio.current_time()
            await trio.sleep(interval)
            before, now = now, trio.current_time()
            if now - before > 2 * interval:
                # This process was paused: messages that others sent in the meantime must be read first.
                for process in self._processes.values():
                    process.last_heard = max(process.last_heard, now - self.lease + interval)
            if now - last_sent >= self.lease / _HEARTBEATS - interval / 2:
                last_sent = now
                if self._local:
                    self._send_message("alive")
            for name, process in list(self._processes.items()):
                if process.last_heard <= now - self.lease:
                    self._remove_process(name)

    def _send_message(self, kind: _Kind, *args: Value) -> None:
        if self._send is not None:
            self._send(_to_msgpack(_Message(self._name, self._sequence, kind, *args)))

    def _send_changes(self, changes: list[tuple[str, str, bytes | None]]) -> None:
        if self._send is not None:
            self._sequence += 1
            self._send_message("change", changes)

    def _send_state(self) -> None:
        members: list[tuple[str, str, bytes | None]] = [
            (name, uid, info) for name, infos in self._local.items() for uid, info in infos.items()
        ]
        for start in range(0, len(members) or 1, _MEMBERS_AT_ONCE):
            part = members[start : start + _MEMBERS_AT_ONCE]
            self._send_message("state", part, not start, start + _MEMBERS_AT_ONCE >= len(members))

    def receive(self, payload: bytes) -> None:
        """Handle a message of another process."""
        try:
            message = _to_message(payload)
        except UNDECODABLE as exc:
            self.rejected += 1
            if is_milestone(self.rejected):
                logger.warning(
                    "ignoring an invalid message of presence: %s (%d so far)", describe(exc), self.rejected
                )
            return
        if message.process == self._name or self._send is None:
            return
        if message.kind == "gone":
            self._remove_process(message.process)
            return
        now = trio.current_time()
        if message.kind == "ask":
            if message.wanted in ("", self._name):
                self._send_state()
            return
        process = self._processes.get(message.process)
        if process is None:
            process = self._processes[message.process] = _Process(now)
        process.last_heard = now
        if message.kind == "state":
            self._apply_state(process, message)
        elif process.sequence is None or message.sequence - process.sequence > (message.kind == "change"):
            self._request_state(process, message.process, now)
        elif message.kind == "change" and message.sequence > process.sequence:
            process.sequence = message.sequence
            for name, uid, info in message.changes:
                self._set_remote(process, name, uid, info)

    def _request_state(self, process: _Process, name: str, now: float) -> None:
        if now - process.requested_at >= 1.0:  # otherwise the state may be under way
            process.requested_at = now
            self._send_message("ask", [], True, True, name)

    def _apply_state(self, process: _Process, message: _Message) -> None:
        if message.first:
            process.state = []
        if process.state is None:
            return
        process.state += message.changes
        if not message.last:
            return
        state, process.state = process.state, None
        if process.sequence is not None and message.sequence < process.sequence:
            return
        process.sequence = message.sequence
        now_there = {(name, uid) for name, uid, _ in state}
        for name, uids in list(process.members.items()):
            for uid in list(uids):
                if (name, uid) not in now_there:
                    self._set_remote(process, name, uid, None)
        for name, uid, info in state:
            self._set_remote(process, name, uid, info)

    def _set_remote(self, process: _Process, name: str, uid: str, info: bytes | None) -> None:
        if self.is_present(name, uid):
            return  # a member of this process, whatever others send
        uids = process.members.setdefault(name, set())
        if info is None:
            if uid in uids:
                uids.discard(uid)
                self._set(name, uid, None)
        else:
            uids.add(uid)
            self._set(name, uid, info)
        if not uids:
            del process.members[name]

    def _remove_process(self, name: str) -> None:
        """Remove a process that is gone, and its members."""
        process = self._processes.pop(name, None)
        if process is not None:
            for channel, uids in process.members.items():
                for uid in uids:
                    self._set(channel, uid, None)
