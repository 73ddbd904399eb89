"""How many cases a test tries that could try them for ever: examples of a property, and places to stop at.

``TRIO_WS_TEST_EXAMPLES=10`` asks for ten times as many as usual, and 0.3 for a third.
"""

from __future__ import annotations

import os

from hypothesis import settings

__all__ = ["FACTOR", "every", "examples", "how_many"]

#: What the variable says.
FACTOR = float(os.environ.get("TRIO_WS_TEST_EXAMPLES") or 1)


def how_many(usual: int) -> int:
    """So many examples, where ``usual`` are without the variable."""
    return max(1, round(usual * FACTOR))


def every(usual: int) -> int:
    """The step of a test that tries every so many places."""
    return max(1, round(usual / FACTOR))


def examples(usual: int) -> settings:
    """For a test that takes another number than most."""
    return settings(max_examples=how_many(usual))
