"""The actions of every peer, whatever its library and event loop: one script for clients and one for servers.

A peer is a module of this folder that adapts its library to `Session` and runs as a process: ``python -m
tests.interop.peers.NAME client URL deflate|plain`` prints its results as one JSON object, and ``... NAME
server`` prints its port and serves until the end of its standard input.

Invariants: nothing of trio_ws is imported here, so that both ends share no code. A topic that fails is
reported by its traceback, and the other topics are still run.
"""

from __future__ import annotations

import json
import random
import sys
import traceback
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

#: Around each length of the payload's length (RFC 6455 section 5.2), and the largest that fits by default.
SIZES = (0, 1, 125, 126, 65535, 65536, 1024 * 1024)
PIPELINED = 200
SUBPROTOCOL = "chat.v1"
TEXT_PARTS = ["frag", "", "mented", " across € signs"]
BINARY_PARTS = [b"\x00" * 70_000, b"", b"\xff"]
#: What each side says when it is the one to close: codes for applications, and a reason that is not ASCII.
SERVER_CLOSE = (4001, "the server says goodbye")
CLIENT_CLOSE = (4002, "le client s'en va à l'été")
REFUSAL = "not you"
TOPIC_SECONDS = 15.0


class Rejected(Exception):  # noqa: N818
    """The server answered the opening handshake with this HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Ended(Exception):  # noqa: N818
    """The other side closed the connection, and said this."""

    def __init__(self, code: int | None, reason: str | None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Session(Protocol):
    """One open WebSocket of whatever library."""

    @property
    def subprotocol(self) -> str | None: ...
    async def send(self, data: str | bytes) -> None: ...
    async def send_fragments(self, parts: list[str] | list[bytes]) -> None:
        """One message, a fragment for each part; NotImplementedError where the library cannot."""

    async def recv(self) -> str | bytes:
        """The next message; raises Ended."""
        ...

    async def ping(self) -> None:
        """Returns when the pong has come."""

    async def close(self, code: int, reason: str) -> None: ...


class Loop(Protocol):
    """What asyncio and trio each have in their own way."""

    async def together(self, *functions: Callable[[], Awaitable[None]]) -> None: ...
    async def bounded(self, seconds: float, function: Callable[[], Awaitable[Any]]) -> Any: ...
    def queue(self) -> tuple[Callable[[Any], None], Callable[[], Awaitable[Any]]]: ...


def text_of(size: int) -> str:
    """A text of that many bytes in UTF-8, not all of them ASCII."""
    euros = size // 16
    letters = size - 3 * euros
    return "€" * euros + (ascii_lowercase * (letters // 26 + 1))[:letters]


def bytes_of(size: int) -> bytes:
    """That many bytes, always the same; one half cannot be compressed.

    Not both: some libraries count what is compressed against their limit of 1 MiB for a message.
    """
    return random.Random(size).randbytes(size // 2) + bytes(size - size // 2)


MESSAGES: list[str | bytes] = [make(size) for size in SIZES for make in (text_of, bytes_of)]


def pipelined(number: int) -> str:
    """The message with that number: each is different, and they grow to some KiB."""
    return f"{number:04}" + "-" * (37 * number)


# -- clients ----------------------------------------------------------------------------------------


async def client_report(url: str, open_session: Any, loop: Loop) -> dict[str, Any]:
    """Run all topics of a client; ``open_session(url, subprotocols)`` opens a `Session`."""

    async def messages() -> int:
        async with open_session(f"{url}/echo", []) as session:
            return await _echoed(session)

    async def fragments() -> list[str] | None:
        async with open_session(f"{url}/echo", []) as session:
            try:
                await session.send_fragments(TEXT_PARTS)
            except NotImplementedError:
                return None
            text = await session.recv()
            await session.send_fragments(BINARY_PARTS)
            binary = await session.recv()
        return ["text" if text == "".join(TEXT_PARTS) else repr(text), _same(binary, b"".join(BINARY_PARTS))]

    async def many() -> int:
        right = 0
        async with open_session(f"{url}/echo", []) as session:

            async def send() -> None:
                for number in range(PIPELINED):
                    await session.send(pipelined(number))

            async def receive() -> None:
                nonlocal right
                for number in range(PIPELINED):
                    right += await session.recv() == pipelined(number)

            await loop.together(send, receive)
        return right

    async def pings_the_server() -> str:
        async with open_session(f"{url}/echo", []) as session:
            await session.ping()
            await session.send("after the pong")
            return str(await session.recv())

    async def is_pinged() -> str:
        async with open_session(f"{url}/ping", []) as session:
            return str(await session.recv())

    async def server_closes() -> list[Any]:
        async with open_session(f"{url}/close", []) as session:
            return await _end_of(session)

    async def client_closes() -> None:
        async with open_session(f"{url}/record", []) as session:
            await session.close(*CLIENT_CLOSE)

    async def subprotocol() -> list[str | None]:
        async with open_session(f"{url}/echo", ["chat.v2", SUBPROTOCOL]) as session:
            agreed = session.subprotocol
        async with open_session(f"{url}/echo", []) as session:
            return [agreed, session.subprotocol]

    async def rejected() -> Any:
        try:
            async with open_session(f"{url}/reject", []):
                return "not rejected"
        except Rejected as exc:
            return exc.status

    report: dict[str, Any] = {}
    topics = [
        messages,
        fragments,
        many,
        pings_the_server,
        is_pinged,
        server_closes,
        client_closes,
        subprotocol,
        rejected,
    ]
    for topic in topics:
        try:
            report[topic.__name__] = await loop.bounded(TOPIC_SECONDS, topic)
        except Exception:  # noqa: BLE001 - what went wrong is what the report is for
            report[topic.__name__] = traceback.format_exc()
    return report


async def _echoed(session: Session) -> int:
    right = 0
    for message in MESSAGES:
        await session.send(message)
        right += await session.recv() == message
    return right


async def _end_of(session: Session) -> list[Any]:
    try:
        while True:
            await session.recv()
    except Ended as end:
        return [end.code, end.reason]


def _same(got: str | bytes, wanted: bytes) -> str:
    return "binary" if got == wanted else repr(got)[:200]


# -- servers ----------------------------------------------------------------------------------------


class Serving:
    """What a server does with each connection, by its path; ``/reject`` is left to the peer's module."""

    def __init__(self, loop: Loop) -> None:
        self.put, self.get = loop.queue()

    async def run(self, path: str, session: Session) -> None:
        """Serve one connection until it ends."""
        try:
            if path == "/echo":
                while True:
                    await session.send(await session.recv())
            elif path == "/close":
                await session.close(*SERVER_CLOSE)
            elif path == "/record":
                self.put(await _end_of(session))
            elif path == "/recorded":
                await session.send(json.dumps(await self.get()))
                await session.recv()
            elif path == "/ping":
                await session.ping()
                await session.send("the pong came")
                await session.recv()
            elif path == "/fragments":
                await session.send_fragments(TEXT_PARTS)
                await session.send_fragments(BINARY_PARTS)
                await session.recv()
        except Ended:
            return


def choose(offered: Sequence[str]) -> str | None:
    """What a server agrees to of what a client offered."""
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def say(value: Any) -> None:
    """Tell the test something, as a line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def parts_of(parts: list[str] | list[bytes]) -> AsyncIterator[str | bytes]:
    """The parts, for libraries that send an async iterable in fragments."""
    for part in parts:
        yield part
