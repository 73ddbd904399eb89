"""Measure what the loops cost: servers that only receive and send, as peers/floor_server.py describes them.

``python -m benchmarks.floor [rounds]`` prints the figures of echoes as ratios to picows, as run.py does.
A figure of ours that is near the one of its kind cannot become much better on trio.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.load import FULL, Effort
from benchmarks.report import figures_table
from benchmarks.run import BASELINE, Run, about
from benchmarks.servers import PEERS, Program, running_all

__all__ = ["FIGURES", "FLOORS", "measure"]

FLOORS = {
    f"{loop}, {kind}": Program("benchmarks.peers.floor_server", args=(kind,))
    for loop, kind in (
        ("trio", "stream"),
        ("trio", "socket"),
        ("trio", "epoll"),
        ("trio", "tasks"),
        ("asyncio", "protocol"),
    )
}
LARGE = ("echo_pipe_1k", "echo_64k", "echo_1m")
FIGURES = ("echo_rtt", "echo_rtt_1core", "echo_pipe_32", "echo_100conns", *LARGE)
#: Those whose responses must be small.
SMALL_ONLY = ("trio, epoll", "trio, tasks")


def measure(rounds: int, effort: Effort = FULL) -> dict[str, Any]:
    run = Run(effort)
    programs = {name: PEERS[name] for name in (BASELINE, "trio_ws")} | FLOORS
    with running_all(programs.values()) as started:
        servers = dict(zip(programs, started, strict=True))
        for number in range(rounds):
            for figure in FIGURES:
                taking_part = {
                    name: server
                    for name, server in servers.items()
                    if figure not in LARGE or name not in SMALL_ONLY
                }
                run.interleaved(figure, number, taking_part, BASELINE)
    return {"about": about() | {"rounds": rounds}, "rows": run.rows}


if __name__ == "__main__":
    print(figures_table(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)))
