"""The servers that are measured, each in its own process.

Each has these paths: ``/echo`` echoes every message; ``/sub`` only receives published messages; ``/pub``
receives the text ``"count size"``, publishes ``count`` messages of ``size`` bytes to all of ``/sub``, letting
other tasks run after each, and then responds. A server of calls uses ``webshocket.v1``, and has the methods
``add``, ``plus`` (the same as a plain ``def``, if supported), ``count`` (a stream), ``join`` and ``pub``.
Servers do not compress, unless requested, and do not send pings. All accept messages of up to 4 MiB.
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
    pure: bool = False  # whether to disable our C extension
    args: tuple[str, ...] = field(default=())


#: Servers of plain messages, ours first.
PEERS = {
    "trio_ws": Program("benchmarks.server"),
    "trio_ws App": Program("benchmarks.server", args=("app",)),
    "trio_ws listener": Program("benchmarks.server", args=("listener",)),
    "trio_ws, no C": Program("benchmarks.server", pure=True),
    "picows": Program("benchmarks.peers.picows_server"),
    "picows + uvloop": Program("benchmarks.peers.picows_server", uvloop=True),
    "granian": Program("benchmarks.peers.granian_server", uvloop=True),
    "granian + Starlette": Program("benchmarks.peers.granian_server", uvloop=True, args=("starlette",)),
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
    "trio_ws App": Program("benchmarks.calls_server", args=("app",)),
    "webshocket": Program("benchmarks.peers.webshocket_server"),
    "webshocket + uvloop": Program("benchmarks.peers.webshocket_server", uvloop=True),
}


class Server:
    """The process of a server, and its port on 127.0.0.1."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.pid = process.pid
        self._process = process
        self._clock = ~process.pid << 3 | 2  # see clock_getcpuclockid(3)

    def cpu(self) -> float:
        """Return the seconds of CPU time of the process; while it runs, those at the kernel's last tick."""
        return time.clock_gettime(self._clock)

    def resident_bytes(self) -> int:
        """Return the bytes of resident memory."""
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
        self._process.kill()  # it needs no cleanup, and our connections are closed
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
    # Some servers log each connection that is reset.
    quiet = subprocess.DEVNULL if program.module.startswith("benchmarks.peers.") else None
    return Server(port, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=quiet))


@contextmanager
def running_all(programs: Iterable[Program]) -> Generator[list[Server], None, None]:
    """Run servers on free ports for the duration of a block, started concurrently."""
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
    """Run one server for the duration of a block."""
    with running_all([program]) as (server,):
        yield server


@contextmanager
def placed(server: Server, *, one_core: bool = False) -> Generator[None, None, None]:
    """Place server and load side on a processor each, or both on one, if there are two processors."""
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
    """Raise the limit on open files of this process and its children, and return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with_room = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (with_room, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
