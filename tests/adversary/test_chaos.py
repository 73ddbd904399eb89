"""Run chaos.py for a few seconds. CI runs it for a minute, with more clients."""

from __future__ import annotations

from tests.adversary.chaos import main, parse


async def test_nothing_is_stuck_and_nothing_is_left() -> None:
    options = parse(["--seconds", "8", "--idle", "100", "--churn", "25", "--steady", "4"])
    assert await main(options) == 0
