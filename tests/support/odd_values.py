"""Values for attributes of objects of ours, such as user code might leave there."""

from __future__ import annotations

import contextvars
from typing import Any

__all__ = ["odd_values"]


def odd_values() -> list[Any]:
    """Return values of many types, new ones each time, as what is called with them may change them."""
    return [
        *(None, 0, 1, -1, 1 << 70, "five"),
        *((), [1], (1, 2, 3), (1, 2, 3, 4), {"17": 1}, (len,) * 6),
        *(object(), contextvars.Context()),
    ]
