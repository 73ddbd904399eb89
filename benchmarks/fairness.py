"""Measure how long a connection waits while another one keeps the server busy: ``python -m
benchmarks.fairness``.

One connection echoes all the time, one message after the other. Meanwhile, another connection either
*floods*: it sends as much as the server accepts, in small messages or in calls. The result is the 99th
percentile of the echoes. Or it causes one expensive operation; the result is the longest echo. Both are also
measured in CPU time of the server between sending and receiving the echo, which excludes other processes of a
busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.load import FanOut, close_all, percentile
from benchmarks.report import fairness_table
from benchmarks.run import about
from benchmarks.servers import CALLERS, PEERS, Program, Server, placed, raise_file_limit, running
from benchmarks.wire import CALLS, LIMIT, client_frame, connect, count_frames, echo_size, receive, request

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FULL", "SMALLEST", "Size", "measure"]

now = time.perf_counter


@dataclass(frozen=True)
class Size:
    """The amount of work."""

    seconds: float = 1.0  # duration of a flood, and of measuring an idle server
    after: float = 0.2  # seconds to continue after the response to an expensive operation
    times: int = 9  # repetitions of each expensive operation
    message: int = 4 << 20
    subscribers: int = 5000
    deflated: int = 1 << 20


FULL = Size()
SMALLEST = Size(seconds=0.0, after=0.0, times=1, message=1024, subscribers=2, deflated=1024)


class Delay(NamedTuple):
    """The duration of one echo."""

    wall: float
    cpu: float


class Probe:
    """A connection with one echo in flight at any time."""

    def __init__(self, server: Server, *, calls: bool = False) -> None:
        self._server = server
        if calls:
            self._sock = connect(server.port, "/rpc", CALLS)
            self._frame = client_frame(request(0, "add", 1, 1))
        else:
            self._sock = connect(server.port, "/echo")
            self._frame = client_frame(os.urandom(32))
        self.delays: list[Delay] = []

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self) -> None:
        self._cpu = self._server.cpu()
        self._sent = now()
        self._sock.sendall(self._frame)

    def take(self) -> None:
        """Handle the echo."""
        data = receive(self._sock)
        wall = now() - self._sent
        self.delays.append(Delay(wall, self._server.cpu() - self._cpu))
        if count_frames(data) != (1, len(data)):
            raise RuntimeError("that is no echo")

    def close(self) -> None:
        close_all([self._sock])


class Busy:
    """A connection that sends given data as fast as the server accepts it, and discards received data."""

    def __init__(self, sock: socket.socket, data: bytes, *, again: bool = False, least: int = 1) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._data = memoryview(data)
        self._unsent = self._data
        self._again = again
        self._least = least  # bytes of a whole response
        self._got = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def events(self) -> int:
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def move(self, events: int) -> None:
        if events & select.POLLOUT:
            self._unsent = self._unsent[self._sock.send(self._unsent[:65536]) :]
            if self._again and not self._unsent:
                self._unsent = self._data
        if events & ~select.POLLOUT:
            self._got += len(receive(self._sock))

    def answered(self) -> bool:
        return self._got >= self._least

    def close(self) -> None:
        close_all([self._sock])


def watch(probe: Probe, busy: Busy | None, done: Callable[[], bool], after: float) -> list[Delay]:
    """Echo until ``done`` is true, and for some time after that."""
    probe.delays = []
    poll = select.poll()
    poll.register(probe, select.POLLIN)
    if busy is not None:
        poll.register(busy, busy.events)
    began = now()
    stop: float | None = None
    probe.send()
    while True:
        if stop is None and done():
            stop = now() + after
        for fd, events in poll.poll(1000):
            if fd == probe.fileno():
                probe.take()
                if stop is not None and now() > stop:
                    return probe.delays
                probe.send()
            elif busy is not None:
                busy.move(events)
                poll.modify(busy, busy.events)
        if now() - began > 3 * LIMIT:
            raise TimeoutError("this takes too long")


def idle(probe: Probe, seconds: float) -> list[Delay]:
    watch(probe, None, lambda: True, seconds / 5)
    return watch(probe, None, lambda: True, seconds)


class Row(NamedTuple):
    """One row of the table, in milliseconds."""

    peer: str
    case: str
    idle_ms: float
    wall_ms: float
    cpu_ms: float


def flood(peer: str, program: Program, case: str, size: Size, *, calls: bool) -> Row:
    """Return the 99th percentile of the echoes while another connection sends without a pause."""
    with running(program) as server, placed(server):
        probe = Probe(server, calls=calls)
        if calls:
            sock = connect(server.port, "/rpc", CALLS)
            data = b"".join(client_frame(request(number, "add", 1, 2)) for number in range(3000))
        else:
            sock = connect(server.port, "/echo")
            data = client_frame(os.urandom(32)) * 10_000
        before = idle(probe, size.seconds)
        busy = Busy(sock, data, again=True)
        stop = now() + size.seconds
        delays = watch(probe, busy, lambda: now() > stop, 0.0)
        busy.close()
        probe.close()
    still = percentile([delay.wall for delay in before], 0.99)
    wall = percentile([delay.wall for delay in delays], 0.99)
    cpu = percentile([delay.cpu for delay in delays], 0.99)
    return Row(peer, f"{case}, p99", still * 1e3, (wall - still) * 1e3, cpu * 1e3)


def stalls(peer: str, case: str, before: list[Delay], during: list[list[Delay]]) -> Row:
    """Return the longest echo of each repetition, and the median of these."""
    still = statistics.median(delay.wall for delay in before)
    wall = statistics.median(max(delay.wall for delay in delays) for delays in during)
    cpu = statistics.median(max(delay.cpu for delay in delays) for delays in during)
    return Row(peer, f"{case}, longest", still * 1e3, (wall - still) * 1e3, cpu * 1e3)


def message(peer: str, program: Program, case: str, size: Size, payload: bytes, *, deflate: bool) -> Row:
    """Measure while one big message is echoed on another connection."""
    extensions = "permessage-deflate; client_max_window_bits" if deflate else None
    with running(program) as server, placed(server):
        probe = Probe(server)
        before = idle(probe, size.seconds)
        during = []
        for _ in range(size.times):
            sock = connect(server.port, "/echo", extensions=extensions)
            frame, least = _message(payload, deflate=deflate)
            busy = Busy(sock, frame, least=least)
            during.append(watch(probe, busy, busy.answered, size.after))
            busy.close()
        probe.close()
    return stalls(peer, case, before, during)


def _message(payload: bytes, *, deflate: bool) -> tuple[bytes, int]:
    """Return the frame to send, and the minimum size of its echo."""
    if not deflate:
        return client_frame(payload), echo_size(len(payload))
    compressor = zlib.compressobj(6, zlib.DEFLATED, -12)
    deflated = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return client_frame(deflated[:-4], rsv=0x40), len(deflated) // 2


def publish(peer: str, program: Program, case: str, size: Size, *, calls: bool) -> Row:
    """Measure while one message is published to many subscribers, which do not read until the end."""
    with running(program) as server, placed(server):
        probe = Probe(server, calls=calls)
        before = idle(probe, size.seconds)
        audience = FanOut(server, size.subscribers, calls=calls)
        publisher = connect(server.port, "/rpc" if calls else "/pub", CALLS if calls else None)
        during = []
        for _ in range(size.times):
            busy = Busy(publisher, audience.command(1))
            during.append(watch(probe, busy, busy.answered, size.after))
        close_all([publisher])
        audience.close()
        probe.close()
    return stalls(peer, case, before, during)


def text(size: int) -> bytes:
    """Return data that compresses like text: random words of a small vocabulary."""
    words = [os.urandom(3).hex().encode() for _ in range(2000)]
    picks = os.urandom(2 * (size // 7 + 1))
    parts = (words[int.from_bytes(picks[at : at + 2], "big") % 2000] for at in range(0, len(picks), 2))
    return b" ".join(parts)[:size]


def measure(size: Size, peers: list[str]) -> dict[str, Any]:
    """Measure these servers."""
    raise_file_limit(size.subscribers + 200)
    rows: list[Row] = []
    notes: list[str] = []
    subscribers = f"{size.subscribers:,} subscribers"
    for peer in peers:
        if peer in PEERS:
            program = PEERS[peer]
            rows.append(flood(peer, program, "flood of messages", size, calls=False))
            payload = os.urandom(size.message)
            rows.append(message(peer, program, f"{size.message:,} bytes", size, payload, deflate=False))
            rows.append(publish(peer, program, f"{subscribers}, broadcast", size, calls=False))
        if peer in CALLERS:
            program = CALLERS[peer]
            try:
                rows.append(flood(peer, program, "flood of calls", size, calls=True))
            except OSError as exc:
                notes.append(f"{peer} does not stand a flood of calls: {exc}")
            rows.append(publish(peer, program, f"{subscribers}, channel", size, calls=True))
        if peer == "trio_ws":
            program = Program("benchmarks.server", args=("compress",))
            case = f"{size.deflated:,} bytes inflated and deflated"
            rows.append(message(peer, program, case, size, text(size.deflated), deflate=True))
    return {"about": about(), "notes": notes, "rows": [row._asdict() for row in rows]}


def main() -> None:
    names = list(dict.fromkeys([*PEERS, *CALLERS]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", nargs="+", default=["trio_ws", "picows", "webshocket"], choices=names)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    result = measure(FULL, args.peers)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(fairness_table(result))


if __name__ == "__main__":
    main()
