"""The reader and the receive buffer of a connection in any state, with tasks that wait for its messages."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio.testing

from trio_ws import Options
from trio_ws.protocol.frames import FrameReader
from trio_ws.websocket.readers import EPOLL, Reader, python_keep_message
from trio_ws.websocket.receive_buffer import NO_MESSAGES, ReceiveBuffer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["KeptMessages", "keep_in_both", "random_state"]


class _Unused:
    self_reading = True


def random_state(chance: random.Random | None) -> dict[str, Any]:
    """Some attributes of a receive buffer, and the number of tasks that wait; the usual ones for None."""

    def seldom(other: Any, usual: Any) -> Any:
        return other if chance is not None and chance.random() < 0.1 else usual

    return {
        "tasks": 1 if chance is None else chance.randrange(3),
        "messages": seldom(1, 0),
        "frames": seldom(True, False),
        "received": seldom(1000, 0),
        "_longest_bypass": seldom(0, 65535),
        "single": seldom(False, True),
        "pending_input": seldom(b"\x82", b""),
        "discarding": seldom(True, False),
        "_closed_by_peer": seldom(True, False),
    }


class KeptMessages:
    """A connection that reads by the shared reader, and what can be seen of its messages."""

    def __init__(self, state: dict[str, Any]) -> None:
        unused: Any = _Unused()
        self.buffer = buffer = ReceiveBuffer(Options(), client=False)
        buffer.open(None, direct=True)
        for name in (
            "received",
            "_longest_bypass",
            "single",
            "pending_input",
            "discarding",
            "_closed_by_peer",
        ):
            setattr(buffer, name, state[name])
        messages: deque[str | bytes] = deque([b"earlier"])
        if state["messages"]:
            buffer.messages = messages
        if state["frames"]:
            buffer.frames = FrameReader(buffer.messages, client=False, max_message_size=None)
        self.reader = Reader(unused, unused, buffer, unused, unused)
        self.reader.by = EPOLL
        self._tasks = state["tasks"]
        self.woken = 0

    async def _wait(self) -> None:
        await self.reader.input_arrived.wait()
        self.woken += 1

    async def keep(self, function: Callable[[Reader, Any], None], message: Any) -> None:
        """Keep a message while the tasks wait."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._tasks):
                nursery.start_soon(self._wait)
            await trio.testing.wait_all_tasks_blocked()
            function(self.reader, message)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not self.reader.notify_input()

    def look(self) -> list[object]:
        """All that can be seen."""
        buffer = self.buffer
        same = buffer.frames is None or buffer.frames.messages is buffer.messages
        return [
            *(list(buffer.messages), buffer.messages is NO_MESSAGES, buffer.frames is None, same),
            *(buffer.bypass_limit, buffer.received, self.woken),
        ]


async def keep_in_both(module: ModuleType, chance: random.Random) -> None:
    """Keep and release messages in C and in Python, and compare."""
    state = random_state(chance)
    in_c, in_python = KeptMessages(state), KeptMessages(state)
    for _ in range(chance.randrange(6)):
        message: Any = chance.choice((b"", b"12", "12", "\N{EURO SIGN}", bytearray(b"12")))
        if chance.random() < 0.4:
            module.release(in_c.buffer)
            in_python.buffer.release()
        else:
            await in_c.keep(module.keep_message, message)
            await in_python.keep(python_keep_message, message)
        if chance.random() < 0.3:
            in_c.buffer.messages.clear()
            in_python.buffer.messages.clear()
        assert in_c.look() == in_python.look()
