"""Models of pydantic: hooks with which msgspec lets pydantic validate and encode them.

pydantic is an optional extra, and never imported here. A class can be a model only if the application has
imported pydantic.

Invariants:

- A received value that does not match a model raises `ModelError`, which contains the path to it.
- A model is encoded like its JSON by pydantic, with aliases, as its JSON Schema describes it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_ws._types import Value

__all__ = ["ModelError", "decode_model", "encode_model", "is_model"]

#: Maximum number of errors of one value for which the first is reported. pydantic continues after the first
#: error, and can list all errors or none.
_MAX_ERRORS = 100


class ModelError(ValueError):
    """A value does not match a model.

    Attributes:
        path: the path in the model, such as ``.address.city`` or ``[0]``; empty for the whole model.
    """

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text)
        self.path = path


def is_model(thing: object) -> bool:
    """Whether an object is a subclass of ``pydantic.BaseModel``."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(thing, type) and issubclass(thing, pydantic.BaseModel)


def decode_model(kind: type, value: Value) -> Value:
    """The ``dec_hook`` of msgspec.

    Raises:
        ModelError: the value does not match the model.
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


def encode_model(value: Value) -> Value:
    """The ``enc_hook`` of msgspec.

    Raises:
        TypeError: the value is not a model.
    """
    if is_model(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")
