"""Measure all servers side by side, and print a table: ``make bench``, or ``python -m benchmarks.run``.

The speed of machines varies by a factor of two within seconds, so a single figure means little. Each server
is measured in a slice between two slices of a baseline. The result is the median of these ratios over all
rounds.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.load import FULL, MEASURES, UNITS, Effort, Measure, Sample
from benchmarks.report import figures_table
from benchmarks.servers import CALLERS, PEERS, ROOT, Server, placed, raise_file_limit, running, running_all
from trio_ws.protocol.masking import IMPLEMENTATION

__all__ = ["about", "measure_all"]

BASELINE = "picows"
BASELINE_OF_CALLS = "webshocket"
NAMES = list(dict.fromkeys([*PEERS, *CALLERS]))


def about() -> dict[str, Any]:
    """Return the machine and the versions of a run."""
    versions = {}
    for name in (
        "trio",
        "picows",
        "granian",
        "aiohttp",
        "websockets",
        "trio-websocket",
        "webshocket",
        "uvloop",
    ):
        versions[name] = importlib.metadata.version(name)
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return {
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "python": platform.python_version(),
        "mask": IMPLEMENTATION,
        "processors": len(os.sched_getaffinity(0)),
        "versions": versions,
    }


class Run:
    """The rows of a run, and how they are measured."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self.rows: list[dict[str, Any]] = []

    def slice(self, name: str, peer: str, server: Server) -> Sample | None:
        """Measure one slice, or return None if the server fails, which must not end the run."""
        measure = MEASURES[name]
        try:
            with placed(server, one_core=measure.one_core):
                return measure.run(server, self.effort)
        except (OSError, RuntimeError) as exc:
            print(f"{peer} failed at {name}: {exc!r}", file=sys.stderr)
            return None

    def keep(self, peer: str, number: int, sample: Sample, bases: list[Sample]) -> None:
        for figure, value in sample.values.items():
            row = {"figure": figure, "unit": UNITS[figure], "peer": peer, "round": number, "value": value}
            row |= {"cpu_us": sample.cpu_us, "busy": sample.busy, **sample.beside}
            if bases:
                base = sum(one.values[figure] for one in bases) / len(bases)
                row["ratio"] = value / base if UNITS[figure].endswith("/s") else base / value
            self.rows.append(row)

    def interleaved(self, name: str, number: int, servers: dict[str, Server], baseline: str) -> None:
        """Measure B P1 B P2 B ...: each server between two slices of the baseline, in rotating order."""
        peers = [peer for peer in servers if peer != baseline]
        if number % 2:
            peers.reverse()
        before = self.slice(name, baseline, servers[baseline])
        if before is not None:
            self.keep(baseline, number, before, [before])
        for peer in peers:
            sample = self.slice(name, peer, servers[peer])
            after = self.slice(name, baseline, servers[baseline])
            if sample is not None:
                self.keep(peer, number, sample, [one for one in (before, after) if one is not None])
            before = after or before

    def one_after_the_other(self, name: str, number: int, peers: list[str], baseline: str) -> None:
        """Measure figures that require a fresh server, and do not vary with the machine."""
        programs = _programs(MEASURES[name])
        base: list[Sample] = []
        for peer in [baseline, *(peer for peer in peers if peer != baseline)]:
            with running(programs[peer]) as server:
                sample = self.slice(name, peer, server)
            if sample is not None:
                base = base or [sample]
                self.keep(peer, number, sample, base)


def _programs(measure: Measure) -> dict[str, Any]:
    return CALLERS if measure.calls else PEERS


def measure_all(rounds: int, names: list[str], peers: list[str], effort: Effort = FULL) -> dict[str, Any]:
    """Run the measurements of these names on these peers."""
    raise_file_limit(max(effort.idle) + 1000)
    run = Run(effort)
    with ExitStack() as stack:
        groups: list[tuple[list[str], list[str], dict[str, Server], str]] = []
        for calls, programs, baseline in ((False, PEERS, BASELINE), (True, CALLERS, BASELINE_OF_CALLS)):
            wanted = [name for name in names if MEASURES[name].calls is calls]
            taking_part = [peer for peer in programs if peer in peers or peer == baseline]
            if wanted and any(peer in peers for peer in programs):
                started = stack.enter_context(running_all(programs[peer] for peer in taking_part))
                groups.append((wanted, taking_part, dict(zip(taking_part, started, strict=True)), baseline))
        for number in range(rounds):
            for wanted, taking_part, servers, baseline in groups:
                for name in wanted:
                    print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
                    if not (MEASURES[name].fresh and effort.fresh):
                        run.interleaved(name, number, servers, baseline)
                    elif number < 2:
                        run.one_after_the_other(name, number, taking_part, baseline)
    return {"about": about() | {"rounds": rounds}, "rows": run.rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figures", nargs="+", default=list(MEASURES), choices=MEASURES, metavar="FIGURE")
    parser.add_argument("--peers", nargs="+", default=NAMES, choices=NAMES, metavar="PEER")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every slice in this file")
    args = parser.parse_args()
    result = measure_all(args.rounds, args.figures, args.peers)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(figures_table(result))


if __name__ == "__main__":
    main()
