"""Import strings: how a target gets into another process.

A worker is a fresh interpreter, so that a target travels by its name: ``"module:name"``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import ssl
import sys
from typing import Any

__all__ = ["import_string", "load", "load_ssl_context"]


def load(text: str, what: str = "target") -> Any:
    """What an import string names. Importing runs the module, whose own exceptions come as they are.

    Args:
        text: ``"module:name"``, where both may have dots.
        what: how errors call it.

    Raises:
        ValueError: it is no import string.
        ImportError: there is no such module, or nothing of that name in it.
    """
    module_name, _, names = text.partition(":")
    if not (module_name and names and all((*module_name.split("."), *names.split(".")))):
        raise ValueError(f"the {what} is an import string such as 'chat:app' (module:name), not {text!r}")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise  # the module is there, and one that it imports is not
        raise ImportError(
            f"the {what} {text!r} cannot be imported: there is no module {exc.name!r} in sys.path",
            name=exc.name,
        ) from exc
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ImportError(
                f"the {what} {text!r} cannot be imported: {module_name!r} has no {name!r}", name=module_name
            ) from None
    return found


def load_ssl_context(certfile: str | None, keyfile: str | None, factory: str | None) -> ssl.SSLContext | None:
    """The context for TLS that the arguments of `serve_processes` ask for; None for none.

    Raises:
        ValueError: the files cannot be used.
        ImportError, TypeError: the import string names no context, and nothing that makes one.
    """
    if factory is not None:
        context = load(factory, "ssl_context")
        if callable(context):
            context = context()
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(f"ssl_context names an SSLContext or a function that makes one, not {context!r}")
        return context
    if certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as exc:  # of the files, or of ssl, whose errors are such too
        names = certfile if keyfile is None else f"{certfile} with {keyfile}"
        raise ValueError(f"the certificate {names} cannot be used: {exc}") from exc
    return context


def import_string(target: object) -> str:
    """The import string of a function, a class, or an object that the program itself names.

    Raises:
        TypeError: it has none.
    """
    module_name, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if name is None:  # an instance, such as an App; where it stands is only known for the program itself
        module_name = "__main__"
        name = next((key for key, value in vars(sys.modules["__main__"]).items() if value is target), None)
    if module_name is not None and name is not None and _named(module_name, name) is target:
        return f"{_importable(module_name)}:{name}"
    raise TypeError(
        f"workers cannot import {target!r}: it does not stand at the top of a module; "
        "name it by an import string such as 'chat:app'"
    )


def _named(module_name: str, name: str) -> object:
    found: object = sys.modules.get(module_name)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _importable(module_name: str) -> str:
    """The name under which a worker can import a module, also for the program itself."""
    if module_name != "__main__":
        return module_name
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m
        return str(spec.name)
    path: str | None = getattr(main, "__file__", None)
    if path is not None:
        name = os.path.splitext(os.path.basename(path))[0]  # noqa: PTH119, PTH122 - no more than a name
        if "." not in name and _origin(name) == os.path.realpath(path):
            return name
    raise TypeError(
        "workers cannot import the program itself, which is no module in sys.path; "
        "put the target into a module of its own and name it by an import string such as 'chat:app'"
    )


def _origin(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return os.path.realpath(spec.origin) if spec is not None and spec.origin is not None else None
