"""Connections for a reconnecting client in tests: a server in memory, behind a controllable network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_ws.testing import Link, MemoryListener

if TYPE_CHECKING:
    from trio_ws.testing import LinkStream

__all__ = ["Network", "refusal"]


def refusal(status: int, *lines: str) -> bytes:
    """Return an HTTP response that rejects the handshake."""
    return "\r\n".join([f"HTTP/1.1 {status} No", *lines, "Content-Length: 0", "", ""]).encode()


class Network:
    """The ``stream`` argument of a client. Each call is one attempt to connect, and its time is recorded.

    Attributes:
        listener: the listener of the server.
        plan: the results of the next attempts: an exception is raised, and bytes are the only response. Later
            attempts reach the server, or fail if there is none.
        times: the times of all attempts.
        links: the links of all attempts.
    """

    def __init__(self, listener: MemoryListener | None = None, **link: Any) -> None:
        self.listener = listener
        self.plan: list[Exception | bytes] = []
        self.down = listener is None
        self.times: list[float] = []
        self.links: list[Link] = []
        self.link: dict[str, Any] = link

    async def __call__(self) -> LinkStream:
        self.times.append(trio.current_time())
        step = self.plan.pop(0) if self.plan else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            link = Link()
            await link.server.send_all(step)
        elif self.down or self.listener is None:
            raise ConnectionRefusedError("nobody is there")
        else:
            link = await self.listener.open_link(**self.link)
        self.links.append(link)
        return link.client

    def cut(self) -> None:
        """Break the current connection."""
        self.links[-1].cut()
