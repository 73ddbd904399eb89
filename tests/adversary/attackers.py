"""Random attackers on streams: `attack` performs the steps of a `Script`.

Invariants: each step ends, whatever the other side does. A cancelled attacker leaves no task behind.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from tests.adversary.hostile import DEFLATE, opening
from tests.adversary.scripts import encode
from trio_ws import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.adversary.scripts import Script, Step
    from trio_ws.testing import LinkStream

__all__ = ["SMALL", "Gate", "attack", "play"]

#: Limits that are low enough to be reached by `attack`.
SMALL = Options(
    max_message_size=2000,
    max_queue_bytes=2000,
    max_decoded_bytes=8000,
    send_high_water=500,
    max_header_bytes=1000,
    max_concurrent_calls=3,
    stream_window=3,
    channel_max_items=4,
    channel_max_bytes=1500,
)

_DEAD = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)
#: Seconds that a step waits for the other side to read its data.
PATIENCE = 1.0
#: Bytes of a flood: many times the limit of one connection.
_FLOOD = 30_000


class Gate:
    """Whether an attacker reads."""

    def __init__(self) -> None:
        self._open = trio.Event()
        self._open.set()

    def set(self, reading: bool) -> None:
        """Start or stop reading."""
        if reading:
            self._open.set()
        elif self._open.is_set():
            self._open = trio.Event()

    async def read(self, stream: trio.abc.Stream) -> None:
        """Read and discard data while reading is allowed."""
        with contextlib.suppress(*_DEAD):
            while True:
                await self._open.wait()
                if not await stream.receive_some(65536):
                    return


def opening_of(script: Script) -> bytes:
    """Return the first bytes that the attacker sends."""
    if script.head is not None:
        return script.head
    return opening(script.path, *([DEFLATE] if script.deflate else []), subprotocol=script.dialect or "")


async def attack(
    script: Script, stream: trio.abc.Stream, look: Callable[[], None], *, patience: float = PATIENCE
) -> None:
    """Send all data of a script, and call ``look`` after each step.

    The connection stays open, unless the script ends it.
    """
    async with trio.open_nursery() as nursery:
        gate = Gate()
        gate.set(script.reads)
        nursery.start_soon(gate.read, stream)
        with contextlib.suppress(*_DEAD):
            with trio.move_on_after(patience):
                await stream.send_all(opening_of(script))
            await play(script.steps, script.speaks, stream, gate, look, patience=patience)
        if script.ends == "stays":
            await trio.sleep(patience)
        nursery.cancel_scope.cancel()


async def play(
    steps: list[Step],
    speaks: str,
    stream: trio.abc.Stream,
    gate: Gate,
    look: Callable[[], None],
    *,
    masked: bool = True,
    patience: float = PATIENCE,
) -> None:
    """Perform the steps one after the other. Raises the errors of the stream."""
    for step in steps:
        match step:
            case ("read", reading):
                gate.set(reading)
            case ("wait", seconds):
                await trio.sleep(seconds * patience)
            case ("eof",):
                if isinstance(stream, trio.abc.HalfCloseableStream):
                    await stream.send_eof()
            case ("reset",):
                await trio.aclose_forcefully(stream)
            case ("flood", what, times):
                data = encode(what, speaks, masked=masked)
                with trio.move_on_after(patience):
                    for _ in range(min(times, _FLOOD // (len(data) + 1) + 1)):
                        await stream.send_all(data)
            case _:
                with trio.move_on_after(patience):
                    await stream.send_all(encode(step, speaks, masked=masked))
        look()


def arrange(script: Script, stream: LinkStream) -> None:
    """Configure the link to break where the script says."""
    if script.cut is not None:
        stream.link.cut_after(script.cut, clean=script.clean)
