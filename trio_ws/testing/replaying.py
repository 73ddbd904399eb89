"""Replay: a server that plays the server's part of a recording, by trio's clock."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio
import trio.testing

from trio_ws._blocks import block
from trio_ws._nurseries import open_block
from trio_ws.errors import ConnectionClosedError, ConnectionFailedError, SubprotocolError
from trio_ws.server.wrap import wrap_stream
from trio_ws.testing.link import Link, LinkStream
from trio_ws.testing.recording import MASK, Event, Header, mask_secrets
from trio_ws.websocket.message import WebSocketMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ws._types import Value
    from trio_ws.websocket.connection import WebSocket

__all__ = ["Replay", "replay"]

_decode_event = msgspec.json.Decoder(Event).decode
_decode_header = msgspec.json.Decoder(Header).decode


class Replay:
    """A server that sends the same messages as a recorded one. Made by `replay`.

    Attributes:
        url: the URL of the recorded server.
        connections: the number of recorded connections.
        opened: the number of connections that were opened here.
        mismatches: differences between the client's messages and the recording. `replay` raises them at its
            end.
    """

    def __init__(self, header: Header, events: list[Event], nursery: trio.Nursery, *, check: bool) -> None:
        self.url = header.url
        self._nursery = nursery
        self._check = check
        by_number: dict[int, list[Event]] = {}
        for event in events:
            by_number.setdefault(event.connection, []).append(event)
        self._left = [by_number[number] for number in sorted(by_number)]
        self.connections = len(self._left)
        self.opened = 0
        self.mismatches: list[str] = []

    async def stream(self) -> LinkStream:
        """Open the next connection. It is meant for ``stream=`` of a client.

        Raises:
            ConnectionRefusedError: no other connection was recorded.
        """
        await trio.lowlevel.checkpoint()
        if not self._left:
            raise ConnectionRefusedError(f"only {self.connections} connections were recorded")
        self.opened += 1
        link = Link()
        self._nursery.start_soon(self._play, link, self._left.pop(0), self.opened)
        return link.client

    def _differs(self, number: int, text: str) -> None:
        if self._check:
            self.mismatches.append(f"connection {number}: {text}")

    async def _play(self, link: Link, events: list[Event], number: int) -> None:
        try:
            async with wrap_stream(link.server) as ws:
                await self._play_events(ws, link, events, number)
        except (ConnectionClosedError, ConnectionFailedError):
            pass  # the client has left

    async def _play_events(self, ws: WebSocket, link: Link, events: list[Event], number: int) -> None:
        last = events[0].time
        for event in events:
            pause, last = event.time - last, event.time
            if event.side == "client":
                if event.kind in ("text", "binary") and not await self._expect(ws, event, number):
                    return
                if event.kind in ("close", "lost"):
                    await self._expect_end(ws, number)
                    return
                continue
            await trio.sleep(max(0.0, pause))
            if not await self._repeat(ws, link, event, number):
                return
        await self._expect_end(ws, number)

    async def _repeat(self, ws: WebSocket, link: Link, event: Event, number: int) -> bool:
        """Repeat an event of the server. Return whether the connection continues."""
        if event.kind == "accept":
            try:
                await ws.accept(subprotocol=event.subprotocols[0] if event.subprotocols else None)
            except SubprotocolError as exc:
                self._differs(number, str(exc))
                await ws.reject(400)
                return False
        elif event.kind == "reject":
            await ws.reject(event.code if event.code < 600 else 502, event.headers, event.data)
            return False
        elif event.kind == "close":
            await ws.close(event.code if event.code != 1005 else 1000, event.data)
            return False
        elif event.kind == "lost":
            with trio.move_on_after(1):
                await trio.testing.wait_all_tasks_blocked()  # so that data that was sent before arrives
            await trio.aclose_forcefully(link.server)
            return False
        elif event.kind == "text":
            await ws.send(event.data)
        elif event.kind == "binary":
            await ws.send(base64.b64decode(event.data))
        elif event.kind == "ping":
            await ws.send(WebSocketMessage.ping(base64.b64decode(event.data)))
        return True

    async def _expect(self, ws: WebSocket, event: Event, number: int) -> bool:
        """Wait for a message of the client, and compare it. Return whether the client is still connected."""
        message = await ws.recv(none_when_lost=True)
        if message is None:
            return False
        expected: str | bytes = event.data if event.kind == "text" else base64.b64decode(event.data)
        if not _matches(expected, message.payload):
            self._differs(number, f"{expected!r} was said at {event.time} s, not {message.payload!r}")
        return True

    async def _expect_end(self, ws: WebSocket, number: int) -> None:
        while (message := await ws.recv(none_when_lost=True)) is not None:
            self._differs(number, f"nothing more was said, and not {message.payload!r}")


def _matches(expected: str | bytes, got: str | bytes) -> bool:
    """Return whether two messages have the same content. A masked value is equal to any value."""
    if type(expected) is not type(got):
        return False
    if expected == got:
        return True
    try:
        return _same(_without_deadline(_decode(expected)), _without_deadline(_decode(got)))
    except (ValueError, TypeError, RecursionError):
        return isinstance(got, str) and mask_secrets(got) == expected


def _decode(message: str | bytes) -> Value:
    return msgspec.json.decode(message) if isinstance(message, str) else msgspec.msgpack.decode(message)


def _without_deadline(value: Value) -> Value:
    """Remove the remaining time of a call of trio-ws.v1, which differs each time."""
    if isinstance(value, dict) and isinstance(value.get("rpc"), dict):
        value["rpc"].pop("timeout", None)
    return value


def _same(expected: Value, got: Value) -> bool:
    if expected == MASK:
        return True
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(_same(item, got[key]) for key, item in expected.items())
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(_same, expected, got))
    return bool(expected == got) or (isinstance(got, str) and mask_secrets(got) == expected)


@block("async with trio_ws.testing.replay(...) as server:")
async def replay(path: str | os.PathLike[str], *, check: bool = True) -> AsyncIterator[Replay]:
    """Replay the server of a recording, for the duration of a block::

        async with trio_ws.testing.replay("session.jsonl") as server:
            async with trio_ws.session(server.url, stream=server.stream) as feed: ...

    Each connection of the client is the next one of the recording. The server accepts or rejects it, sends,
    closes and disconnects as recorded, with the same pauses. If the client sent a message in between, the
    server waits for it. All waits use trio's clock, so with a mock clock they take no time.

    Args:
        path: a file that `record` or ``trio-ws record`` has created.
        check: whether to compare the client's messages with the recording. JSON and msgpack are compared by
            value, without the deadlines of calls. Masked values are equal to any value. Default True.

    Yields:
        A `Replay`.

    Raises:
        AssertionError: at the end of the block, if the client sent something else.
        ValueError: the file is not a recording.
    """
    await trio.lowlevel.checkpoint()
    header, events = _read(path)  # not in a thread, because a mock clock does not wait for threads
    async with open_block() as nursery:
        server = Replay(header, events, nursery, check=check)
        yield server
    if server.mismatches:
        raise AssertionError("\n".join(server.mismatches))


def _read(path: str | os.PathLike[str]) -> tuple[Header, list[Event]]:
    lines = Path(path).read_bytes().splitlines()
    try:
        return _decode_header(lines[0]), [_decode_event(line) for line in lines[1:]]
    except (IndexError, msgspec.DecodeError) as exc:
        raise ValueError(f"{os.fspath(path)} is not a recording: {exc}") from exc
