"""Blocking handlers: a plain function in a worker thread, with a WebSocket whose methods block.

What always holds:

- The WebSocket itself stays with trio. A method here runs the method of the same name there, by
  `trio.from_thread.run`, and waits for it; any thread may call it.
- The calls of a handler end with the handler: when it returns or is cancelled, those under way in other
  threads are cancelled, and all of them raise `ConnectionClosedLocallyError` from then on.
- No thread can be cancelled in Python. A cancelled handler finds out at its next call, or in the one that it
  waits in, and has ``close_timeout`` seconds to come to its end. A thread that is elsewhere for longer is
  left behind, with a line in the log; it keeps its place in the limiter until it ends, and the program ends
  without it.
"""

from __future__ import annotations

import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio
from trio.lowlevel import checkpoint_if_cancelled, enable_ki_protection

from trio_ws.errors import ConnectionClosedError, ConnectionClosedLocallyError
from trio_ws.logs import logger_for, once_a_minute, shown
from trio_ws.server.routing import name_of
from trio_ws.wall import log_failure
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.frame_log import log_extra

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from trio_ws.protocol.http import Headers, Request
    from trio_ws.protocol.tls import TLSInfo
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.message import WebSocketMessage
    from trio_ws.websocket.sending import BytesLike

__all__ = ["BlockingWebSocket", "NoThreadError", "call_in_thread", "run_in_thread"]

logger = logger_for("trio_ws.server")

T = TypeVar("T")


class NoThreadError(Exception):
    """The system gives this process no more threads; it has been logged."""


class BlockingWebSocket:
    """A `WebSocket` for plain functions: what is awaited there, blocks here.

    Servers make it for a handler that is a plain ``def``. Its methods may be called from any thread but
    trio's own; each raises what its namesake raises. Once the handler has ended or was cancelled, all of them
    raise `ConnectionClosedLocallyError`.
    """

    __slots__ = ("_calls", "_ws")

    def __init__(self, ws: WebSocket, calls: _Calls) -> None:
        self._ws = ws
        self._calls = calls

    # -- opening and closing ------------------------------------------------------------------------

    def accept(self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Accept the client. Sending or receiving does it where this was not called."""
        self._calls.run(self._ws.accept, subprotocol, headers)

    def reject(
        self, status: int = 403, headers: Iterable[tuple[str, str]] = (), body: bytes | str = b""
    ) -> None:
        """Refuse the client with an HTTP response."""
        self._calls.run(self._ws.reject, status, headers, body)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a closing handshake, in at most ``close_timeout`` seconds."""
        self._calls.run(self._ws.close, code, reason)

    # -- receiving ----------------------------------------------------------------------------------

    def recv(self, timeout: float | None = None) -> WebSocketMessage | None:
        """Wait for the next message.

        Args:
            timeout: seconds; None, the default, for no limit.

        Returns:
            The message, or None once the peer has closed cleanly.

        Raises:
            ConnectionClosedError: the connection ended in any other way.
            TimeoutError: nothing came in time; nothing is lost by that.
        """
        return self._calls.run_within(timeout, self._ws.recv)

    def receive_text(self, timeout: float | None = None) -> str:
        """Wait for the next message, which must be text. See `WebSocket.receive_text` and `recv`."""
        return self._calls.run_within(timeout, self._ws.receive_text)

    def receive_bytes(self, timeout: float | None = None) -> bytes:
        """Wait for the next message, which must be binary. See `WebSocket.receive_bytes` and `recv`."""
        return self._calls.run_within(timeout, self._ws.receive_bytes)

    @overload
    def receive_json(self, *, timeout: float | None = None) -> Any: ...
    @overload
    def receive_json(self, type: type[T], timeout: float | None = None) -> T: ...
    def receive_json(self, type: Any = Any, timeout: float | None = None) -> Any:
        """Wait for the next message and decode it as JSON. See `WebSocket.receive_json` and `recv`."""
        return self._calls.run_within(timeout, functools.partial(self._ws.receive_json, type))

    def __iter__(self) -> Iterator[WebSocketMessage]:
        """The messages, up to a clean close; any other end raises `ConnectionClosedError`."""
        while (message := self.recv()) is not None:
            yield message

    # -- sending ------------------------------------------------------------------------------------

    def send(self, value: str | BytesLike | WebSocketMessage) -> None:
        """Send one message: ``str`` as text, bytes-like as binary, a `WebSocketMessage` as what it says."""
        self._calls.run(self._ws.send, value)

    def send_text(self, text: str) -> None:
        """Send a text message."""
        self._calls.run(self._ws.send_text, text)

    def send_binary(self, data: BytesLike) -> None:
        """Send a binary message."""
        self._calls.run(self._ws.send_binary, data)

    def send_bytes(self, data: BytesLike) -> None:
        """The same as `send_binary`."""
        self._calls.run(self._ws.send_bytes, data)

    def send_json(self, obj: Any) -> None:
        """Send an object as JSON in a text message."""
        self._calls.run(self._ws.send_json, obj)

    def ping(self, payload: BytesLike | str | None = None) -> float:
        """Send a ping and wait for its pong; seconds there and back."""
        return self._calls.run(self._ws.ping, payload)

    # -- what there is to look at -------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Open for sending and receiving."""
        return self._ws.connected

    @property
    def accepted(self) -> bool:
        """The opening handshake was completed, whatever came after."""
        return self._ws.accepted

    @property
    def closed(self) -> bool:
        """At its end: nothing can come or go any more."""
        return self._ws.closed

    @property
    def close_code(self) -> int | None:
        """The code that describes the end; None before the end begins."""
        return self._ws.close_code

    @property
    def close_reason(self) -> str | None:
        """The text beside `close_code`."""
        return self._ws.close_reason

    @property
    def subprotocol(self) -> str | None:
        """What both sides agreed on, or None."""
        return self._ws.subprotocol

    @property
    def latency(self) -> float | None:
        """Seconds that the last ping took there and back; None before the first."""
        return self._ws.latency

    @property
    def local_address(self) -> Any:
        """This side's socket address, or None where the stream has none."""
        return self._ws.local_address

    @property
    def remote_address(self) -> Any:
        """The peer's socket address, or None where the stream has none."""
        return self._ws.remote_address

    @property
    def client_address(self) -> Any:
        """The client's address, also behind a trusted proxy. See `WebSocket.client_address`."""
        return self._ws.client_address

    @property
    def tls(self) -> TLSInfo | None:
        """What is known of the connection's TLS; None without."""
        return self._ws.tls

    @property
    def request(self) -> Request:
        """The client's opening request."""
        return self._ws.request

    @property
    def path(self) -> str:
        """The request's path, percent-decoded."""
        return self._ws.path

    @property
    def path_params(self) -> dict[str, Any]:
        """What the route's pattern took from the path; empty without a route."""
        return self._ws.path_params

    @property
    def query_string(self) -> str:
        """The request's query as it was sent."""
        return self._ws.query_string

    @property
    def query_params(self) -> dict[str, list[str]]:
        """The request's query, decoded; a name may stand there more than once."""
        return self._ws.query_params

    @property
    def headers(self) -> Headers:
        """All request headers, in order, duplicates kept."""
        return self._ws.headers

    def header(self, name: str, default: str | None = None) -> str | None:
        """The first request header of that name, in any case."""
        return self._ws.header(name, default)

    def __repr__(self) -> str:
        return repr(self._ws).replace("<WebSocket", "<BlockingWebSocket", 1)


class _Calls:
    """The calls of one handler's threads into trio."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._begun = False
        self._ended = False
        # For trio's thread alone.
        self._running: set[trio.CancelScope] = set()
        self._one_ended = Notification()

    def begin(self) -> bool:
        """In the thread: whether the handler is to run at all."""
        with self._lock:
            self._begun = not self._ended
            return self._begun

    def end(self) -> bool:
        """In trio: let all calls raise from now on. Whether the handler has begun."""
        with self._lock:
            self._ended = True
        for scope in self._running:
            scope.cancel()
        return self._begun

    @property
    def ended(self) -> bool:
        return self._ended

    async def wait_all_ended(self) -> None:
        """Wait for the calls under way, which `end` has cancelled."""
        while self._running:
            await self._one_ended.wait()

    def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """In a thread: run an async function of trio's side and wait for it."""
        return self.run_within(None, function, *args)

    def run_within(self, timeout: float | None, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """The same, for at most so many seconds."""
        if self._ended:
            raise _ended_error()  # a loop that takes no exception for an answer costs the others nothing
        try:
            return trio.from_thread.run(self._relay, timeout, function, args, trio_token=self._token)
        except trio.TooSlowError:
            raise TimeoutError(f"nothing came within {timeout} seconds") from None
        except trio.RunFinishedError:
            raise _ended_error() from None

    async def _relay(
        self, seconds: float | None, function: Callable[..., Awaitable[T]], args: tuple[Any, ...]
    ) -> T:
        if self._ended:
            raise _ended_error()
        with trio.CancelScope() as scope:
            self._running.add(scope)
            try:
                if seconds is None:
                    return await function(*args)
                with trio.fail_after(seconds):
                    return await function(*args)
            finally:
                self._running.discard(scope)
                self._one_ended.notify_all()
        raise _ended_error()


def _ended_error() -> ConnectionClosedLocallyError:
    return ConnectionClosedLocallyError(1006, "the handler has ended, or was cancelled with its server")


@enable_ki_protection
async def run_in_thread(
    function: Callable[..., object], ws: WebSocket, limiter: trio.CapacityLimiter, kwargs: Mapping[str, Any]
) -> None:
    """Run a plain function on a WebSocket, in a thread. Raises what it raises.

    Cancelled, it waits up to ``close_timeout`` seconds for the thread, see the module's text.
    """
    await checkpoint_if_cancelled()
    calls = _Calls()
    token = trio.lowlevel.current_trio_token()
    over = trio.Event()

    def work() -> BaseException | None:
        if not calls.begin():
            return None
        try:
            failure = _failure_of(lambda: function(BlockingWebSocket(ws, calls), **kwargs), function)[1]
            # Nobody waits any more for one that was cancelled.
            if failure is not None and calls.ended and not isinstance(failure, ConnectionClosedError):
                text = "the handler of %s failed after it was cancelled"
                log_failure(logger, text, shown(ws.path), exc=failure, extra=log_extra(ws))
            return failure
        finally:
            try:
                token.run_sync_soon(over.set)
            except trio.RunFinishedError:
                pass

    failure: BaseException | None = None
    try:
        failure = await _start_thread(work, limiter)
        if failure is not None:
            raise failure
    finally:
        with trio.CancelScope(shield=True):
            if calls.end():
                with trio.move_on_after(ws._options.close_timeout):
                    await over.wait()
                if not over.is_set():
                    logger.warning(
                        "the blocking handler of %s did not end within close_timeout of being cancelled;"
                        " its thread is left behind",
                        shown(ws.path),
                    )
            await calls.wait_all_ended()
        del failure  # it holds this frame, which would hold it


@enable_ki_protection
async def call_in_thread(function: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Call a plain function in a thread. Cancelled, it leaves the thread behind."""

    work = functools.partial(_failure_of, function, function)
    result: T
    failure: BaseException | None
    result, failure = await _start_thread(work, limiter)
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # as above
    return result


async def _start_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Run what raises nothing in a thread.

    Raises:
        NoThreadError: none can be started.
    """
    try:
        return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
    except RuntimeError as exc:  # of `threading.Thread.start`: what the work itself raises is its result
        if once_a_minute("no thread"):
            logger.error("no thread for a new client, who gets 503 or 1013: %s", exc)  # noqa: TRY400
        raise NoThreadError(str(exc)) from exc


def _failure_of(call: Callable[[], Any], function: object) -> tuple[Any, BaseException | None]:
    """What a call gives, and what it raises.

    An exception that does not let itself be looked at would end trio's thread, and be waited for for ever.
    """
    try:
        result = call()
        _refuse_awaitable(function, result)
    except BaseException as exc:  # noqa: BLE001 - raised by whoever waits for the thread
        return None, exc
    return result, None


def _refuse_awaitable(function: object, result: object) -> None:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"{name_of(function)} is a plain function that gave an awaitable; write async def")
