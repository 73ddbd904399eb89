"""Measure the latency of an honest connection, in its own process: ``python probe.py PORT [tls]``.

It pings fifty times a second until its stdin ends. Then it prints the longest time until a pong in seconds,
and the number of pongs.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time

#: Not the address of the attackers, because a server limits the connections of each address.
INNOCENT = "127.0.0.2"
_PATIENCE = 60.0
_OPENING = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def receive(sock: socket.socket, size: int) -> bytes:
    """Receive exactly ``size`` bytes."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def join(port: int, *, tls: bool, path: bytes) -> socket.socket:
    """Open a WebSocket, and return its socket."""
    sock = socket.create_connection(("127.0.0.1", port), _PATIENCE, (INNOCENT, 0))
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    sock.sendall(_OPENING.replace(b"/ ", path + b" ", 1) + b"\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(sock, 1)
    assert b" 101 " in head, head
    return sock


def main() -> None:
    """Ping until stdin ends."""
    port, tls, path = int(sys.argv[1]), sys.argv[2] == "tls", sys.argv[3].encode()
    sock = join(port, tls=tls, path=path)
    print("in", flush=True)
    worst, count = 0.0, 0
    try:
        while not select.select([sys.stdin], [], [], 0.02)[0]:
            began = time.perf_counter()
            sock.sendall(b"\x89\x81\0\0\0\0p")
            assert receive(sock, 3) == b"\x8a\x01p"
            worst = max(worst, time.perf_counter() - began)
            count += 1
    except (OSError, EOFError):
        worst = float("inf")  # disconnected, or not served for a minute
    print(json.dumps([worst, count]), flush=True)


if __name__ == "__main__":
    main()
