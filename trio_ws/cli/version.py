"""The version of the program."""

from __future__ import annotations

import platform

import trio

import trio_ws
from trio_ws.protocol.masking import IMPLEMENTATION

__all__ = ["version_text"]


def version_text() -> str:
    """The versions that matter, and whether the C extension is used."""
    extension = "with its C extension" if IMPLEMENTATION == "c" else "without its C extension"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"trio-ws {trio_ws.__version__}, {extension}, {python}, trio {trio.__version__}"
