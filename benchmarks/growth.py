"""Measure how costs grow with connections, subscribers, message sizes and calls in flight, for several
libraries.

``python -m benchmarks.growth --json FILE``; ``--quick`` takes fewer points and one round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.callers import run_client
from benchmarks.load import (
    Effort,
    FanOut,
    calls_in_flight,
    close_all,
    idle_connection,
    pipelined,
    round_trips,
)
from benchmarks.report import growth_table
from benchmarks.run import about
from benchmarks.servers import CALLERS, PEERS, placed, raise_file_limit, running, running_all
from benchmarks.wire import client_frame

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator

    from benchmarks.servers import Server

__all__ = ["FULL_STEPS", "QUICK", "SMALLEST", "Steps", "grow"]

#: Files that a process has open in addition to its connections.
SPARE_FILES = 200
#: The servers that can publish, and whether by calls.
AUDIENCES = {"trio_ws, broadcast": False, "trio_ws, channel": True, "picows": False, "webshocket": True}


@dataclass(frozen=True)
class Steps:
    """The points of each curve, and how often each is measured."""

    connections: tuple[int, ...]
    subscribers: tuple[int, ...]
    sizes: tuple[int, ...]
    calls: tuple[int, ...]
    rounds: int
    seconds: float
    client_calls: int
    settle: float = 0.3
    publications: int = 7


FULL_STEPS = Steps(
    connections=(10, 100, 1000, 3000, 10_000),
    subscribers=(1, 10, 100, 500, 1000, 2500, 5000),
    sizes=tuple(16 * 4**power for power in range(10)),
    calls=(1, 10, 100, 1000, 10_000),
    rounds=3,
    seconds=0.3,
    client_calls=20_000,
)
QUICK = Steps(
    connections=(10, 100, 1000),
    subscribers=(1, 100, 1000),
    sizes=(16, 1024, 65536, 4 << 20),
    calls=(1, 100, 10_000),
    rounds=1,
    seconds=0.2,
    client_calls=10_000,
)
SMALLEST = Steps(
    (1, 2), (1, 2), (16, 1 << 20), (2,), rounds=1, seconds=0.0, client_calls=2, settle=0.0, publications=1
)


class Growth:
    """The curves, and notes about them."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.notes: list[str] = []
        self._values: dict[tuple[str, str], dict[int, list[float]]] = {}
        self._curves: dict[str, tuple[str, str, str]] = {}

    def curve(self, name: str, title: str, unit: str, along: str) -> None:
        self._curves[name] = (title, unit, along)

    def keep(self, name: str, peer: str, point: int, value: float) -> None:
        self._values.setdefault((name, peer), {}).setdefault(point, []).append(value)

    def curves(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "title": self._curves[name][0],
                "unit": self._curves[name][1],
                "along": self._curves[name][2],
                "peer": peer,
                "points": [[point, statistics.median(values)] for point, values in sorted(points.items())],
            }
            for (name, peer), points in self._values.items()
        ]

    # -- connections --------------------------------------------------------------------------------

    def connections(self, files: int) -> None:
        """Measure the memory of many connections, and a round trip on one while the others are idle."""
        self.curve("memory", "memory of an idle connection", "KiB", "connections")
        self.curve("latency", "round trip on one of many connections", "us", "connections")
        counts = [count for count in self.steps.connections if count + SPARE_FILES <= files]
        if len(counts) < len(self.steps.connections):
            self.notes.append(
                f"no more than {files} files may be open here, so the largest counts are missing"
            )
        for peer in ("trio_ws", "picows", "aiohttp"):
            with running(PEERS[peer]) as server, placed(server):
                first = idle_connection(server)
                time.sleep(self.steps.settle)
                before = server.resident_bytes()
                socks: list[socket.socket] = []
                for count in counts:
                    socks += [idle_connection(server) for _ in range(count - len(socks))]
                    time.sleep(self.steps.settle)
                    grown = (server.resident_bytes() - before) / count / 1024
                    if grown > 0:
                        self.keep("memory", peer, count, grown)
                    times = round_trips(first, [client_frame(os.urandom(32))], self.steps.seconds)
                    self.keep("latency", peer, count, statistics.median(times) * 1e6)
                close_all([first, *socks])

    # -- subscribers --------------------------------------------------------------------------------

    def subscribers(self, files: int) -> None:
        """Measure publishing: when the last subscriber has a message, and the CPU time of each delivery."""
        self.curve("last", "until the last subscriber has a message", "ms", "subscribers")
        self.curve("delivery", "CPU time of one delivery of a single message", "us", "subscribers")
        programs = (PEERS["trio_ws"], CALLERS["trio_ws"], PEERS["picows"], CALLERS["webshocket"])
        with running_all(programs) as servers:
            peers = list(zip(AUDIENCES, servers, strict=True))
            for count in self.steps.subscribers:
                # The sockets of all subscribers are open in this process.
                at_once = (files - SPARE_FILES) // count
                if not at_once:
                    self.notes.append(f"{count:,} subscribers are more files than this system lets us open.")
                    continue
                for start in range(0, len(peers), at_once):
                    self._publish(peers[start : start + at_once], count)

    def _publish(self, peers: list[tuple[str, Server]], count: int) -> None:
        with _audiences(peers, count) as audiences:
            times = self.steps.publications * self.steps.rounds
            before = {peer: server.cpu() for peer, server in peers}
            for _ in range(times):
                for peer, server in peers:
                    with placed(server):
                        self.keep("last", peer, count, audiences[peer].publish(1)[0] * 1e3)
            time.sleep(self.steps.settle)
            for peer, server in peers:
                cpu = (server.cpu() - before[peer]) / (times * count)
                self.keep("delivery", peer, count, cpu * 1e6)

    # -- sizes --------------------------------------------------------------------------------------

    def sizes(self) -> None:
        """Measure echoes of messages of every size."""
        self.curve("echoes", "echoes", "per s", "bytes of a message")
        self.curve("bytes", "echoes, each way", "MB/s", "bytes of a message")
        effort = Effort(seconds=self.steps.seconds)
        with running_all([PEERS["trio_ws"], PEERS["picows"]]) as servers:
            for _ in range(self.steps.rounds):
                for size in self.steps.sizes:
                    window = max(2, min(100, (1 << 18) // size))
                    for peer, server in zip(("trio_ws", "picows"), servers, strict=True):
                        with placed(server):
                            rate = pipelined("rate", size, window)(server, effort).values["rate"]
                        self.keep("echoes", peer, size, rate)
                        self.keep("bytes", peer, size, rate * size / 1e6)

    # -- calls --------------------------------------------------------------------------------------

    def calls(self) -> None:
        """Measure concurrent calls on one connection, on the server and on the client."""
        self.curve("served", "calls served", "per s", "calls in flight")
        self.curve("made", "calls made by a client", "per s", "calls in flight")
        self.curve("client_cpu", "CPU time of the client for a call", "us", "calls in flight")
        effort = Effort(seconds=self.steps.seconds)
        peers = ("trio_ws", "webshocket")
        with running_all([CALLERS[peer] for peer in peers]) as servers:
            for _ in range(self.steps.rounds):
                for count in self.steps.calls:
                    for peer, server in zip(peers, servers, strict=True):
                        with self.noting(f"the server of {peer} with {count:,} calls in flight"):
                            with placed(server):
                                rate = calls_in_flight("rate", count)(server, effort).values["rate"]
                            self.keep("served", peer, count, rate)
                        # Both clients use our server, which supports both protocols.
                        calls = min(self.steps.client_calls, 2000 * count)
                        with self.noting(f"the client of {peer} with {count:,} calls in flight"):
                            with placed(servers[0]):
                                cpu, rate = run_client(peer, servers[0].port, count, calls)
                            self.keep("client_cpu", peer, count, cpu)
                            self.keep("made", peer, count, rate)

    @contextmanager
    def noting(self, what: str) -> Generator[None, None, None]:
        """Add a note if a server cannot do something, instead of a point of the curve."""
        try:
            yield
        except (OSError, subprocess.SubprocessError):
            note = f"{what} failed"
            self.notes += [note] if note not in self.notes else []


@contextmanager
def _audiences(peers: list[tuple[str, Server]], count: int) -> Generator[dict[str, FanOut], None, None]:
    audiences: dict[str, FanOut] = {}
    try:
        for peer, server in peers:
            audiences[peer] = FanOut(server, count, calls=AUDIENCES[peer])
        yield audiences
    finally:
        for audience in audiences.values():
            audience.close()


def grow(steps: Steps) -> dict[str, Any]:
    """Measure all curves."""
    wanted = max(*steps.connections, len(AUDIENCES) * max(steps.subscribers)) + SPARE_FILES
    files = raise_file_limit(wanted)
    growth = Growth(steps)
    growth.connections(files)
    growth.subscribers(files)
    growth.sizes()
    growth.calls()
    return {"about": about(), "notes": growth.notes, "curves": growth.curves()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    result = grow(QUICK if args.quick else FULL_STEPS)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(growth_table(result))


if __name__ == "__main__":
    main()
