"""What a second process adds: the same server in one and in two processes, with many connections.

``python -m benchmarks.processes``. Each connection has one message under way. What counts is the CPU time of
a message, as there may be fewer processors than all processes and the load side need. With a processor for
each, two processes reach their limit when the one with more connections has no CPU time left. They can do
less than twice as much as one if a message costs more there, or if connections are not divided equally.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

import trio_ws
from benchmarks.load import call_requests, close_all
from benchmarks.report import processes_table
from benchmarks.run import about
from benchmarks.servers import ROOT, free_port
from benchmarks.wire import CALLS, LIMIT, client_frame, connect, count_frames, receive

__all__ = ["measure"]

#: What is measured: the target of the processes, the path, and the subprotocol.
KINDS = {
    "calls": ("benchmarks.calls_server:Rooms", "/rpc", CALLS),
    "echoes": ("benchmarks.server:handler", "/echo", None),
}


def serve(target: str, port: int, workers: int) -> None:
    options = trio_ws.Options(ping_interval=None)

    async def main() -> None:
        await trio_ws.serve_processes(
            target, port, workers=workers, host="127.0.0.1", options=options, log_level=40
        )

    trio.run(main)


def cpu(pid: int) -> float:
    """Seconds of CPU time that a process has taken."""
    return time.clock_gettime(~pid << 3 | 2)  # see clock_getcpuclockid(3)


def children(pid: int) -> list[int]:
    # Workers are started in another thread, and Linux lists the children of each thread.
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


@contextmanager
def group(kind: str, workers: int) -> Generator[tuple[int, list[int]], None, None]:
    """A group of processes; its port, and its workers."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.processes", "serve", KINDS[kind][0], str(port), str(workers)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command} does not start") from None
                time.sleep(0.05)
            else:
                break
        while len(children(process.pid)) < workers:
            time.sleep(0.05)
        pids = children(process.pid)
        # A worker serves once it has opened all of its sockets.
        before: list[int] = []
        while (now := [sockets(pid) for pid in pids]) != before:
            before = now
            connect(port, KINDS[kind][1], KINDS[kind][2]).close()
            time.sleep(0.5)
        yield port, pids
    finally:
        process.terminate()
        process.wait()


class Load:
    """Connections, each of which sends again when it has its answer."""

    def __init__(self, port: int, kind: str, connections: int) -> None:
        _, path, subprotocol = KINDS[kind]
        self._frame = call_requests()[1] if kind == "calls" else client_frame(os.urandom(32))
        self._socks = [connect(port, path, subprotocol) for _ in range(connections)]

    def run(self, messages: int) -> None:
        """Send so many messages, and wait until all are answered."""
        by_fd = {sock.fileno(): sock for sock in self._socks}
        due, answered = messages - len(by_fd), 0
        with select.epoll() as epoll:
            for fd, sock in by_fd.items():
                epoll.register(fd, select.EPOLLIN)
                sock.sendall(self._frame)
            while answered < messages:
                ready = epoll.poll(LIMIT)
                if not ready:
                    raise TimeoutError(f"{messages - answered} answers stay out")
                for fd, _ in ready:
                    if count_frames(receive(by_fd[fd]))[0] != 1:
                        raise RuntimeError("that is no answer")
                    answered += 1
                    if due > 0:
                        due -= 1
                        by_fd[fd].sendall(self._frame)

    def close(self) -> None:
        close_all(self._socks)


def sockets(pid: int) -> int:
    """How many sockets a process has."""
    count = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            count += str(fd.readlink()).startswith("socket:")
    return count


def slice_of(kind: str, port: int, pids: list[int], connections: int, messages: int) -> tuple[float, float]:
    """CPU microseconds of a message, and the share of the connections that the busiest process has."""
    idle = [sockets(pid) for pid in pids]
    load = Load(port, kind, connections)
    load.run(max(connections, messages // 10))
    share = max(sockets(pid) - before for pid, before in zip(pids, idle, strict=True)) / connections
    before = sum(map(cpu, pids))
    load.run(messages)
    taken = sum(map(cpu, pids)) - before
    load.close()
    deadline = time.monotonic() + LIMIT
    while sum(map(sockets, pids)) > sum(idle):
        if time.monotonic() > deadline:
            raise TimeoutError("connections stay open")
        time.sleep(0.01)
    return taken / messages * 1e6, share


def measure(rounds: int, connections: int = 400, messages: int = 10_000) -> dict[str, Any]:
    """The rows of all rounds, in which one process and two take turns."""
    rows = []
    for kind in KINDS:
        with group(kind, 1) as single, group(kind, 2) as pair:
            for number in range(rounds):
                one, _ = slice_of(kind, *single, connections, messages)
                two, share = slice_of(kind, *pair, connections, messages)
                row = {"kind": kind, "round": number, "one_us": one, "two_us": two, "share": share}
                rows.append(row | {"times": one / (two * share)})
    return {"about": about() | {"rounds": rounds}, "notes": [], "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every slice in this file")
    args = parser.parse_args()
    result = measure(args.rounds)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(processes_table(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
