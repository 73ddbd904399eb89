"""Measure what calls and streams cost a JavaScript client in Node: our client, and others from npm.

``python -m benchmarks.javascript [--rounds N] [--into README.md]``. All call a server of ours, with 100 calls
under way on one connection: our client by ``trio-ws.v1``, rpc-websockets by JSON-RPC 2.0 without streams, and
SignalR's by its hub protocol. Node's own WebSocket costs more than that of the package ws, which the others
use, so ours is measured on both. ``.ci/install`` installs the packages.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.report import fill
from benchmarks.servers import CALLERS, Program, running
from tests.support.node import install_client, node_command
from tests.support.npm import CACHE, npm_version

if TYPE_CHECKING:
    from collections.abc import Generator

CALLS = 10_000
ITEMS = 100_000
#: Each client with its server.
LIBRARIES = {
    "trio-ws": CALLERS["trio_ws"],
    "trio-ws on ws": CALLERS["trio_ws"],
    "rpc-websockets": CALLERS["trio_ws"],
    "signalr": Program("benchmarks.signalr_server"),
}


def measure(folder: Path, library: str, calls: int = CALLS, items: int = ITEMS) -> dict[str, Any]:
    """One client, in a process of its own, with a server of its own."""
    with running(LIBRARIES[library]) as server:
        program = str(folder / "javascript.mjs")
        numbers = (f"ws://127.0.0.1:{server.port}/", str(calls), str(items))
        command = [*node_command(), "--expose-gc", program, library, *numbers]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextmanager
def installed() -> Generator[Path]:
    """A folder with the program and the packages that it imports."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(CACHE / "node_modules", folder / "node_modules", symlinks=True)
        install_client(folder)
        shutil.copy(Path(__file__).with_suffix(".mjs"), folder)
        yield folder


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """The medians over the rounds."""
    lines = [
        "| client | what | CPU, us | each second | heap at the end, KiB | heap kept, KiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for what in ("calls", "stream"):
        for library, results in found.items():
            rows = [one[what] for one in results if what in one]
            if rows:
                keys = ("cpu_us", "per_s", "heap_kib", "kept_heap_kib")
                medians = [statistics.median(row[key] for row in rows) for key in keys]
                cells = [f"{one:,.0f}" if abs(one) >= 100 else f"{one:.1f}" for one in medians]
                lines.append(f"| {library} | {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--into", type=Path, metavar="README")
    args = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {library: [] for library in LIBRARIES}
    with installed() as folder:
        for _ in range(args.rounds):
            for library, results in found.items():
                results.append(measure(folder, library))
    packages = ", ".join(
        f"{name} {npm_version(name)}" for name in ("rpc-websockets", "@microsoft/signalr", "ws")
    )
    node = subprocess.run(
        [*node_command(), "--version"], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    made = f"Medians of {args.rounds} rounds on {date.today()}, Node {node.strip()}; {packages}."  # noqa: DTZ011
    text = f"{made}\n\n{table(found)}"
    if args.into is None:
        print(text)
    else:
        args.into.write_text(
            fill(args.into.read_text(encoding="utf-8"), "javascript", text), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
