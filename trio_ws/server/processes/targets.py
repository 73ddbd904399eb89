"""Import strings: pass a target to another process.

A worker is a fresh interpreter, which imports its target by name: ``"module:name"``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import ssl
import sys
from typing import Any

from trio_ws._blocks import IMPORTING

__all__ = ["ImportStringError", "TargetError", "import_string", "load", "load_ssl_context"]


class ImportStringError(ValueError):
    """A text is not an import string."""


class TargetError(ImportError):
    """An import string names nothing."""


def load(text: str, what: str = "target") -> Any:
    """Return the object that an import string names. Exceptions of the imported module are not changed.

    Args:
        text: ``"module:name"``, where both parts may contain dots.
        what: its name in error messages.

    Raises:
        ImportStringError: ``text`` is not an import string.
        TargetError: the module does not exist, or has no such attribute.
    """
    module_name, _, names = text.partition(":")
    module = module_name.removeprefix("./").removesuffix(".py").replace("/", ".")
    if "/" in module_name or not (names and all((*module_name.split("."), *names.split(".")))):
        example = f"{module}:{names or 'app'}" if module != module_name else "chat:app"
        raise ImportStringError(
            f"the {what} must be an import string such as {example!r} (module:name), not {text!r}"
        )
    before = IMPORTING.set(text)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise  # the module exists, but one that it imports does not
        hint = f"; write {f'{module}:{names}'!r}" if module != module_name else ""
        raise TargetError(
            f"cannot import the {what} {text!r}: there is no module {exc.name!r} in sys.path{hint}",
            name=exc.name,
        ) from exc
    finally:
        IMPORTING.reset(before)
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            close = difflib.get_close_matches(name, dir(found), 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TargetError(
                f"cannot import the {what} {text!r}: {module_name!r} has no {name!r}{hint}", name=module_name
            ) from None
    return found


def load_ssl_context(certfile: str | None, keyfile: str | None, factory: str | None) -> ssl.SSLContext | None:
    """Return the TLS context for the arguments of `serve_processes`, or None without TLS.

    Raises:
        ValueError: the files cannot be used.
        ImportError, TypeError: the import string names neither a context nor a function that returns one.
    """
    if factory is not None:
        context = load(factory, "ssl_context")
        if callable(context):
            context = context()
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(
                f"ssl_context must name an SSLContext or a function that returns one, not {context!r}"
            )
        return context
    if certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as exc:  # ssl.SSLError is an OSError, too
        names = certfile if keyfile is None else f"{certfile} with {keyfile}"
        raise ValueError(f"cannot use the certificate {names}: {exc}") from exc
    return context


def import_string(target: object) -> str:
    """Return the import string of a function, a class, or an object defined by the main program.

    Raises:
        TypeError: there is none.
    """
    module_name, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if name is None:  # an instance, such as an App; only the main program can be searched for it
        module_name = "__main__"
        name = next((key for key, value in vars(sys.modules["__main__"]).items() if value is target), None)
    if module_name is not None and name is not None and _named(module_name, name) is target:
        return f"{_importable(module_name)}:{name}"
    raise TypeError(
        f"workers cannot import {target!r}: it is not defined at the top level of a module; "
        "use an import string such as 'chat:app'"
    )


def _named(module_name: str, name: str) -> object:
    found: object = sys.modules.get(module_name)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _importable(module_name: str) -> str:
    """Return the name under which a worker can import a module, even if it is the main program."""
    if module_name != "__main__":
        return module_name
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m
        return str(spec.name)
    path: str | None = getattr(main, "__file__", None)
    if path is not None:
        name = os.path.splitext(os.path.basename(path))[0]  # noqa: PTH119, PTH122 - only the name is needed
        if "." not in name and _origin(name) == os.path.realpath(path):
            return name
    raise TypeError(
        "workers cannot import the main program, which is not a module in sys.path; "
        "move the target into its own module and use an import string such as 'chat:app'"
    )


def _origin(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return os.path.realpath(spec.origin) if spec is not None and spec.origin is not None else None
