"""Incoming calls that run in the task that read the request: the theory of operation.

Most methods never wait. A task for each call would cost several times the call itself. So the task that reads
starts every call itself, as a plain coroutine, and only a call that waits ever occupies a task::

    the reading task                                         another task of the pool
    ----------------                                         ------------------------
    read a request
    coroutine = method(connection, ...)
    first_step(context, coroutine)               (1)
      |
      +-- the method returned.
      |     Send the response, read on.
      |
      +-- an exception: it failed.
      |     Send the error, read on.
      |
      +-- it yielded a trap: it waits.           (2)
            hand off the read loop  ---------------------->  read the next request, and so on
            task.context = the call's context
            sent = yield trap                    (3)
            trap = coroutine.send(sent)          (4)
              ... until StopIteration:
            send the response,
            return to the pool

1. The first step runs the method up to its first wait. `contextvars` set by it go into a copy of the pool's
   context, so no variable of one call is seen by another.
2. A trap is a message that an ``await`` deep inside the method yields to trio's scheduler. It has not been
   seen by trio yet. Between (1) and (3) only synchronous code runs in this task.
3. `resume_coroutine` yields the trap to trio, as ``await coroutine`` would have done. From here on, the call
   owns the task, its cancel scope and its context, and the task waits as if it had awaited the method.
4. What trio sends or throws into the task goes to the coroutine, whose next trap is yielded in turn.

What is relied on of trio:

- A task is a generator-like coroutine that trio drives by ``send`` and ``throw``. What it yields is one of a
  few traps (``CancelShieldedCheckpoint``, ``WaitTaskRescheduled``, ``PermanentlyDetachCoroutineObject``), and
  they act on the task that yields them. A trap belongs to no particular coroutine.
- `trio.lowlevel.wait_task_rescheduled` yields at once, and everything that must be prepared, such as the
  entry in a queue of waiters for `trio.lowlevel.current_task`, is prepared before. So a method that registers
  the current task before it waits has registered the right one: the call keeps the task that it began in.
  That is why the read loop moves to another task, and the call does not.
- A cancel scope that a method enters in its first step is a child of the scope of this task, and the task's
  cancel status is the innermost one when the trap is yielded. So nobody else may run in this task until the
  call has ended.
- ``task.context`` may be assigned (`trio.lowlevel.Task.context`) while the task runs.

A method that leaves a nursery or a cancel scope open when it returns breaks this contract. The task pool
notices (see `trio_ws.wall.is_innermost` and `trio_ws.wall.close_nurseries`), and does not use the task again.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, TypeAlias

from trio_ws.protocol.masking import extension
from trio_ws.rpc.streams import LIMITLESS, StreamSender

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Coroutine, Generator

    from trio_ws._types import Value
    from trio_ws.codecs.base import Request
    from trio_ws.rpc.streams import ItemStream
    from trio_ws.rpc.task_pool import PooledTask
    from trio_ws.websocket._notify import Notification

__all__ = [
    "ANSWERED",
    "FAILED",
    "RETURNED",
    "WAITS",
    "CallStep",
    "IncomingCall",
    "SuspendedCall",
    "first_step",
    "python_first_step",
    "resume_coroutine",
]

#: What `start_call` of the extension has done with a call: all of it; or the method has returned the value,
#: or waits after it has yielded the value, or has failed with that exception. As in calls.h.
ANSWERED, RETURNED, WAITS, FAILED = range(4)
#: The method's name, the arguments and the id of a call.
_Parts: TypeAlias = "tuple[str, list[Value], str]"
#: One of these, the call, the value, its context, and its coroutine if it has one.
CallStep: TypeAlias = (
    "tuple[int, _Parts, Value, contextvars.Context, Coroutine[object, object, Value] | None]"
)


class IncomingCall(StreamSender):
    """A call of the other side that has started.

    Attributes:
        has_result: the coroutine's return value is the result. A stream sends its items itself.
        key: identifies the call among those that run.
        worker: the task that the call waits in; None while it does not wait.
        inputs: arguments that are streams.
        ended_by: ``"abort"`` or ``"end"`` if its scope was cancelled for that; else empty.
    """

    __slots__ = ("context", "ended_by", "has_result", "inputs", "key", "worker")

    def __init__(self, request: Request, context: contextvars.Context, *, answers: bool) -> None:
        self.request = request
        self.credit = request.credits
        self.credit_bytes = LIMITLESS if request.credit_bytes is None else request.credit_bytes
        self.credit_arrived: Notification | None = None
        self.has_result = answers
        self.key: object = request.call_id
        self.context = context
        self.worker: PooledTask | None = None
        self.inputs: list[ItemStream[Value]] | None = None
        self.ended_by = ""

    def cancel(self, why: str) -> None:
        """Cancel the call from outside."""
        if not self.ended_by:
            self.ended_by = why
            if self.worker is not None:
                self.worker.scope.cancel()


class SuspendedCall:
    """A call whose coroutine waits, with the trap that it has yielded.

    Attributes:
        size: bytes that its arguments take, if that is known already; else 0.
    """

    __slots__ = ("call", "coroutine", "size", "trap")

    def __init__(self, call: IncomingCall, coroutine: Coroutine[object, object, Value], trap: object) -> None:
        self.call = call
        self.coroutine = coroutine
        self.trap = trap
        self.size = 0


def python_first_step(
    context: contextvars.Context, coroutine: Coroutine[object, object, Value]
) -> tuple[bool, Value]:
    """Run a coroutine in a context until it ends or first waits. The extension does it without exceptions.

    Returns:
        Whether it has ended, and its result; or the trap that it has yielded.

    Raises:
        BaseException: the exception of the coroutine.
    """
    try:
        return False, context.run(coroutine.send, None)
    except StopIteration as stop:
        return True, stop.value


#: `python_first_step`, or the same in C.
first_step: Callable[[contextvars.Context, Coroutine[object, object, Value]], tuple[bool, Value]] = (
    python_first_step if extension is None else extension.first_step
)


@types.coroutine
def resume_coroutine(
    coroutine: Coroutine[object, object, Value], trap: object
) -> Generator[object, object, Value]:
    """Continue a coroutine that has yielded ``trap``, as if it had been awaited from its start."""
    while True:
        thrown: BaseException | None = None
        sent = None
        try:
            sent = yield trap
        except BaseException as exc:  # noqa: BLE001 - thrown into the coroutine
            thrown = exc
        try:
            trap = coroutine.send(sent) if thrown is None else coroutine.throw(thrown)
        except StopIteration as stop:
            return stop.value
        finally:
            del thrown
