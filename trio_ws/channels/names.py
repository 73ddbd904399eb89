"""The names of channels, and the globs that stand for many of them.

``*`` is any characters, ``?`` is one, ``[...]`` one of a set and ``[!...]`` one not of it, as in `fnmatch`. A
name that has one of ``*?[`` is a glob where it is subscribed to; what is published goes to the name as it is.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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

#: Characters of a channel's name. With one beyond U+FFFF Python takes four bytes for each of them: then half.
MAX_CHANNEL_NAME = 256
#: Of ``*``, ``?`` and ``[`` in one glob. Each may cost a search through the rest of a name.
MAX_WILDCARDS = 32
#: Of ``[`` among them. Each may cost two milliseconds when it is compiled.
MAX_SETS = 8

#: Characters of a glob before its first wildcard, and behind its last, that are looked at before the rest.
_PREFIX = 32
_SUFFIX = 16
_WILDCARD = re.compile(r"[*?[]")


def is_glob(name: str) -> bool:
    """Whether ``name`` stands for all channels that it matches."""
    return "*" in name or "?" in name or "[" in name


def fits(name: str) -> bool:
    """Whether a channel's name may be of this length."""
    size = len(name)
    if size <= MAX_CHANNEL_NAME // 2:
        return size > 0
    return size <= MAX_CHANNEL_NAME and (name.isascii() or max(name) <= "\uffff")


def check_name(name: str) -> str:
    """Give ``name`` back, if a channel can have it.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, or too long: more than 256 characters, or 128 with one beyond U+FFFF.
    """
    if not isinstance(name, str):
        raise TypeError(f"a channel's name is a str, not {type(name).__name__}")
    if not fits(name):
        raise ValueError(
            f"a channel's name has 1 to {MAX_CHANNEL_NAME} characters,"
            f" {MAX_CHANNEL_NAME // 2} with one beyond U+FFFF, not {len(name)}"
        )
    return name


def check_wanted(name: str) -> str:
    """The same for a name or a glob that is to be subscribed to.

    Raises:
        ValueError: it has more than 32 wildcards, too, or more than 8 sets.
    """
    check_name(name)
    sets = name.count("[")
    count = sets + name.count("*") + name.count("?")
    if count > MAX_WILDCARDS or sets > MAX_SETS:
        raise ValueError(
            f"a glob has at most {MAX_WILDCARDS} of * ? [, and {MAX_SETS} of [ alone, not {count} and {sets}"
        )
    return name


def check_names(names: str | Iterable[str]) -> list[str]:
    """Give one name or glob, or many, as a list, each checked and once."""
    return list(dict.fromkeys(map(check_wanted, [names] if isinstance(names, str) else names)))


@functools.lru_cache(maxsize=1024)
def matcher(glob: str) -> Callable[[str], object]:
    """What tells, by its truth, whether a channel's name matches ``glob``.

    For few globs. Those that are held in great number keep a `Glob` each.
    """
    return _compiled(glob)


def _compiled(glob: str) -> Callable[[str], object]:
    return re.compile(fnmatch.translate(glob)).match


class Glob:
    """A glob, compiled, which takes some 0.3 milliseconds, and up to 5 KiB.

    Attributes:
        text: the glob.
        prefix: what all names that match begin with, or a part of it.
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
        """Whether a channel of this name is one of those that it stands for."""
        return name.startswith(self.prefix) and name.endswith(self._suffix) and self._match(name) is not None


class Globs:
    """Many globs: which of them match a name, without asking each.

    They are kept by how they begin. What a look-up costs is one step for each length of beginning that there
    is, and one for each glob that begins as the name does.
    """

    def __init__(self) -> None:
        self._by_text: dict[str, Glob] = {}
        self._by_prefix: dict[str, dict[str, Glob]] = {}
        self._lengths: dict[int, int] = {}  # of these prefixes, and how many have it

    def __len__(self) -> int:
        return len(self._by_text)

    def __contains__(self, text: str) -> bool:
        return text in self._by_text

    def __getitem__(self, text: str) -> Glob:
        return self._by_text[text]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_text)

    def add(self, text: str) -> Glob:
        """The glob of this text; it is made if it is not there."""
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
        """Forget it."""
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
        """Those that match, in no order."""
        for length in self._lengths:
            if length > len(name):
                continue  # a longer slice is the name itself, which is another length's turn
            for glob in self._by_prefix.get(name[:length], {}).values():
                if glob.matches(name):
                    yield glob
