"""The load side of the benchmark: raw sockets and hand-made frames, no WebSocket library.

Each figure is bounded in count and time, talks to 127.0.0.1 only, checks that what comes back has the length
of an echo, and gives one number.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FIGURES", "Server"]

SLICE = 0.4  # seconds that one measurement of a rate aims at
LIMIT = 15.0  # seconds after which a measurement counts as failed


class Server:
    """Where a server listens, and its process."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid

    def connect(self) -> socket.socket:
        """Open a WebSocket to ``/echo``."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(
            b"GET /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += receive(sock)
        if b" 101 " not in head or b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" not in head:
            raise RuntimeError(f"no WebSocket: {head!r}")
        return sock

    def resident_bytes(self) -> int:
        """The memory that the process has in RAM."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def receive(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 18)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


def client_frame(payload: bytes, opcode: int = 2) -> bytes:
    """One final frame with a random mask."""
    key = os.urandom(4)
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0xFE, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0xFF, size)
    mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
    return head + key + (int.from_bytes(payload, "little") ^ mask).to_bytes(size, "little")


def echo_size(size: int) -> int:
    return size + (2 if size < 126 else 4 if size < 65536 else 10)


def goodbye(sock: socket.socket) -> None:
    sock.sendall(client_frame(b"\x03\xe8", 8))
    while sock.recv(1 << 16):
        pass
    sock.close()


def round_trip(server: Server) -> float:
    """Microseconds of one 32-byte echo, the median, with one in flight."""
    sock = server.connect()
    frame = client_frame(os.urandom(32))
    times: list[float] = []
    stop = time.perf_counter() + SLICE
    while not times or time.perf_counter() < stop:
        began = time.perf_counter()
        sock.sendall(frame)
        got = len(receive(sock))
        while got < echo_size(32):
            got += len(receive(sock))
        times.append(time.perf_counter() - began)
    goodbye(sock)
    return statistics.median(times[len(times) // 10 :]) * 1e6


def pipelined(size: int) -> Callable[[Server], float]:
    def figure(server: Server) -> float:
        """Echoes a second on one connection, with up to 100 in flight."""
        sock = server.connect()
        frame = client_frame(os.urandom(size))
        window = 100
        sock.sendall(frame * window)
        sent, got = window, 0
        began = time.perf_counter()
        while True:
            got += len(receive(sock))
            answered = got // echo_size(size)
            now = time.perf_counter()
            if now - began < SLICE:
                more = answered + window - sent
                sock.sendall(frame * more)
                sent += more
            elif answered == sent:
                goodbye(sock)
                return sent / (now - began)
            elif now - began > LIMIT:
                raise TimeoutError("the echoes stay out")

    return figure


def connects(server: Server) -> float:
    """Connections a second, opened and closed with both handshakes, one after the other."""
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < SLICE:
        goodbye(server.connect())
        count += 1
    return count / passed


def memory(server: Server) -> float:
    """KiB that each of 1,000 idle connections adds, after one echo on each."""
    frame = client_frame(os.urandom(32))

    def open_some(count: int) -> list[socket.socket]:
        socks = [server.connect() for _ in range(count)]
        for sock in socks:
            sock.sendall(frame)
            receive(sock)
        return socks

    socks = open_some(100)
    before = server.resident_bytes()
    socks += open_some(1000)
    time.sleep(0.5)
    grown = server.resident_bytes() - before
    for sock in socks:
        sock.close()
    return grown / 1000 / 1024


#: name: (function, unit, whether more is better)
FIGURES: dict[str, tuple[Callable[[Server], float], str, bool]] = {
    "echo_rtt": (round_trip, "us", False),
    "echo_pipe_32": (pipelined(32), "/s", True),
    "echo_pipe_1k": (pipelined(1024), "/s", True),
    "connects": (connects, "/s", True),
    "memory": (memory, "KiB", False),
}
