"""Single messages of many connections: nearly all that the shared reader reads (see epoll_reader.py).

A connection whose peer waits for an answer before it sends more has one small message in its socket. If an
observer of the connection handles it in the reader's task, then receiving and handling it needs nothing
else of the reader. `handle_single_messages` does so for one connection after the other. In C this is one call
for a round of the reader, which also calls message listeners and sends what they return.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from trio.lowlevel import current_task

from trio_ws.protocol._accel import receive_frame
from trio_ws.protocol.masking import extension
from trio_ws.websocket.readers import Reader
from trio_ws.websocket.receive_buffer import ReceiveBuffer
from trio_ws.websocket.transport import READ_SIZE

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Awaitable, Callable

    #: What a read brought that nobody has handled: a message, other data in a tuple, or nothing.
    Received = str | bytes | tuple[bytes | memoryview] | None
    #: See `python_handle_single_messages`.
    Result = tuple[int, Reader | None, Received, Awaitable[None] | None]
    Handle = Callable[[deque[int], dict[int, Reader], int, object], Result]

__all__ = ["END_COST", "MESSAGE_COST", "python_handle_single_messages", "single_message_handler"]

#: Cost of a message, in addition to its bytes: it may be a call that is answered immediately. As in
#: speedups/turns.h.
MESSAGE_COST = 1024
#: Cost of the end of a connection, and of a read that brings nothing. As in speedups/turns.h.
END_COST = 8192


def python_handle_single_messages(
    ready: deque[int], connections: dict[int, Reader], left: int, lent: object
) -> Result:
    """Receive from connections, and let their observers handle single messages in this task.

    It stops at the first connection that needs anything else, and when the work is done.

    Args:
        ready: descriptors to read from. Those that were read are removed.
        connections: by descriptor.
        left: the work that is to be done, in bytes.
        lent: passed on to `ConnectionObserver.message_received`.

    Returns:
        The work that is left to do; the connection at which it stopped; what was received from it and was not
        handled; and what `message_received` returned. The connection is None if it stopped before
        ``ready[0]``, or when the work is done. If `message_received` has raised an exception, the connection
        at which it stopped is broken.
    """
    while ready and left > 0:
        # It may have been closed since the poll. If the number is another connection's by now, a read finds
        # nothing, or something.
        connection = connections.get(ready[0])
        if connection is None:
            ready.popleft()
            continue
        buffer = connection.receive_buffer
        if not buffer.bypass_limit:
            break
        try:
            received = receive_frame(ready.popleft(), READ_SIZE, buffer.masked, buffer.bypass_limit)
        except OSError as exc:
            connection.closing.abort(exc)
            received = None
        if received is None:
            return left - END_COST, connection, None, None
        if isinstance(received, tuple):
            return left, connection, received, None
        buffer.received_since_check = True
        observer = connection.observer
        if observer is None or not observer.reader_driven:
            return left, connection, received, None
        left -= MESSAGE_COST + len(received)
        try:
            going_on = observer.message_received(received, lent)
        except Exception as exc:  # noqa: BLE001 - logged with its traceback
            connection.failed(exc)
            return left, connection, None, None
        if going_on is not None or not buffer.bypass_limit:
            return left, connection, None, going_on
    return left, None, None, None


def single_message_handler() -> Handle:
    """Return `python_handle_single_messages`, or the same in C, for the task that calls this."""
    nurseries = getattr(current_task(), "_child_nurseries", None)
    if _in_c is None or type(nurseries) is not list:
        return python_handle_single_messages
    return functools.partial(_in_c, nurseries)


_in_c: Callable[..., Result] | None = None
if extension is not None and hasattr(extension, "handle_single_messages"):  # only on Linux
    extension.watch_reader(Reader, ReceiveBuffer)
    _in_c = extension.handle_single_messages
