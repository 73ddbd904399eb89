"""Run on asyncio's own loop or on uvloop, as the environment says."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["run"]


def run(main: Coroutine[Any, Any, None]) -> None:
    if os.environ.get("BENCH_UVLOOP"):
        import uvloop  # noqa: PLC0415 - only where it is asked for

        uvloop.run(main)
    else:
        asyncio.run(main)
