"""Servers that receive and send the bytes of an echo, and do nothing else.

``python -m benchmarks.peers.floor_server PORT KIND``. The first message tells the size of the next ones, and
its echo is the response to all. The servers count the bytes that arrive, without parsing or unmasking them,
and send as many responses. So each is a limit: no library can take less time on the same kind of loop.

============  ====================================================================================
``stream``    trio: a task for each connection, with `trio.SocketStream`
``socket``    trio: a task for each connection, with a socket and `trio.lowlevel.wait_readable`
``epoll``     trio: one task with an epoll of its own responds on all connections
``tasks``     trio: that task receives, and wakes a task of the connection, which responds
``protocol``  asyncio: `asyncio.Protocol`
============  ====================================================================================
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import select
import socket
import sys
from typing import Any

import trio
from trio.lowlevel import (
    Abort,
    Task,
    current_task,
    notify_closing,
    reschedule,
    wait_readable,
    wait_task_rescheduled,
    wait_writable,
)

from benchmarks.peers.loops import run

_READ_SIZE = 256 * 1024
_KEY, _GUID = b"Sec-WebSocket-Key: ", b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CLOSE = b"\x88\x02\x03\xe8"


class Connection:
    """What has arrived on one connection, as a number of bytes."""

    def __init__(self) -> None:
        self.closing = False
        self._start = b""  # all bytes before the end of the first message
        self._shaken = False
        self._size = 0  # of each message that arrives
        self._head = b""  # the first bytes of each
        self._response = b""
        self._extra = 0  # bytes of the next message

    def respond(self, data: bytes) -> bytes:
        """Return the responses to whole messages that have arrived."""
        if not self._size or self._start:
            return self._begin(data)
        if (
            not self._extra and data[:2] != self._head
        ):  # a Close frame, or messages of another size from now on
            return self._begin(data)
        count, self._extra = divmod(self._extra + len(data), self._size)
        return self._response * count

    def _begin(self, data: bytes) -> bytes:
        self._start += data
        if not self._shaken:
            head, end, rest = self._start.partition(b"\r\n\r\n")
            if not end:
                return b""
            self._shaken, self._start = True, rest
            key = next(line[len(_KEY) :] for line in head.split(b"\r\n") if line.startswith(_KEY))
            accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
            lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
            return b"\r\n".join([*lines, b"Sec-WebSocket-Accept: " + accept, b"", b""])
        head = self._start[:10]
        if head[:1] == _CLOSE[:1]:
            self.closing = True
            return _CLOSE
        if len(head) < 10:
            return b""
        longer = {126: 2, 127: 8}.get(head[1] & 127, 0)
        n = int.from_bytes(head[2 : 2 + longer], "big") if longer else head[1] & 127
        size = 6 + longer + n
        if len(self._start) < size:
            return b""
        key, payload = self._start[2 + longer : 6 + longer], self._start[6 + longer : size]
        mask = int.from_bytes((key * (n // 4 + 1))[:n], "big")
        echo = (int.from_bytes(payload, "big") ^ mask).to_bytes(n, "big")
        self._response = bytes((head[0], head[1] & 127)) + head[2 : 2 + longer] + echo
        self._head, self._size, rest, self._start = head[:2], size, self._start[size:], b""
        return self._response + (self.respond(rest) if rest else b"")


async def with_stream(stream: trio.SocketStream) -> None:
    connection = Connection()
    async with stream:
        while not connection.closing and (data := await stream.receive_some(_READ_SIZE)):
            await stream.send_all(connection.respond(data))


async def with_socket(stream: trio.SocketStream) -> None:
    connection = Connection()
    with plain_socket(stream) as sock:
        fd = sock.fileno()
        while not connection.closing:
            await wait_readable(fd)
            data = sock.recv(_READ_SIZE)
            if not data:
                break
            if response := connection.respond(data):
                await send(sock, response)
        notify_closing(fd)


def plain_socket(stream: trio.SocketStream) -> socket.socket:
    """Return the socket of a stream, without trio's methods."""
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return sock


async def send(sock: socket.socket, response: bytes) -> None:
    rest = memoryview(response)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            await wait_writable(sock)


class SharedReader:
    """One task that receives for all connections, and responds, or lets a task of each do so.

    Responses must be so small that a socket takes them at once.
    """

    def __init__(self, *, tasks: bool) -> None:
        self._tasks = tasks
        self._epoll = select.epoll()
        self._connections: dict[int, tuple[socket.socket, Connection]] = {}
        self._responses: dict[int, bytes] = {}
        self._waiting: dict[int, Task] = {}

    async def serve(self, stream: trio.SocketStream) -> None:
        sock = plain_socket(stream)
        fd = sock.fileno()
        self._connections[fd] = sock, Connection()
        self._epoll.register(fd, select.EPOLLIN)
        if not self._tasks:
            return

        def leave(_: object) -> Abort:
            del self._waiting[fd]
            return Abort.SUCCEEDED

        with sock:
            while fd in self._connections:
                if fd not in self._responses:
                    self._waiting[fd] = current_task()
                    await wait_task_rescheduled(leave)
                send_whole(sock, self._responses.pop(fd))

    async def receive(self) -> None:
        fileno = self._epoll.fileno()
        while True:
            await wait_readable(fileno)
            for fd, _ in self._epoll.poll(0):
                sock, connection = self._connections[fd]
                data = sock.recv(_READ_SIZE)
                response = connection.respond(data) if data else b""
                over = connection.closing or not data
                if over:
                    self._epoll.unregister(fd)
                    del self._connections[fd]
                if self._tasks:
                    self._responses[fd] = self._responses.get(fd, b"") + response
                    if fd in self._waiting:
                        reschedule(self._waiting.pop(fd))
                    continue
                send_whole(sock, response)
                if over:
                    sock.close()


def send_whole(sock: socket.socket, response: bytes) -> None:
    if response and sock.send(response) != len(response):
        raise RuntimeError("the response does not fit into the socket's buffer")


class Protocol(asyncio.Protocol):
    def __init__(self) -> None:
        self._connection = Connection()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._connection.respond(data))
        if self._connection.closing:
            self._transport.close()


async def serve_asyncio(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", port)
    await server.serve_forever()


async def serve_trio(port: int, kind: str) -> None:
    if kind in ("stream", "socket"):
        await trio.serve_tcp(with_stream if kind == "stream" else with_socket, port, host="127.0.0.1")
        return
    reader = SharedReader(tasks=kind == "tasks")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.receive)
        await trio.serve_tcp(reader.serve, port, host="127.0.0.1")


if __name__ == "__main__":
    if sys.argv[2] == "protocol":
        run(serve_asyncio(int(sys.argv[1])))
    else:
        trio.run(serve_trio, int(sys.argv[1]), sys.argv[2])
