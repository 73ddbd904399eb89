"""npm packages that tests use. ``.ci/install`` installs those in tests/interop/peers/package.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

__all__ = ["CACHE", "NODE", "node", "npm_package", "npm_version"]

CACHE = Path(__file__).parents[2] / ".cache" / "peers"
NODE = shutil.which("node") or shutil.which("nodejs")

_LISTED = Path(__file__).parents[1] / "interop" / "peers" / "package.json"


def node() -> str:
    """Return the path of Node. Skips the test if it is not installed."""
    if NODE is None:
        pytest.skip("node is not installed; on Debian: apt-get install nodejs")
    return NODE


def npm_version(name: str) -> str:
    """The version of a package that is listed."""
    version: str = json.loads(_LISTED.read_text())["dependencies"][name]
    return version


def npm_package(name: str) -> Path:
    """Return the folder of a package of the listed version. Skips the test if it is not installed."""
    version = npm_version(name)
    folder = CACHE / "node_modules" / name
    found = folder / "package.json"
    if not found.exists() or json.loads(found.read_text())["version"] != version:
        pytest.skip(f"{name} {version} is not in .cache/peers; .ci/install installs it")
    return folder
