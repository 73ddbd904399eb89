"""Python in processes of their own, and runs of asyncio with a time limit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

__all__ = ["run_asyncio", "run_python"]


def run_python(*args: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run Python in a folder, check that it succeeds, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_asyncio(main: Callable[[], Coroutine[Any, Any, Any]], seconds: float = 60) -> Any:
    """Run an async function of asyncio's, for at most this long."""

    async def guarded() -> Any:
        async with asyncio.timeout(seconds):
            return await main()

    return asyncio.run(guarded())
