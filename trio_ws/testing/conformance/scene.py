"""Scenes: the test cases of the suite, and a decorator that collects them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from trio_ws.testing.conformance.stage import Stage

__all__ = ["Scene", "adder"]

_Play = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Scene:
    """One test case.

    Attributes:
        name: the name, by which scenes are selected.
        text: what a client must do to pass.
        needs: features that the scene needs. If the client lacks one, the scene is skipped.
        play: runs the scene.
    """

    name: str
    text: str
    needs: tuple[str, ...]
    play: _Play


def adder(scenes: list[Scene]) -> Callable[..., Callable[[_Play], _Play]]:
    """Return a decorator that adds an async function to a list of scenes.

    The function's name and docstring become the scene's name and text. The decorator's arguments are the
    features that the scene needs.
    """

    def scene(*needs: str) -> Callable[[_Play], _Play]:
        def add(play: _Play) -> _Play:
            name = getattr(play, "__name__", "").replace("_", " ")
            scenes.append(Scene(name, (play.__doc__ or "").strip(), needs, play))
            return play

        return add

    return scene
