"""Blocking handlers: plain functions in worker threads, with a WebSocket whose methods block.

Invariants:

- The WebSocket itself stays in trio's thread. A method here runs the method of the same name there, with
  `trio.from_thread.run`, and waits for it. Any thread may call it.
- The calls of a handler end with the handler. When it returns or is cancelled, calls under way in other
  threads are cancelled, and all of them raise `ConnectionClosedLocallyError` from then on.
- Python cannot cancel a thread. A cancelled handler learns of it from its current or next call, and then has
  ``close_timeout`` seconds to return. A thread that takes longer is abandoned and logged. It keeps its token
  of the limiter until it ends, and does not keep the program from exiting.
"""

from __future__ import annotations

import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio
from trio.lowlevel import checkpoint_if_cancelled, enable_ki_protection

from trio_ws._types import ANY_VALUE, PathParameters
from trio_ws.errors import CloseFrame, ConnectionClosedError, ConnectionClosedLocallyError
from trio_ws.logs import logger_for, once_a_minute, shown
from trio_ws.server.routing import name_of
from trio_ws.wall import log_failure
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.internals import options_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from trio_ws._types import PathParameters, SocketAddress, Value
    from trio_ws.protocol.http import Headers, Request
    from trio_ws.protocol.tls import TLSInfo
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.message import BytesLike, WebSocketMessage

__all__ = ["BlockingWebSocket", "NoThreadError", "call_in_thread", "run_in_thread"]

logger = logger_for("trio_ws.server")

T = TypeVar("T")


class NoThreadError(Exception):
    """No thread can be started. The failure has been logged."""


class BlockingWebSocket:
    """A `WebSocket` for plain functions. Its methods block instead of being awaited.

    Servers create it for a handler that is a plain ``def``. Its methods may be called from any thread except
    trio's own, and raise the same errors as those of `WebSocket`. After the handler has ended or was
    cancelled, all of them raise `ConnectionClosedLocallyError`.
    """

    __slots__ = ("_calls", "_ws")

    def __init__(self, ws: WebSocket, calls: _Calls) -> None:
        self._ws = ws
        self._calls = calls

    # -- opening and closing ------------------------------------------------------------------------

    def accept(self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Accept the client. If it is not called, the first send or receive accepts."""
        self._calls.run(self._ws.accept, subprotocol, headers)

    def reject(
        self, status: int = 403, headers: Iterable[tuple[str, str]] = (), body: bytes | str = b""
    ) -> None:
        """Refuse the client with an HTTP response."""
        self._calls.run(self._ws.reject, status, headers, body)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a closing handshake, within ``close_timeout`` seconds."""
        self._calls.run(self._ws.close, code, reason)

    # -- receiving ----------------------------------------------------------------------------------

    def recv(self, timeout: float | None = None, *, none_when_lost: bool = False) -> WebSocketMessage | None:
        """Wait for the next message.

        Args:
            timeout: seconds; None, the default, means no limit.
            none_when_lost: return None after any end of the connection, as `WebSocket.recv` does, and after
                the handler was cancelled, so that code after a loop always runs. Default False.

        Returns:
            The message, or None once the peer has closed cleanly.

        Raises:
            ConnectionClosedError: the connection ended in any other way.
            TimeoutError: no message arrived in time; none is lost.
        """
        try:
            return self._calls.run_within(timeout, self._ws.recv)
        except ConnectionClosedError:
            if not none_when_lost:
                raise
            return None

    def receive_text(self, timeout: float | None = None) -> str:
        """Wait for the next message, which must be text. See `WebSocket.receive_text` and `recv`."""
        return self._calls.run_within(timeout, self._ws.receive_text)

    def receive_bytes(self, timeout: float | None = None) -> bytes:
        """Wait for the next message, which must be binary. See `WebSocket.receive_bytes` and `recv`."""
        return self._calls.run_within(timeout, self._ws.receive_bytes)

    @overload
    def receive_json(self, *, timeout: float | None = None) -> Value: ...
    @overload
    def receive_json(self, type: type[T], timeout: float | None = None) -> T: ...
    def receive_json(self, type: Any = ANY_VALUE, timeout: float | None = None) -> Value:
        """Wait for the next message and decode it as JSON. See `WebSocket.receive_json` and `recv`."""
        return self._calls.run_within(timeout, functools.partial(self._ws.receive_json, type))

    def __iter__(self) -> Iterator[WebSocketMessage]:
        """Iterate over messages until the peer closes cleanly; otherwise raise `ConnectionClosedError`."""
        while (message := self.recv()) is not None:
            yield message

    # -- sending ------------------------------------------------------------------------------------

    def send(self, value: str | BytesLike | WebSocketMessage, *, text: bool = False) -> None:
        """Send ``str`` as a text message, bytes-like as a binary one, or a `WebSocketMessage`.

        With ``text``, bytes-like is sent as text; it must be UTF-8.
        """
        self._calls.run(functools.partial(self._ws.send, value, text=text))

    def send_text(self, text: str) -> None:
        """Send a text message."""
        self._calls.run(self._ws.send_text, text)

    def send_binary(self, data: BytesLike) -> None:
        """Send a binary message."""
        self._calls.run(self._ws.send_binary, data)

    def send_bytes(self, data: BytesLike) -> None:
        """Alias of `send_binary`."""
        self._calls.run(self._ws.send_bytes, data)

    def send_json(self, obj: Value) -> None:
        """Send an object as JSON in a text message."""
        self._calls.run(self._ws.send_json, obj)

    def ping(self, payload: BytesLike | str | None = None) -> float:
        """Send a ping, wait for its pong, and return the round-trip time in seconds."""
        return self._calls.run(self._ws.ping, payload)

    # -- attributes ---------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether messages can be sent and received."""
        return self._ws.connected

    @property
    def accepted(self) -> bool:
        """Whether the opening handshake was completed, even if the connection has ended since."""
        return self._ws.accepted

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._ws.closed

    @property
    def close_code(self) -> int | None:
        """The close code, or None while the connection is open."""
        return self._ws.close_code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with `close_code`."""
        return self._ws.close_reason

    @property
    def close_sent(self) -> CloseFrame | None:
        """The Close frame that this side has sent, or None."""
        return self._ws.close_sent

    @property
    def close_received(self) -> CloseFrame | None:
        """The Close frame that the peer has sent, or None."""
        return self._ws.close_received

    @property
    def peer_closed_first(self) -> bool:
        """Whether the peer started the closing handshake."""
        return self._ws.peer_closed_first

    @property
    def offered_subprotocols(self) -> list[str]:
        """The valid subprotocols that the client offers, most preferred first."""
        return self._ws.offered_subprotocols

    @property
    def offered_extensions(self) -> list[str]:
        """The extensions that the client offers, each with its parameters."""
        return self._ws.offered_extensions

    @property
    def extensions(self) -> list[str]:
        """The negotiated extensions, each with its parameters."""
        return self._ws.extensions

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait to be written."""
        return self._ws.buffered_bytes

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, or None."""
        return self._ws.subprotocol

    @property
    def latency(self) -> float | None:
        """Round-trip time of the last ping in seconds, or None before the first."""
        return self._ws.latency

    @property
    def local_address(self) -> SocketAddress:
        """The local socket address, or None if the stream has none."""
        return self._ws.local_address

    @property
    def remote_address(self) -> SocketAddress:
        """The peer's socket address, or None if the stream has none."""
        return self._ws.remote_address

    @property
    def client_address(self) -> SocketAddress:
        """The client's address, also behind a trusted proxy. See `WebSocket.client_address`."""
        return self._ws.client_address

    @property
    def tls(self) -> TLSInfo | None:
        """Properties of the TLS connection, or None without TLS."""
        return self._ws.tls

    @property
    def request(self) -> Request:
        """The client's opening request."""
        return self._ws.request

    @property
    def path(self) -> str:
        """The path of the request, percent-decoded."""
        return self._ws.path

    @property
    def path_params(self) -> PathParameters:
        """The path parameters of the route, or an empty dict without a route."""
        return self._ws.path_params

    @property
    def query_string(self) -> str:
        """The query string of the request, as it was sent."""
        return self._ws.query_string

    @property
    def query_params(self) -> dict[str, list[str]]:
        """The decoded query parameters. A name may have several values."""
        return self._ws.query_params

    @property
    def headers(self) -> Headers:
        """All request headers in order, duplicates included."""
        return self._ws.headers

    @property
    def cookies(self) -> dict[str, str]:
        """The request's cookies by name."""
        return self._ws.cookies

    def header(self, name: str, default: str | None = None) -> str | None:
        """Return the first request header of that name, in any case, or the default."""
        return self._ws.header(name, default)

    def __repr__(self) -> str:
        return repr(self._ws).replace("<WebSocket", "<BlockingWebSocket", 1)


class _Calls:
    """The calls into trio from the threads of one handler."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._begun = False
        self._ended = False
        # Used by trio's thread only.
        self._running: set[trio.CancelScope] = set()
        self._one_ended = Notification()

    def begin(self) -> bool:
        """Called in the thread: return whether the handler should run at all."""
        with self._lock:
            self._begun = not self._ended
            return self._begun

    def end(self) -> bool:
        """Called in trio: make all calls raise from now on, and return whether the handler has begun."""
        with self._lock:
            self._ended = True
        for scope in self._running:
            scope.cancel()
        return self._begun

    @property
    def ended(self) -> bool:
        return self._ended

    async def wait_all_ended(self) -> None:
        """Wait for the calls that `end` has cancelled."""
        while self._running:
            await self._one_ended.wait()

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Called in a thread: run an async function in trio and wait for it."""
        return self.run_within(None, function, *args)

    def run_within(self, timeout: float | None, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Like `run`, with a timeout in seconds."""
        if self._ended:
            raise _ended_error()  # cheap, for a loop that ignores exceptions
        try:
            return trio.from_thread.run(self._relay, timeout, function, args, trio_token=self._token)
        except trio.TooSlowError:
            raise TimeoutError(f"no message arrived within {timeout} seconds") from None
        except trio.RunFinishedError:
            raise _ended_error() from None

    async def _relay(
        self, seconds: float | None, function: Callable[..., Awaitable[T]], args: tuple[object, ...]
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
    function: Callable[..., object], ws: WebSocket, limiter: trio.CapacityLimiter, kwargs: PathParameters
) -> None:
    """Run a plain function on a WebSocket in a thread, and raise its exception.

    If cancelled, it waits up to ``close_timeout`` seconds for the thread. See the module docstring.
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
            # The caller was cancelled, so the exception can only be logged.
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
                with trio.move_on_after(options_of(ws).close_timeout):
                    await over.wait()
                if not over.is_set():
                    logger.warning(
                        "the blocking handler of %s did not return within close_timeout of being cancelled;"
                        " its thread is abandoned",
                        shown(ws.path),
                    )
            await calls.wait_all_ended()
        del failure  # break the traceback/frame reference cycle


@enable_ki_protection
async def call_in_thread(function: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Call a plain function in a thread. If cancelled, it abandons the thread."""

    work = functools.partial(_failure_of, function, function)
    result: T
    failure: BaseException | None
    result, failure = await _start_thread(work, limiter)
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # as in run_in_thread()
    return result


async def _start_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Run a function that never raises in a thread.

    Raises:
        NoThreadError: no thread can be started.
    """
    try:
        return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
    except RuntimeError as exc:  # from `threading.Thread.start`; the function itself never raises
        if once_a_minute("no thread"):
            logger.error("cannot start a thread; new clients get 503 or 1013: %s", exc)  # noqa: TRY400
        raise NoThreadError(str(exc)) from exc


def _failure_of(call: Callable[[], T], function: object) -> tuple[T | Any, BaseException | None]:
    """Call a function, and return its result and its exception.

    An exception that cannot be inspected would kill trio's thread, and the caller would wait forever.
    """
    try:
        result = call()
        _refuse_awaitable(function, result)
    except BaseException as exc:  # noqa: BLE001 - raised again in the task that waits for the thread
        return None, exc
    return result, None


def _refuse_awaitable(function: object, result: object) -> None:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"{name_of(function)} is a plain function that returned an awaitable; use async def")
