"""Which channels a broker wants to hear at Redis, and under which names they go there.

A channel's name at Redis is a prefix and the name in UTF-8. A glob becomes a pattern of Redis', whose
dialect is another one: it counts bytes where we count characters, negates with ``^``, and knows a backslash
escape.

What always holds: a pattern matches all names that its glob matches. It may match more, so what comes by a
pattern is looked at again here, in our dialect.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trio_ws.channels.names import Glob, fits, is_glob

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DesiredSubscriptions", "Key", "channel_of", "name_of", "pattern_of"]

#: Whether it is a pattern, and the name or pattern at Redis.
Key = tuple[bool, bytes]

#: A character, and a set of some, in the tongue of Redis: a character may be several bytes.
_ANY = "?*"
#: The sets that mean the same in both dialects, but for a range that runs backwards.
_PLAIN_SET = re.compile(r"!?(?:[\w.:/ ](?:-[\w.:/ ])?)+", re.ASCII)
_RANGE = re.compile(r"(.)-(.)")
_WILDCARDS = re.compile(r"(?:\?\*|\*)(?:\?\*|\*)+")


def channel_of(prefix: str, name: str) -> bytes:
    """The name of a channel at Redis."""
    # A str may have lone surrogates, which UTF-8 as such has no bytes for.
    return (prefix + name).encode("utf-8", "surrogatepass")


def name_of(prefix: bytes, channel: bytes) -> str | None:
    """The way back, or None for what no channel of ours is named."""
    if not channel.startswith(prefix):
        return None
    try:
        name = channel[len(prefix) :].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return name if fits(name) else None


def pattern_of(prefix: str, glob: str) -> bytes:
    """The pattern for PSUBSCRIBE that matches, at least, all that ``glob`` does."""
    pieces = []
    at = 0
    while at < len(glob):
        character = glob[at]
        at += 1
        if character == "*":
            pieces.append("*")
        elif character == "?":
            pieces.append(_ANY)
        elif character == "[" and (end := _end_of_set(glob, at)) is not None:
            pieces.append(_set(glob[at:end]))
            at = end + 1
        else:
            # An escape would hide a literal star from the line below, but there is none in a glob.
            pieces.append(_literal(character))
    # "?*?*" and "??*" mean the same, and every star costs Redis another search.
    pattern = _WILDCARDS.sub(lambda run: "?" * run[0].count("?") + "*", "".join(pieces))
    return (_literal(prefix) + pattern).encode("utf-8", "surrogatepass")


def _literal(text: str) -> str:
    return re.sub(r"([*?\[\\])", r"\\\1", text)


def _end_of_set(glob: str, start: int) -> int | None:
    """Where the set ends that began before ``start``; None if it does not: then its "[" is a character."""
    at = start
    if glob[at : at + 1] == "!":
        at += 1
    # A "]" in the first place is one of the set.
    found = glob.find("]", at + 1)
    return found if found > 0 else None


def _set(content: str) -> str:
    if not _PLAIN_SET.fullmatch(content) or any(first > last for first, last in _RANGE.findall(content)):
        return _ANY
    if content[0] == "!":
        # One byte is not of the set, and the others of that character follow.
        return f"[^{content[1:]}]*"
    return f"[{content}]"


class DesiredSubscriptions:
    """The names and globs that are wanted, and what of that has changed since Redis was told.

    Attributes:
        names: the names, or globs, behind each name or pattern at Redis.
        changed: what may differ from what Redis was told, in the order in which it came.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._prefix_bytes = prefix.encode("utf-8", "surrogatepass")
        self.names: dict[Key, dict[str, Glob | None]] = {}
        self.changed: dict[Key, None] = {}

    def _key(self, name: str) -> Key:
        if is_glob(name):
            return True, pattern_of(self._prefix, name)
        return False, channel_of(self._prefix, name)

    def add(self, name: str) -> None:
        key = self._key(name)
        names = self.names.setdefault(key, {})
        if name not in names:
            names[name] = Glob(name) if key[0] else None
        self.changed[key] = None

    def discard(self, name: str) -> None:
        key = self._key(name)
        names = self.names.get(key)
        if names is not None:
            names.pop(name, None)
            if not names:
                del self.names[key]
                self.changed[key] = None

    def clear(self) -> None:
        self.names.clear()
        self.changed.clear()

    def tell_all(self) -> None:
        """A new connection knows nothing."""
        self.changed = dict.fromkeys(self.names)

    def take_changes(self) -> Iterable[Key]:
        changed, self.changed = self.changed, {}
        return changed

    def match(self, key: Key, channel: bytes) -> str | None:
        """The name of a channel that was heard by ``key``, if it is wanted, and by that key."""
        names = self.names.get(key)
        if names is None:
            return None  # unsubscribed while this was on its way
        name = name_of(self._prefix_bytes, channel)
        if name is None or (
            key[0] and not any(glob is not None and glob.matches(name) for glob in names.values())
        ):
            return None
        return name
