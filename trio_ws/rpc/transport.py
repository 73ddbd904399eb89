"""PacketTransport: the connection and codec that the parts of an `RPCSession` share.

It writes packets to the WebSocket, and accounts for the memory that is held for the other side. It does not
interpret packets.

Invariants:

- ``over`` becomes true once, in `end`, and stays true.
- The session is known here only until then, so that no cycle of references outlives the connection.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol

from trio_ws.codecs.base import Request
from trio_ws.ledger import size_of
from trio_ws.protocol._accel import whole_frame
from trio_ws.protocol.frames import BINARY, FIN, TEXT
from trio_ws.protocol.masking import extension
from trio_ws.websocket.internals import close_for_application, is_client, parts_of, post, wait_for_room
from trio_ws.websocket.write_buffer import buffer_frame

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from types import TracebackType

    from trio_ws._types import Value
    from trio_ws.codecs.base import Codec
    from trio_ws.ledger import MemoryLedger
    from trio_ws.websocket._notify import Notification
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.write_buffer import WriteBuffer

__all__ = ["PacketTransport", "ReadDemand", "SessionControl"]


class SessionControl(Protocol):
    """The methods of a session that its parts call."""

    def ended(self) -> None:
        """End everything on this connection."""

    def hand_off_read_loop(self) -> None:
        """Let another task read, because a call waits in this one."""


class ReadDemand:
    """Counts the tasks that wait for something that only reading can bring. Calls are not counted here.

    Args:
        write_buffer: its ``writable`` is notified when another task begins to wait.
    """

    __slots__ = ("_write_buffer", "count")

    def __init__(self, write_buffer: WriteBuffer) -> None:
        self.count = 0
        self._write_buffer = write_buffer

    def __enter__(self) -> None:
        self.count += 1
        self._write_buffer.notify_writable()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.count -= 1


class PacketTransport:
    """Sending packets over one WebSocket. See the module docstring.

    Attributes:
        session: the owner, until the connection is over.
        over: nothing can be sent or received any more.
        failure: the exception that ended the connection, for `RPCSession.run` to raise.
        ledger: accounts for the bytes that are held for the other side.
        measured: decoded size in bytes of the current packet, if it was large enough to be measured; else 0.
        batch: members of a received batch that were not handled yet.
        closing, reader, receive_buffer, write_buffer, liveness, options: those of the WebSocket.
        high_water: bytes in ``write_buffer`` from which on senders wait (``send_high_water``).
        may_call: whether the other side accepts calls.
        plain_calls: the fast path of the codec, or None.
        plain_requests: the same for calls of this side, or None; None at the end, too.
        measured_from: bytes of a message from which on its decoded size is measured first.
    """

    __slots__ = (
        "_read_demand",
        "batch",
        "closing",
        "codec",
        "failure",
        "high_water",
        "ledger",
        "liveness",
        "may_call",
        "measured",
        "measured_from",
        "opcode",
        "options",
        "over",
        "plain_calls",
        "plain_requests",
        "reader",
        "receive_buffer",
        "session",
        "supports_extensions",
        "write_buffer",
        "ws",
    )

    def __init__(self, ws: WebSocket, codec: Codec) -> None:
        self.ws = ws
        self.session: SessionControl | None = None
        self.over = False
        self.failure: BaseException | None = None
        parts = parts_of(ws)
        self.closing, self.reader, self.receive_buffer, self.write_buffer, self.liveness, self.options = parts
        self.ledger: MemoryLedger = self.receive_buffer
        self.measured = 0
        self.batch: deque[Value] | tuple[()] = ()
        self.high_water = self.options.send_high_water
        self._read_demand: ReadDemand | None = None
        self.set_codec(codec)

    def set_codec(self, codec: Codec) -> None:
        """Use this codec from now on."""
        self.codec = codec
        codec.use_ledger(self.ledger)
        self.plain_calls = codec.plain_calls
        self.measured_from = codec.measured_from(self.options.max_decoded_bytes)
        self.supports_extensions = codec.supports_extensions
        self.may_call = codec.peer_accepts_calls or is_client(self.ws)
        plain_frames = self.receive_buffer.deflate is None and self.write_buffer.whole is None
        self.plain_requests = codec.plain_calls if self.may_call and plain_frames else None
        self.opcode = BINARY if codec.binary else TEXT

    @property
    def progress(self) -> Notification:
        """Notified when less is held, when less waits to be written, and when reading is needed."""
        return self.write_buffer.writable

    def notify_progress(self) -> None:
        """Notify the tasks that wait for `progress`."""
        self.write_buffer.notify_writable()

    @property
    def read_demand(self) -> ReadDemand:
        """A context manager around a wait for something that only reading can bring."""
        if self._read_demand is None:
            self._read_demand = ReadDemand(self.write_buffer)
        return self._read_demand

    @property
    def is_awaited(self) -> bool:
        """Whether a task waits in `read_demand`."""
        return self._read_demand is not None and self._read_demand.count > 0

    # -- memory -------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether a sender should wait."""
        return self.write_buffer.size >= self.high_water

    @property
    def pressed(self) -> bool:
        """Whether no more work should begin, because too much is held or waits to be written."""
        return self.write_buffer.size >= self.high_water or self.ledger.held >= self.ledger.max_held

    def size_of(self, value: Value) -> int:
        """Bytes that a part of the current packet takes; of the whole packet if it was measured."""
        return self.measured or size_of(value)

    def release(self, size: int) -> None:
        """Record that ``size`` bytes are no longer held for the other side."""
        ledger = self.ledger
        was_full = ledger.held >= ledger.max_held
        ledger.held -= size
        if was_full:
            self.notify_progress()

    # -- sending ------------------------------------------------------------------------------------

    async def wait_for_room(self) -> None:
        """Wait until less than ``high_water`` bytes wait to be written."""
        await wait_for_room(self.ws)

    def post(self, payload: bytes, *, cork: bool) -> None:
        """Send one packet. Corked packets go out together, by the end of the scheduler round."""
        post(self.ws, self.opcode, payload, cork=cork)

    def reply(self, payload: bytes) -> None:
        """Send a response, together with those to other requests that have arrived already."""
        write_buffer = self.write_buffer
        cork = self.receive_buffer.messages or self.batch
        if not write_buffer.fast_send_limit:
            post(self.ws, self.opcode, payload, cork=bool(cork))
        elif cork:  # fast path: the same without three calls for each response
            buffer_frame(write_buffer, FIN | self.opcode, payload)
        else:
            write_buffer.write(whole_frame(FIN | self.opcode, payload, b""))

    def reply_result(self, call_id: str, value: Value) -> None:
        """Send the result of a call, as `reply` does.

        Raises:
            PacketError: the value cannot be encoded.
        """
        write_buffer, plain_calls = self.write_buffer, self.plain_calls
        cork = self.receive_buffer.messages or self.batch
        if (
            cork
            and plain_calls is not None
            and value is not None
            and plain_calls.buffer(None, write_buffer, call_id, value) is not None
        ):
            return
        frame: bytes | None = None
        if plain_calls is not None and write_buffer.fast_send_limit and value is not None:
            try:
                frame = plain_calls.frame(call_id, plain_calls.encode(value))
            except Exception:  # noqa: BLE001 - result() explains it
                frame = None
        if frame is None:
            payload = self.codec.result(Request("", call_id=call_id), value)
            if payload is not None:
                self.reply(payload)
        elif cork:
            write_buffer.buffer(frame)
        else:
            write_buffer.write(frame)

    def item_sender(self, request: Request) -> Callable[[Value], int]:
        """Return a function that buffers an item of a stream, and returns the size of its packet in bytes.

        It raises `PacketError` if the item cannot be encoded.
        """
        encode, first, write_buffer = self.codec.items(request), FIN | self.opcode, self.write_buffer

        def send(value: Value) -> int:
            payload = encode(value)
            if payload is None:
                return 0
            if write_buffer.fast_send_limit:
                buffer_frame(write_buffer, first, payload)
            else:
                self.post(payload, cork=True)
            return len(payload)

        parts, plain_calls = self.codec.item_parts(request), self.plain_calls
        if extension is None or parts is None or plain_calls is None:
            return send
        # The same in one call, with `send` for what is not so common. It saves a quarter of an item's time.
        *around, call_id = parts
        return functools.partial(
            extension.buffer_item, plain_calls.encode, *around, send, write_buffer, call_id
        )

    def abort(self, call_id: str) -> None:
        """Tell the other side to abort a call or a stream, if the codec can say so."""
        payload = self.codec.abort(call_id)
        if payload is not None:
            self.post(payload, cork=False)

    def flush(self) -> None:
        """Send the corked packets."""
        if self.write_buffer.flush_scheduled:
            self.write_buffer.flush()

    # -- the end ------------------------------------------------------------------------------------

    def close_soon(self, code: int, reason: str) -> None:
        """Start to close, without waiting. All calls end, except the call that caused this."""
        if not self.over:
            close_for_application(self.ws, code, reason)
            self._end_session()

    def misbehaved(self, text: str) -> None:
        """Close with 1008, because the peer broke the rules of its codec."""
        self.close_soon(1008, text)

    def fail(self, failure: BaseException) -> None:
        """End the connection, and let `RPCSession.run` raise ``failure``, unless it raises another one."""
        self.failure = self.failure or failure
        self._end_session()

    def _end_session(self) -> None:
        if self.session is not None:
            self.session.ended()

    def end(self) -> None:
        """Record that the connection is over."""
        self.over = True
        self.plain_requests = None
        self.session = None  # break the reference cycle
