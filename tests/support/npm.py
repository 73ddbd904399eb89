"""npm packages that tests use: CI installs those of tests/interop/peers/package.json, by .ci/install."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

__all__ = ["CACHE", "NODE", "node", "npm_package"]

CACHE = Path(__file__).parents[2] / ".cache" / "peers"
NODE = shutil.which("node") or shutil.which("nodejs")

_LISTED = Path(__file__).parents[1] / "interop" / "peers" / "package.json"


def node() -> str:
    """Node; the test is skipped where there is none."""
    if NODE is None:
        pytest.skip("node is not installed; on Debian: apt-get install nodejs")
    return NODE


def npm_package(name: str) -> Path:
    """The folder of a package in the version that is listed; the test is skipped where it is missing."""
    version = json.loads(_LISTED.read_text())["dependencies"][name]
    folder = CACHE / "node_modules" / name
    found = folder / "package.json"
    if not found.exists() or json.loads(found.read_text())["version"] != version:
        pytest.skip(f"{name} {version} is not in .cache/peers; .ci/install installs it")
    return folder
