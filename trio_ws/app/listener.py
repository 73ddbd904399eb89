"""Message listeners: a function of one message, called for each message of a connection.

A plain WebSocket handler is a loop in its own task, which wakes for each message. A listener is called in the
task that has read the message, like an RPC method (see rpc/inline_call.py). An idle connection therefore
needs no task, and a message needs no switch of tasks. The shared reader (see websocket/epoll_reader.py) calls
`ListenerSession.data_received`, or `ListenerSession.message_received` where it has read one message; the
extension does the latter itself in the common case (see websocket/single_messages.py). For connections that
the shared reader does not read, and while a message waits, a task runs `ListenerSession._loop` instead.

Invariants:

- The messages of one connection are handled one after the other, in the order in which they arrived.
- While ``send_high_water`` bytes wait to be written, no message is handled. Messages that arrive meanwhile
  are stored in the receive buffer, which stops the reading at ``max_queue_bytes``.
- No context variable passes from one message to the next.
- The listener is not running any more when ``on_disconnect`` is called.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from trio.lowlevel import checkpoint, current_task, disable_ki_protection, enable_ki_protection

from trio_ws.decoding import UNDECODABLE, decode_json
from trio_ws.errors import CloseConnection, ConnectionClosedError, MessageError
from trio_ws.logs import logger_for, shown
from trio_ws.models import decode_model, encode_model
from trio_ws.protocol.frames import BINARY, FIN, TEXT
from trio_ws.protocol.masking import extension
from trio_ws.rpc.detached import DETACHED
from trio_ws.rpc.inline_call import first_step, resume_coroutine
from trio_ws.rpc.methods import allow_keyboard_interrupt
from trio_ws.rpc.parameters import resolve
from trio_ws.rpc.task_pool import PooledTask
from trio_ws.server.routing import Pattern, check_function, is_async, name_of
from trio_ws.wall import close_nurseries, is_cancelled, is_innermost, only_cancelled
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.closing import CLOSED, CONNECTING, OPEN
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.internals import (
    accept_now,
    is_fragmenting,
    message_waiter,
    options_of,
    parts_of,
    post,
    reader_of,
    send,
    wait_for_room,
)
from trio_ws.websocket.message import BytesLike, WebSocketMessage, whole_message
from trio_ws.websocket.transport import SEND_SIZE
from trio_ws.websocket.write_buffer import LARGE, buffer_frame

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable, Coroutine

    from trio_ws._types import PathParameters, Value
    from trio_ws.decoding import JSONAdapter
    from trio_ws.rpc.detached import Detached, FinishSoon
    from trio_ws.rpc.task_pool import TaskPool
    from trio_ws.websocket.connection import WebSocket

    Hook = Callable[[WebSocket], Awaitable[object]]
    # A message that waits: its coroutine, the trap that it has yielded, and its context.
    Suspended = tuple[Coroutine[object, object, object], object, contextvars.Context]

__all__ = ["MessageListener"]

logger = logger_for("trio_ws.app")

#: Bytes of messages after which other tasks run, and the bytes that each message counts in addition to its
#: own: 64 small messages, or four of 64 KiB.
_YIELD_EVERY = 256 * 1024
_MESSAGE_COST = 4096

_FINAL_TEXT = FIN | TEXT
_FINAL_BINARY = FIN | BINARY
#: Annotations of messages that are passed undecoded, with the types of their payloads.
_RAW: dict[object, tuple[type, ...]] = {str: (str,), bytes: (bytes,), str | bytes: (str, bytes)}

#: Exceptions that decoding the data of a message may raise.
_INVALID = (MessageError, *UNDECODABLE)

_encode_json = msgspec.json.Encoder(enc_hook=encode_model).encode


class MessageListener:
    """A function that is called for each message, with its types. Made by ``App.listener``.

    Args:
        function: called with the `WebSocket` and the data of a message; ``async`` or not.
        pattern: the path of its route.
        json: encodes and decodes JSON instead of msgspec, which then only validates.
        on_connect: awaited with the WebSocket before the client is accepted.
        on_disconnect: awaited with the WebSocket when the connection is over.

    Raises:
        TypeError: a function has an unsuitable signature, or the data an unsuitable annotation.

    Attributes:
        wanted: path parameters to pass as keyword arguments.
        raw: types of payloads that are the data as they are.
        convert: makes the data of any other payload. It raises MessageError.
    """

    __slots__ = (
        "_encode",
        "_json",
        "_type",
        "convert",
        "function",
        "is_async",
        "on_connect",
        "on_disconnect",
        "raw",
        "wanted",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        pattern: Pattern,
        json: JSONAdapter | None,
        on_connect: Hook | None,
        on_disconnect: Hook | None,
    ) -> None:
        self.wanted = check_function(function, "WebSocket", pattern, second="data")
        self.function = function
        self.is_async = is_async(function)
        self.on_connect = _checked_hook("on_connect", on_connect)
        self.on_disconnect = _checked_hook("on_disconnect", on_disconnect)
        self._json = json
        self._encode = _encode_json if json is None else json.encode
        self._type = self._data_type()
        plain = not isinstance(self._type, list | dict)  # which have no hash
        self.raw: tuple[type, ...] = _RAW.get(self._type, ()) if plain else ()
        self.convert = self._converter()
        allow_keyboard_interrupt(function)

    def _data_type(self) -> object:
        inner = inspect.unwrap(self.function)
        while isinstance(inner, functools.partial):
            inner = inner.func
        parameter = list(inspect.signature(self.function).parameters.values())[1]
        found = inner if inspect.isfunction(inner) else getattr(inner, "__func__", None)
        where = f"the annotation of {parameter.name!r} of the listener {name_of(self.function)}"
        return resolve(where, parameter.annotation, found, {})

    def _converter(self) -> Callable[[str | bytes], Value]:
        if self._type is WebSocketMessage:
            return _as_message
        if self.raw:
            return _refuse_kind
        if self._json is not None:
            return functools.partial(_decode_adapted, self._json, self._type)
        try:
            return msgspec.json.Decoder(self._type, dec_hook=decode_model).decode
        except TypeError as exc:
            raise TypeError(f"the data of the listener {name_of(self.function)}: {exc}") from exc

    def refusal(self, item: str | bytes, exc: BaseException) -> CloseConnection | None:
        """Return the exception that closes the connection after invalid data; None for another error."""
        if isinstance(exc, MessageError):
            return CloseConnection(exc.close_code or 1007, shown(str(exc), 100))
        try:
            decode_json("message", item, self._type, item)
        except MessageError as error:
            return CloseConnection(1007, shown(str(error), 100))
        except Exception:  # noqa: BLE001 - the type's own code fails in another way this time
            return None
        return None

    def encode(self, result: Value) -> tuple[int, bytes]:
        """Return the opcode and the payload of a result. Raises the exceptions of the encoder."""
        if isinstance(result, str | BytesLike | WebSocketMessage):
            return whole_message(result, "a listener")
        return TEXT, self._encode(result)

    # -- called by the server -----------------------------------------------------------------------

    @enable_ki_protection
    async def serve(
        self,
        ws: WebSocket,
        pool: TaskPool,
        arguments: PathParameters,
        finish_soon: FinishSoon | None = None,
    ) -> object:
        """Serve one connection. With ``finish_soon`` it may stay open without this task, see `DETACHED`."""
        closing, reader = parts_of(ws)[:2]
        reader.inline = finish_soon is not None
        if self.on_connect is not None:
            await _run_user(self.on_connect, ws)
        if not ws.accepted and closing.state != CONNECTING:
            return None  # on_connect has refused the client
        over = True
        try:
            if closing.state == CONNECTING:
                await ws.accept()
            await reader.settled()
            when_over = None if finish_soon is None else finish_soon.detached(self)
            context = current_task().context if when_over is None else when_over.context
            session = ListenerSession(self, ws, pool, arguments, context)
            over = await session.run(when_over)
        finally:
            if over:
                await self._run_on_disconnect(ws)
        return None if over else DETACHED

    def begin(
        self, ws: WebSocket, pool: TaskPool, arguments: PathParameters, finish_soon: FinishSoon
    ) -> bool:
        """Accept a client without a task, and let the shared reader handle its messages.

        Fast path: most connections need no task, and the coroutines and scopes of one that serves a client
        take a tenth of opening and closing a connection. ``on_connect`` must be None.

        Returns:
            False if the connection needs a task. Then call `serve`.
        """
        reader_of(ws).inline = True
        try:
            accept_now(ws)
        except ConnectionClosedError:
            return False  # it ends there
        when_over = finish_soon.detached(self)
        return ListenerSession(self, ws, pool, arguments, when_over.context).begin(when_over)

    @enable_ki_protection
    async def _finish(self, session: ListenerSession, ws: WebSocket) -> None:
        """Finish a connection that has left its task."""
        try:
            await session.finish()
        finally:
            await self._run_on_disconnect(ws)

    async def _run_on_disconnect(self, ws: WebSocket) -> None:
        if self.on_disconnect is None:
            return
        with trio.move_on_after(options_of(ws).close_timeout, shield=True) as scope:
            await _run_user(self.on_disconnect, ws)
        if scope.cancelled_caught:
            logger.warning("on_disconnect of %r took more than close_timeout", ws, extra=log_extra(ws))


class ListenerSession:
    """One connection of a listener: a `ConnectionObserver`. See the module docstring."""

    __slots__ = (
        "_arguments",
        "_closing",
        "_context",
        "_detached",
        "_done",
        "_failure",
        "_handshake",
        "_listener",
        "_over",
        "_pool",
        "_reader",
        "_receive_buffer",
        "_when_over",
        "_worker",
        "_write_buffer",
        "_ws",
        "reader_driven",
    )

    def __init__(
        self,
        listener: MessageListener,
        ws: WebSocket,
        pool: TaskPool,
        arguments: PathParameters,
        context: contextvars.Context,
    ) -> None:
        self._listener = listener
        self._ws = ws
        parts = parts_of(ws)
        self._handshake, self._reader = parts.closing, parts.reader
        self._receive_buffer, self._write_buffer = parts.receive_buffer, parts.write_buffer
        self._pool = pool
        self._arguments = arguments
        self._context = context  # each message runs in a copy
        self._worker: PooledTask | None = None  # the task in which a message waits
        self._done: Notification | None = None  # notified when no message waits; created when it is needed
        self._over = False
        self._failure: BaseException | None = None
        self._closing: tuple[int, str] | None = None  # to close with, once no message waits
        self.reader_driven = False
        self._detached = False  # the connection has left the task of run()
        self._when_over: Detached | None = None

    # -- life ---------------------------------------------------------------------------------------

    def begin(self, when_over: Detached) -> bool:
        """Handle messages in the shared reader, if it reads and no message has arrived.

        Args:
            when_over: called when the connection is over. Then `finish` must be awaited, unless nothing is
                left to do.

        Returns:
            Whether that is so. Otherwise nothing was done.
        """
        self._when_over = when_over
        if self._receive_buffer.messages or not self._delegate():
            return False
        self._reader.observer = self
        return True

    async def run(self, when_over: Detached | None) -> bool:
        """Handle messages until the connection is over.

        Args:
            when_over: as for `begin`, if this may return as soon as the shared reader reads.

        Returns:
            Whether the connection is over.

        Raises:
            BaseException: the exception of the listener.
        """
        if when_over is not None and self.begin(when_over):
            return False
        self._reader.observer = self
        own = PooledTask(current_task())
        try:
            with own.scope:
                try:
                    await self._loop(own)
                finally:
                    await close_nurseries("a listener")
        finally:
            if not self._detached:
                await self.finish()
        return not self._detached

    async def finish(self) -> None:
        """Wait until the listener has ended. Raises as `run` does."""
        self._over = True
        try:
            while self._worker is not None:
                self._done = self._done or Notification()
                await self._done.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                while self._worker is not None:
                    self._worker.scope.cancel()
                    self._done = self._done or Notification()
                    await self._done.wait()
            raise
        finally:
            self._reader.observer = None
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                self._failure = None  # break the cycle of its traceback and this frame

    def _end(self, failure: BaseException | None = None) -> None:
        """Handle no more messages."""
        self._failure = self._failure or failure
        self._over = True
        self.reader_driven = False
        when_over, self._when_over = self._when_over, None
        if when_over is not None and self._detached:
            when_over(self._ws, self)

    # -- called by the connection -------------------------------------------------------------------

    def message_received(self, message: str | bytes, lent: PooledTask) -> Awaitable[None] | None:
        """Handle the only message that the shared reader has read, in its task."""
        write_buffer = self._write_buffer
        if write_buffer.size >= write_buffer.fast_send_limit:
            self._receive_buffer.keep(message)
            return self.data_received(lent)
        self.reader_driven = False
        suspended = self._handle_one(message)
        return self._settle(lent) if suspended is None else self._loop(lent, suspended)

    def _settle(self, lent: PooledTask) -> Awaitable[None] | None:
        """After the only message: let the shared reader continue, or a task if that must not."""
        if not self._over:
            # As in data_received(), but nothing can have arrived meanwhile.
            write_buffer = self._write_buffer
            if self._handshake.state != OPEN:
                self.continue_in_task()
            else:
                if write_buffer.flush_scheduled:
                    write_buffer.flush()
                self.reader_driven = True
        return close_nurseries("a listener") if lent.task.child_nurseries else None

    def _conclude(
        self, lent: PooledTask, result: Value, failure: BaseException | None
    ) -> Awaitable[None] | None:
        """Do the rest of `message_received` for a message that the extension has passed to the listener.

        Args:
            lent: the task of the shared reader.
            result: to be sent; None if there is none, or if it was sent already.
            failure: the exception of the listener.
        """
        if failure is not None:
            self._end(failure)
        elif result is not None:
            self._reply(result)
        return self._settle(lent)

    def data_received(self, lent: PooledTask) -> Awaitable[None] | None:
        """Handle the messages that the shared reader has read, in its task. Then the reader continues."""
        if not self.reader_driven:
            return None
        self.reader_driven = False
        suspended = self._handle()
        if suspended is not None:
            return self._loop(lent, suspended)
        if not self._over and not self._delegate():
            self.continue_in_task()
        return close_nurseries("a listener") if lent.task.child_nurseries else None

    def continue_in_task(self) -> None:
        """Handle messages in a task, until the shared reader continues."""
        self.reader_driven = False
        self._pool.start(self._loop)

    def state_changed(self) -> None:
        """Handle the start of a close. A task handles the earlier messages, because they may wait."""
        if self.reader_driven and self._receive_buffer.messages:
            self.continue_in_task()

    def connection_lost(self) -> None:
        """Handle the end of the transport. Messages before the peer's Close frame are still handled."""
        ws = self._ws
        waits = self._worker is not None or self._receive_buffer.messages
        if waits and ws.close_received is not None and not self._handshake.closed_locally:
            self.state_changed()
            return
        if self.reader_driven and self._when_over is not None and self._listener.on_disconnect is None:
            # No message is being handled: the connection needs no task for its end.
            when_over, self._when_over = self._when_over, None
            self._end()
            self._reader.observer = None
            when_over.finish(ws)
            return
        self._end()
        if self._worker is not None:
            self._worker.scope.cancel()

    def shutdown(self, code: int, reason: str) -> None:
        """Close because the server stops, after the current message."""
        if self._worker is None:
            self._handshake.start(code, reason)
        else:
            self._closing = (code, reason)

    # -- handling messages --------------------------------------------------------------------------

    def _delegate(self) -> bool:
        """Let the shared reader continue, if it reads this connection and no message or close is pending."""
        buffer = self._receive_buffer
        if self._when_over is None or buffer.messages or not self._reader.is_undisturbed(self._pool):
            return False
        buffer.release()
        if self._write_buffer.flush_scheduled:
            self._write_buffer.flush()
        self.reader_driven = self._detached = True
        return True

    async def _loop(self, worker: PooledTask, suspended: Suspended | None = None) -> None:
        """Handle messages until the shared reader continues, or until the connection has ended."""
        ws = self._ws
        wait_for_message = message_waiter(ws)
        try:
            while True:
                if suspended is None:
                    suspended = self._handle()
                if suspended is not None:
                    going_on, suspended = suspended, None
                    await self._wait(worker, going_on)
                    del going_on
                if worker.task.child_nurseries:
                    await close_nurseries("a listener")
                if self._over:
                    return
                if not is_innermost(worker.scope):
                    raise RuntimeError("the listener left a cancel scope open")
                if self._receive_buffer.messages:
                    if self._has_no_room:
                        await wait_for_room(ws)
                    else:
                        await checkpoint()  # let other tasks run
                elif self._delegate():
                    return
                elif not await wait_for_message():
                    break
            self._end()
        except ConnectionClosedError:
            self._end()
        except trio.Cancelled:
            # By a cancel scope that the listener has left open, unless a Close frame was sent already.
            self._handshake.start(1011, "internal error")
            self._end()
            raise
        except Exception as exc:  # noqa: BLE001 - raised by run() or finish()
            self._end(exc)

    @property
    def _has_no_room(self) -> bool:
        ws = self._ws
        return (
            self._write_buffer.size >= options_of(ws).send_high_water or is_fragmenting(ws)
        ) and self._handshake.state != CLOSED

    def _handle(self) -> Suspended | None:
        """Handle messages up to one that has to wait, or until other tasks should run."""
        messages, write_buffer = self._receive_buffer.messages, self._write_buffer
        work = _YIELD_EVERY
        while messages and work > 0 and not self._over:
            if write_buffer.size >= write_buffer.fast_send_limit and self._has_no_room:
                break
            message = messages.popleft()
            work -= _MESSAGE_COST + len(message)
            suspended = self._handle_one(message)
            if suspended is not None:
                return suspended
        return None

    def _handle_one(self, message: str | bytes) -> Suspended | None:
        """Call the listener, and run it until it ends or first waits."""
        listener = self._listener
        data: Value
        if type(message) in listener.raw:
            data = message
        else:
            try:
                data = listener.convert(message)
            except _INVALID as exc:
                refusal = listener.refusal(message, exc)
                if refusal is not None:
                    logger.info("closing %r: %s", self._ws, refusal.reason, extra=log_extra(self._ws))
                self._end(refusal or exc)
                return None
            except BaseException as exc:  # noqa: BLE001 - of the type's own code; raised by run() or finish()
                self._end(exc)
                return None
        context = self._context.copy()
        try:
            if listener.is_async:
                coroutine = listener.function(self._ws, data, **self._arguments)
                ended, result = first_step(context, coroutine)
                if not ended:
                    return coroutine, result, context
            else:
                result = context.run(listener.function, self._ws, data, **self._arguments)
        except BaseException as exc:  # noqa: BLE001 - raised by run() or finish()
            self._end(exc)
        else:
            if result is not None:
                self._reply(result)
        return None

    async def _wait(self, worker: PooledTask, suspended: Suspended) -> None:
        """Continue a message that waits, in this task."""
        coroutine, trap, context = suspended
        own_context, worker.task.context = worker.task.context, context
        self._worker = worker
        try:
            result = await resume_coroutine(coroutine, trap)
            if result is not None:
                opcode, payload = self._listener.encode(result)
                await send(self._ws, opcode, payload)
        except BaseException as exc:
            if only_cancelled(exc) and (worker.scope.cancel_called or is_cancelled()):
                raise
            self._end(exc)
        finally:
            worker.task.context = own_context
            self._worker = None
            if self._done is not None:
                self._done.notify_all()
            if self._closing is not None:
                self._handshake.start(*self._closing)

    def _reply(self, result: Value) -> None:
        """Send a result without waiting, together with those for the messages that have arrived already."""
        try:
            if type(result) is bytes:
                first, payload = _FINAL_BINARY, result
            elif type(result) is str:
                first, payload = _FINAL_TEXT, result.encode()
            else:
                opcode, payload = self._listener.encode(result)
                first = FIN | opcode
            write_buffer = self._write_buffer
            if write_buffer.size >= write_buffer.fast_send_limit or len(payload) >= SEND_SIZE:
                post(self._ws, first & ~FIN, payload, cork=bool(self._receive_buffer.messages))
            # Otherwise it is the common case of post(): a server's open, uncompressed connection.
            elif self._receive_buffer.messages and len(payload) < LARGE:
                buffer_frame(write_buffer, first, payload)
            else:
                write_buffer.write_frame(first, payload)
        except BaseException as exc:  # noqa: BLE001 - raised by run() or finish()
            self._end(exc)


@disable_ki_protection
async def _run_user(function: Hook, ws: WebSocket) -> None:
    """Run a hook, which Ctrl+C may interrupt anywhere."""
    await function(ws)


def _checked_hook(name: str, hook: Hook | None) -> Hook | None:
    if hook is not None:
        check_function(hook, "WebSocket")
        if not is_async(hook):
            raise TypeError(f"{name} of a listener must be an async function, not {name_of(hook)}")
    return hook


def _as_message(item: str | bytes) -> WebSocketMessage:
    return WebSocketMessage("text" if type(item) is str else "binary", item)


def _refuse_kind(item: str | bytes) -> str | bytes:
    text = "text and must be binary" if type(item) is str else "binary and must be text"
    error = MessageError(f"the message is {text}", _as_message(item))
    error.close_code = 1003
    raise error


def _decode_adapted(adapter: JSONAdapter, type: object, item: str | bytes) -> Value:
    return decode_json("message", item, type, item, adapter)


if extension is not None and hasattr(extension, "watch_listener"):  # only on Linux
    # See handle_single_messages in websocket/single_messages.py.
    extension.watch_listener(ListenerSession, MessageListener)
