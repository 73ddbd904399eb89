"""`App.mount_docs`: who may open the page, and errors when a server is created."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import httpx
import pytest

import trio_ws
from tests.schema.shop import Shop, Till
from tests.support.commands import run_program
from tests.support.serving import serving
from trio_ws import App, ASGIApp, HTTPResponse, Request, WebSocketServer


def app_of(*, debug: bool = False, **settings: Any) -> App:
    app = App(debug=debug)
    app.mount("/shop", Shop)
    app.mount_docs("/docs", **settings)
    return app


async def get(app: App, path: str = "/docs", **more: Any) -> httpx.Response:
    async with serving(app, **more) as server, httpx.AsyncClient() as client:
        return await client.get(server.url.replace("ws", "http", 1) + path, headers={"X-Who": "ada"})


async def test_the_page() -> None:
    response = await get(app_of(debug=True, title="Shop <&>"))
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert '"title":"Shop \\u003c&>"' in response.text
    assert "stock.total" in response.text
    for tag in ('script type="module"', "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag.split()[0]}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize("make", [lambda app: WebSocketServer(app, 0), ASGIApp])
def test_without_allow_only_in_debug(make: Any) -> None:
    with pytest.raises(
        ValueError, match=r"the page at '/docs' would show .* allow=\.\.\.\), or use debug=True"
    ):
        make(app_of())
    make(app_of(debug=True))
    make(app_of(allow=lambda request: False))


def test_the_debug_mode_of_a_server_counts() -> None:
    WebSocketServer(app_of(), 0, debug=True)


def test_a_page_of_a_mounted_app_is_checked_too() -> None:
    app = App()
    app.mount("/api", app_of())
    with pytest.raises(ValueError, match="the page at '/docs' would show every method"):
        WebSocketServer(app, 0)


async def test_a_page_that_no_server_has_checked_is_not_served() -> None:
    app = App(debug=True)
    app.mount("/shop", Shop)
    async with serving(app) as server, httpx.AsyncClient() as client:
        app.mount_docs("/docs")
        assert (await client.get(server.url.replace("ws", "http", 1) + "/docs")).status_code == 404


async def ada_async(request: Request) -> bool:
    return request.header("X-Who") == "ada"


def unauthorized(request: Request) -> HTTPResponse:
    return HTTPResponse(401, {"WWW-Authenticate": "Basic"}, "who are you?\n")


def broken(request: Request) -> bool:
    raise LookupError("the users are gone")


@pytest.mark.parametrize(
    ("allow", "status"),
    [
        (lambda request: request.header("X-Who") == "ada", 200),
        (lambda request: request.header("X-Who") == "bob", 403),
        (lambda request: None, 403),
        (ada_async, 200),
        (unauthorized, 401),
        (broken, 500),
    ],
)
async def test_allow(allow: Any, status: int) -> None:
    response = await get(app_of(allow=allow))
    assert response.status_code == status
    assert ("buy" in response.text) == (status == 200)
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


async def test_allow_holds_in_debug_too() -> None:
    assert (await get(app_of(debug=True, allow=lambda request: False))).status_code == 403


@pytest.mark.parametrize("allow", [True, "ada", bool])
def test_allow_is_a_function(allow: Any) -> None:
    with pytest.raises(TypeError, match="allow must be a function of a Request"):
        app_of(allow=allow)


@pytest.mark.parametrize(("path", "text"), [("docs", "begin"), ("/{x}/docs", "must not have parameters")])
def test_a_bad_path(path: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        App().mount_docs(path)


def test_the_path_is_taken() -> None:
    with pytest.raises(ValueError, match="/docs"):
        app_of().mount_docs("/docs")


def test_methods_without_a_schema_are_refused_by_the_constructor() -> None:
    app = App(debug=True)
    app.mount_docs()
    with pytest.raises(ValueError, match="no WebSocketHandler is mounted"):
        WebSocketServer(app, 0)

    class Bad(trio_ws.WebSocketHandler):
        @trio_ws.rpc_method("a b")
        def f(self, connection: trio_ws.ClientConnection) -> None: ...

    app.mount("/bad", Bad)
    with pytest.raises(ValueError, match="Bad: the method name 'a b' must be"):
        WebSocketServer(app, 0)


async def test_later_methods_and_handlers_are_on_the_page() -> None:
    app = app_of(debug=True)
    async with serving(app) as server, httpx.AsyncClient() as client:
        url = server.url.replace("ws", "http", 1) + "/docs"
        before = (await client.get(url)).text
        app.handlers["/shop"].register_rpc_method(lambda connection: 7, "seven")
        app.mount("/till", Till)
        after = (await client.get(url)).text
    assert ('"seven"' in before, '"seven"' in after) == (False, True)
    assert ('"/till"' in before, '"/till"' in after) == (False, True)


def test_the_command_line_says_why(tmp_path: Any) -> None:
    (tmp_path / "api.py").write_text(
        "import trio_ws\n"
        "app = trio_ws.App()\n"
        "app.mount('/', trio_ws.WebSocketHandler())\n"
        "app.mount_docs('/docs')\n"
    )
    done = run_program("serve", "api:app", "--port", "0", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr.startswith(
        "trio-ws: the page at '/docs' would show every method of the App to everybody"
    )
    assert done.stderr.count("\n") == 1
