"""The pages that ``serve`` adds to its target, so that it can be tried in a browser.

Methods and channels are tried on the page of `App.mount_docs`, everything else on ``static/try.html``.

Invariants:

- A page never takes the place of a response of the target, whose own HTTP routes come first. An opening
  handshake never gets a page.
- Without ``--page``, a request that a proxy has forwarded gets no page.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, NamedTuple

import trio_ws
from trio_ws.app.app import docs_path, routes_of
from trio_ws.app.dispatch import Route, answer
from trio_ws.app.docs import DocsPage
from trio_ws.app.listener import MessageListener
from trio_ws.logs import logger_for
from trio_ws.protocol.http import HTTPError
from trio_ws.schema.page import fill_page
from trio_ws.server.http import HTTPResponse
from trio_ws.server.router import HTTPRoute, asks_for_websocket
from trio_ws.server.routing import Pattern, name_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from trio_ws._types import JSONObject
    from trio_ws.protocol.http import Request

__all__ = ["TargetPages", "for_everybody", "for_this_machine", "page_path"]

logger = logger_for("trio_ws.app")

#: Headers that proxies add to requests.
_FORWARDED = (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")
#: Paths for pages; those are taken that the target does not use.
_PATHS = ("/", "/try", "/try/page", "/trio-ws", "/trio-ws/page")


def for_everybody(target: object, name: str) -> TargetPages:
    """Return the pages of a target."""
    return TargetPages(target, name)


def for_this_machine(target: object, name: str) -> TargetPages:
    """Return the pages of a target, for requests that no proxy has forwarded."""
    return TargetPages(target, name, forwarded=False)


def page_path(target: object, *, added: bool) -> str | None:
    """Return the path of the page to open: the target's own page, or one that is added. None without any.

    Args:
        target: a target of a server.
        added: whether pages are added.
    """
    own = _own_page(target)
    if own is None and added:
        return next(iter(_paths_for(target)), None)
    return own


class TargetPages:
    """The pages of one target. The server calls `find`; see `trio_ws.server.router.Pages`.

    Args:
        target: the target; of a handler, the instance.
        name: its name, which is the title of the pages.
        forwarded: whether requests that a proxy has forwarded get pages too.
    """

    def __init__(self, target: object, name: str, *, forwarded: bool = True) -> None:
        self._app = target if isinstance(target, trio_ws.App) else None
        self._forwarded = forwarded
        self._found: dict[str, HTTPRoute] = {}
        for path, function in _make_pages(target, name).items():
            route = Route(Pattern(path), (), function, methods=("GET", "HEAD"))
            self._found[path] = HTTPRoute(functools.partial(answer, route, {}))

    def find(self, request: Request) -> HTTPRoute | None:
        """Return the page for a request, or None."""
        page = self._found.get(request.path)
        if page is None or request.method not in ("GET", "HEAD") or asks_for_websocket(request):
            return None
        if not self._forwarded and any(request.raw_values(name) for name in _FORWARDED):
            return None
        if self._app is not None and _answers_http(self._app, request.path):
            return None
        return page


def _own_page(target: object) -> str | None:
    """The path of a page of an App: its first, or that of its documentation."""
    if not isinstance(target, trio_ws.App):
        return None
    try:
        if target.find_http("GET", "/") is not None:
            return "/"
    except HTTPError:  # there is something, but not for GET
        pass
    return docs_path(target)


def _answers_http(app: trio_ws.App, path: str) -> bool:
    try:
        return app.find_http("GET", path) is not None
    except HTTPError:
        return True


def _routes_of(target: object) -> list[tuple[str, object]]:
    """The paths that accept WebSockets, with their functions and handlers."""
    if not isinstance(target, trio_ws.App):
        return [("/", target)]
    return [(route.pattern.path, route.function) for route in routes_of(target) if not route.methods]


def _is_handler(function: object) -> bool:
    kind = function if isinstance(function, type) else type(function)
    return issubclass(kind, trio_ws.WebSocketHandler)


def _paths_for(target: object) -> list[str]:
    """The paths of the pages that are added: one for plain WebSockets and one for methods, if it has both."""
    if _own_page(target) is not None:
        return []
    kinds = {_is_handler(function) for _, function in _routes_of(target)}
    app = target if isinstance(target, trio_ws.App) else None
    return [path for path in _PATHS if app is None or not _answers_http(app, path)][: len(kinds)]


def _make_pages(target: object, name: str) -> dict[str, Callable[[Request], Awaitable[HTTPResponse]]]:
    """The functions that answer requests for the pages, by path."""
    paths = _paths_for(target)
    if not paths:
        return {}
    routes = _routes_of(target)
    handlers = {path: one for path, one in routes if isinstance(one, trio_ws.WebSocketHandler)}
    pages: dict[str, Callable[[Request], Awaitable[HTTPResponse]]] = {}
    if handlers:
        docs = DocsPage(paths[-1], name, _Mounted(handlers), lambda _: True)
        try:
            docs.check(debug=False)
        except (TypeError, ValueError) as exc:
            logger.warning("the methods cannot be shown in a browser: %s", exc)
        else:
            pages[docs.path] = docs.answer
    if len(pages) < len(paths):
        pages[paths[0]] = _TryPage(name, routes, next(iter(pages), None)).answer
    return pages


class _Mounted(NamedTuple):
    """What `DocsPage` needs of an App."""

    handlers: Mapping[str, trio_ws.WebSocketHandler]


class _TryPage:
    """The page that connects to WebSockets, sends text and shows what comes back.

    Args:
        title: the title of the page.
        routes: paths that accept WebSockets, with their functions.
        docs: the path of the page for methods, if there is one.
    """

    def __init__(self, title: str, routes: list[tuple[str, object]], docs: str | None) -> None:
        described: list[JSONObject] = []
        for path, function in routes:
            shown = function.function if isinstance(function, MessageListener) else function
            text = (inspect.getdoc(shown) or "").partition("\n\n")[0]
            described.append({"path": path, "name": name_of(shown), "text": text})
        self._page = fill_page("try.html", {"title": title, "routes": described, "docs": docs})

    async def answer(self, request: Request) -> HTTPResponse:
        """Return the page."""
        return HTTPResponse(200, self._page.headers, self._page.html)
