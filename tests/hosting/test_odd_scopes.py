"""Scopes of hosts that contain any text: paths and headers beyond Latin-1, methods and subprotocols."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.support.asgi import http_scope, websocket_scope
from tests.support.serving import guard
from trio_ws import App, ASGIApp, Request


class RSGIRequest:
    """A plain HTTP request by RSGI, as granian makes it: with a decoded path."""

    def __init__(self, **scope: Any) -> None:
        usual = {
            "proto": "http",
            "http_version": "1.1",
            "client": "127.0.0.1:5000",
            "server": "127.0.0.1:80",
            "scheme": "http",
            "method": "GET",
            "path": "/",
            "query_string": "",
            "authority": None,
            "headers": {"host": "localhost"},
        }
        self.scope = SimpleNamespace(**{**usual, **scope})
        self.status = 0
        self.body = b""

    def __aiter__(self) -> RSGIRequest:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def client_disconnect(self) -> None:
        await asyncio.Event().wait()

    def response_bytes(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.body = status, body

    def response_empty(self, status: int, headers: Any) -> None:
        self.status = status


def pages() -> App:
    app = App()

    @app.http("/names/{name}")
    async def show(request: Request, name: str) -> str:
        return f"{name} {request.query_params.get('q')} {request.header('X-Name')}"

    return app


@pytest.mark.parametrize(
    ("scope", "status", "body"),
    [
        ({"path": "/names/€"}, 200, "€ None None"),
        ({"path": "/names/é"}, 200, "é None None"),
        ({"path": "/names/%41"}, 200, "%41 None None"),
        ({"path": "/names/a b\r\n"}, 200, "a b\r\n None None"),
        ({"path": "/names/x", "query_string": "q=€"}, 200, "x ['€'] None"),
        ({"path": "/names/x", "headers": {"host": "localhost", "x-name": "é"}}, 200, "x None é"),
        ({"path": "/names/x", "headers": {"host": "localhost", "x-name": "€"}}, 200, "x None â\x82¬"),
        ({"path": "/names/x", "headers": {}, "authority": "€"}, 200, None),
        ({"path": "/names/x", "method": "G€T"}, 400, None),
        ({"path": "/€"}, 404, None),
    ],
)
def test_any_text_of_an_rsgi_host_is_answered(scope: Any, status: int, body: str | None) -> None:
    async def main() -> Any:
        request: Any = RSGIRequest(**scope)
        async with asyncio.timeout(60):
            await ASGIApp(pages()).__rsgi__(request.scope, request)
        return request

    request = asyncio.run(main())
    assert request.status == status
    assert body is None or request.body.decode() == body


@pytest.mark.parametrize(
    "scope",
    [websocket_scope(subprotocols=["caf€"]), {**http_scope(), "method": "G€T"}],
    ids=["websocket", "http"],
)
async def test_a_scope_that_is_no_request_is_answered_with_400(scope: Any) -> None:
    start = "websocket.connect" if scope["type"] == "websocket" else "http.request"
    events = [{"type": start}]
    sent: list[Any] = []

    async def receive() -> Any:
        return events.pop(0) if events else await trio.sleep_forever()

    async def send(event: Any) -> None:
        sent.append(event)

    with trio.fail_after(guard()):
        await ASGIApp(pages())({**scope, "extensions": {"websocket.http.response": {}}}, receive, send)
    assert sent[0]["status"] == 400
