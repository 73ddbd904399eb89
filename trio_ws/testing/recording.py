"""Recordings of sessions: the messages of a client and a server, with their times.

A recording is a file of JSON lines: a header, and then one event per line. `record` records a session with a
real server, and `Replay` plays the server's part of it (see replaying.py).

Invariants:

- Values whose names look like secrets are never written to the file: those of headers, of the URL's query,
  and of members of JSON and msgpack.
- Recording does not change a session: the recorder only forwards the messages of both sides.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Unpack
from urllib.parse import urlsplit, urlunsplit

import msgspec
import trio

from trio_ws._blocks import block
from trio_ws._nurseries import open_block
from trio_ws._settings import shows_settings_of
from trio_ws.client.config import ConnectSettings, connect_config, header_pairs, is_function
from trio_ws.client.connect import connect
from trio_ws.errors import ConnectionClosedError, ConnectionFailedError, HandshakeRejectedError
from trio_ws.server.wrap import wrap_stream
from trio_ws.testing.link import Link, LinkStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ws._types import Value
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.message import WebSocketMessage

__all__ = ["MASK", "Event", "Header", "Recorder", "mask_secrets", "record"]

#: What takes the place of a secret.
MASK = "***"
_SECRET = (
    r"token|secret|passw|passphrase|api[-_]?key|authorization|signature|credential|cookie|private[-_]?key|jwt"
)
_is_secret = re.compile(_SECRET, re.IGNORECASE).search
_in_json = re.compile(
    rf'("[^"\\]{{0,64}}(?:{_SECRET})[^"\\]{{0,64}}"\s*:\s*)("(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*)',
    re.IGNORECASE,
)
_in_query = re.compile(rf"((?:^|[?&])[^=&]{{0,64}}(?:{_SECRET})[^=&]{{0,64}}=)[^&#]*", re.IGNORECASE)
#: Headers of the opening handshake that the recorder's own connection has.
_OWN_HEADERS = frozenset({"host", "upgrade", "connection", "content-length"})
_KEPT_OF_REJECTIONS = frozenset({"retry-after", "www-authenticate"})

Side = Literal["client", "server"]
Kind = Literal["open", "accept", "reject", "text", "binary", "ping", "pong", "close", "lost"]
Mask = Callable[[str], str]


class Header(msgspec.Struct, omit_defaults=True, tag_field="recording", tag="trio-ws"):
    """The first line of a recording.

    Attributes:
        url: the URL of the server, without secrets.
        date: the time at which the recording began (ISO 8601).
        version: the version of the file format.
    """

    url: str
    date: str = ""
    version: int = 1


class Event(msgspec.Struct, omit_defaults=True):
    """One line of a recording.

    Attributes:
        time: seconds since the recording began.
        connection: the number of the connection, from 1.
        side: the sender.
        kind: ``"open"`` is the client's request, and ``"accept"`` or ``"reject"`` the response. ``"lost"`` is
            the end of a connection without a Close frame.
        data: the text; Base64 of binary data, pings and pongs; the path of the request; the reason of a Close
            frame; or the body of a rejection.
        code: the code of a Close frame, or the status of a rejection.
        subprotocols: the offered subprotocols, or the selected one.
        headers: the headers of the request or of the rejection.
    """

    time: float
    connection: int
    side: Side
    kind: Kind
    data: str = ""
    code: int = 0
    subprotocols: list[str] = []
    headers: list[tuple[str, str]] = []


_encode = msgspec.json.Encoder().encode
_decode_msgpack = msgspec.msgpack.Decoder().decode


def mask_secrets(text: str) -> str:
    """Replace the values of members of JSON, and of a query, whose names look like secrets."""
    return _in_query.sub(rf"\1{MASK}", _in_json.sub(rf'\1"{MASK}"', text))


def _mask_value(value: Value, mask: Mask) -> Value:
    """Mask a value of msgpack."""
    if isinstance(value, dict):
        return {
            key: MASK
            if isinstance(key, str) and _is_secret(key) and not isinstance(item, dict | list)
            else _mask_value(item, mask)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_mask_value(item, mask) for item in value]
    return mask(value) if isinstance(value, str) else value


def _mask_binary(data: bytes, mask: Mask) -> bytes:
    """Mask msgpack, or text that is sent as binary; anything else stays."""
    try:
        value = _decode_msgpack(data)
        if isinstance(value, dict | list):
            masked = _mask_value(value, mask)
            return data if masked == value else msgspec.msgpack.encode(masked)
    except (ValueError, TypeError, RecursionError):
        pass
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    masked_text = mask(text)
    return data if masked_text == text else masked_text.encode()


def _mask_headers(headers: Sequence[tuple[str, str]], mask: Mask) -> list[tuple[str, str]]:
    return [(name, MASK if _is_secret(name) else mask(value)) for name, value in headers]


def masked_url(url: str, mask: Mask = mask_secrets) -> str:
    """Return a URL without its password and secrets."""
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")
    return urlunsplit(
        parts._replace(netloc=f"{MASK}@{netloc[2]}" if netloc[1] else parts.netloc, query=mask(parts.query))
    )


class Recorder:
    """Forwards the messages between clients and a server, and records them.

    Args:
        url: the URL of the server, as for `connect`.
        path: the file, which must not exist. Only its owner can read it.
        mask: applied to each text, after values with names that look like secrets were masked.
        settings: settings of the connections to the server, as for `connect`.

    Raises:
        FileExistsError: the file exists.
    """

    def __init__(
        self,
        url: str,
        path: str | os.PathLike[str],
        mask: Mask | None,
        settings: ConnectSettings,
    ) -> None:
        self._url = url
        self._mask: Mask = mask_secrets if mask is None else lambda text: mask(mask_secrets(text))
        self._settings = settings
        own = settings.get("headers", ())
        if is_function(own):
            raise TypeError("the headers of a recorder cannot be a function; those of its client may")
        self._headers: list[tuple[str, str]] = header_pairs(own)
        self._connections = 0
        self._since = trio.current_time()
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._write(Header(masked_url(url, self._mask), datetime.now(UTC).isoformat(timespec="seconds")))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: Header | Event) -> None:
        # Lines are short and go to the page cache, so a thread would cost more.
        if not self._file.closed:
            self._file.write(_encode(line) + b"\n")
            self._file.flush()

    def note(self, connection: int, side: Side, kind: Kind, data: str | bytes = "", **more: Value) -> None:
        """Record an event that happens now."""
        if isinstance(data, bytes):
            text = base64.b64encode(_mask_binary(data, self._mask)).decode()
        else:
            text = self._mask(data)
        time = round(trio.current_time() - self._since, 6)
        self._write(Event(time, connection, side, kind, text, **more))

    async def relay(self, stream: trio.abc.Stream) -> None:
        """Serve one client on a stream: connect to the server, and pass on all that both say."""
        self._connections += 1
        number = self._connections
        try:
            async with wrap_stream(stream, options=self._settings.get("options")) as client:
                await self._connect(number, client, stream)
        except (ConnectionClosedError, ConnectionFailedError):
            pass  # it is written down

    async def _connect(self, number: int, client: WebSocket, stream: trio.abc.Stream) -> None:
        request = client.request
        headers = [
            (name, value)
            for name, value in request.headers
            if name.lower() not in _OWN_HEADERS and not name.lower().startswith("sec-websocket-")
        ]
        offered = client.offered_subprotocols
        subprotocols = [self._mask(name) for name in offered]
        shown = _mask_headers(headers, self._mask)
        self.note(number, "client", "open", request.target, subprotocols=subprotocols, headers=shown)
        settings: ConnectSettings = {
            **self._settings,
            "headers": [*headers, *self._headers],
            "subprotocols": offered,
        }
        try:
            async with connect(self._url, **settings) as server:
                selected = [] if server.subprotocol is None else [server.subprotocol]
                self.note(number, "server", "accept", subprotocols=selected)
                await client.accept(subprotocol=server.subprotocol)
                await self._pass_on(number, client, server, stream)
        except HandshakeRejectedError as exc:
            body = exc.body.decode(errors="replace")
            kept = [(name, value) for name, value in exc.headers if name.lower() in _KEPT_OF_REJECTIONS]
            self.note(number, "server", "reject", body, code=exc.status, headers=kept)
            await client.reject(exc.status if exc.status < 600 else 502, kept, exc.body)
        except ConnectionFailedError as exc:
            self.note(number, "server", "reject", str(exc), code=502)
            await client.reject(502, (), "the server cannot be reached\n")

    async def _pass_on(
        self, number: int, client: WebSocket, server: WebSocket, stream: trio.abc.Stream
    ) -> None:
        client.on_ping = lambda data: self.note(number, "client", "ping", data)
        server.on_ping = lambda data: self.note(number, "server", "ping", data)

        async def pump(side: Side, source: WebSocket, target: WebSocket) -> None:
            message: WebSocketMessage | None
            while (message := await source.recv(none_when_lost=True)) is not None:
                kind: Kind = "text" if isinstance(message.payload, str) else "binary"
                self.note(number, side, kind, message.payload)
                await target.send(message)
            received = source.close_received
            if received is not None and source.peer_closed_first:
                self.note(number, side, "close", received.reason, code=received.code or 1005)
                code = received.code
                await target.close(code if code not in (None, 1005) else 1000, received.reason)
            elif received is None and source.close_sent is None:
                self.note(number, side, "lost")
                nursery.cancel_scope.cancel()  # or the other direction would be lost too
                await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._guarded, pump, "client", client, server)
            nursery.start_soon(self._guarded, pump, "server", server, client)

    async def _guarded(
        self, pump: Callable[..., Awaitable[None]], side: Side, source: WebSocket, target: WebSocket
    ) -> None:
        try:
            await pump(side, source, target)
        except ConnectionClosedError:
            pass  # the other direction tells of the end of its source


@shows_settings_of(connect_config)
@block("async with trio_ws.testing.record(...) as stream:")
async def record(
    url: str,
    path: str | os.PathLike[str],
    *,
    mask: Mask | None = None,
    **settings: Unpack[ConnectSettings],
) -> AsyncIterator[Callable[[], Awaitable[LinkStream]]]:
    """Record the sessions of a client with a server, for the duration of a block::

        async with trio_ws.testing.record(url, "session.jsonl") as stream:
            async with trio_ws.session(url, stream=stream, on_connection=log_in) as feed: ...

    The client connects to a recorder in memory, which connects to the server and forwards all messages.
    Values of headers, of the query, and of members of JSON and msgpack are masked if their names contain
    ``token``, ``secret``, ``password``, ``apikey``, ``authorization``, ``signature``, ``cookie`` or similar
    words. For secrets elsewhere, such as positional arguments, use ``mask``.

    Args:
        url: the URL of the server, ``ws://`` or ``wss://``.
        path: the file to create.
        mask: called with each text before it is written; returns the text to write. The messages themselves
            are forwarded unchanged. Default: none.
        settings: settings of the connections to the server, as for `trio_ws.connect`.

    Yields:
        An async function for ``stream=`` of `trio_ws.connect`, `trio_ws.session` and others. Each call opens
        another connection of the recording.

    Raises:
        FileExistsError: the file exists.
    """
    recorder = Recorder(url, path, mask, settings)
    try:
        async with open_block() as nursery:

            async def stream() -> LinkStream:
                await trio.lowlevel.checkpoint()
                link = Link()
                nursery.start_soon(recorder.relay, link.server)
                return link.client

            yield stream
    finally:
        recorder.close()
