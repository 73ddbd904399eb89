"""Measure what our application costs under ASGI and RSGI servers.

``python -m benchmarks.hosts``: CPU time of the host's process for each echo and each call, on one connection
and on twenty at once. There are two others to compare with: a minimal application with the host's own
interface, and one with a framework (FastAPI, or Emmett55 for RSGI). Slices of all three are interleaved; each
ratio is the median of the rounds.
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

PLAIN = "benchmarks.hosted:plain_asgi"
FASTAPI = "benchmarks.hosted:framework"
OURS = "benchmarks.hosted:ours"


class HostCommand(NamedTuple):
    """How to start a host, and the applications to compare ours with."""

    module: str
    arguments: list[str]  # before the address
    plain: str = PLAIN
    framework: str = FASTAPI
    framework_package: str = "fastapi"


HOSTS = {
    "uvicorn": HostCommand("uvicorn", ["--log-level", "warning", "--port"]),
    "granian": HostCommand("granian", ["--interface", "asgi", "--port"]),
    "granian, RSGI": HostCommand(
        "granian",
        ["--interface", "rsgi", "--port"],
        "benchmarks.hosted:plain_rsgi",
        "benchmarks.hosted_emmett:framework",
        "emmett55",
    ),
    "hypercorn": HostCommand("hypercorn", ["--bind"]),
    "hypercorn, trio": HostCommand("hypercorn", ["-k", "trio", "--bind"]),
}


class Host:
    """A host's process group."""

    def __init__(self, module: str, arguments: list[str], app: str) -> None:
        self.port = free_port()
        where = f"127.0.0.1:{self.port}" if arguments[-1] == "--bind" else str(self.port)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, where, app],
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

    def measure(self, path: str, frame: bytes, connections: int, seconds: float) -> float:
        """Keep one message in flight on each connection; return the microseconds of CPU time of each."""
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
            spent = self.cpu() - cpu
        for sock in socks:
            sock.sendall(client_frame(b"\x03\xe8", 8))
            sock.close()
        return spent / answered * 1e6


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each slice")
    parser.add_argument("--hosts", nargs="*", default=list(HOSTS), choices=list(HOSTS))
    arguments = parser.parse_args()
    echo = client_frame(os.urandom(32))
    call = client_frame(b'{"jsonrpc":"2.0","id":1,"method":"add","params":[1,2]}', 1)
    print("CPU time in microseconds. Ratios are those of ours to each of the others.\n")
    head = ["host", "what", "at once", "plain", "framework", "ours", "to plain", "to framework"]
    print(f"| {' | '.join(head)} |")
    print("| --- " * len(head) + "|")
    for name in arguments.hosts:
        command = HOSTS[name]
        needed = (command.module, command.framework_package)
        if missing := [package for package in needed if importlib.util.find_spec(package) is None]:
            print(f"{name} needs {' and '.join(missing)}", file=sys.stderr)
            continue
        with ExitStack() as stack:
            hosts: list[Host] = []
            for app in (command.plain, command.framework, OURS):
                hosts.append(Host(command.module, command.arguments, app))
                stack.callback(hosts[-1].stop)
            for what, path, frame in (("echo", "/echo", echo), ("call", "/rpc", call)):
                for connections in (1, 20):
                    slices = [
                        [host.measure(path, frame, connections, arguments.seconds) for host in hosts]
                        for _ in range(arguments.rounds)
                    ]
                    medians = [statistics.median(column) for column in zip(*slices, strict=True)]
                    ratios = [statistics.median(each[2] / each[other] for each in slices) for other in (0, 1)]
                    figures = [f"{cpu:.0f}" for cpu in medians] + [f"{ratio:.1f}" for ratio in ratios]
                    print(f"| {name} | {what} | {connections} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
