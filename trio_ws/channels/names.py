"""Names of channels, and globs that match them.

``*`` matches any characters, ``?`` exactly one, ``[...]`` one of a set and ``[!...]`` one outside of it, as
in `fnmatch`. A name with one of ``*?[`` is a glob when subscribing. When publishing, names are literal.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "MAX_CHANNEL_NAME",
    "MAX_SETS",
    "MAX_WILDCARDS",
    "Glob",
    "Globs",
    "check_name",
    "check_names",
    "fits",
    "is_glob",
    "matcher",
]

#: Characters in the name of a channel; half as many with one beyond U+FFFF, since Python then uses 4 bytes
#: each.
MAX_CHANNEL_NAME = 256
#: Limit on ``*``, ``?`` and ``[`` in one glob. Each may cost a search through the rest of a name.
MAX_WILDCARDS = 32
#: Limit on ``[`` among them. Each may cost two milliseconds when the glob is compiled.
MAX_SETS = 8

#: Characters before a glob's first wildcard, and after its last, that are compared before the full match.
_PREFIX = 32
_SUFFIX = 16
_WILDCARD = re.compile(r"[*?[]")


def is_glob(name: str) -> bool:
    """Whether ``name`` contains wildcards."""
    return "*" in name or "?" in name or "[" in name


def fits(name: str) -> bool:
    """Whether the length of ``name`` is allowed."""
    size = len(name)
    if size <= MAX_CHANNEL_NAME // 2:
        return size > 0
    return size <= MAX_CHANNEL_NAME and (name.isascii() or max(name) <= "\uffff")


def check_name(name: str) -> str:
    """Return ``name`` if it is a valid name of a channel.

    Raises:
        TypeError: it is not a str.
        ValueError: it is empty, or longer than 256 characters, or 128 with one beyond U+FFFF.
    """
    if not isinstance(name, str):
        raise TypeError(f"a channel name must be a str, not {type(name).__name__}")
    if not fits(name):
        raise ValueError(
            f"a channel name must have 1 to {MAX_CHANNEL_NAME} characters,"
            f" or up to {MAX_CHANNEL_NAME // 2} with one beyond U+FFFF, not {len(name)}"
        )
    return name


def check_wanted(name: str) -> str:
    """Like `check_name`, for a name or a glob to subscribe to.

    Raises:
        ValueError: also if it has more than 32 wildcards or more than 8 sets.
    """
    check_name(name)
    sets = name.count("[")
    count = sets + name.count("*") + name.count("?")
    if count > MAX_WILDCARDS or sets > MAX_SETS:
        raise ValueError(
            f"a glob may have {MAX_WILDCARDS} of * ? [ in all, and {MAX_SETS} of [, not {count} and {sets}"
        )
    return name


def check_names(names: str | Iterable[str]) -> list[str]:
    """Return one or many names and globs as a list, validated and without duplicates.

    Raises:
        TypeError, ValueError: these are not names; the message says why.
    """
    if isinstance(names, str):
        return [check_wanted(names)]
    given: object = names
    if isinstance(given, bytes | bytearray) or not isinstance(given, Iterable):
        raise TypeError(f"channel names are a str, or several of them, not {type(names).__name__}")
    return list(dict.fromkeys(map(check_wanted, names)))


@functools.lru_cache(maxsize=1024)
def matcher(glob: str) -> Callable[[str], object]:
    """Return a function that tells whether a channel's name matches ``glob``.

    For a few globs. A large number of globs should keep a `Glob` each.
    """
    return _compiled(glob)


def _compiled(glob: str) -> Callable[[str], object]:
    return re.compile(fnmatch.translate(glob)).match


class Glob:
    """A compiled glob. Compiling takes about 0.3 milliseconds and up to 5 KiB.

    Attributes:
        text: the glob.
        prefix: how all matching names begin, cut to 32 characters.
    """

    __slots__ = ("_match", "_suffix", "prefix", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        first = _WILDCARD.search(text)
        assert first is not None
        self.prefix = text[: min(first.start(), _PREFIX)]
        last = max(text.rfind("*"), text.rfind("?"), text.rfind("]"), text.rfind("["))
        self._suffix = text[max(last + 1, len(text) - _SUFFIX) :]
        self._match = _compiled(text)

    def matches(self, name: str) -> bool:
        """Whether the glob matches the name of a channel."""
        return name.startswith(self.prefix) and name.endswith(self._suffix) and self._match(name) is not None


class Globs:
    """An index of many globs, which finds those that match a name without trying each.

    Globs are indexed by prefix. A look-up costs one step for each distinct length of a prefix, and one for
    each glob whose prefix the name has.
    """

    def __init__(self) -> None:
        self._by_text: dict[str, Glob] = {}
        self._by_prefix: dict[str, dict[str, Glob]] = {}
        self._lengths: dict[int, int] = {}  # how many of these prefixes have each length

    def __len__(self) -> int:
        return len(self._by_text)

    def __contains__(self, text: str) -> bool:
        return text in self._by_text

    def __getitem__(self, text: str) -> Glob:
        return self._by_text[text]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_text)

    def add(self, text: str) -> Glob:
        """Return the glob of this text, which is added if it is missing."""
        glob = self._by_text.get(text)
        if glob is None:
            glob = self._by_text[text] = Glob(text)
            prefix = glob.prefix
            alike = self._by_prefix.get(prefix)
            if alike is None:
                alike = self._by_prefix[prefix] = {}
                self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
            alike[text] = glob
        return glob

    def discard(self, text: str) -> None:
        """Remove a glob, if it is there."""
        glob = self._by_text.pop(text, None)
        if glob is None:
            return
        prefix = glob.prefix
        alike = self._by_prefix[prefix]
        del alike[text]
        if not alike:
            del self._by_prefix[prefix]
            self._lengths[len(prefix)] -= 1
            if not self._lengths[len(prefix)]:
                del self._lengths[len(prefix)]

    def matching(self, name: str) -> Iterator[Glob]:
        """Yield the globs that match, in no particular order."""
        for length in self._lengths:
            if length > len(name):
                continue  # the slice is the whole name, which is handled under its own length
            for glob in self._by_prefix.get(name[:length], {}).values():
                if glob.matches(name):
                    yield glob
