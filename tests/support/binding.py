"""Call a method with arguments, and return its result or its error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from trio_ws.errors import RPCInvalidParamsError

if TYPE_CHECKING:
    from trio_ws.rpc.methods import Method

CONNECTION: Any = object()


def fail(method: Method, args: list[Any], kwargs: dict[str, Any] | None = None) -> tuple[str, str]:
    """Return the text and the path of the error."""
    with pytest.raises(RPCInvalidParamsError) as caught:
        method.bind(args, kwargs or {})
    return str(caught.value), caught.value.data["path"]


def call(method: Method, args: list[Any], kwargs: dict[str, Any] | None = None) -> Any:
    """Return the result of a plain method."""
    values, named = method.bind(args, kwargs or {})
    return method.function(CONNECTION, *values, **named)
