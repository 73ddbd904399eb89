"""The parts of a glob: literal text and wildcards."""

from __future__ import annotations

import re

__all__ = ["is_glob", "wildcards"]

_WILDCARD = re.compile(r"\*+|\?|\[!?\]?[^\]]*\]")


def wildcards(name: str) -> list[str | None]:
    """Return the literal parts of a name in order, with None for each wildcard."""
    parts: list[str | None] = []
    at = 0
    for match in _WILDCARD.finditer(name):
        if match.start() > at:
            parts.append(name[at : match.start()])
        parts.append(None)
        at = match.end()
    if at < len(name):
        parts.append(name[at:])
    return parts


def is_glob(name: str) -> bool:
    """Return whether a name has wildcards."""
    return None in wildcards(name)
