"""A client of WebSockets over HTTP/2 (RFC 8441): h2 handles the streams, and wsproto the frames."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import h2.connection
import h2.events
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from wsproto.events import Event

__all__ = ["HTTP2", "Stream2", "connect_http2"]


class Stream2:
    """One request of a connection, which may become a WebSocket."""

    def __init__(self, connection: HTTP2, number: int) -> None:
        self._connection = connection
        self._frames = Connection(ConnectionType.CLIENT)
        self.number = number
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False

    async def answer(self) -> int:
        """Wait for the head of the response, and return its status."""
        while not self.status:
            await self._connection.read()
        return self.status

    async def end(self) -> bytes:
        """Wait for the end of the response, and return its body."""
        while not self.ended:
            await self._connection.read()
        return self.body

    async def send(self, event: Event) -> None:
        """Send a message or a Close frame."""
        data = self._frames.send(event)
        await self._connection.send_data(self.number, data)

    async def receive(self) -> Event:
        """Return the next whole message, or a Close frame."""
        text, binary = "", b""
        while True:
            data, self.body = self.body, b""
            if data:
                self._frames.receive_data(data)
            for event in self._frames.events():
                if isinstance(event, TextMessage):
                    text += event.data
                    if event.message_finished:
                        return TextMessage(data=text)
                elif isinstance(event, BytesMessage):
                    binary += event.data
                    if event.message_finished:
                        return BytesMessage(data=binary)
                elif isinstance(event, CloseConnection):
                    return event
            assert not self.ended, "the stream ended without a Close frame"
            await self._connection.read()


class HTTP2:
    """A client's HTTP/2 connection over cleartext, with prior knowledge. One task reads at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._h2 = h2.connection.H2Connection()
        self._streams: dict[int, Stream2] = {}
        self._settled = False

    async def start(self) -> None:
        """Exchange settings; the server must allow extended CONNECT (RFC 8441 section 3)."""
        self._h2.initiate_connection()
        await self._flush()
        while not self._settled:
            await self.read()
        assert self._h2.remote_settings.enable_connect_protocol == 1

    async def request(self, path: str, *more: tuple[str, str], method: str = "CONNECT") -> Stream2:
        """Open a stream; by default one for a WebSocket (RFC 8441 section 4)."""
        number = self._h2.get_next_available_stream_id()
        websocket = method == "CONNECT"
        headers = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        if websocket:
            headers[1:1] = [(":protocol", "websocket")]
            headers.append(("sec-websocket-version", "13"))
        self._h2.send_headers(number, [*headers, *more], end_stream=not websocket)
        await self._flush()
        stream = self._streams[number] = Stream2(self, number)
        return stream

    async def reset(self, stream: Stream2) -> None:
        """Reset one stream, as a browser does when its page is closed."""
        self._h2.reset_stream(stream.number)
        await self._flush()

    async def send_data(self, number: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if room:
                self._h2.send_data(number, bytes(view[:room]))
                view = view[room:]
                await self._flush()
            else:
                await self.read()

    async def read(self) -> None:
        """Read once, and handle the data of all streams."""
        data = await self._stream.receive_some()
        assert data, "the server closed the connection"
        for event in self._h2.receive_data(bytes(data)):
            if isinstance(event, h2.events.RemoteSettingsChanged):
                self._settled = True
                continue
            stream = self._streams.get(getattr(event, "stream_id", 0) or 0)
            if stream is None:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                stream.headers = dict(_text(event.headers))
                stream.status = int(stream.headers[":status"])
            elif isinstance(event, h2.events.DataReceived):
                stream.body += event.data or b""
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream.number)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                stream.ended = True
        await self._flush()

    async def _flush(self) -> None:
        await self._stream.send_all(self._h2.data_to_send())


def _text(headers: Any) -> Iterator[tuple[str, str]]:
    for name, value in headers:
        yield bytes(name).decode(), bytes(value).decode()


@asynccontextmanager
async def connect_http2(port: int) -> AsyncIterator[HTTP2]:
    """Open an HTTP/2 connection to 127.0.0.1 for the duration of a block."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        connection = HTTP2(stream)
        await connection.start()
        yield connection
