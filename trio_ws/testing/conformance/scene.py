"""Scene: one thing that a client does, and how a list of them is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from trio_ws.testing.conformance.stage import Stage

__all__ = ["Scene", "adder"]

_Play = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        name: what to choose it by, and what is printed.
        text: what a client does that passes it.
        needs: the features without which it is skipped.
        play: plays it.
    """

    name: str
    text: str
    needs: tuple[str, ...]
    play: _Play


def adder(scenes: list[Scene]) -> Callable[..., Callable[[_Play], _Play]]:
    """Give a decorator that adds an async function to a list: its name, and its docstring, are the scene's.

    The decorator takes the features that the scene needs.
    """

    def scene(*needs: str) -> Callable[[_Play], _Play]:
        def add(play: _Play) -> _Play:
            name = getattr(play, "__name__", "").replace("_", " ")
            scenes.append(Scene(name, (play.__doc__ or "").strip(), needs, play))
            return play

        return add

    return scene
