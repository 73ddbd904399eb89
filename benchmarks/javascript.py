"""Measure what calls cost a JavaScript client in Node: our client and that of rpc-websockets, from npm.

``python -m benchmarks.javascript [rounds]``. Both call our server, ours by ``trio-ws.v1`` and the other by
JSON-RPC 2.0, with 100 calls under way on one connection. Node's own WebSocket costs more than that of the
package ws, which rpc-websockets uses, so ours is measured on both. ``.ci/install`` installs the packages.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.servers import CALLERS, ROOT, running
from tests.support.node import install_client, node_command

CALLS = 10_000
ITEMS = 100_000
LIBRARIES = ("trio-ws", "trio-ws on ws", "rpc-websockets")


def measure(folder: Path, library: str, port: int) -> dict[str, Any]:
    program = folder / "javascript.mjs"
    command = [
        *node_command(),
        "--expose-gc",
        str(program),
        library,
        f"ws://127.0.0.1:{port}/",
        str(CALLS),
        str(ITEMS),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main(rounds: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        peers = ROOT / ".cache" / "peers" / "node_modules"
        shutil.copytree(peers, folder / "node_modules", symlinks=True)
        install_client(folder)
        shutil.copy(Path(__file__).with_suffix(".mjs"), folder)
        found: dict[str, list[dict[str, Any]]] = {library: [] for library in LIBRARIES}
        for _ in range(rounds):
            for library in LIBRARIES:
                with running(CALLERS["trio_ws"]) as server:
                    found[library].append(measure(folder, library, server.port))
    print("| client | what | CPU us | per s | heap at its highest, KiB | heap kept, KiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for library, results in found.items():
        for what in ("calls", "stream"):
            rows = [one[what] for one in results if what in one]
            if rows:
                keys = ("cpu_us", "per_s", "peak_heap_kib", "kept_heap_kib")
                medians = [statistics.median(row[key] for row in rows) for key in keys]
                print(f"| {library} | {what} | {' | '.join(f'{one:,.1f}' for one in medians)} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
