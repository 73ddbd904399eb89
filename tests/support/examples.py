"""The number of cases that a test tries: examples of a property, or places at which to interrupt.

``TRIO_WS_TEST_EXAMPLES=10`` sets ten times the usual number, and 0.3 a third.
"""

from __future__ import annotations

import os

from hypothesis import settings

__all__ = ["FACTOR", "every", "examples", "how_many"]

#: The value of the environment variable.
FACTOR = float(os.environ.get("TRIO_WS_TEST_EXAMPLES") or 1)


def how_many(usual: int) -> int:
    """Return the number of examples; ``usual`` is the number without the variable."""
    return max(1, round(usual * FACTOR))


def every(usual: int) -> int:
    """Return the step of a test that tries every ``usual``-th place without the variable."""
    return max(1, round(usual / FACTOR))


def examples(usual: int) -> settings:
    """Return the settings of a test that tries a number of examples other than the default."""
    return settings(max_examples=how_many(usual))
