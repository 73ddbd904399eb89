"""Drive the wait of a task by hand, as trio and others do, in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outcome import AlreadyUsedError, Error, Value

from trio_ws.websocket._wait import ReusableOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio.lowlevel import Abort, RaiseCancelT

__all__ = ["STEPS", "drive", "never_aborted", "one_step"]

#: What `drive` does with one of its awaitables.
STEPS = ("new", "start", "value", "reusable", "special", "error", "wrong", "step", "await", "throw", "close")


class Special(ReusableOutcome[str]):
    """An outcome as a pending call is one."""


def never_aborted(_: RaiseCancelT) -> Abort:
    raise AssertionError


def drive(wait: Callable[[Any], Any], script: Iterable[tuple[str, int]]) -> list[object]:
    """Do these steps. Returns what each of them has yielded, returned or raised."""
    made: list[Any] = [wait(never_aborted)]
    seen: list[object] = []
    for what, which in script:
        if what == "new":
            made.append(wait(never_aborted))
        else:
            seen.append(one_step(made[which % len(made)], what))
    for awaitable in made:
        awaitable.close()
    return seen


def one_step(awaitable: Any, what: str) -> object:
    """Do one step with an awaitable."""

    async def awaiting() -> object:
        return await awaitable

    try:
        if what == "throw":
            return awaitable.throw(KeyError("thrown"))
        if what == "close":
            return awaitable.close()
        if what == "step":
            return next(awaitable if hasattr(awaitable, "__next__") else awaitable.__await__())
        if what == "await":
            outer = awaiting()
            try:
                return outer.send(None)
            finally:
                outer.close()
        return awaitable.send(_sent(what))
    except StopIteration as exc:
        return ("returned", exc.value)
    except (RuntimeError, TypeError, KeyError, ValueError, AttributeError, AlreadyUsedError) as exc:
        return (type(exc), exc.args)


def _sent(what: str) -> object:
    if what == "reusable" or what == "special":
        outcome: ReusableOutcome[str] = Special() if what == "special" else ReusableOutcome()
        outcome.value = what
        return outcome
    if what == "error":
        return Error(ValueError("woken"))
    return {"start": None, "wrong": 5}.get(what, Value("woken"))
