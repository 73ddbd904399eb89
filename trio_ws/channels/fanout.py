"""Fan-out: one task writes published messages to all subscribed connections.

The task visits a channel's connections one after the other. Each connection gets all its unsent messages as
one buffer, which it shares with neighbours that miss the same messages. A burst therefore costs one system
call per connection and round, not one per message, which makes a channel cheaper than a loop of sends. The
task yields to other tasks after every few connections, or later if these need more time: see `FairTurn`.

Invariants:

- A connection receives its messages in the order in which they were published, across all its channels.
- At most ``channel_max_items`` messages and ``channel_max_bytes`` wait for a stalled connection, in addition
  to its write buffer. Beyond that the policy of its subscription applies, and dropped messages are counted.
- A log never holds more than `_LOG_ITEMS` messages, or more than `_LOG_BYTES` and one message. If the task
  falls behind the publishers, each `append` does a share of its work, well before that limit.
"""

from __future__ import annotations

from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any, TypeAlias

from trio.lowlevel import enable_ki_protection

from trio_ws.channels.channel import PositionNotice
from trio_ws.codecs.base import Position
from trio_ws.errors import PacketError
from trio_ws.logs import logger_for
from trio_ws.protocol.framing import Unframed
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.closing import OPEN
from trio_ws.websocket.deferred_frame import DeferredFrame
from trio_ws.websocket.fair_turn import FairTurn
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.internals import deflate_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from trio_ws.channels.channel import Channel, ConnectionSubscriber, Form, PublishedMessage, Recovery
    from trio_ws.codecs.base import Codec

#: A frame, or joined frames, and the position after them in the log.
Piece: TypeAlias = tuple[int, Any]

__all__ = ["TOO_SLOW", "FanoutWriter"]

logger = logger_for("trio_ws.channels")

TOO_SLOW = "too slow for its channels"

_LOG_ITEMS = 8192
_LOG_BYTES = 1024 * 1024
#: Fractions of a full log. Above half, `append` advances the round under way, and then a round that brings
#: all connections past the half. Its shares complete a round within a quarter of a full log.
_HALF, _QUARTER = 1 / 2, 1 / 4
#: Connections to write to before yielding to other tasks. Each `_ROW_BYTES` written to one connection count
#: as another.
_ROW = 32
#: The same if more was published to their channel since the round began. The publisher then gets more turns,
#: and connections that wait get more with one system call each.
_BUSY_ROW = 8
_ROW_BYTES = 32 * 1024
#: Bytes to write to one connection at once, give or take one message.
_PIECE = 64 * 1024
#: Messages of a history that are written to one connection at once.
_RECORDS = 64


class FanoutWriter:
    """Writes the logs of channels to connections. See the module docstring.

    Args:
        leave: removes a connection from all channels.
    """

    def __init__(self, leave: Callable[[ConnectionSubscriber], None]) -> None:
        self._leave = leave
        self._logs: dict[Channel, None] = {}  # channels whose log is not empty
        self._dirty: dict[Channel, None] = {}  # channels that wait for a round
        self._rounds: dict[Channel, Iterator[int]] = {}  # rounds under way
        self._ready: dict[ConnectionSubscriber, None] = {}  # stalled connections that can be written to again
        self._work_arrived = Notification()

    def append(self, channel: Channel, entry: PublishedMessage) -> None:
        """Queue a message for all connections of a channel."""
        for stalled in list(channel.stalled):
            self._enqueue_or_drop(stalled, entry)
        if len(channel.stalled) < len(channel.cursors):
            channel.append(entry)
            self._logs[channel] = None
            self._dirty[channel] = None
            self._work_arrived.notify_all()
            before = channel.log_bytes - entry.size
            if len(channel.log) > _HALF * _LOG_ITEMS or before > _HALF * _LOG_BYTES:
                part = max(1 / _LOG_ITEMS, entry.size / _LOG_BYTES)
                for _ in islice(self._round(channel), ceil(len(channel.cursors) * part / _QUARTER)):
                    pass
                while len(channel.log) > _LOG_ITEMS or channel.log_bytes > _LOG_BYTES + entry.size:
                    for _ in self._round(channel):
                        pass

    def forget(self, channel: Channel) -> None:
        """Forget a channel that has no more subscribers."""
        self._logs.pop(channel, None)
        self._dirty.pop(channel, None)
        self._rounds.pop(channel, None)

    def drained(self, member: ConnectionSubscriber) -> None:
        """Note that the write buffer of a connection is empty."""
        if member.backlog is not None or (member.recovery is not None and member.recovery.cursors):
            self._ready[member] = None
            self._work_arrived.notify_all()

    def catch_up(self, member: ConnectionSubscriber, channel: Channel, offset: int) -> None:
        """Have a connection read a channel from its history, from ``offset`` on, until it has caught up."""
        member.catch_up(channel, offset)
        if member.session is not None:
            self.drained(member)

    def unsubscribed(self, member: ConnectionSubscriber) -> None:
        """Note that a connection has left all channels."""
        self._ready.pop(member, None)
        member.backlog = None

    def send_now(self, member: ConnectionSubscriber) -> None:
        """Write all messages published so far, before a connection leaves a channel."""
        if member.backlog is None:
            self._write(member, member.pending())

    def tell(self, member: ConnectionSubscriber, notice: PositionNotice) -> None:
        """Give a notice to one connection, after all that was published so far."""
        if member.backlog is None:
            self.send_now(member)
            self._write(member, [notice])
        else:
            self._enqueue_or_drop(member, notice)

    # -- fan-out rounds -----------------------------------------------------------------------------

    @enable_ki_protection
    async def run(self) -> None:
        """Start a round whenever something was published. One such task runs per server of the hub."""
        turn = FairTurn()
        while True:
            if not self._dirty and not self._ready:
                await self._work_arrived.wait()
                turn.begin()
            row = 0
            while self._ready:
                self._write_backlog(self._ready.popitem()[0])  # a local variable would keep it alive
                row += 1
                if row >= _ROW:
                    row = 0
                    await _end_row(turn)
            if self._dirty:
                channel = next(iter(self._dirty))
                del self._dirty[channel]
                await self._run_round(channel, row, turn)

    async def _run_round(self, channel: Channel, row: int, turn: FairTurn) -> None:
        try:
            for work in self._round(channel):
                row += work
                if row >= _BUSY_ROW and (row >= _ROW or channel in self._dirty):
                    row = 0
                    await _end_row(turn)
        except BaseException:
            self._dirty[channel] = None  # for the fan-out task of another server
            self._work_arrived.notify_all()
            raise
        await turn.let_others_run()  # so that a busy publisher does not starve other channels

    def flush_now(self, channel: Channel) -> None:
        """Write to all connections of a channel without yielding."""
        while channel.log:
            for _ in self._round(channel):
                pass

    def _round(self, channel: Channel) -> Iterator[int]:
        """Return the round of a channel that is under way, or a new one. Any caller may advance it."""
        if channel not in self._rounds:
            self._rounds[channel] = self._begin_round(channel)
        return self._rounds[channel]

    def _begin_round(self, channel: Channel) -> Iterator[int]:
        """Visit all connections once, and yield the amount of work after each; see `_ROW`."""
        end = channel.end
        pieces: dict[tuple[object, ...], Piece] = {}
        for member in list(channel.cursors):
            yield self._write_pending(channel, member, pieces)
        self._rounds.pop(channel, None)
        channel.trim(end)
        if channel.log:
            self._dirty[channel] = None  # the members visited first miss later messages
        else:
            self._logs.pop(channel, None)

    def _write_pending(
        self,
        channel: Channel,
        member: ConnectionSubscriber,
        pieces: dict[tuple[object, ...], Piece],
    ) -> int:
        """Write the unsent messages of a connection, and return the amount of work."""
        position = channel.cursors.get(member)
        end = channel.base + len(channel.log)
        if position is None or position == end or member.backlog is not None:
            return 0
        if len(self._logs) > 1 and len(member.channels) > 1:
            self._write(member, member.pending())
            return 1
        # Fast path of _write(): only this channel has unsent messages for the connection, as for its
        # neighbours, so frames joined once serve many.
        session = member.session
        assert session is not None
        write_buffer, dialect = session.write_buffer, session.codec
        form: Form = None
        room = write_buffer.fast_send_limit
        if not room and session.closing.state == OPEN:
            form = write_buffer.whole or deflate_of(session.ws)
            room = session.high_water
        written = 0
        while position < end and write_buffer.size < room and not write_buffer.broken:
            key = (position, end, dialect.name, dialect.binary, form and form.settings)
            piece: Piece | None = pieces.get(key)
            if piece is None:
                piece = self._piece(channel, position, dialect, form)
                if piece is None:
                    break
                if len(pieces) > _ROW:
                    pieces.clear()
                pieces[key] = piece
            stop, data = piece
            channel.delivered += stop - position
            channel.cursors[member] = position = stop
            if form is not None:
                form.restart()
            if isinstance(data, DeferredFrame):
                write_buffer.write_deferred(data)
            else:
                write_buffer.write(data)
                written += len(data)
        if position < end:
            self._write(member, member.pending())
        return 1 + written // _ROW_BYTES

    def _piece(self, channel: Channel, position: int, dialect: Codec, form: Form) -> Piece | None:
        """Return joined frames from a log and the position after them; None if some skip the next."""
        frames: list[bytes] = []
        size = 0
        for entry in channel.log[position - channel.base :]:
            if entry.skip is not None or size >= _PIECE:
                break
            try:
                frame = entry.frame(dialect, form)
            except PacketError:
                break
            if isinstance(frame, DeferredFrame | str) or isinstance(form, Unframed):
                if not frames:
                    return position + 1, frame
                break
            frames.append(frame)
            size += len(frame)
        if not frames:
            return None
        return position + len(frames), frames[0] if len(frames) == 1 else b"".join(frames)

    def _write(self, member: ConnectionSubscriber, entries: list[PublishedMessage]) -> None:
        """Write to a connection as much as it accepts, and keep the rest in its backlog."""
        entries = [
            entry if entry.skip is None or member not in entry.skip else _as_notice(entry)
            for entry in entries
            if entry.skip is None or member not in entry.skip or member.is_told_of_gaps(entry.channel)
        ]
        done = self._write_some(member, entries)
        if done < len(entries):
            member.stall()
            for entry in entries[done:]:
                self._enqueue_or_drop(member, entry)

    def _write_some(self, member: ConnectionSubscriber, entries: Collection[PublishedMessage]) -> int:
        """Write entries up to the high-water mark, and return how many were handled."""
        session = member.session
        assert session is not None
        write_buffer, dialect = session.write_buffer, session.codec
        form = write_buffer.whole or deflate_of(session.ws)
        room = session.high_water
        frames: list[Any] = []
        size = done = 0
        for entry in entries:
            if size >= _PIECE or write_buffer.size + size >= room:
                if frames:
                    write_buffer.write_many(frames)
                    frames.clear()
                    size = 0
                if write_buffer.size >= room:
                    write_buffer.flush()
                    if write_buffer.size >= room:
                        break
            done += 1
            if session.closing.state != OPEN:
                continue
            try:
                frame = entry.frame(dialect, form)
            except PacketError as exc:
                entry.channel.dropped += 1
                if member.is_told_of_gaps(entry.channel):
                    notice = PositionNotice(entry.channel, entry.position, 1)
                    frame = notice.frame(dialect, write_buffer.whole)
                    assert not isinstance(frame, DeferredFrame)
                    frames.append(frame)
                logger.warning(
                    "%r skips a message of %r: %s",
                    session.ws,
                    entry.channel.name,
                    exc,
                    extra=log_extra(session.ws),
                )
                continue
            entry.channel.delivered += entry.counts
            if not isinstance(frame, DeferredFrame):
                frames.append(frame)
                size += len(frame)
                continue
            if frames:
                write_buffer.write_many(frames)
                frames.clear()
                size = 0
            write_buffer.write_deferred(frame)
        if form is not None:
            form.restart()
        if frames:
            write_buffer.write_many(frames)
        return done

    # -- stalled connections ------------------------------------------------------------------------

    def _write_backlog(self, member: ConnectionSubscriber) -> None:
        backlog = member.backlog
        if backlog is not None:
            for _ in range(self._write_some(member, backlog)):
                member.backlog_bytes -= backlog.popleft().size
            if backlog:
                return
            member.resume()
        recovery = member.recovery
        if recovery is None:
            return
        if recovery.dropped:
            dropped, recovery.dropped = recovery.dropped, set()
            self._write(member, [PositionNotice(channel, None, -1) for channel in dropped])
        for channel in list(recovery.cursors):
            if channel in recovery.cursors and not self._write_history(member, recovery, channel):
                return

    def _write_history(self, member: ConnectionSubscriber, recovery: Recovery, channel: Channel) -> bool:
        """Write some of a channel's history to a connection. Return whether it takes more now."""
        history = channel.history
        assert history is not None
        offset = recovery.cursors[channel]
        told = member.is_told_of_gaps(channel)
        missing, records = history.read(offset, _RECORDS)
        entries: list[PublishedMessage] = []
        ends: list[int] = []  # the next offset after each entry
        offset += missing
        if missing and told:
            entries.append(PositionNotice(channel, Position(history.epoch, offset - 1), missing))
            ends.append(offset)
        if history.config.latest and records:
            assert records[0].message.position is not None
            offset = records[0].message.position.offset
        for record in records:
            offset += 1
            if isinstance(record.message, PositionNotice) and not told:
                continue
            if record.reaches(member.connection):
                entries.append(record.message)
                ends.append(offset)
            elif told:
                entries.append(_as_notice(record.message))
                ends.append(offset)
        done = self._write_some(member, entries)
        for record in records:
            history.recharge(record)
        if done < len(entries):
            if done:
                recovery.cursors[channel] = ends[done - 1]
            return False
        recovery.cursors[channel] = offset
        if offset > history.offset or not records:
            member.caught_up(channel)
        else:
            self._ready[member] = None  # after others
        return True

    def _enqueue_or_drop(self, member: ConnectionSubscriber, entry: PublishedMessage) -> None:
        """Queue a message for a stalled connection, or apply the policy."""
        backlog = member.backlog
        channel = entry.channel
        if backlog is None or member.is_catching_up(channel):
            return
        if entry.skip is not None and member in entry.skip:
            if not member.is_told_of_gaps(channel):
                return
            entry = _as_notice(entry)
        if channel.history is not None and channel.history.config.latest and entry.position is not None:
            self._catch_up_from(member, channel, entry.position)
            return
        options = member.options
        if len(backlog) >= options.channel_max_items or (
            backlog and member.backlog_bytes + entry.size > options.channel_max_bytes
        ):
            policy = member.policy_for(channel)
            if policy == "disconnect":
                channel.dropped += len(backlog) + 1
                self._disconnect(member)
                return
            told = member.is_told_of_gaps(channel)
            if isinstance(entry, PositionNotice) and entry.missing < 0 and member.recovery is not None:
                member.recovery.dropped.add(channel)
                return
            if told and channel.history is not None and entry.position is not None:
                self._catch_up_from(member, channel, entry.position)
                return
            if policy == "drop_newest":
                channel.dropped += 1
                if told and member.recovery is not None:
                    member.recovery.dropped.add(channel)
                return
            missed: dict[Channel, PositionNotice] = {}
            while backlog and (
                len(backlog) >= options.channel_max_items
                or member.backlog_bytes + entry.size > options.channel_max_bytes
            ):
                oldest = backlog.popleft()
                member.backlog_bytes -= oldest.size
                if member.is_told_of_gaps(oldest.channel):
                    if oldest.channel.history is not None and oldest.position is not None:
                        self._leave_to_history(member, oldest)
                        continue
                    missed[oldest.channel] = _merge_notices(missed.get(oldest.channel), oldest)
                oldest.channel.dropped += oldest.counts
            for notice in missed.values():
                backlog.appendleft(notice)
                member.backlog_bytes += notice.size
        if member.recovery is not None and channel in member.recovery.dropped:
            member.recovery.dropped.discard(channel)
            notice = PositionNotice(channel, None, -1)
            backlog.append(notice)
            member.backlog_bytes += notice.size
        backlog.append(entry)
        member.backlog_bytes += entry.size

    def _leave_to_history(self, member: ConnectionSubscriber, oldest: PublishedMessage) -> None:
        """Remove a channel's messages, of which this is the oldest, from a backlog. The history has them."""
        backlog, recovery, channel = member.backlog, member.recovery, oldest.channel
        assert backlog is not None
        assert recovery is not None
        assert oldest.position is not None
        entries = [oldest, *(entry for entry in backlog if entry.channel is channel)]
        left = [entry for entry in backlog if entry.channel is not channel]
        backlog.clear()
        backlog.extend(left)
        member.backlog_bytes = sum(entry.size for entry in left)
        for entry in entries:
            if isinstance(entry, PositionNotice) and entry.missing < 0:
                recovery.dropped.add(channel)
            if entry.position is not None:
                self._catch_up_from(member, channel, entry.position)

    def _catch_up_from(self, member: ConnectionSubscriber, channel: Channel, position: Position) -> None:
        """Have a connection read a message from the history, or tell it that this was lost."""
        history = channel.history
        assert history is not None
        if history.still_counts(position):
            self.catch_up(member, channel, position.offset)
        elif history.config.latest:
            self.catch_up(member, channel, history.first)
        elif member.recovery is not None:
            member.recovery.dropped.add(channel)

    def _disconnect(self, member: ConnectionSubscriber) -> None:
        logger.info(
            "closing %r: its channel backlog exceeds channel_max_items or channel_max_bytes",
            member.connection,
            extra=log_extra(member.session.ws) if member.session is not None else None,
        )
        self._leave(member)
        if member.session is not None:
            member.session.close_soon(1013, TOO_SLOW)
        else:
            member.close_with = 1013, TOO_SLOW


def _as_notice(entry: PublishedMessage) -> PublishedMessage:
    """Return the replacement of a message for a recovering connection that must not receive it."""
    return entry if isinstance(entry, PositionNotice) else PositionNotice(entry.channel, entry.position, 0)


def _merge_notices(before: PositionNotice | None, entry: PublishedMessage) -> PositionNotice:
    """The notice of a gap in which this message, or gap, is the last one."""
    missing = entry.missing if isinstance(entry, PositionNotice) else 1
    if before is not None:
        missing = -1 if missing < 0 or before.missing < 0 else missing + before.missing
    return PositionNotice(entry.channel, entry.position, missing)


async def _end_row(turn: FairTurn) -> None:
    """Yield to other tasks after a row of connections, if it is their turn."""
    if not turn.may_continue():
        await turn.let_others_run()
