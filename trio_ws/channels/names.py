"""The names of channels, and the globs that stand for many of them.

``*`` is any characters, ``?`` is one, ``[...]`` one of a set and ``[!...]`` one not of it, as in `fnmatch`. A
name that has one of ``*?[`` is a glob.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["MAX_CHANNEL_NAME", "check_name", "check_names", "is_glob", "matcher"]

#: Characters of a channel's name.
MAX_CHANNEL_NAME = 256


def is_glob(name: str) -> bool:
    """Whether ``name`` stands for all channels that it matches."""
    return "*" in name or "?" in name or "[" in name


def check_name(name: str) -> str:
    """Give ``name`` back, if a channel can have it.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, or longer than 256 characters.
    """
    if not isinstance(name, str):
        raise TypeError(f"a channel's name is a str, not {type(name).__name__}")
    if not 0 < len(name) <= MAX_CHANNEL_NAME:
        raise ValueError(f"a channel's name has 1 to {MAX_CHANNEL_NAME} characters, not {len(name)}")
    return name


def check_names(names: str | Iterable[str]) -> list[str]:
    """Give one name, or many, as a list, each checked and once."""
    return list(dict.fromkeys(map(check_name, [names] if isinstance(names, str) else names)))


@functools.lru_cache(maxsize=1024)
def matcher(glob: str) -> Callable[[str], object]:
    """What tells, by its truth, whether a channel's name matches ``glob``."""
    return re.compile(fnmatch.translate(glob)).match
