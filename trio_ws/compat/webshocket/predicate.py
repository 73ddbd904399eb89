"""The predicates of webshocket: those of `trio_ws`, applied to ``connection.session_state``.

They can also be combined with ``&``, ``|`` and ``~``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from typing import Any as AnyType

import trio_ws.predicates as engine

if TYPE_CHECKING:
    from trio_ws.predicates import PredicateLike

__all__ = ["All", "Any", "Has", "Is", "IsEqual"]


class HasSession(Protocol):
    """A connection with session state."""

    @property
    def session_state(self) -> dict[str, AnyType]: ...


class Has(engine.Has):
    """The session state has ``key``, whatever its value."""

    __slots__ = ()

    def __call__(self, connection: HasSession, /) -> bool:  # type: ignore[override]
        return super().__call__(connection.session_state)


class Is(engine.Is):
    """The session state has ``key``, and its value is true."""

    __slots__ = ()

    def __call__(self, connection: HasSession, /) -> bool:  # type: ignore[override]
        return super().__call__(connection.session_state)


class IsEqual(engine.IsEqual):
    """The session state has ``key``, and its value equals ``value``."""

    __slots__ = ()

    def __call__(self, connection: HasSession, /) -> bool:  # type: ignore[override]
        return super().__call__(connection.session_state)


class Any(engine.Any):
    """At least one of ``predicates`` is true. Without predicates, it is false."""

    __slots__ = ()

    def __init__(self, *predicates: PredicateLike) -> None:
        self.predicates = predicates
        if predicates:
            super().__init__(*predicates)


class All(engine.All):
    """All of ``predicates`` are true. Without predicates, it is true."""

    __slots__ = ()

    def __init__(self, *predicates: PredicateLike) -> None:
        self.predicates = predicates
        if predicates:
            super().__init__(*predicates)
