"""Outbox: what waits to be written to one connection.

It takes whole frames and nothing else, from synchronous code, so that no cancellation can leave half a
frame behind: a frame that is in here is finished, or the connection is broken.

A frame may be taken before it is made (see late.py): it has its place here, and what comes after it waits.

Three states: *empty* (a frame is offered to the socket at once), *corked* (frames of one burst are gathered
and a flush is due in this scheduler round), *draining* (the socket is full and a task waits for it).

What always holds: ``size`` counts every byte that was taken and not yet handed to the kernel. Control frames
have 4 KiB of their own beyond any mark, and past that only the latest pong is kept (RFC 6455 section 5.5.3
lets a peer answer only the latest ping).
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.websocket._notify import Bell
from trio_ws.websocket.deferred_frame import LateFrame
from trio_ws.websocket.transport import SEND_SIZE, WRITE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_ws.websocket.runtime import Service
    from trio_ws.websocket.transport import Transport

__all__ = ["Outbox", "cork_all"]

#: A burst is flushed early once it has gathered this much.
_CORK_LIMIT = 65536
#: Control bytes that may join what waits, and as many those that are being written.
_CONTROL_ROOM = 2048


class Outbox:
    """See the module's text.

    Args:
        transport: where the bytes go.
        service: lends the task that drains, and the flusher.
        on_broken: called once, with the cause, when writing has failed.
    """

    __slots__ = (
        "_control",
        "_cut",
        "_draining",
        "_late",
        "_late_pong",
        "_on_broken",
        "_parts",
        "_service",
        "_when_empty",
        "broken",
        "corked",
        "moved",
        "on_drained",
        "passed",
        "room",
        "size",
        "transport",
    )

    def __init__(
        self, transport: Transport, service: Service, on_broken: Callable[[BaseException], None]
    ) -> None:
        self.transport = transport
        self._service = service
        self._on_broken: Callable[[BaseException], None] | None = on_broken
        self._parts: list[bytes | memoryview | LateFrame] = []
        self._late = False  # some of these are yet to be made
        self.corked = False  # a flush is due in this round
        self._draining = False
        self._cut = False  # an end now would come in the middle of a batch
        self._control = 0
        self._late_pong: bytes | None = None
        self._when_empty: Callable[[], None] | None = None  # done once all is written
        self.on_drained: Callable[[], None] | None = None  # called when a socket that was full has taken all
        self.size = 0
        self.broken = False
        self.moved = False  # bytes went out since somebody last set this to False
        # Of all that ever waited in here: bytes that the peer may have got. With `size`, taken when a frame
        # was put in, it tells later whether that frame can have left.
        self.passed = 0
        self.room = Bell()  # rings whenever bytes went out of a full outbox, and at the end

    @property
    def stuck(self) -> bool:
        """Whether the peer, or the network, takes no more for now."""
        return self._draining

    def write(self, frame: bytes) -> None:
        """Send a frame, now if the socket takes it."""
        if self.size or self.broken:
            self._append(frame)
            if self.corked:
                self.flush()
            return
        size = len(frame)
        try:
            sent = self.transport.send_now(frame if size <= SEND_SIZE else memoryview(frame)[:SEND_SIZE])
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._break(exc)
            return
        if sent != size:
            self._append(memoryview(frame)[sent:] if sent else frame)
            self._drain_soon()

    def write_pair(self, head: bytes, payload: bytes) -> None:
        """Send a large frame without joining its head and its payload."""
        if self.corked:
            self.flush()
        if self._parts or self._draining:
            self._append(head)
            self._append(payload)
            return
        if self.broken:
            return
        try:
            sent = self.transport.send_pair_now(head, payload)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._break(exc)
            return
        if sent < len(head):
            self._append(head[sent:])
            self._append(payload)
        elif sent < len(head) + len(payload):
            self._append(memoryview(payload)[sent - len(head) :])
        if self._parts:
            self._drain_soon()

    def cork(self, frame: bytes | LateFrame) -> None:
        """Send a frame with others of this burst: at the next `flush`, at the latest in this round."""
        self._parts.append(frame)
        self.size += len(frame)
        if self.corked:
            if self.size > _CORK_LIMIT:
                self.flush()
        elif not self._draining:
            self.corked = True
            self._service.flush_soon(self)

    def write_late(self, frame: LateFrame) -> None:
        """Send a frame that is made when it is to be written, which is at the next `flush` or later."""
        self._late = True
        self.cork(frame)

    def write_control(self, frame: bytes, *, pong: bool = False) -> None:
        """Send a control frame, for which there is always room, but for pongs without end."""
        if self._draining:
            late = self._late_pong
            if pong and (late is not None or self._control + len(frame) > _CONTROL_ROOM):
                self._late_pong = frame
                return
            if late is not None:  # a Close would leave it behind
                self._late_pong = None
                self._append(late)
            if self._late_pong is not None:
                self._append(self._late_pong)
                self._late_pong = None
            self._control += len(frame)
            self._append(frame)
        elif pong:
            self.cork(frame)
        else:
            self.write(frame)

    def flush(self) -> None:
        """Offer to the socket what was corked."""
        self.corked = False
        parts = self._parts
        if not parts or self._draining or self.broken:
            return
        if self._late:
            self._drain_soon()
            return
        data = b"".join(parts)  # type: ignore[arg-type]  # none of them is late
        parts.clear()
        self.size = 0
        self.write(data)
        if not self.broken:
            self.passed += len(data) - self.size

    def close_when_empty(self) -> None:
        """Close the transport as soon as all is written, at once if it is."""
        self._do_when_empty(self.transport.close)

    def end_when_empty(self) -> None:
        """Tell the peer that nothing more will come as soon as all is written, at once if it is."""
        self._do_when_empty(self.transport.end_writing)

    def _do_when_empty(self, action: Callable[[], None]) -> None:
        self.flush()
        if self._parts or self._draining:
            self._when_empty = action
        else:
            action()

    def drop(self) -> bytes:
        """Forget what waits, at the end of the connection; give what follows on what is being written."""
        unsent = b"" if self._cut or self._late else b"".join(self._parts)  # type: ignore[arg-type]
        self.broken = True
        self.on_drained = None
        self._on_broken = None  # which leads back to us: without the cycle, counting frees a connection
        self._parts.clear()
        self.size = 0
        self.room.ring()
        return unsent

    def _append(self, frame: bytes | memoryview) -> None:
        if not self.broken:
            self._parts.append(frame)
            self.size += len(frame)

    def _break(self, cause: BaseException) -> None:
        on_broken = self._on_broken
        self.drop()
        if on_broken is not None:
            on_broken(cause)

    def _drain_soon(self) -> None:
        self._draining = True
        self.moved = True  # it has only begun to wait
        self.corked = False
        self._service.nursery.start_soon(self._drain)

    @enable_ki_protection
    async def _drain(self) -> None:
        transport = self.transport
        try:
            while self._parts:
                parts, self._parts, self._late = self._parts, [], False
                self._control = 0
                batches = _batches(parts)
                for batch in batches:
                    rest = await self._make(batch) if isinstance(batch, LateFrame) else batch
                    if self.broken:
                        return
                    while rest:
                        # Whether more is to go before what came later.
                        last = batch is batches[-1] and len(rest) <= WRITE_SIZE
                        self._cut = transport.self_reading or not last
                        # A stream that fails does not say how much of it went out before.
                        unsure = 0 if transport.self_reading else min(len(rest), WRITE_SIZE)
                        self.passed += unsure
                        sent = await transport.send_some(rest)
                        if self.broken:
                            return
                        rest = rest[sent:]
                        self.passed += sent - unsure
                        self.size -= sent
                        self.moved = True
                        self.room.ring()
                self._cut = False
                if self._late_pong is not None:
                    self._append(self._late_pong)
                    self._late_pong = None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._draining = False
            if not self.broken:
                self._break(exc)
            return
        finally:
            self._draining = False
        if self._when_empty is not None:
            self._when_empty()
        elif self.on_drained is not None:
            self.on_drained()

    async def _make(self, late: LateFrame) -> memoryview:
        self._cut = True  # what is behind it makes no sense without it
        frame = await late.frame()
        if not self.broken:
            less = len(late) - len(frame)
            self.size -= less
            self.passed += less
            self.moved = True
        return memoryview(frame)


def cork_all(outboxes: Iterable[Outbox], frame: bytes) -> None:
    """The same as `cork` of each, for thousands of them in one step, without two calls for each."""
    size = len(frame)
    service: Service | None = None
    for outbox in outboxes:
        outbox._parts.append(frame)
        outbox.size += size
        if outbox.corked:
            if outbox.size > _CORK_LIMIT:
                outbox.flush()
        elif not outbox._draining:
            outbox.corked = True
            if service is None or outbox._service is not service:
                service = outbox._service
                service.flush_soon(outbox)
            else:
                service.to_flush.append(outbox)


def _batches(parts: list[bytes | memoryview | LateFrame]) -> list[memoryview | LateFrame]:
    """What to write one after the other: large parts as they are, and the small ones between them joined."""
    batches: list[memoryview | LateFrame] = []
    for alone, run in groupby(parts, lambda part: isinstance(part, LateFrame) or len(part) >= _CORK_LIMIT):
        if alone:
            batches.extend(part if isinstance(part, LateFrame) else memoryview(part) for part in run)
        else:
            batches.append(memoryview(b"".join(run)))  # type: ignore[arg-type]
    return batches
