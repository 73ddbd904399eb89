"""ChannelMethods: the built-in methods by which clients use the channels of a handler.

Invariants: no client subscribes, publishes or sees presence without being allowed by the handler. A list of
names is accepted as a whole or not at all, and other tasks run while a long one is handled.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator  # noqa: TC003 - annotations of methods are read
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from trio.lowlevel import cancel_shielded_checkpoint, checkpoint

from trio_ws._types import Value  # noqa: TC001 - annotations of methods are read at run time
from trio_ws.channels.names import check_name, check_names, is_glob
from trio_ws.channels.presence import PresenceUpdate, updates
from trio_ws.codecs.base import PRESENCE, PUBLISH, RECOVER, SUBSCRIBE, UNSUBSCRIBE
from trio_ws.codecs.recovery import Recovered, RecoverFrom
from trio_ws.errors import RPCAccessDeniedError, RPCInvalidParamsError, RPCMethodNotFoundError
from trio_ws.logs import logger_for, shown
from trio_ws.rpc.client_connection import has_room, live_session_of, member_of, websocket_of
from trio_ws.rpc.marking import make_method
from trio_ws.rpc.rights import SubscriptionRights
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.internals import options_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ws.channels.hub import Hub
    from trio_ws.rpc.client_connection import ClientConnection
    from trio_ws.rpc.methods import Method

__all__ = ["ChannelMethods"]

logger = logger_for("trio_ws.handler")

#: Names of a client's list to handle before other tasks run.
_NAMES_IN_A_ROW = 16
#: The longest list to unsubscribe from, even if a client may hold fewer names.
_NAMES_TO_LEAVE = 1000


class ChannelOwner(Protocol):
    """A `WebSocketHandler`, which decides what clients may do."""

    client_globs: ClassVar[bool]

    @property
    def channels(self) -> Hub:
        """The channels."""
        ...

    def may_subscribe(self, connection: Any, name: str) -> object:
        """Whether a client may subscribe, and for how long."""

    def may_publish(self, connection: Any, name: str, data: Value) -> object:
        """Whether a client may publish this."""

    def may_see_presence(self, connection: Any, name: str) -> object:
        """Whether a client may see the presence of a channel."""


class ChannelMethods:
    """The methods of one handler. See the module docstring.

    Attributes:
        rights: the subscriptions that end after a time, unless the handler allows them again.
    """

    def __init__(self, handler: ChannelOwner) -> None:
        self._handler = handler
        self.rights = SubscriptionRights(self._ask_may_subscribe)

    def by_name(self) -> dict[str, Method]:
        """Return the methods by the names that clients call them by."""
        return {
            SUBSCRIBE: make_method(self.subscribe),
            UNSUBSCRIBE: make_method(self.unsubscribe),
            RECOVER: make_method(self.recover),
            PUBLISH: make_method(self.publish),
            PRESENCE: make_method(self.presence),
        }

    async def subscribe(self, connection: ClientConnection, names: list[str]) -> bool:
        """Subscribe a client to all of these names, or to none.

        The names of a long list are checked in small groups, up to the first one that is refused.
        """
        if self._are_too_many(connection, names, 0):
            return False
        allowed: dict[str, bool | float] = {}
        for start in range(0, len(names), _NAMES_IN_A_ROW):
            for name in names[start : start + _NAMES_IN_A_ROW]:
                allowed[name] = await self._check_subscription(connection, name)
            if start + _NAMES_IN_A_ROW < len(names):
                await checkpoint()
        if not await self._hold(connection, list(allowed)):
            return False
        self._add_rights(connection, allowed)
        return True

    def _add_rights(self, connection: ClientConnection, allowed: Mapping[str, bool | float]) -> None:
        for name, right in allowed.items():
            self.rights.add(connection, name, right, live_session_of(connection).pool)

    async def _hold(self, connection: ClientConnection, new: list[str]) -> bool:
        """Subscribe a client to names that it was allowed: to all of them, or to none if there is no room."""
        member = member_of(connection)
        if member is None or not has_room(connection, new):
            return False
        before = set(member.held)
        start = 0
        try:
            while start < len(new):
                row = self._handler.channels.names_in_a_row
                if not connection.subscribe(new[start : start + row]):
                    break
                start += row
                if start < len(new):
                    await checkpoint()
        finally:
            if start < len(new):
                connection.unsubscribe([name for name in new[:start] if name not in before])
        await self._yield_after(new)
        return start >= len(new)

    async def _yield_after(self, names: list[str]) -> None:
        """Let other tasks run before the next call, since a glob is compared with thousands of channels."""
        if any(is_glob(name) for name in names):
            await cancel_shielded_checkpoint()

    async def _check_subscription(self, connection: ClientConnection, name: str) -> bool | float:
        try:
            check_names(name)
        except ValueError as exc:
            raise RPCInvalidParamsError(str(exc), data={"path": "names"}) from None
        allowed = (self._handler.client_globs or not is_glob(name)) and await self._ask_may_subscribe(
            connection, name
        )
        if not allowed:
            raise RPCAccessDeniedError(f"access to the channel '{shown(name)}' denied")
        return allowed

    async def _ask_may_subscribe(self, connection: ClientConnection, name: str) -> bool | float:
        """Return the result of `may_subscribe`: False, True, or a number of seconds."""
        allowed: object = self._handler.may_subscribe(connection, name)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if isinstance(allowed, int | float) and not isinstance(allowed, bool):
            return float(allowed) if allowed > 0 else False
        return bool(allowed)

    async def recover(
        self, connection: ClientConnection, starts: dict[str, RecoverFrom]
    ) -> dict[str, Recovered] | bool:
        """Subscribe a client and continue from positions, for all of these names or for none."""
        session = live_session_of(connection)
        transport = session.transport
        if not transport.supports_extensions:
            raise RPCMethodNotFoundError(f"{session.codec.name} carries no positions")
        if self._are_too_many(connection, list(starts), 0):
            return False
        allowed: dict[str, bool | float] = {}
        for number, name in enumerate(starts, 1):
            member = member_of(connection)
            if is_glob(name):
                raise RPCInvalidParamsError("a glob cannot be recovered", data={"path": "starts"})
            if member is None or name not in member.held:
                allowed[name] = await self._check_subscription(connection, name)
            if number % _NAMES_IN_A_ROW == 0:
                await checkpoint()
        async with self._handler.channels.loaded({name: start.after for name, start in starts.items()}):
            return await self._recover_now(connection, starts, allowed)

    async def _recover_now(
        self,
        connection: ClientConnection,
        starts: dict[str, RecoverFrom],
        allowed: dict[str, bool | float],
    ) -> dict[str, Recovered] | bool:
        transport = live_session_of(connection).transport
        if not await self._hold(connection, list(starts)):
            return False
        self._add_rights(connection, allowed)
        while transport.congested and not transport.over:
            await (
                transport.wait_for_room()
            )  # so that the response is sent before the packets that it announces
        # There is no checkpoint before the response is sent. The client ignores earlier packets.
        member = member_of(connection)
        if member is None or any(name not in member.held for name in starts):
            return False
        found = {
            name: self._handler.channels.recover(member, name, start.after, start.last)
            for name, start in starts.items()
        }
        return {name: Recovered(start.position, start.latest) for name, start in found.items()}

    async def publish(self, connection: ClientConnection, name: str, data: Value) -> None:
        """Publish for a client."""
        try:
            check_name(name)
        except ValueError as exc:
            raise RPCInvalidParamsError(str(exc), data={"path": "name"}) from None
        allowed: object = self._handler.may_publish(connection, name, data)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if not allowed:
            raise RPCAccessDeniedError(f"publishing to the channel '{shown(name)}' denied")
        await self._handler.channels.publish_wait(name, data)

    async def presence(self, connection: ClientConnection, name: str) -> AsyncIterator[PresenceUpdate]:
        """Yield who is present in a channel, and all changes."""
        try:
            members = self._handler.channels.members(name)
        except ValueError as exc:
            raise RPCInvalidParamsError(str(exc), data={"path": "name"}) from None
        allowed: object = self._handler.may_see_presence(connection, name)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if not allowed:
            raise RPCAccessDeniedError(f"access to the presence of '{shown(name)}' denied")
        async with aclosing(updates(members)) as found:
            async for update in found:
                yield update

    async def unsubscribe(self, connection: ClientConnection, names: list[str]) -> bool:
        """Unsubscribe a client."""
        if self._are_too_many(connection, names, _NAMES_TO_LEAVE):
            return False
        for start in range(0, len(names), _NAMES_IN_A_ROW):
            member = member_of(connection)
            if member is not None:
                for name in names[start : start + _NAMES_IN_A_ROW]:
                    if name in member.held:
                        self._handler.channels.remove(member, name)
            if start + _NAMES_IN_A_ROW < len(names):
                await checkpoint()
        await self._yield_after(names)
        return True

    def _are_too_many(self, connection: ClientConnection, names: list[str], least: int) -> bool:
        """Return whether a list has more names than a client may hold, and than ``least``. Log it."""
        limit = options_of(websocket_of(connection)).max_subscribed_channels
        if not limit or len(names) <= max(limit, least):
            return False
        logger.info(
            "refused a list of %d channels of %r: max_subscribed_channels is %d",
            len(names),
            connection,
            limit,
            extra=log_extra(websocket_of(connection)),
        )
        return True
