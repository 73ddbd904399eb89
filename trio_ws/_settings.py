"""Keyword arguments that several public functions share.

One function lists and validates the settings, such as `trio_ws.server.config.server_config`. Others accept
them as ``**settings`` and pass them on; their signatures list each setting nevertheless.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["refuse_unknown", "settings_of", "shows_settings_of"]

F = TypeVar("F", bound="Callable[..., object]")


def settings_of(lists: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Return the keyword-only parameters of a function, by name."""
    parameters = inspect.signature(lists).parameters
    return {name: one for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}


def shows_settings_of(lists: Callable[..., object]) -> Callable[[F], F]:
    """Decorate a function of ``**settings`` so that its signature lists the settings of ``lists``."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        positional = [one for one in own if one.kind is not one.KEYWORD_ONLY]
        settings = settings_of(lists) | {one.name: one for one in own if one.kind is one.KEYWORD_ONLY}
        shown: Any = function
        shown.__signature__ = signature.replace(parameters=[*positional, *settings.values()])
        return function

    return decorate


def refuse_unknown(what: str, lists: Callable[..., object], unknown: dict[str, object]) -> None:
    """Reject unknown settings.

    Raises:
        TypeError: ``unknown`` is not empty.
    """
    for name in unknown:
        raise TypeError(f"{what} takes no argument {name!r}; it takes {', '.join(settings_of(lists))}")
