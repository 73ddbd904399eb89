"""The channels that a broker subscribes to at Redis, and their names there.

The name of a channel at Redis is a prefix and the name in UTF-8. A glob becomes a Redis pattern, whose syntax
differs: it counts bytes instead of characters, negates with ``^``, and has backslash escapes.

Invariant: a pattern matches all names that its glob matches. It may match more names. Therefore the glob is
matched again for each message that arrives through a pattern.
"""

from __future__ import annotations

import re

from trio_ws.channels.names import Glob, fits, is_glob

__all__ = ["DesiredSubscriptions", "Key", "channel_of", "name_of", "pattern_of"]

#: Whether it is a pattern, and its name at Redis.
Key = tuple[bool, bytes]

#: The Redis patterns for any character, which may be several bytes, and for any character of a set.
_ANY = "?*"
#: Sets with the same meaning in both syntaxes, except for a range that runs backwards.
_PLAIN_SET = re.compile(r"!?(?:[\w.:/ ](?:-[\w.:/ ])?)+", re.ASCII)
_RANGE = re.compile(r"(.)-(.)")
_WILDCARDS = re.compile(r"(?:\?\*|\*)(?:\?\*|\*)+")


def channel_of(prefix: str, name: str) -> bytes:
    """The name of a channel at Redis."""
    # A str may contain lone surrogates, which plain UTF-8 cannot encode.
    return (prefix + name).encode("utf-8", "surrogatepass")


def name_of(prefix: bytes, channel: bytes) -> str | None:
    """Return the name of our channel with this name at Redis, or None."""
    if not channel.startswith(prefix):
        return None
    try:
        name = channel[len(prefix) :].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return name if fits(name) else None


def pattern_of(prefix: str, glob: str) -> bytes:
    """Return a PSUBSCRIBE pattern that matches at least everything that ``glob`` matches."""
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
            # An escaped literal star would confuse the substitution below, but a glob contains none.
            pieces.append(_literal(character))
    # "?*?*" and "??*" mean the same, and every star costs Redis another search.
    pattern = _WILDCARDS.sub(lambda run: "?" * run[0].count("?") + "*", "".join(pieces))
    return (_literal(prefix) + pattern).encode("utf-8", "surrogatepass")


def _literal(text: str) -> str:
    return re.sub(r"([*?\[\\])", r"\\\1", text)


def _end_of_set(glob: str, start: int) -> int | None:
    """The end of the set that begins before ``start``, or None if it does not end: then "[" is literal."""
    at = start
    if glob[at : at + 1] == "!":
        at += 1
    # A "]" in first place belongs to the set.
    found = glob.find("]", at + 1)
    return found if found > 0 else None


def _set(content: str) -> str:
    if not _PLAIN_SET.fullmatch(content) or any(first > last for first, last in _RANGE.findall(content)):
        return _ANY
    if content[0] == "!":
        # The set excludes one byte; the other bytes of the character follow.
        return f"[^{content[1:]}]*"
    return f"[{content}]"


class DesiredSubscriptions:
    """The subscribed names and globs.

    Attributes:
        names: for each name or pattern at Redis, the names or globs that it was made from.
        prefix: of all channels.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.prefix = prefix.encode("utf-8", "surrogatepass")
        self.names: dict[Key, dict[str, Glob | None]] = {}

    def _key(self, name: str) -> Key:
        if is_glob(name):
            return True, pattern_of(self._prefix, name)
        return False, channel_of(self._prefix, name)

    def add(self, name: str) -> Key:
        """Add a name or a glob, and return the key that has to be subscribed."""
        key = self._key(name)
        names = self.names.setdefault(key, {})
        if name not in names:
            names[name] = Glob(name) if key[0] else None
        return key

    def discard(self, name: str) -> Key | None:
        """Remove a name or a glob, and return the key if it is not needed any more."""
        key = self._key(name)
        names = self.names.get(key)
        if names is not None:
            names.pop(name, None)
            if not names:
                del self.names[key]
                return key
        return None

    def has_name(self, name: str) -> bool:
        """Whether this name itself is subscribed."""
        return not is_glob(name) and self._key(name) in self.names

    def match(self, key: Key, channel: bytes) -> str | None:
        """The name of a channel received through ``key``, or None if it is not subscribed through it."""
        names = self.names.get(key)
        if names is None:
            return None  # unsubscribed while the message was in flight
        name = name_of(self.prefix, channel)
        if name is None or (
            key[0] and not any(glob is not None and glob.matches(name) for glob in names.values())
        ):
            return None
        return name
