"""Measure what our application costs under ASGI and RSGI servers, compared with a minimal application.

``python -m benchmarks.hosts``: CPU time of the host's process for each echo and each call, on one connection
and on twenty at once. Slices of both applications are interleaved; the ratio is the median of the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.servers import ROOT, free_port
from benchmarks.wire import LIMIT, client_frame, connect, receive

__all__ = ["main"]

APP = "benchmarks.hosted"
#: Module, arguments of Python before the application, and the plain application.
HOSTS = {
    "uvicorn": ("uvicorn", ["--log-level", "warning", "--port"], "plain_asgi"),
    "granian": ("granian", ["--interface", "asgi", "--port"], "plain_asgi"),
    "granian, RSGI": ("granian", ["--interface", "rsgi", "--port"], "plain_rsgi"),
    "hypercorn": ("hypercorn", ["--bind"], "plain_asgi"),
    "hypercorn, trio": ("hypercorn", ["-k", "trio", "--bind"], "plain_asgi"),
}


class Slice(NamedTuple):
    cpu_us: float
    wall_us: float


class Host:
    """A host's process group."""

    def __init__(self, module: str, arguments: list[str], app: str) -> None:
        self.port = free_port()
        where = f"127.0.0.1:{self.port}" if arguments[-1] == "--bind" else str(self.port)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, where, f"{APP}:{app}"],
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{module} does not start") from None
                time.sleep(0.02)

    def cpu(self) -> float:
        """Return the seconds of CPU time of the process and its workers."""
        pids = [self._process.pid]
        for pid in pids:
            with suppress(OSError):
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def measure(self, path: str, frame: bytes, connections: int, seconds: float) -> Slice:
        """Keep one message in flight on each connection."""
        socks = [connect(self.port, path) for _ in range(connections)]
        by_fd = {sock.fileno(): sock for sock in socks}
        with select.epoll() as epoll:
            for sock in socks:
                epoll.register(sock, select.EPOLLIN)
            under_way = answered = 0
            warm = time.perf_counter() + seconds / 5
            cpu = began = 0.0
            for sock in socks:
                sock.sendall(frame)
                under_way += 1
            while under_way:
                ready = epoll.poll(LIMIT)
                if not ready:
                    raise TimeoutError("the answers stay out")
                now = time.perf_counter()
                if not began and now > warm:
                    began, cpu, answered = now, self.cpu(), 0
                for fd, _ in ready:
                    receive(by_fd[fd])
                    answered += 1
                    if not began or now < began + seconds:
                        by_fd[fd].sendall(frame)
                    else:
                        under_way -= 1
            spent, took = self.cpu() - cpu, time.perf_counter() - began
        for sock in socks:
            sock.sendall(client_frame(b"\x03\xe8", 8))
            sock.close()
        return Slice(spent / answered * 1e6, took / answered * 1e6)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each slice")
    parser.add_argument("--hosts", nargs="*", default=list(HOSTS), choices=list(HOSTS))
    arguments = parser.parse_args()
    echo = client_frame(os.urandom(32))
    call = client_frame(b'{"jsonrpc":"2.0","id":1,"method":"add","params":[1,2]}', 1)
    head = ["host", "what", "at once", "plain, CPU us", "trio_ws, CPU us", "ratio", "plain, wall us"]
    print(f"| {' | '.join(head)} | trio_ws, wall us |")
    print("| --- " * (len(head) + 1) + "|")
    for name in arguments.hosts:
        module, options, plain = HOSTS[name]
        if importlib.util.find_spec(module) is None:
            print(f"{name} is not installed", file=sys.stderr)
            continue
        with ExitStack() as stack:
            hosts: list[Host] = []
            for app in (plain, "ours"):
                hosts.append(Host(module, options, app))
                stack.callback(hosts[-1].stop)
            for what, path, frame in (("echo", "/echo", echo), ("call", "/rpc", call)):
                for connections in (1, 20):
                    slices = [
                        [host.measure(path, frame, connections, arguments.seconds) for host in hosts]
                        for _ in range(arguments.rounds)
                    ]
                    theirs, ours = (
                        [statistics.median(values) for values in zip(*column, strict=True)]
                        for column in zip(*slices, strict=True)
                    )
                    ratio = statistics.median(us.cpu_us / them.cpu_us for them, us in slices)
                    print(
                        f"| {name} | {what} | {connections} | {theirs[0]:.0f} | {ours[0]:.0f} | {ratio:.1f}"
                        f" | {theirs[1]:.0f} | {ours[1]:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
