"""Connections for a reconnecting client in tests: a server in memory, behind a controllable network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_ws.testing import Link, MemoryListener

if TYPE_CHECKING:
    from trio_ws.testing import LinkStream

__all__ = ["Network", "refusal"]


def refusal(status: int, *lines: str) -> bytes:
    """An HTTP answer that is no WebSocket."""
    return "\r\n".join([f"HTTP/1.1 {status} No", *lines, "Content-Length: 0", "", ""]).encode()


class Network:
    """Give it as ``stream``: each call is one try of the client, and its time is noted.

    Attributes:
        listener: of the server that is reached.
        plan: what becomes of the next tries: an exception is raised, bytes are all that is ever answered.
            Past its end the server is reached, or with ``down`` nobody.
        times: of all tries.
        links: to the server, or to nobody.
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
        """Lose the connection of now."""
        self.links[-1].cut()
