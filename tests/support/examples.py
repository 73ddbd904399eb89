"""The number of cases that a test tries: examples of a property, and places at which to stop.

``TRIO_WS_TEST_EXAMPLES=10`` sets ten times the usual number, and 0.3 a third.
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
