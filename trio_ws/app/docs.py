"""The interactive page of an App, which `App.mount_docs` serves.

Invariants: the page is sent only if ``allow`` accepts the request. Without ``allow`` it is sent only if a
server in debug mode was created for the App.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Protocol

from trio_ws.schema import Schema
from trio_ws.schema.document import page_of
from trio_ws.server.http import HTTPResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ws.protocol.http import Request
    from trio_ws.rpc.handler import WebSocketHandler
    from trio_ws.schema.page import Page

__all__ = ["DocsPage", "HasHandlers"]


class HasHandlers(Protocol):
    """An App, or anything else with handlers."""

    @property
    def handlers(self) -> Mapping[str, WebSocketHandler]:
        """The handlers by path."""
        ...


class DocsPage:
    """Answers requests for the page.

    Args:
        path: the path of the page in the App.
        title: the title of the page.
        app: the App whose handlers it documents.
        allow: decides who may open the page. None allows everybody, and requires debug mode.
    """

    def __init__(
        self,
        path: str,
        title: str,
        app: HasHandlers,
        allow: Callable[[Request], object] | None,
    ) -> None:
        self.path = path
        self._title = title
        self._app = app
        self._allow = allow
        self._is_open = False
        self._page: Page | None = None
        self._made_of: list[tuple[str, WebSocketHandler, tuple[str, ...]]] = []

    def check(self, *, debug: bool) -> None:
        """Check that the page can be served with these settings.

        Raises:
            ValueError: ``allow`` is missing, and the server is not in debug mode.
            TypeError, ValueError: the handlers have no schema; see `Schema`.
        """
        if self._allow is None:
            if not debug:
                raise ValueError(
                    f"the page at {self.path!r} would show every method of the App to everybody; pass a"
                    f" function of the Request as allow, app.mount_docs({self.path!r}, allow=...), or use"
                    " debug=True"
                )
            self._is_open = True
        self._make()

    async def answer(self, request: Request) -> HTTPResponse:
        """Return the page, or a refusal."""
        allowed: object = self._is_open
        if self._allow is not None:
            allowed = self._allow(request)
            if inspect.isawaitable(allowed):
                allowed = await allowed
        if isinstance(allowed, HTTPResponse):
            return allowed
        if not allowed:
            return HTTPResponse(403 if self._allow is not None else 404)
        page = self._make()
        return HTTPResponse(200, page.headers, page.html)

    def _make(self) -> Page:
        """Create the page for the handlers that are mounted now."""
        made_of = [(path, one, tuple(one.rpc_methods)) for path, one in self._app.handlers.items()]
        if self._page is None or made_of != self._made_of:
            self._page = page_of(Schema(self._app), self._title, self.path)
            self._made_of = made_of
        return self._page
