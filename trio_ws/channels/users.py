"""Users: all connections of one person, on whatever device and process, reached by a key.

Invariant: a user is known here while it has a connection here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from trio_ws.channels.channel import UserChannel, encode
from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError, check_close
from trio_ws.logs import is_milestone, logger_for, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws._types import Value
    from trio_ws.channels.broker import Broker
    from trio_ws.channels.channel import ConnectionSubscriber
    from trio_ws.channels.fanout import FanoutWriter

__all__ = ["USERS", "Users", "check_user"]

logger = logger_for("trio_ws.channels")

#: Follows the namespace in the name that a broker uses for a user.
USERS = "\0user"
#: Characters of a user's key.
_MAX_USER = 128


class _Order(msgspec.Struct, array_like=True):
    """A request of another process to send to, or close, the connections of a user."""

    kind: Literal["send", "close"]
    data: msgspec.Raw = msgspec.Raw(b"\xc0")
    code: int = 1008
    reason: str = ""


_to_msgpack = msgspec.msgpack.Encoder().encode
_to_order = msgspec.msgpack.Decoder(_Order).decode
_any_msgpack = msgspec.msgpack.Decoder().decode


def check_user(user: str) -> str:
    """Return ``user``, if it can be the key of a user.

    Raises:
        TypeError: it is not a str.
        ValueError: it is empty, or longer than 128 characters.
    """
    if not isinstance(user, str):
        raise TypeError(f"a user must be a str, not {type(user).__name__}")
    if not 0 < len(user) <= _MAX_USER:
        raise ValueError(f"a user has 1 to {_MAX_USER} characters, not {len(user)}")
    return user


class Users:
    """The users of a hub. See the module docstring.

    Args:
        fanout: writes to their connections.
        append: gives a message to the subscribers of a channel, see `Hub.append`.
    """

    def __init__(self, fanout: FanoutWriter, append: Callable[..., int]) -> None:
        self._fanout = fanout
        self._append = append
        self._channels: dict[str, UserChannel] = {}
        self._broker: Broker | None = None
        self._namespace = ""
        self.rejected = 0

    def _topic(self, user: str) -> str:
        return f"{self._namespace}{USERS}:{user}"

    def attach(self, broker: Broker | None, namespace: str) -> None:
        """Reach the connections of other processes through a broker. None stops that."""
        self._broker = broker
        self._namespace = namespace
        if broker is not None:
            for user in self._channels:
                broker.subscribe(self._topic(user))

    def identify(self, member: ConnectionSubscriber, user: str | None) -> None:
        """Set the user of a connection. None removes it."""
        if user is not None:
            check_user(user)
        if user == member.user:
            return
        self.left(member)
        if user is None:
            return
        channel = self._channels.get(user)
        if channel is None:
            channel = self._channels[user] = UserChannel(user)
            if self._broker is not None:
                self._broker.subscribe(self._topic(user))
        member.user = user
        member.join(channel)

    def left(self, member: ConnectionSubscriber) -> None:
        """Remove a connection from its user, if it has one."""
        user, member.user = member.user, None
        if user is None:
            return
        channel = self._channels[user]
        if channel in member.channels:
            self._fanout.send_now(member)
            member.leave(channel)
        if channel.empty:
            del self._channels[user]
            self._fanout.forget(channel)
            if self._broker is not None:
                self._broker.unsubscribe(self._topic(user))

    def send(self, user: str, data: Value) -> int:
        """Send data to all connections of a user."""
        encoded = encode(data)
        channel = self._channels.get(check_user(user))
        count = self._append(channel, data, encoded, (), None) if channel is not None else 0
        if self._broker is not None:
            self._broker.publish(self._topic(user), _to_msgpack(_Order("send", msgspec.Raw(encoded))))
        return count

    def disconnect(self, user: str, code: int, reason: str) -> int:
        """Close all connections of a user."""
        check_user(user)
        check_close(code, reason)
        if self._broker is not None:
            self._broker.publish(self._topic(user), _to_msgpack(_Order("close", code=code, reason=reason)))
        return self._close(user, code, reason)

    def _close(self, user: str, code: int, reason: str) -> int:
        channel = self._channels.get(user)
        members = list(channel.cursors) if channel is not None else []
        for member in members:
            if member.session is not None:
                member.session.close_soon(code, reason)
            else:
                member.close_with = code, reason
        return len(members)

    def receive(self, user: str, payload: bytes) -> None:
        """Carry out the request of another process."""
        try:
            order = _to_order(payload)
            if order.kind == "close":
                check_close(order.code, order.reason)
                self._close(user, order.code, order.reason)
                return
            channel = self._channels.get(user)
            if channel is not None:
                self._append(channel, _any_msgpack(order.data), bytes(order.data), (), None)
        except (*UNDECODABLE, PacketError, TypeError) as exc:
            self.rejected += 1
            if is_milestone(self.rejected):
                logger.warning(
                    "ignoring an invalid message for the user '%s': %s (%d so far)",
                    shown(user),
                    describe(exc),
                    self.rejected,
                )
