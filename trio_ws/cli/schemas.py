"""The commands ``schema`` and ``types``, which print the contract of a target."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

import trio_ws
from trio_ws.cli.errors import OK, USAGE, Failure
from trio_ws.cli.server import load_target

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["print_schema", "print_types"]


def print_schema(
    target: str, form: str, *, path: str | None, title: str | None, version: str, url: str | None
) -> int:
    """Print an OpenRPC or AsyncAPI document.

    Raises:
        Failure: the target has no schema, or an option does not apply to the format.
    """
    if form == "asyncapi" and path is not None:
        raise Failure("--path is for OpenRPC: an AsyncAPI document has all handlers", USAGE)

    def make(schema: trio_ws.Schema) -> str:
        if form == "openrpc":
            document = schema.openrpc(path, title=title, version=version, url=url)
        else:
            document = schema.asyncapi(title=title, version=version, **({} if url is None else {"url": url}))
        return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()

    return _print(target, make)


def print_types(target: str) -> int:
    """Print a module of TypeScript.

    Raises:
        Failure: the target has no schema.
    """
    return _print(target, lambda schema: schema.typescript().rstrip("\n"))


def _print(target: str, make: Callable[[trio_ws.Schema], str]) -> int:
    found = load_target(target)
    try:
        text = make(trio_ws.Schema(found))
    except (TypeError, ValueError) as exc:
        raise Failure(f"{target}: {exc}", USAGE) from exc
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return OK
