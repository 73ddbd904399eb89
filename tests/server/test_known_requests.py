"""Requests that a server has accepted before are accepted faster, and others are judged as ever."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.serving import echo, request, serving, status_of
from trio_ws import App, Options
from trio_ws.protocol.handshake import around_key
from trio_ws.server.accepting import _LONGEST_KNOWN, _MOST_KNOWN, KnownRequests

if TYPE_CHECKING:
    from trio_ws import Request, WebSocket, WebSocketServer

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
PLAIN = request()


async def answer_to(server: WebSocketServer, data: bytes) -> bytes:
    """Return the head of the response to a request that has arrived when the server accepts."""
    with socket.socket() as plain:
        plain.connect(("127.0.0.1", server.port))
        plain.sendall(data)
        plain.setblocking(False)
        response = bytearray()
        while b"\r\n\r\n" not in response:
            await trio.lowlevel.wait_readable(plain)
            response += plain.recv(65536)
        return bytes(response)


def other_key() -> bytes:
    return base64.b64encode(os.urandom(16))


async def test_each_is_answered_with_its_own_key() -> None:
    async with serving() as server:
        for _ in range(3):
            key = other_key()
            token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            response = await answer_to(server, PLAIN.replace(KEY, key))
            assert status_of(response) == 101
            assert b"Sec-WebSocket-Accept: " + token in response
        assert len(server._known_requests._known) == 1


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (PLAIN, 101),
        (PLAIN.replace(KEY, KEY[:-3] + b"==="), 400),
        (PLAIN.replace(KEY, KEY[:-2] + b"aa"), 400),
        (PLAIN.replace(KEY, KEY[:4] + b"\r\n" + KEY[6:]), 400),
        (PLAIN.replace(KEY, KEY + b"="), 400),
        (PLAIN.replace(KEY, KEY[:-1]), 400),
        (PLAIN.replace(KEY, b""), 400),
        (request(f"Sec-WebSocket-Key: {KEY.decode()}"), 400),
        (request("Host: localhost"), 400),
        (request("Content-Length: 1"), 400),
        (request("Origin: http://evil.example"), 403),
        (PLAIN.replace(b"localhost", b"evil.example"), 403),
        (PLAIN.replace(b"localhost", b"localhosu"), 403),
        (PLAIN.replace(b"GET ", b"PUT "), 405),
        (PLAIN.replace(b"Version: 13", b"Version: 12"), 426),
        (PLAIN.replace(b"GET /", b"GET /elsewhere"), 404),
        (PLAIN.replace(b"GET /", b"GET /page"), 404),
        (request("X: 1"), 101),
        (PLAIN.replace(b"Sec-WebSocket-Key", b"sec-websocket-key"), 101),
    ],
)
async def test_what_is_like_a_known_one_is_judged_for_itself(data: bytes, status: int) -> None:
    app = App()
    app.websocket("/")(echo)

    @app.http("/page")
    async def page(request: Request) -> str:
        return "page"

    options = Options(hosts=["localhost"])
    async with serving(app, options=options) as server:
        assert status_of(await answer_to(server, PLAIN)) == 101
        for _ in range(2):
            assert status_of(await answer_to(server, data)) == status


async def test_the_route_of_each_is_found_anew() -> None:
    app = App()

    @app.websocket("/{name}")
    async def change(ws: WebSocket) -> None:
        headers = [("Name", ws.path_params["name"])]
        ws.path_params["name"] = "changed"
        await ws.accept(headers=headers)

    async with serving(app) as server:
        for name in ("a", "a", "b", "b"):
            response = await answer_to(server, request(target=f"/{name}"))
            assert b"Name: " + name.encode() in response


async def test_frames_behind_a_known_request_are_read() -> None:
    async with serving() as server:
        await answer_to(server, PLAIN)
        hello = b"\x81\x82\0\0\0\0hi"
        with socket.socket() as plain:
            plain.connect(("127.0.0.1", server.port))
            plain.sendall(PLAIN + hello)
            plain.setblocking(False)
            response = b""
            while not response.endswith(b"\x81\x02hi"):
                await trio.lowlevel.wait_readable(plain)
                response += plain.recv(65536)


def test_few_and_short_ones_are_kept() -> None:
    known = KnownRequests()
    for number in range(2 * _MOST_KNOWN):
        head = request(target=f"/{number}")
        known.add(head, loopback=False)
        assert known.get(head, loopback=True) is None
        other = head.replace(KEY, other_key())
        found = known.get(other, loopback=False)
        assert found is not None
        assert found.path == f"/{number}"
        assert found.head == other
    assert len(known._known) == _MOST_KNOWN
    assert known.get(request(target="/0"), loopback=False) is None
    long = request(target="/" + "x" * _LONGEST_KNOWN)
    known.add(long, loopback=False)
    assert known.get(long, loopback=False) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        PLAIN[: PLAIN.index(KEY) + 10],
        request(leave_out=["sec-websocket-key"]),
        b"\r\nSec-WebSocket-Key: ",
    ],
)
def test_what_has_no_plain_key_is_never_known(data: bytes) -> None:
    known = KnownRequests()
    known.add(data, loopback=False)
    assert known.get(data, loopback=False) is None
    assert around_key(request(leave_out=["sec-websocket-key"])) is None
