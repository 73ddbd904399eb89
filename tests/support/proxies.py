"""Proxies for tests: tinyproxy and microsocks as processes, and scripts that misbehave on real sockets.

Invariants: they listen on free ports of 127.0.0.1, and have ended at the end of the block.
"""

from __future__ import annotations

import shutil
import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.daemons import taking_a_port
from tests.support.serving import guard

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

__all__ = ["ConnectProxy", "closed_port", "run_proxy", "scripted"]

_TINYPROXY = "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogLevel Critical\n"


def _command(name: str, port: int, login: tuple[str, str] | None, folder: Path) -> list[str]:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed; on Debian: apt-get install tinyproxy-bin microsocks")
    if name == "tinyproxy":
        config = folder / f"tinyproxy-{port}.conf"
        config.write_text(
            _TINYPROXY.format(port=port) + (f"BasicAuth {login[0]} {login[1]}\n" if login else "")
        )
        return [program, "-d", "-c", str(config)]
    user = ["-u", login[0], "-P", login[1]] if login else []
    return [program, "-i", "127.0.0.1", "-p", str(port), *user]


@asynccontextmanager
async def run_proxy(name: str, folder: Path, login: tuple[str, str] | None = None) -> AsyncIterator[int]:
    """Run ``tinyproxy`` (HTTP) or ``microsocks`` (SOCKS5) for the duration of a block, and yield its port."""
    async with taking_a_port(lambda port: _command(name, port, login, folder)) as port:
        yield port


@asynccontextmanager
async def scripted(
    script: Callable[[trio.abc.Stream], Awaitable[None]], ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Run a script for each client, and then close the connection; yield the port."""

    async def one(stream: Any) -> None:
        try:
            await script(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # clients disconnect from proxies that misbehave

    async def secured(stream: trio.SocketStream) -> None:
        assert ssl_context is not None
        await one(trio.SSLStream(stream, ssl_context, server_side=True, https_compatible=True))

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, one if ssl_context is None else secured, [listener])
            yield listener.socket.getsockname()[1]
            nursery.cancel_scope.cancel()


@contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port that is bound, so that no other program listens on it, but refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


class ConnectProxy:
    """The script of an HTTP proxy that always connects to one server, whatever the request says.

    Attributes:
        heads: the heads of all requests so far.
        answer: its response before it relays.
        piece: the number of bytes of the response to send at a time.
    """

    def __init__(
        self, port: int, answer: bytes = b"HTTP/1.1 200 Go\r\nVia: me\r\n\r\n", piece: int = 65536
    ) -> None:
        self.port = port
        self.answer = answer
        self.piece = piece
        self.heads: list[bytes] = []

    @property
    def asked(self) -> list[str]:
        """The requested targets."""
        return [head.split(b" ")[1].decode() for head in self.heads]

    async def __call__(self, client: trio.abc.Stream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            received = await client.receive_some(1)
            if not received:
                return
            head += received
        self.heads.append(head)
        for start in range(0, len(self.answer), self.piece):
            await client.send_all(self.answer[start : start + self.piece])
        server = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(self._relay, client, server, nursery.cancel_scope)
            await self._relay(server, client, nursery.cancel_scope)

    async def _relay(self, source: Any, sink: Any, scope: trio.CancelScope) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
