"""CallBatch: several calls in one message, where the dialect has batches (JSON-RPC 2.0 section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar, overload

from trio_ws._types import ANY_VALUE
from trio_ws.errors import ConnectionClosedError
from trio_ws.rpc.errors import error_from
from trio_ws.rpc.streams import convert
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ws._types import NamedValues, Value, Values
    from trio_ws.codecs.base import Codec, Response
    from trio_ws.rpc.deadlines import Lease
    from trio_ws.rpc.transport import PacketTransport, ReadDemand

__all__ = ["BatchedCall", "CallBatch"]

T = TypeVar("T")


class BatchedCall(Generic[T]):
    """One call of a `CallBatch`. It has a result after the block of the batch.

    Attributes:
        method: the name of the method.
        error: why the call failed, or None.
    """

    __slots__ = (
        "_args",
        "_batch",
        "_done",
        "_kwargs",
        "_returns",
        "_value",
        "error",
        "method",
        "sent_offset",
    )

    lease: Lease | None = None

    def __init__(
        self, batch: CallBatch, method: str, args: Values, kwargs: NamedValues, returns: object
    ) -> None:
        self.method = method
        self.error: Exception | None = None
        self.sent_offset = 0  # see ResponseSink
        self._batch = batch
        self._args = args
        self._kwargs = kwargs
        self._returns = returns
        self._value: Value = None
        self._done = False

    if not TYPE_CHECKING:  # type checkers report this mistake themselves

        def __await__(self) -> NoReturn:
            raise TypeError(
                "a call of a batch is not awaited; leave the block, which sends it, then use result()"
            )

    def result(self) -> T:
        """Return the result of the method.

        Raises:
            RPCError: the call failed, see the tree in `trio_ws.errors`.
            PacketValidationError: the result is not of type ``returns``.
            RuntimeError: the block of the batch has not ended yet.
        """
        if not self._done:
            raise RuntimeError("a call of a batch has a result once the block of the batch was left")
        if self.error is not None:
            raise self.error
        value: T = convert(self._value, self._returns, f"the result of {self.method}")
        return value

    def encode(self, codec: Codec, call_id: str) -> bytes:
        """Return the request."""
        return codec.request(call_id, self.method, self._args, self._kwargs)

    def on_response(self, response: Response, size: int) -> bool:
        """Take the response. There is one."""
        if response.error is not None:
            self.error = error_from(response, ours=False)
        self._end(response.response)
        return True

    def on_connection_lost(self, error: ConnectionClosedError) -> None:
        """The connection ended."""
        self.error = error
        self._end(None)

    def _end(self, value: Value) -> None:
        self._value = value
        self._done = True
        self._batch.progress.notify_all()

    @property
    def done(self) -> bool:
        """Whether the call has ended."""
        return self._done

    def __repr__(self) -> str:
        state = "pending" if not self._done else "failed" if self.error is not None else "done"
        return f"<BatchedCall {self.method} {state}>"


class CallBatch:
    """Calls that are sent in one message at the end of the block of `WebSocketClient.batch`.

    Attributes:
        calls: those that expect a response, in order.
        progress: notified when one of them ends.
    """

    def __init__(self) -> None:
        self.calls: list[BatchedCall[Value]] = []
        self.progress = Notification()
        self._members: list[BatchedCall[Value] | tuple[str, Values, NamedValues]] = []
        self._sent = False

    @overload
    def call(self, method: str, /, *args: Value, returns: type[T], **kwargs: Value) -> BatchedCall[T]: ...
    @overload
    def call(
        self, method: str, /, *args: Value, returns: object = ..., **kwargs: Value
    ) -> BatchedCall[Value]: ...
    def call(
        self, method: str, /, *args: Value, returns: object = ANY_VALUE, **kwargs: Value
    ) -> BatchedCall[Value]:
        """Add a call. Arguments are those of `WebSocketClient.call`."""
        self._check_open()
        call: BatchedCall[Value] = BatchedCall(self, method, args, kwargs, returns)
        self.calls.append(call)
        self._members.append(call)
        return call

    def notify(self, method: str, /, *args: Value, **kwargs: Value) -> None:
        """Add a notification, which has no result."""
        self._check_open()
        self._members.append((method, args, kwargs))

    def _check_open(self) -> None:
        if self._sent:
            raise RuntimeError("the batch was sent already; use another one")

    def __len__(self) -> int:
        return len(self._members)

    # -- called by the session ----------------------------------------------------------------------

    def encode(self, codec: Codec, ids: Sequence[str]) -> list[bytes]:
        """Return the encoded members. ``ids`` are those of `calls`."""
        left = iter(ids)
        return [
            member.encode(codec, next(left))
            if isinstance(member, BatchedCall)
            else codec.notification(*member)
            for member in self._members
        ]

    def begin(self, transport: PacketTransport) -> None:
        """The batch is sent now."""
        self._sent = True
        transport.notify_progress()

    async def finished(self, read_demand: ReadDemand) -> None:
        """Wait for the end of all calls.

        Raises:
            ConnectionClosedError: the connection ended first.
        """
        for call in self.calls:
            while not call.done:
                with read_demand:
                    await self.progress.wait()
        for call in self.calls:
            if isinstance(call.error, ConnectionClosedError):
                raise call.error
