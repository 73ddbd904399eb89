"""Targets of workers in tests, in a module that workers import by name."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import trio

import trio_ws

if TYPE_CHECKING:
    from trio_ws import WebSocket


async def pid(ws: WebSocket) -> None:
    """Send the id of this process, then echo all messages."""
    await ws.send(str(os.getpid()))
    async for message in ws:
        await ws.send(message)


async def stubborn(ws: WebSocket) -> None:
    """Send the id of this process, and then ignore cancellation."""
    await ws.send(str(os.getpid()))
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


class Calls(trio_ws.WebSocketHandler):
    """Returns the id of this process to a call."""

    @trio_ws.rpc_method()
    def pid(self, connection: trio_ws.ClientConnection) -> int:
        return os.getpid()


class Chat(trio_ws.WebSocketHandler):
    """Chat rooms that several workers share."""

    @trio_ws.rpc_method()
    def join(self, connection: trio_ws.ClientConnection, room: str) -> int:
        connection.subscribe(room)
        return os.getpid()

    @trio_ws.rpc_method()
    def say(self, connection: trio_ws.ClientConnection, room: str, text: str) -> int:
        return self.publish(room, text, exclude=(connection,))


NUMBER = 7
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def make_context() -> ssl.SSLContext:
    """Return a TLS context. Used as a factory."""
    return CONTEXT
