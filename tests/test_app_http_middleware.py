"""`App.http_middleware`: order, changed and other responses, failures, and mounted Apps."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

import trio_ws
from tests.support.serving import serving
from trio_ws import App, Headers, HTTPResponse, Request


async def get(app: App, path: str = "/", *, method: str = "GET", **kwargs: Any) -> httpx.Response:
    async with serving(app, **kwargs) as server, httpx.AsyncClient() as client:
        return await client.request(method, server.url.replace("ws", "http", 1).rstrip("/") + path)


def tagging(app: App, tag: str, *, seen: list[str]) -> None:
    """Add middleware that notes when it runs, and adds a header."""

    @app.http_middleware
    async def wrap(request: Request, call_next: Any) -> HTTPResponse:
        seen.append(f"{tag} before {request.path}")
        response: HTTPResponse = await call_next(request)
        seen.append(f"{tag} after {response.status}")
        response.headers = Headers([*response.headers, ("X-Tag", tag)])
        return response


async def page(request: Request) -> str:
    return f"page {request.params}"


async def test_it_surrounds_functions_and_those_of_mounted_apps() -> None:
    seen: list[str] = []
    outer, inner = App(), App()
    inner.http("/items/{number:int}")(page)
    tagging(outer, "first", seen=seen)
    outer.mount("/api", inner)
    tagging(outer, "second", seen=seen)  # after the route was added
    tagging(inner, "inner", seen=seen)
    response = await get(outer, "/api/items/7")
    assert response.text == "page {'number': 7}"
    assert response.headers.get_list("X-Tag") == ["inner", "second", "first"]
    assert seen == [
        *(f"{tag} before /api/items/7" for tag in ("first", "second", "inner")),
        *(f"{tag} after 200" for tag in ("inner", "second", "first")),
    ]
    seen.clear()
    assert (await get(outer, "/nowhere")).status_code == 404
    assert (await get(outer, "/api/items/7", method="POST")).status_code == 405
    assert seen == []


async def test_head_and_functions_in_threads_and_results_of_any_kind() -> None:
    app = App()
    tagging(app, "any", seen=[])

    @app.http("/thread")
    def thread(request: Request) -> list[int]:
        return [1, 2]

    @app.http("/none")
    async def none(request: Request) -> None: ...

    head = await get(app, "/thread", method="HEAD")
    assert (head.status_code, head.headers["X-Tag"], head.content) == (200, "any", b"")
    assert (await get(app, "/thread")).json() == [1, 2]
    assert (await get(app, "/none")).status_code == 204


async def test_another_response_without_the_route() -> None:
    app = App()

    @app.http("/")
    async def secret(request: Request) -> str:
        raise AssertionError("this is not reached")

    @app.http_middleware
    async def guard(request: Request, call_next: Any) -> object:
        return HTTPResponse(401, {"WWW-Authenticate": "Basic"}, "who are you?\n")

    response = await get(app)
    assert (response.status_code, response.text) == (401, "who are you?\n")


async def test_an_exception_of_the_rest_can_be_caught() -> None:
    app = App()

    @app.http("/")
    async def fail(request: Request) -> str:
        raise LookupError("no such item")

    @app.http_middleware
    async def translate(request: Request, call_next: Any) -> object:
        try:
            return await call_next(request)
        except LookupError as exc:
            return {"error": str(exc)}

    assert (await get(app)).json() == {"error": "no such item"}


@pytest.mark.parametrize("before", [True, False])
async def test_its_own_exception_is_500(before: bool, caplog: pytest.LogCaptureFixture) -> None:
    app = App()
    app.http("/")(page)

    @app.http_middleware
    async def broken(request: Request, call_next: Any) -> object:
        if not before:
            await call_next(request)
        raise ZeroDivisionError("of the middleware")

    response = await get(app)
    assert (response.status_code, response.text) == (500, "internal server error\n")
    assert "of the middleware" in caplog.text


async def test_invalid_json_is_still_400() -> None:
    app = App()
    tagging(app, "any", seen=[])

    @app.http("/")
    async def echo(request: Request) -> object:
        return request.json()

    assert (await get(app)).status_code == 400


async def test_websockets_are_not_concerned() -> None:
    seen: list[str] = []
    app = App()
    tagging(app, "any", seen=seen)

    @app.websocket("/")
    async def greet(ws: trio_ws.WebSocket) -> None:
        await ws.send("hello")

    async with serving(app) as server, trio_ws.connect(server.url) as ws:
        assert await ws.receive_text() == "hello"
    assert seen == []


async def test_the_adapter_of_an_app_encodes_what_middleware_returns() -> None:
    class Adapter:
        def dumps(self, value: object) -> bytes:
            return b'"adapted"'

        def loads(self, data: bytes) -> object:
            raise AssertionError("this is not called")

    app = App(json=Adapter())
    app.http("/")(page)

    @app.http_middleware
    async def replace(request: Request, call_next: Any) -> object:
        return {"some": "object"}

    assert (await get(app)).text == '"adapted"'


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda request, call_next: None, "not an async function"),
        (page, r"must be a function of \(request, call_next\)"),
        ("text", "not an async function"),
    ],
)
def test_it_must_be_an_async_function_of_two(function: Any, text: str) -> None:
    with pytest.raises(TypeError, match=f"the HTTP middleware .*{text}"):
        App().http_middleware(function)
