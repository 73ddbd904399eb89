"""The servers that are measured, each in a process of its own.

What each does: ``/echo`` sends every message back; ``/sub`` only receives what is published; ``/pub`` takes
the text ``"count size"``, publishes that many messages of that size to all of ``/sub`` with a turn for others
after each, and then answers. A server of calls speaks ``webshocket.v1`` and has the methods ``add``,
``plus`` (the same as a plain ``def`` where there is such a thing), ``count`` (a stream), ``join`` and
``pub``. None compresses, unless that is asked for, or sends pings, and all take messages of up to 4 MiB.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

__all__ = ["CALLERS", "PEERS", "Server", "free_port", "placed", "raise_file_limit", "running", "running_all"]

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Program:
    """A module to run, with the port and then these arguments."""

    module: str
    uvloop: bool = False
    pure: bool = False  # ours without its C extension
    args: tuple[str, ...] = field(default=())


#: Servers of plain messages, ours first.
PEERS = {
    "trio_ws": Program("benchmarks.server"),
    "trio_ws App": Program("benchmarks.server", args=("app",)),
    "trio_ws listener": Program("benchmarks.server", args=("listener",)),
    "trio_ws, no C": Program("benchmarks.server", pure=True),
    "picows": Program("benchmarks.peers.picows_server"),
    "picows + uvloop": Program("benchmarks.peers.picows_server", uvloop=True),
    "aiohttp": Program("benchmarks.peers.aiohttp_server"),
    "aiohttp + uvloop": Program("benchmarks.peers.aiohttp_server", uvloop=True),
    "websockets": Program("benchmarks.peers.websockets_server"),
    "websockets + uvloop": Program("benchmarks.peers.websockets_server", uvloop=True),
    "websockets.trio": Program("benchmarks.peers.websockets_trio_server"),
    "trio-websocket": Program("benchmarks.peers.trio_websocket_server"),
}
#: Servers of calls.
CALLERS = {
    "trio_ws": Program("benchmarks.calls_server"),
    "webshocket": Program("benchmarks.peers.webshocket_server"),
    "webshocket + uvloop": Program("benchmarks.peers.webshocket_server", uvloop=True),
}


class Server:
    """A server's process, and where it listens on 127.0.0.1."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.pid = process.pid
        self._process = process
        self._clock = ~process.pid << 3 | 2  # see clock_getcpuclockid(3)

    def cpu(self) -> float:
        """Seconds of CPU time that the process has taken; while it runs, as of the kernel's last tick."""
        return time.clock_gettime(self._clock)

    def resident_bytes(self) -> int:
        """Bytes that the process has in RAM."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self._process.args!r} does not start") from None
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        self._process.kill()  # it has nothing to tidy up, and our connections are closed
        self._process.wait()

    def place(self, processors: set[int]) -> None:
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), processors)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start(program: Program) -> Server:
    port = free_port()
    switches = {"BENCH_UVLOOP": program.uvloop, "TRIO_WS_PURE": program.pure}
    environment = os.environ | {name: "1" if on else "" for name, on in switches.items()}
    command = [sys.executable, "-m", program.module, str(port), *program.args]
    # Some report each connection that we reset, at length.
    quiet = subprocess.DEVNULL if program.module.startswith("benchmarks.peers.") else None
    return Server(port, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=quiet))


@contextmanager
def running_all(programs: Iterable[Program]) -> Generator[list[Server], None, None]:
    """Servers on free ports for the length of a block, started side by side."""
    with ExitStack() as stack:
        servers: list[Server] = []
        for program in programs:
            server = _start(program)
            stack.callback(server.stop)
            servers.append(server)
        for server in servers:
            server.wait_until_it_listens()
        yield servers


@contextmanager
def running(program: Program) -> Generator[Server, None, None]:
    """One server."""
    with running_all([program]) as (server,):
        yield server


@contextmanager
def placed(server: Server, *, one_core: bool = False) -> Generator[None, None, None]:
    """Server and load side each on a processor of its own, or both on one, where there are two."""
    before = os.sched_getaffinity(0)
    processors = sorted(before)
    if len(processors) < 2:
        yield
        return
    try:
        server.place({processors[1 if one_core else 0]})
        os.sched_setaffinity(0, {processors[1]})
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit(wanted: int) -> int:
    """Let this process, and those it starts, have that many files open; how many they may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with_room = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (with_room, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
