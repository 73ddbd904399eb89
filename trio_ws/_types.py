"""Types that say what may be anything, and why.

Invariants:

- Aliases of ``Any`` are defined here, each with the reason. Elsewhere ``Any`` is the exception, which
  tests/test_typing.py counts. A parameter that is only passed on or inspected is an ``object``.
- Code that inspects annotations, or decodes to a type that it was given, uses `ANY_VALUE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

__all__ = [
    "ANY_VALUE",
    "JSONObject",
    "NamedValues",
    "PathParameters",
    "Reply",
    "SocketAddress",
    "Value",
    "Values",
]

#: A value that JSON or msgpack encode, or what they decode to: arguments and results of calls, items of
#: streams, data of channels. Only the program knows its type. It is not ``object``, so that results can be
#: used as they are.
Value: TypeAlias = Any

#: The annotation ``Any`` as an object: a value of this type is neither converted nor checked.
ANY_VALUE: Final[object] = Any

#: Positional arguments of a call.
Values: TypeAlias = tuple[Value, ...]

#: Keyword arguments of a call.
NamedValues: TypeAlias = Mapping[str, Value]

#: A JSON object, or a map of msgpack with text as keys.
JSONObject: TypeAlias = dict[str, Value]

#: Path parameters by name: each is what the converter in the path makes of its part.
PathParameters: TypeAlias = dict[str, Any]

#: The address of a socket as Python returns it; its form depends on the family.
SocketAddress: TypeAlias = Any

#: A reply of Redis; its form depends on the command.
Reply: TypeAlias = Any
