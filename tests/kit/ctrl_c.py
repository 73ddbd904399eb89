"""A program that gets Ctrl+C at a given line of trio_ws: tests/test_ctrl_c.py runs it, as a process.

``python -m tests.kit.ctrl_c STEP`` takes every STEP-th line that the server's own tasks run, one run for
each, and prints how many runs ended in which way, as JSON. A hang ends the process with a traceback.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import MockClock

import trio_ws
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from types import FrameType

OURS = trio_ws.__file__.removesuffix("__init__.py")


class Trap:
    """Counts lines of ours that Ctrl+C must not strike, and sends it at one of them."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.lines = 0

    def call(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        return self.line if name.startswith(OURS) and "testing" not in name else None

    def line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and _is_servers() and trio.lowlevel.currently_ki_protected():
            self.lines += 1
            if self.lines == self.target:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self.line


def _is_servers() -> bool:
    try:
        return "client" not in trio.lowlevel.current_task().name
    except RuntimeError:
        return False


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(echo, listeners=[listener]):

        async def client() -> None:
            async with trio_ws.connect("ws://test/", stream=await listener.connect()) as ws:
                for _ in range(3):
                    await ws.send("hello")
                    await ws.recv()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client, name="client")
            nursery.start_soon(client, name="client")
        await trio.sleep(1)


def run(target: int) -> tuple[str, int]:
    trap = Trap(target)
    sys.settrace(trap.call)
    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    except KeyboardInterrupt:
        return "KeyboardInterrupt", trap.lines
    except BaseExceptionGroup as group:  # of this program's own nursery
        assert group.split(KeyboardInterrupt)[1] is None
        return "KeyboardInterrupt", trap.lines
    finally:
        sys.settrace(None)
    return "done", trap.lines


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)
    ending, total = run(0)
    assert ending == "done"
    step = int(sys.argv[1])
    sys.stdout.write(json.dumps(Counter(run(target)[0] for target in range(1, total, step))))
