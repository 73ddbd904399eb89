"""Node, and the JavaScript client as a package that its programs import.

Programs are copied into a folder whose ``node_modules`` contains the client as npm would install it. Each
prints its result as one line of JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trio

__all__ = ["NODE", "STATIC", "install_client", "node_command", "run_program"]

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "trio_ws" / "static"
NODE = shutil.which("node") or shutil.which("nodejs")


@cache
def _command() -> list[str] | None:
    if NODE is None:
        return None
    for flags in ([], ["--experimental-websocket", "--no-warnings"]):
        command = [NODE, *flags, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return [NODE, *flags]
    return []


def node_command() -> list[str]:
    """Return the command of a Node with a built-in WebSocket. Skips the test if there is none."""
    command = _command()
    if command is None:
        pytest.skip("node is not installed; on Debian: apt-get install nodejs")
    if not command:
        pytest.skip("this node has no built-in WebSocket; node 20.10 or later has")
    return command


def install_client(folder: Path) -> None:
    """Copy the package into ``node_modules`` of a folder, with the files that its package.json lists."""
    target = folder / "node_modules" / "trio-ws"
    target.mkdir(parents=True)
    manifest = ROOT / "clients" / "js" / "package.json"
    shutil.copy(manifest, target)
    for name in json.loads(manifest.read_text(encoding="utf-8"))["files"]:
        source = STATIC / name
        shutil.copy(source if source.exists() else manifest.parent / name, target)


async def run_program(folder: Path, program: Path, *args: str) -> Any:
    """Run a module that imports the client, with the others of its folder, and return its output as JSON."""
    command = node_command()
    if not (folder / "node_modules").exists():
        install_client(folder)
    for module in program.parent.glob("*.mjs"):
        shutil.copy(module, folder)
    done = await trio.run_process(
        [*command, str(folder / program.name), *args], capture_stdout=True, capture_stderr=True, check=False
    )
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, said
    assert said == ""
    return json.loads(done.stdout)
