"""How many examples property tests take: with ``TRIO_WS_TEST_EXAMPLES=10``, ten times as many as usual."""

from __future__ import annotations

import os

from hypothesis import settings

__all__ = ["FACTOR", "examples", "how_many"]

#: What the variable says.
FACTOR = float(os.environ.get("TRIO_WS_TEST_EXAMPLES") or 1)


def how_many(usual: int) -> int:
    """So many examples, where ``usual`` are without the variable."""
    return max(1, round(usual * FACTOR))


def examples(usual: int) -> settings:
    """For a test that takes another number than most."""
    return settings(max_examples=how_many(usual))
