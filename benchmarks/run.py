"""Measure echo servers side by side: ``make bench``.

Machines drift, so a figure alone says little. Here each server's slice of a figure lies next to one of the
baseline's, and the table gives the median ratio over the rounds. The server has one processor and the load
side another, where there are two.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.load import FIGURES, Server

if TYPE_CHECKING:
    from collections.abc import Generator

HERE = Path(__file__).parent
SERVERS = {
    "trio_ws": HERE / "server.py",
    "picows": HERE / "peers" / "picows_echo.py",
    "aiohttp": HERE / "peers" / "aiohttp_echo.py",
    "websockets.trio": HERE / "peers" / "websockets_trio_echo.py",
    "trio-websocket": HERE / "peers" / "trio_websocket_echo.py",
}


@contextmanager
def running(script: Path) -> Generator[Server, None, None]:
    """A server in a process of its own, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(script), str(port)])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{script.name} does not start") from None
                time.sleep(0.05)
        processors = sorted(os.sched_getaffinity(0))
        if len(processors) > 1:
            os.sched_setaffinity(process.pid, {processors[0]})
        yield Server(port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--baseline", default="picows", choices=SERVERS)
    parser.add_argument("--figures", nargs="+", default=list(FIGURES), choices=FIGURES)
    args = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))
    values: dict[tuple[str, str], list[float]] = {}
    ratios: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(running(script)) for name, script in SERVERS.items()}
        if len(processors) > 1:
            os.sched_setaffinity(0, {processors[1]})
        for _ in range(args.rounds):
            for figure in args.figures:
                if figure == "memory":
                    continue
                measure, _, more_is_better = FIGURES[figure]
                for name, server in servers.items():
                    base = measure(servers[args.baseline])
                    value = base if name == args.baseline else measure(server)
                    values.setdefault((figure, name), []).append(value)
                    ratio = value / base if more_is_better else base / value
                    ratios.setdefault((figure, name), []).append(ratio)
    if "memory" in args.figures:
        for name, script in SERVERS.items():
            with running(script) as server:
                values["memory", name] = [FIGURES["memory"][0](server)]
        base = values["memory", args.baseline][0]
        ratios.update({("memory", name): [base / values["memory", name][0]] for name in SERVERS})
    print(f"| figure | server | median | times {args.baseline} (more is better) |\n| --- | --- | --- | --- |")
    for figure in args.figures:
        for name in SERVERS:
            median = statistics.median(values[figure, name])
            ratio = statistics.median(ratios[figure, name])
            print(f"| {figure} | {name} | {median:,.1f} {FIGURES[figure][1]} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
