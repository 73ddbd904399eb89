"""PacketDelivery: packets that are not calls, for ``on_receive`` or for `RPCSession.recv`.

Invariants:

- ``on_receive`` gets one packet at a time, in the order in which they came.
- A packet that waits here is charged to the ledger.
- Packets are dropped only where nothing else could be done: they wait for ``recv``, too much is held, and
  reading cannot stop because a task waits for something that it brings. They are counted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from trio_ws.errors import ConnectionClosedError
from trio_ws.ledger import OVERHEAD
from trio_ws.logs import logger_for
from trio_ws.rpc.incoming import PACKET_DELIVERY
from trio_ws.rpc.inline_call import IncomingCall
from trio_ws.wall import close_of, failures_in
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.internals import closed_error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from trio_ws.codecs.base import Packet
    from trio_ws.rpc.incoming import IncomingCalls
    from trio_ws.rpc.inline_call import SuspendedCall
    from trio_ws.rpc.outgoing import OutgoingCalls
    from trio_ws.rpc.task_pool import PooledTask, TaskPool
    from trio_ws.rpc.transport import PacketTransport

    OnPacket = Callable[[Any, Packet], Coroutine[object, object, object]]

__all__ = ["PacketDelivery"]

logger = logger_for("trio_ws.rpc")


class PacketDelivery:
    """See the module docstring. It is also the key of its call among the incoming calls.

    Args:
        transport: accounts for the packets.
        incoming: runs ``on_packet`` as it runs calls.
        outgoing: knows whether reading may stop.
        pool: provides a task where packets waited before the connection was let in.
        on_packet: called with the connection and each packet. Without it, `recv` returns them.

    Attributes:
        packets: those that wait, each with the bytes it is charged.
        dropped_packets: how many were dropped.
    """

    __slots__ = (
        "_arrived",
        "_delivering",
        "_incoming",
        "_outgoing",
        "_pool",
        "_transport",
        "dropped_packets",
        "on_packet",
        "packets",
    )

    def __init__(
        self,
        transport: PacketTransport,
        incoming: IncomingCalls,
        outgoing: OutgoingCalls,
        pool: TaskPool,
        on_packet: OnPacket | None,
    ) -> None:
        self._transport = transport
        self._incoming = incoming
        self._outgoing = outgoing
        self._pool = pool
        self.on_packet = on_packet
        self.packets: deque[tuple[Packet, int]] | tuple[()] = ()
        self._delivering = False  # on_packet runs, or waits to be allowed to
        self._arrived: Notification | None = None  # made by the first `recv` that waits
        self.dropped_packets = 0

    @property
    def running(self) -> bool:
        """Whether ``on_packet`` waits, so that its call occupies a task."""
        return self in self._incoming.running

    def handle_packet(self, packet: Packet, size: int, worker: PooledTask) -> SuspendedCall | None:
        """Deliver a packet of ``size`` bytes, or keep it."""
        if self.on_packet is None or self._delivering:
            self._keep(packet, max(size, self._transport.size_of(packet.data)) + OVERHEAD)
            return None
        self._delivering = True
        return self._incoming.run_first_step(self._new_call(), self._deliver(packet), worker)

    def hold(self) -> None:
        """Keep all packets until `let_in`."""
        self._delivering = True

    def let_in(self) -> None:
        """Deliver the packets that were kept since `hold`."""
        self._delivering = bool(self.packets) and self.on_packet is not None
        if self._delivering:
            call = self._new_call()
            self._incoming.add_running(call)
            self._incoming.active_calls += 1
            self._pool.start(lambda worker: self._deliver_kept(call, worker))

    def _new_call(self) -> IncomingCall:
        call = IncomingCall(PACKET_DELIVERY, self._pool.context.copy(), answers=False)
        call.key = self  # a key that cannot be an id of the other side's
        return call

    async def _deliver_kept(self, call: IncomingCall, worker: PooledTask) -> None:
        """Deliver the packets that were kept from the beginning. Another task reads."""
        assert self.packets
        packet = self._take()
        blocked = (
            None if call.ended_by else self._incoming.run_first_step(call, self._deliver(packet), worker)
        )
        if blocked is not None:
            await self._incoming.continue_call(worker, blocked, leads=False)
        else:
            self._incoming.remove_running(call)
            self._incoming.call_ended()

    async def _deliver(self, packet: Packet) -> None:
        """Deliver this packet and those that arrive meanwhile, one after the other."""
        try:
            while await self._deliver_one(packet) and self.packets:
                packet = self._take()
        finally:
            self._delivering = False

    async def _deliver_one(self, packet: Packet) -> bool:
        """Return whether another packet may be delivered."""
        assert self.on_packet is not None
        incoming = self._incoming
        try:
            await self.on_packet(incoming.connection, packet)
        except BaseException as exc:  # noqa: BLE001 - judged there
            failures = [one for one in failures_in(exc) if not isinstance(one, ConnectionClosedError)]
            close = close_of(failures[0]) if len(failures) == 1 else None
            if close is not None:
                self._transport.close_soon(*close)
            elif failures:
                self._transport.fail(exc)
            if failures:
                return False
        if incoming.closing is not None:
            incoming.close_if_idle(except_for=self)
        return True

    def _take(self) -> Packet:
        assert self.packets
        packet, size = self.packets.popleft()
        self._transport.release(size)
        return packet

    def _keep(self, packet: Packet, size: int) -> None:
        packets = self.packets = self.packets or deque()
        packets.append((packet, size))
        transport = self._transport
        ledger = transport.ledger
        ledger.held += size
        if self._arrived is not None:
            self._arrived.notify_all()
        if ledger.held <= ledger.max_held or not self._outgoing.needs_reading:
            return
        # Reading cannot stop, because a task waits for something that it brings.
        if self.on_packet is not None:
            transport.close_soon(1008, "max_held_bytes of packets wait for on_receive")
            return
        if not self.dropped_packets:
            logger.warning(
                "%r drops packets: more than max_held_bytes wait for recv()",
                transport.ws,
                extra=log_extra(transport.ws),
            )
        while self.packets and ledger.held > ledger.max_held:
            ledger.held -= self.packets.popleft()[1]
            self.dropped_packets += 1

    def adopt(self, old: PacketDelivery) -> None:
        """Take over the packets that the previous connection left for `recv`."""
        size = sum(size for _, size in old.packets)
        if self.packets:
            self.packets = deque([*old.packets, *self.packets])
        else:
            self.packets = old.packets
        old.packets = ()
        self._transport.ledger.held += size
        old._transport.ledger.held -= size
        self.dropped_packets += old.dropped_packets

    async def recv(self) -> Packet | None:
        """Wait for the next packet. See `RPCSession.recv`."""
        if self.on_packet is not None:
            raise RuntimeError("recv() cannot be used: on_receive of the handler gets the packets")
        if self.packets:
            await checkpoint_if_cancelled()
        while not self.packets:
            if self._transport.over:
                await checkpoint()
                ws = self._transport.ws
                if self._transport.closing.ended_cleanly:
                    return None
                raise closed_error(ws)
            self._arrived = self._arrived or Notification()
            await self._arrived.wait()
        return self._take()

    # -- the end ------------------------------------------------------------------------------------

    def end(self) -> None:
        """Wake `recv`, because the connection is over."""
        if self._arrived is not None:
            self._arrived.notify_all()

    def cancel(self) -> None:
        """Cancel ``on_packet``."""
        call = self._incoming.running.get(self)
        if call is not None:
            call.cancel("end")

    async def finished(self) -> None:
        """Wait until ``on_packet`` has taken all that came before the peer's Close frame."""
        while self.running:
            await self._incoming.wait_for_calls()

    async def limit(self, _: PooledTask) -> None:
        """Cancel ``on_packet`` if it takes longer than ``close_timeout``."""
        with trio.move_on_after(self._transport.options.close_timeout):
            await self.finished()
        self.cancel()
