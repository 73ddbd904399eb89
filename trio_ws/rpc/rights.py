"""Subscriptions that expire: after a time, the handler is asked whether a client may stay subscribed.

Invariants:

- A client that is refused then is unsubscribed and notified, and so is one for which asking has failed.
- Clients do not wait for each other. If asking takes more than ``close_timeout`` for a client, all of its
  subscriptions that are due have ended, so that a client that can delay the answer gains no time by it.
- There is a task only while a subscription may expire, see timetable.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint

from trio_ws.codecs.base import UNSUBSCRIBED
from trio_ws.logs import logger_for
from trio_ws.rpc.client_connection import member_of, session_of, websocket_of
from trio_ws.rpc.timetable import Timetable
from trio_ws.wall import judged, log_failure
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.internals import options_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws.rpc.client_connection import ClientConnection
    from trio_ws.rpc.session import RPCSession
    from trio_ws.rpc.task_pool import TaskPool

__all__ = ["SubscriptionRights"]

logger = logger_for("trio_ws.handler")


class SubscriptionRights:
    """The expiring subscriptions of a handler's clients.

    Args:
        ask: asks the handler whether a client may stay subscribed. Returns False, True, or the number of
            seconds until the next time.
    """

    def __init__(self, ask: Callable[[ClientConnection, str], Awaitable[bool | float]]) -> None:
        self._ask = ask
        self.timetable: Timetable[tuple[ClientConnection, str]] = Timetable(self._ask_soon, _has_left)
        self._due: dict[str, dict[str, None]] = {}  # names to ask about, by the uid of a client with a task

    def add(self, connection: ClientConnection, name: str, allowed: bool | float, pool: TaskPool) -> None:
        """Allow a subscription for this many seconds from now, or with True for as long as it lasts."""
        key = connection.uid, name
        if isinstance(allowed, bool):
            self.timetable.discard(pool, key)
        else:
            self.timetable.put(pool, key, (connection, name), trio.current_time() + allowed)

    async def _ask_soon(self, right: tuple[ClientConnection, str]) -> None:
        """Let a task of this client ask, which may take a while."""
        connection, name = right
        member, session = member_of(connection), session_of(connection)
        if member is None or session is None or name not in member.held:
            return
        due = self._due.get(connection.uid)
        if due is None:
            due = self._due[connection.uid] = {}
            session.pool.start(lambda _: self._ask_all(connection, session, due))
        due[name] = None
        if len(due) > len(member.held):
            for left in [one for one in due if one not in member.held]:
                del due[left]

    async def _ask_all(self, connection: ClientConnection, session: RPCSession, due: dict[str, None]) -> None:
        in_time = True
        try:
            while due:
                name = next(iter(due))
                del due[name]
                in_time = await self._ask_again(connection, session, name, in_time=in_time)
                await checkpoint()
        finally:
            del self._due[connection.uid]

    async def _ask_again(
        self, connection: ClientConnection, session: RPCSession, name: str, *, in_time: bool
    ) -> bool:
        """Ask about one name, unless it is too late, which counts as no. Return whether it was in time."""
        member = member_of(connection)
        if member is None or name not in member.held:
            return in_time
        allowed: bool | float = False
        if in_time:
            try:
                with trio.move_on_after(options_of(websocket_of(connection)).close_timeout) as scope:
                    allowed = await self._ask(connection, name)
                in_time = not scope.cancelled_caught
            except BaseException as exc:  # noqa: BLE001 - judged there
                log_failure(
                    logger,
                    "may_subscribe failed, which counts as no",
                    exc=judged(exc),
                    extra=log_extra(websocket_of(connection)),
                )
        member = member_of(connection)  # the client may have left meanwhile
        if member is None or name not in member.held:
            return in_time
        if allowed:
            self.add(connection, name, allowed, session.pool)
            return in_time
        connection.unsubscribe(name)
        transport = session.transport
        if transport.supports_extensions and not transport.over:
            transport.post(transport.codec.request("", UNSUBSCRIBED, [name]), cork=True)
        return in_time


def _has_left(right: tuple[ClientConnection, str]) -> bool:
    return member_of(right[0]) is None
