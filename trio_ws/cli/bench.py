"""The command ``bench``: how fast a server echoes messages, one at a time and pipelined.

It ends whatever the server does: the number of messages is fixed, and `BenchWishes.timeout` limits the time.
"""

from __future__ import annotations

import math
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from rich import box
from rich.table import Table

import trio_ws
from trio_ws.cli.errors import FAILED, OK, TIMEOUT, Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws import WebSocket
    from trio_ws.cli.output import Output
    from trio_ws.cli.target import ServerTarget

__all__ = ["WINDOW", "BenchWishes", "Result", "bench", "percentile"]

#: The maximum number of messages in flight on one connection when they are pipelined.
WINDOW = 100


@dataclass(frozen=True, kw_only=True)
class BenchWishes:
    """The options of the command.

    Attributes:
        connections: the number of concurrent connections.
        messages: the number of messages on each connection, in each of the two measurements.
        size: the size of a message in bytes.
        timeout: seconds for both measurements together.
    """

    connections: int = 10
    messages: int = 1000
    size: int = 64
    timeout: float = 60.0


@dataclass(frozen=True)
class Result:
    """The result of one measurement. Times are in seconds."""

    name: str
    messages: int
    seconds: float
    p50: float
    p99: float

    @property
    def per_second(self) -> float:
        """The number of echoed messages per second."""
        return self.messages / self.seconds if self.seconds else math.inf


def percentile(ordered: list[float], share: float) -> float:
    """Return the smallest value that is not less than this share of the ordered values."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


async def bench(place: ServerTarget, wishes: BenchWishes, out: Output) -> int:
    """Measure, and print the results."""
    results: list[Result] = []
    with trio.move_on_after(wishes.timeout) as timer:
        results = [
            await _measure("round trips", _round_trips, place, wishes),
            await _measure("pipelined", _pipelined, place, wishes),
        ]
    if timer.cancelled_caught:
        raise Failure(
            f"not done in {wishes.timeout} seconds: does the server echo? "
            "Else ask for fewer --messages, or more --timeout",
            TIMEOUT,
        )
    _show(results, wishes, out)
    return OK


async def _measure(
    name: str,
    way: Callable[[WebSocket, bytes, int, list[float]], Awaitable[None]],
    place: ServerTarget,
    wishes: BenchWishes,
) -> Result:
    """Open all connections first, and then start sending on all of them."""
    options = trio_ws.Options(max_message_size=max(wishes.size, 1024 * 1024))
    payload = os.urandom(wishes.size)
    times: list[float] = []
    start = trio.Event()

    async def run_one(*, task_status: trio.TaskStatus[None]) -> None:
        async with place.connect(options=options) as ws:
            task_status.started()
            await start.wait()
            await way(ws, payload, wishes.messages, times)

    async with trio.open_nursery() as nursery:
        for _ in range(wishes.connections):
            await nursery.start(run_one)
        began = trio.current_time()
        start.set()
    seconds = trio.current_time() - began
    times.sort()
    return Result(name, len(times), seconds, percentile(times, 0.5), percentile(times, 0.99))


async def _round_trips(ws: WebSocket, payload: bytes, messages: int, times: list[float]) -> None:
    for _ in range(messages):
        sent_at = trio.current_time()
        await ws.send_bytes(payload)
        await _take_echo(ws, payload)
        times.append(trio.current_time() - sent_at)


async def _pipelined(ws: WebSocket, payload: bytes, messages: int, times: list[float]) -> None:
    room = trio.Semaphore(min(WINDOW, messages))
    under_way: deque[float] = deque()

    async def send() -> None:
        for _ in range(messages):
            await room.acquire()
            under_way.append(trio.current_time())
            await ws.send_bytes(payload)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(messages):
            await _take_echo(ws, payload)
            if not under_way:
                raise Failure("more came back than was sent: bench needs an echo server")
            times.append(trio.current_time() - under_way.popleft())
            room.release()


async def _take_echo(ws: WebSocket, payload: bytes) -> None:
    message = await ws.recv()
    if message is None:
        raise Failure(f"the server closed the connection (code {ws.close_code}); bench needs an echo server")
    data = message.data if message.data is not None else str(message.text).encode()
    if data != payload:
        raise Failure("what came back is not what was sent: bench needs an echo server", FAILED)


def _show(results: list[Result], wishes: BenchWishes, out: Output) -> None:
    if out.as_json:
        for one in results:
            out.record(
                way=one.name,
                connections=wishes.connections,
                size=wishes.size,
                messages=one.messages,
                seconds=one.seconds,
                per_second=one.per_second,
                p50=one.p50,
                p99=one.p99,
            )
        return
    table = Table(box=box.SIMPLE if out.console.is_terminal else None, pad_edge=False)
    table.add_column(f"{wishes.connections} connections, {wishes.size} bytes")
    for title in ("messages", "per second", "p50", "p99"):
        table.add_column(title, justify="right")
    for one in results:
        numbers = (
            f"{one.messages:,}",
            f"{one.per_second:,.0f}",
            _milliseconds(one.p50),
            _milliseconds(one.p99),
        )
        table.add_row(one.name, *numbers)
    out.console.print(table)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms"
