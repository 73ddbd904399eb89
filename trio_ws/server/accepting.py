"""Accept clients, and read and validate their opening requests.

Invariants: a client that does not complete its request within ``open_timeout`` gets 408 and is disconnected.
A request that is not a WebSocket handshake gets an HTTP response with the reason. No data of a client raises
an exception out of this module.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint, enable_ki_protection, wait_readable

from trio_ws.client.connect import take_socket
from trio_ws.logs import logger_for, shown
from trio_ws.protocol.handshake import around_key, check_upgrade, origin_allowed
from trio_ws.protocol.hosts import host_allowed, host_name, is_local_name, is_not_from_browser
from trio_ws.protocol.http import HTTPError, Request, SharedHead, http_response, with_shared_head
from trio_ws.protocol.proxy_protocol import ProxyHeader
from trio_ws.systems import AF_UNIX
from trio_ws.wall import judged, log_failure
from trio_ws.websocket.sockets import LINK_ERRORS, do_handshake
from trio_ws.websocket.tls import tls_server
from trio_ws.websocket.transport import READ_SIZE, WRITE_SIZE, SocketTransport, StreamTransport, Transport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from trio_ws._types import SocketAddress
    from trio_ws.options import Options
    from trio_ws.protocol.http_parser import RequestReader
    from trio_ws.websocket.runtime import ConnectionRuntime

__all__ = [
    "KnownRequests",
    "accept_forever",
    "answer",
    "check_host",
    "check_request",
    "close_listeners",
    "listening_socket",
    "read_body",
    "read_now",
    "read_proxy_header",
    "read_request",
    "secure",
    "send_response",
]

logger = logger_for("trio_ws.network")

_ACCEPTS_IN_A_ROW = 64
#: Seconds in which another process may take a client.
_OTHERS_FIRST = 0.01
# accept() failed because the client is gone (accept(2)).
_CLIENT_LEFT = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTO",
    )
    if hasattr(errno, name)
)
#: Seconds to wait after accept() has failed for another reason, such as a lack of file descriptors.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
#: Seconds and bytes for which a refused client may continue to send, so that it can read the response:
#: closing a socket with unread bytes resets the connection and loses the response.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 256 * 1024
#: Bytes of a chunked body to parse in one step. Chunks of one byte take a millisecond.
_CHUNKS_STEP = 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Characters of a host to show in the log.
_SHOWN = 60
#: Requests to remember, and the bytes of the longest one.
_MOST_KNOWN = 128
_LONGEST_KNOWN = 1024


def listening_socket(listener: trio.abc.Listener[trio.abc.Stream]) -> socket.socket | None:
    """Return a second handle on the socket of a listener, for `accept_forever`; None if it is not a socket.

    It bypasses trio's layers: accepting through them takes about as long as the whole opening handshake.

    Raises:
        OSError: there is no file descriptor left.
    """
    if not isinstance(listener, trio.SocketListener):
        return None
    inner = listener.socket
    # accept() looks up these properties for each client, which takes a microsecond each.
    constant = {"family": inner.family, "type": inner.type}
    listening_type: type[socket.socket] = type("ListeningSocket", (socket.socket,), constant)
    return listening_type(inner.family, inner.type, inner.proto, fileno=inner.dup().detach())


@enable_ki_protection
async def accept_forever(
    listener: trio.abc.Listener[trio.abc.Stream],
    listening: socket.socket | None,
    on_client: Callable[[socket.socket | trio.abc.Stream, SocketAddress], None],
    exceeds_others: Callable[[], bool] | None = None,
) -> None:
    """Pass every new client to ``on_client``: TCP and Unix ones as a non-blocking socket with its address.

    If accepting fails, it is retried after a growing pause, until the listener is closed.

    Args:
        listener: the listener.
        listening: what `listening_socket` has returned for it. It is closed at the end.
        on_client: called with a socket or a stream, and the address if that is known.
        exceeds_others: whether another process that accepts from this socket should take the next client. It
            has a moment for that.
    """
    if listening is None:
        await _accept_streams(listener, on_client)
        return
    is_tcp = listening.family != AF_UNIX
    with listening as sock:
        sock.setblocking(False)
        failures = 0  # in a row
        while True:
            await wait_readable(sock)
            crowded = exceeds_others is not None and exceeds_others()
            if crowded:
                await trio.sleep(_OTHERS_FIRST)
            for _ in range(_ACCEPTS_IN_A_ROW):
                try:
                    client, address = sock.accept()
                except BlockingIOError:
                    break
                except OSError as exc:
                    if exc.errno in _CLIENT_LEFT:
                        continue
                    failures += 1
                    await _pause(exc, failures)
                    break
                failures = 0
                client.setblocking(False)
                if is_tcp:
                    try:  # suppress() would make an object for each client
                        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    except OSError:
                        pass  # some systems fail after the client has sent a reset
                on_client(client, address)
                if not crowded and exceeds_others is not None and exceeds_others():
                    break


async def _accept_streams(
    listener: trio.abc.Listener[trio.abc.Stream],
    on_client: Callable[[socket.socket | trio.abc.Stream, SocketAddress], None],
) -> None:
    """Like `accept_forever`, for a listener that is not a plain socket and may be the application's own."""
    failures = 0
    while True:
        try:
            stream = await listener.accept()
            if not isinstance(stream, trio.abc.Stream):
                raise TypeError(f"accept() of a listener must return a stream, not {type(stream).__name__}")
            client = take_socket(stream) if isinstance(stream, trio.SocketStream) else stream
        except trio.ClosedResourceError:
            return  # closed by its owner; the server continues with its other listeners
        except BaseException as exc:  # noqa: BLE001 - handled in _pause
            failures += 1
            await _pause(exc, failures)
        else:
            failures = 0
            on_client(client, None)


async def _pause(exc: BaseException, failures: int) -> None:
    """Log that accepting failed, and pause so that other connections can end and free resources."""
    failure = judged(exc)
    if isinstance(failure, OSError):
        logger.error("cannot accept new connections: %s", failure)
    else:
        log_failure(logger, "cannot accept new connections", exc=failure)
    await trio.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (min(failures, 10) - 1)))


async def close_listeners(listeners: Iterable[trio.abc.Listener[trio.abc.Stream]]) -> None:
    """Close all listeners, even if closing one of them raises an exception."""
    for listener in listeners:
        try:
            await listener.aclose()
        except BaseException as exc:  # noqa: BLE001 - classified by judged()
            log_failure(logger, "closing a listener failed", exc=judged(exc))


#: The response to plain HTTP where TLS is expected.
_TLS_EXPECTED = http_response(400, [], b"this port expects TLS; use wss:// or https://\n")


async def secure(
    runtime: ConnectionRuntime,
    client: socket.socket | trio.abc.Stream,
    address: SocketAddress,
    context: ssl.SSLContext | None,
) -> Transport:
    """Return a transport for a new client, with TLS if there is a context.

    Raises:
        OSError, trio.BrokenResourceError, trio.ClosedResourceError: the client left, or TLS failed; the
            stream is closed.
    """
    if context is None:
        if isinstance(client, socket.socket):
            return SocketTransport(client, address)
        transport = StreamTransport(client, runtime.nursery)
        if address is not None:  # given because the stream has no socket to ask
            transport.remote_address = address
        return transport
    stream = tls_server(client, context)
    await do_handshake(stream, _TLS_EXPECTED)
    return StreamTransport(stream, runtime.nursery)


class KnownRequests:
    """Opening requests that a server has accepted, without their keys.

    Fast path: clients with the same program send the same request, except for its key. A known request is not
    parsed, and its syntax, host and origin are not checked again, which saves a tenth of the time of opening
    and closing a connection. All other requests are checked in full.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[bytes, bytes], bool], SharedHead] = {}  # the oldest first

    def get(self, head: bytes, *, loopback: bool) -> Request | None:
        """Return the request if it is known. It shares its head with the others."""
        parts = around_key(head)
        shared = None if parts is None else self._known.get((parts, loopback))
        return None if shared is None else with_shared_head(head, shared)

    def add(self, head: bytes, *, loopback: bool) -> None:
        """Remember a request that was accepted, whose head is a plain GET as it was received."""
        parts = around_key(head)
        if parts is None or len(parts[0]) + len(parts[1]) > _LONGEST_KNOWN:
            return
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[parts, loopback] = SharedHead(*parts, Request(head).path)


def read_now(transport: SocketTransport) -> bytes | None:
    """Return the data that arrived before the client's task runs, usually its request. None without data.

    This saves most clients a wait for the socket, and the timeout around it.

    Raises:
        OSError: the client left.
    """
    try:
        data = transport.recv_now(READ_SIZE)
    except BlockingIOError:
        return None
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, "left without a request")
    return data


async def read_proxy_header(
    client: socket.socket | trio.abc.Stream,
    limit: int,
) -> tuple[str, int] | None:
    """Read the PROXY header of a new client. It precedes everything else, including TLS.

    Args:
        client: a connection of which nothing was read.
        limit: maximum size of the header in bytes.

    Returns:
        The address of the client behind the proxy; None if the proxy speaks for itself or does not know.

    Raises:
        ProxyHeaderError: the data is not a PROXY header.
        OSError, trio.BrokenResourceError, trio.ClosedResourceError: the client left.
    """
    header = ProxyHeader(limit)
    plain = client
    while isinstance(plain, trio.SSLStream):
        plain = plain.transport_stream
    while size := header.needed():
        data = await _receive_some(plain, size)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "left in the middle of its PROXY header")
        header.feed(data)
    return header.source


async def _receive_some(stream: socket.socket | trio.abc.Stream, size: int) -> bytes:
    if isinstance(stream, trio.abc.Stream):
        return bytes(await stream.receive_some(size))
    while True:
        try:
            return stream.recv(size)
        except BlockingIOError:
            await wait_readable(stream)


async def read_request(transport: Transport, reader: RequestReader) -> Request | None:
    """Read an opening request up to its body. Return None if the client left before it sent anything.

    Raises:
        HTTPError: the response to an invalid request.
        OSError, trio.BrokenResourceError, trio.ClosedResourceError: the connection broke.
    """
    while True:
        data = await transport.receive()
        if not data:
            if reader.eof():
                raise HTTPError(400, "the request is incomplete")
            return None
        request = reader.feed(data)
        if request is not None:
            return request


async def read_body(transport: Transport, reader: RequestReader) -> bytes:
    """Read the body of a request, a few chunks at a time.

    Raises:
        HTTPError: the response to an invalid body, or one that is too large.
        OSError, trio.BrokenResourceError: the connection broke.
    """
    if reader.wants_continue:
        rest = memoryview(_CONTINUE)
        while rest:
            rest = rest[await transport.send_some(rest) :]
    data = reader.take_rest()
    while True:
        step = _CHUNKS_STEP if reader.chunked else READ_SIZE
        for start in range(0, len(data), step):
            body = reader.feed_body(data[start : start + step])
            if body is not None:
                return body
            await checkpoint()
        data = await transport.receive()
        if not data:
            raise HTTPError(400, "the request is incomplete")


def check_host(request: Request, options: Options, *, loopback: bool) -> None:
    """Check that a request is for a host that the server accepts.

    Raises:
        HTTPError: the response, if it is not.
    """
    if options.hosts is None and not loopback:
        return
    host = request.host
    if host_allowed(host, options.hosts, loopback=loopback):
        return
    if options.hosts is None and is_local_name(host) and is_not_from_browser(request):
        return
    if options.hosts is None:
        logger.warning(
            "refused a request for host '%s': the server listens on a loopback address;"
            " to allow this host, use Options(hosts=['%s'])",
            shown(host, _SHOWN),
            shown(host_name(host) or "", _SHOWN),
        )
    else:
        logger.warning(
            "refused a request for host '%s', which is not in Options(hosts=...)", shown(host, _SHOWN)
        )
    raise HTTPError(403, "this host is not served here", logged=True)


def check_request(request: Request, options: Options) -> None:
    """Check that a request is a WebSocket handshake from an allowed origin.

    Raises:
        HTTPError: the response, if it is not.
    """
    check_upgrade(request)
    if not origin_allowed(request, options.origins):
        origin = shown(request.header("origin") or "", _SHOWN)
        logger.warning(
            "refused a page from origin '%s'; to allow it, use Options(origins=['%s'])", origin, origin
        )
        raise HTTPError(403, "this origin is not allowed", logged=True)


async def answer(transport: Transport, error: HTTPError, *, head_only: bool = False) -> None:
    """Send an HTTP error and close. Unless head_only, give the client time to read it."""
    response = http_response(error.status, error.headers, error.body, head_only=head_only)
    await send_response(transport, response, _LINGER_SECONDS, linger=error.status != 503)


async def send_response(
    transport: Transport, response: bytes, patience: float, *, linger: bool = True
) -> None:
    """Send an HTTP response and close.

    A client that accepts no byte for 1.25 times ``patience`` seconds loses the rest. With ``linger`` it may
    continue to send for a while, so that it can read the response to a request that was not read completely.
    If cancelled, it closes at once.
    """
    try:
        if not await _send_with_deadline(transport, response, patience):
            return
        transport.end_writing()
        with trio.move_on_after(_LINGER_SECONDS):
            left = _LINGER_BYTES if linger else 0
            while left > 0 and transport.self_reading:
                received = await transport.receive()
                left = left - len(received) if received else 0
    except LINK_ERRORS:
        return  # the client did not wait for the response
    finally:
        transport.close()


async def _send_with_deadline(transport: Transport, response: bytes, patience: float) -> bool:
    """Return whether the whole response was passed to the kernel."""
    if len(response) <= WRITE_SIZE:
        with trio.CancelScope() as scope:
            return await _send_all(transport, response, scope, patience)
        return False
    sent = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_extend_deadline, transport, nursery.cancel_scope, patience)
        sent = await _send_all(transport, response, nursery.cancel_scope, patience)
        nursery.cancel_scope.cancel()
    return sent


async def _send_all(transport: Transport, response: bytes, scope: trio.CancelScope, patience: float) -> bool:
    data = memoryview(response)
    try:
        while data:
            scope.deadline = trio.current_time() + patience
            data = data[await transport.send_some(data) :]
    except LINK_ERRORS:
        return False
    return True


async def _extend_deadline(transport: Transport, scope: trio.CancelScope, patience: float) -> None:
    """Extend the deadline while the client reads from the kernel's buffer. Our writes are too rare."""
    before = transport.delivery()
    while before is not None:
        await trio.sleep(patience / 4)
        now = transport.delivery()
        if now is not None and now.taken > before.taken:
            scope.deadline = trio.current_time() + patience
        before = now
