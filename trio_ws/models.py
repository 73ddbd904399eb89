"""Models of pydantic: validated and encoded by pydantic itself, wherever msgspec meets one.

pydantic is an optional extra, and is never imported here: a class can be a model only where it has been.

Invariants:

- A value from the wire that does not fit a model is a `ModelError`, which names the place in it.
- A model is encoded as pydantic writes its JSON, by alias, which is what its JSON Schema describes.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["ModelError", "decode_model", "encode_model", "is_model"]

#: Errors of one value of which the first is told. pydantic goes on after the first, and lists all or none.
_MAX_ERRORS = 100


class ModelError(ValueError):
    """A value does not fit a model.

    Attributes:
        path: the place in the model, such as ``.address.city`` or ``[0]``; empty for the model as a whole.
    """

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text)
        self.path = path


def is_model(thing: Any) -> bool:
    """Whether it is a class of pydantic's models."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(thing, type) and issubclass(thing, pydantic.BaseModel)


def decode_model(kind: type, value: Any) -> Any:
    """The ``dec_hook`` of msgspec.

    Raises:
        ModelError: the value does not fit.
        TypeError: the type is not a model.
    """
    if not is_model(kind):
        if isinstance(value, kind):
            return value
        raise TypeError(f"Expected `{kind.__qualname__}`, got `{type(value).__name__}`")
    try:
        return kind.model_validate(value)  # type: ignore[attr-defined]
    except sys.modules["pydantic"].ValidationError as exc:
        if exc.error_count() > _MAX_ERRORS:
            raise ModelError(f"{exc.error_count()} values do not fit", "") from None
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        path = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in first["loc"])
        raise ModelError(first["msg"], path) from exc


def encode_model(value: Any) -> Any:
    """The ``enc_hook`` of msgspec.

    Raises:
        TypeError: the value is not a model.
    """
    if is_model(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")
