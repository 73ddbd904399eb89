"""The pages that ``serve`` adds: where they are, who gets them, and what they never replace."""

from __future__ import annotations

import json
import signal
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
import trustme

import trio_ws
from tests.support.commands import GUARD, exchange, serving_process
from tests.support.serving import echo, guard
from trio_ws.cli import main
from trio_ws.cli.commands import _as_arguments
from trio_ws.cli.pages import for_everybody, for_this_machine, page_path
from trio_ws.cli.server import Serving
from trio_ws.server.server import add_pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TARGETS = "tests.support.cli_targets"


class Calculator(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    def double(self, connection: trio_ws.ClientConnection, number: int) -> int:
        return 2 * number


class Opaque(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method("not an identifier")
    def f(self, connection: trio_ws.ClientConnection) -> None: ...


def blocking(ws: trio_ws.BlockingWebSocket) -> None:
    """Echo in a thread."""
    for message in ws:
        ws.send(message)


def app_of(*, function: bool = True, handler: bool = False, page: bool = False) -> trio_ws.App:
    app = trio_ws.App()
    if function:
        app.websocket("/echo/{room}")(echo)
        app.listener("/listen")(hear)
    if handler:
        app.mount("/calls", Calculator)
    if page:
        app.http("/")(own_page)
    return app


async def hear(ws: trio_ws.WebSocket, data: str) -> str:
    """Hear one message."""
    return data


async def own_page(request: trio_ws.Request) -> str:
    return "the App's own"


@asynccontextmanager
async def serving(target: Any, make: Any = for_this_machine) -> AsyncIterator[httpx.AsyncClient]:
    """Serve a target with its pages, and yield an HTTP client for it."""
    server = trio_ws.WebSocketServer(target, 0, host="127.0.0.1")
    add_pages(server, make, "chat:thing")
    with trio.fail_after(guard()):
        async with server, httpx.AsyncClient(base_url=server.url.replace("ws", "http", 1)) as client:
            yield client


def data_of(page: httpx.Response) -> Any:
    assert page.status_code == 200, page
    return json.loads(page.text.partition('id="data">')[2].partition("</script>")[0])


@pytest.mark.parametrize(
    ("target", "opened", "names"),
    [
        (echo, "/", ["echo"]),
        (blocking, "/", ["blocking"]),
        (app_of(), "/", ["hear", "echo"]),
        (app_of(handler=True), "/", ["Calculator", "hear", "echo"]),
    ],
)
async def test_a_page_for_plain_websockets(target: Any, opened: str, names: list[str]) -> None:
    assert page_path(target, added=True) == opened
    async with serving(target) as client:
        page = await client.get(opened)
        data = data_of(page)
        assert data["title"] == "chat:thing"
        assert sorted(one["name"] for one in data["routes"]) == sorted(names)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
        head = await client.head(opened)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(page.content))


@pytest.mark.parametrize("target", [Calculator, Calculator(), app_of(function=False, handler=True)])
async def test_methods_have_the_page_of_the_documentation(target: Any) -> None:
    assert page_path(target, added=True) == "/"
    async with serving(target) as client:
        (handler,) = data_of(await client.get("/"))["handlers"]
    assert [one["name"] for one in handler["methods"]] == ["double"]


async def test_an_app_with_both_has_two_pages() -> None:
    async with serving(app_of(handler=True)) as client:
        docs = data_of(await client.get("/"))["docs"]
        assert docs == "/try"
        assert data_of(await client.get(docs))["handlers"][0]["path"] == "/calls"


async def test_methods_without_a_schema_are_tried_as_messages(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Opaque) as client:
        assert data_of(await client.get("/"))["routes"][0]["path"] == "/"
    assert "cannot be shown in a browser: Opaque: the method name 'not an identifier'" in caplog.text


async def test_the_target_answers_as_without_pages() -> None:
    async with serving(echo) as client:
        assert (await client.post("/")).status_code == 405
        assert (await client.get("/elsewhere")).status_code == 426
        assert (await client.get("/", headers={"Host": "evil.example"})).status_code == 403
        uri = str(client.base_url).replace("http", "ws", 1)
        async with trio_ws.connect(uri) as ws:
            await ws.send("hello")
            assert await ws.receive_text() == "hello"
        with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
            async with trio_ws.connect(uri, headers=[("Origin", "http://evil.example")]):
                pass
        assert caught.value.status == 403


def with_catch_all() -> trio_ws.App:
    app = app_of()
    app.http("/{rest:path}")(own_page)
    return app


@pytest.mark.parametrize("make", [lambda: app_of(page=True), with_catch_all])
async def test_an_app_with_a_page_gets_no_other(make: Any) -> None:
    app = make()
    assert page_path(app, added=True) == "/"
    async with serving(app) as client:
        for path in ("/", "/try"):
            assert "<html" not in (await client.get(path)).text
        assert (await client.get("/")).text == "the App's own"


async def test_a_route_for_another_method_keeps_its_path() -> None:
    app = app_of()
    app.http("/", methods=["POST"])(own_page)
    assert page_path(app, added=True) == "/try"
    async with serving(app) as client:
        assert (await client.get("/")).status_code == 405
        assert (await client.post("/")).text == "the App's own"
        assert data_of(await client.get("/try"))["docs"] is None


async def test_a_route_that_is_added_later_takes_the_path() -> None:
    app = app_of()
    async with serving(app) as client:
        assert "<html" in (await client.get("/")).text
        app.http("/")(own_page)
        assert (await client.get("/")).text == "the App's own"


async def test_an_app_without_websockets_has_no_page() -> None:
    app = trio_ws.App()
    app.http("/items")(own_page)
    assert page_path(app, added=True) is None
    async with serving(app) as client:
        assert (await client.get("/")).status_code == 404


@pytest.mark.parametrize("header", ["Forwarded", "Via", "X-Forwarded-For", "X-Real-IP"])
async def test_only_a_page_that_was_asked_for_goes_through_a_proxy(header: str) -> None:
    for make, status in ((for_this_machine, 426), (for_everybody, 200)):
        async with serving(echo, make) as client:
            assert (await client.get("/", headers={header: "192.0.2.1"})).status_code == status


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        ({}, for_this_machine),
        ({"host": "localhost"}, for_this_machine),
        ({"host": "::1"}, for_this_machine),
        ({"host": "*"}, None),
        ({"host": "0.0.0.0"}, None),
        ({"host": "chat.example"}, None),
        ({"hosts": ("chat.example",)}, None),
        ({"trusted_proxies": ("127.0.0.1",)}, None),
        ({"trusted_proxies": ("127.0.0.1",), "proxy_protocol": True}, None),
        ({"page": False}, None),
        ({"host": "*", "page": True}, for_everybody),
    ],
)
def test_who_has_pages(settings: Any, made: Any) -> None:
    wishes = Serving(**{"target": "a:b", "host": "127.0.0.1", "port": 0, **settings})
    assert wishes.pages() is made


@pytest.mark.parametrize(("page", "words"), [(None, []), (True, ["--page"]), (False, ["--no-page"])])
def test_reloading_passes_the_wish_on(page: bool | None, words: list[str]) -> None:
    assert _as_arguments({"page": page, "target": "a:b"}) == [*words, "--", "a:b"]


def test_a_server_that_is_not_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", f"{TARGETS}:server"]) == 2
    assert f"{TARGETS}:server is a WebSocketServer, which serves in its own block" in capsys.readouterr().err


def test_several_processes_with_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    words = ["--workers", "2", "--ssl-certfile", str(tmp_path / "cert.pem"), "--json"]
    with serving_process(f"{TARGETS}:Calls", *words) as (process, line):
        said = json.loads(line)
        assert said["page"] == said["url"].replace("wss", "https", 1).rstrip("/") + "/"
        assert "count_to" in httpx.get(said["page"], verify=context).text
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD) == 0


def test_no_page_when_it_is_not_wanted() -> None:
    with serving_process(f"{TARGETS}:echo", "--no-page", "--json") as (_, line):
        said = json.loads(line)
        assert said["page"] is None
        assert httpx.get(said["url"].replace("ws", "http", 1)).status_code == 426
        assert exchange(said["url"], "one") == "one"
