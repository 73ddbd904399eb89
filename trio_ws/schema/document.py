"""Schema: the contract of a target in all formats."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from trio_ws.schema.asyncapi import asyncapi_document
from trio_ws.schema.contract import Describable, HandlerContract, read_contracts
from trio_ws.schema.openrpc import openrpc_document
from trio_ws.schema.page import Page, make_page
from trio_ws.schema.typescript import typescript_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws._types import JSONObject
    from trio_ws.schema.contract import MethodContract

__all__ = ["Schema"]

#: The maximum number of cached documents for ``rpc.discover``, one for each set of allowed methods.
_MAX_DISCOVERED = 16


class Schema:
    """The methods and channels of a target, as OpenRPC, AsyncAPI and TypeScript.

    Annotations become JSON Schema, and docstrings become descriptions.

    A schema is a snapshot: it does not contain methods that are registered later. The documents are plain
    data that any JSON encoder accepts.

    Args:
        target: an `App`, or a `WebSocketHandler`, class or instance.

    Raises:
        TypeError: the target is something else, or an annotation has no JSON Schema.
        ValueError: the target has no handlers; a method name is neither an identifier nor several identifiers
            joined by dots; or two method names differ in case only.

    Attributes:
        paths: the paths of the handlers; "/" for a handler that is served alone.
    """

    def __init__(self, target: object) -> None:
        self._read(target)

    @classmethod
    def _for_discovery(cls, handler: object) -> Self:
        """Return a schema for ``rpc.discover``: method names need not be identifiers."""
        schema = cls.__new__(cls)
        schema._read(handler, identifiers=False)
        return schema

    def _read(self, target: object, *, identifiers: bool = True) -> None:
        handlers = _handlers_of(target)
        if not handlers:
            raise ValueError(f"no WebSocketHandler is mounted in {target!r}, so it has no schema")
        self._contracts, self._types = read_contracts(handlers, identifiers=identifiers)
        self._discovered: dict[tuple[str, ...], JSONObject] = {}
        self.paths: tuple[str, ...] = tuple(one.path for one in self._contracts)

    def openrpc(
        self,
        path: str | None = None,
        *,
        title: str | None = None,
        version: str = "1.0.0",
        url: str | None = None,
    ) -> JSONObject:
        """Return the OpenRPC 1.3 document of one handler.

        Streams, predicates, rate limits and channels are extensions, whose names begin with ``x-``.

        Args:
            path: the path of the handler. It may be omitted if there is only one handler.
            title: the title. Default: the name of the handler's class.
            version: the version of your interface. Default ``"1.0.0"``.
            url: the URL of the handler, such as ``ws://localhost:8000/rpc``. Default None: not in the
                document.

        Raises:
            ValueError: there is no handler at this path, or there are several and no path was given.
        """
        contract = self._contract(path)
        return openrpc_document(contract, self._types, title=title or contract.name, version=version, url=url)

    def asyncapi(
        self, *, title: str | None = None, version: str = "1.0.0", url: str = "ws://localhost:8000"
    ) -> JSONObject:
        """Return the AsyncAPI 3.0 document of all handlers, with the messages of ``trio-ws.v1``.

        Args:
            title: the title. Default: the name of the first handler's class.
            version: the version of your interface. Default ``"1.0.0"``.
            url: the URL of the target, without the paths of its handlers. Default ``"ws://localhost:8000"``.
        """
        wanted = title or self._contracts[0].name
        return asyncapi_document(self._contracts, self._types, title=wanted, version=version, url=url)

    def typescript(self) -> str:
        """Return a TypeScript module with ``interface Methods`` and ``interface Channels``.

        If there are several handlers, the names of the interfaces begin with the name of the handler's class.

        Raises:
            ValueError: a method has positional-only parameters and required keyword-only parameters.
        """
        return typescript_module(self._contracts, self._types)

    def _page(self, title: str, path: str) -> Page:
        """Return the page for trying the methods, which is served at a path of the target."""
        return make_page(self._contracts, self._types, title=title, path=path)

    def _contract(self, path: str | None) -> HandlerContract:
        if path is None and len(self._contracts) == 1:
            return self._contracts[0]
        for one in self._contracts:
            if one.path == path:
                return one
        known = ", ".join(self.paths)
        if path is None:
            raise ValueError(f"an OpenRPC document is of one handler; give the path of one of {known}")
        raise ValueError(f"there is no handler at {path!r}; there are {known}")

    def _openrpc_for(self, allowed: Callable[[MethodContract], bool]) -> JSONObject:
        """Return the document of the only handler, with the allowed methods only."""
        contract = self._contracts[0]
        methods = tuple(filter(allowed, contract.methods))
        names = tuple(one.name for one in methods)
        document = self._discovered.get(names)
        if document is None:
            document = openrpc_document(
                contract, self._types, title=contract.name, version="1.0.0", methods=methods
            )
            if len(self._discovered) < _MAX_DISCOVERED:
                self._discovered[names] = document
        return document


def _handlers_of(target: object) -> Mapping[str, Describable]:
    handlers = getattr(target, "handlers", None)
    if isinstance(handlers, Mapping) and not inspect.isclass(target):
        return handlers
    if inspect.isclass(target) and hasattr(target, "channel_types"):
        target = target()
    if isinstance(target, Describable):
        return {"/": target}
    raise TypeError(f"a schema is of an App or a WebSocketHandler, not of {target!r}")


# -- for handlers and pages ------------------------------------------------------------------------------


def discovery_schema(handler: object) -> Schema:
    """Return the schema of a handler for ``rpc.discover``: method names need not be identifiers."""
    return Schema._for_discovery(handler)


def discovered(schema: Schema, allowed: Callable[[MethodContract], bool]) -> JSONObject:
    """Return the OpenRPC document with the methods that a client may call."""
    return schema._openrpc_for(allowed)


def page_of(schema: Schema, title: str, path: str) -> Page:
    """Return the page that tries the methods."""
    return schema._page(title, path)
