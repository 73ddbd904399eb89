"""`trio_ws.app` with plain HTTP: results of functions, methods, bodies, failures, and limits."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
import trio
import trio.testing

from tests.support.serving import all_tasks, body_of, exchange, guard, serving, serving_in_memory, status_of
from trio_ws import App, HTTPResponse, MessageError, Options, Request, WebSocketServer
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock


class Move(msgspec.Struct):
    x: int
    y: int = 0


def http(line: str, *headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A plain request."""
    lines = [f"{line} HTTP/{version}", *(["Host: test"] if version == "1.1" else []), *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def header(response: bytes, name: str) -> str | None:
    """One header of a response."""
    for line in response.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
        key, _, value = line.partition(": ")
        if key.lower() == name.lower():
            return value
    return None


async def ask(target: Any, data: bytes, **kwargs: Any) -> bytes:
    """What a server answers, up to the end of the connection."""
    async with serving_in_memory(target, **kwargs) as memory:
        return await exchange(await memory.stream(), data)


def app_of(function: Callable[[Request], Any], path: str = "/", **kwargs: Any) -> App:
    app = App()
    app.http(path, **kwargs)(function)
    return app


def answering(result: Any) -> App:
    return app_of(says(result))


def says(result: Any) -> Callable[[Request], Awaitable[Any]]:
    async def answer(request: Request) -> Any:
        return result

    return answer


# -- responses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "status", "content_type", "body"),
    [
        ("für", 200, "text/plain; charset=utf-8", "für".encode()),
        ("", 200, None, b""),
        (b"\0\1", 200, "application/octet-stream", b"\0\1"),
        (bytearray(b"\0\1"), 200, "application/octet-stream", b"\0\1"),
        ({"ok": True}, 200, "application/json", b'{"ok":true}'),
        ([1, "x", None], 200, "application/json", b'[1,"x",null]'),
        (Move(1), 200, "application/json", b'{"x":1,"y":0}'),
        (7, 200, "application/json", b"7"),
        (HTTPResponse(404, body={"no": 1}), 404, "application/json", b'{"no":1}'),
        (HTTPResponse(200, {"content-type": "text/html"}, "<p>"), 200, "text/html", b"<p>"),
        (HTTPResponse(302, [("Location", "/x")]), 302, None, b""),
    ],
)
async def test_return_values_become_responses(
    result: Any, status: int, content_type: str | None, body: bytes, autojump_clock: MockClock
) -> None:
    response = await ask(answering(result), http("GET /"))
    assert status_of(response) == status
    assert header(response, "Content-Type") == content_type
    assert body_of(response) == body
    assert header(response, "Connection") == "close"
    assert str(header(response, "Date")).endswith(" GMT")


async def test_none_is_204_without_a_body(autojump_clock: MockClock) -> None:
    response = await ask(answering(None), http("GET /"))
    assert status_of(response) == 204
    assert response.endswith(b"\r\n\r\n")
    assert header(response, "Content-Length") is None


async def test_headers_of_a_response_are_kept_in_order(autojump_clock: MockClock) -> None:
    fields = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Date", "of my own")]
    response = await ask(answering(HTTPResponse(headers=fields)), http("GET /"))
    assert b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nDate: of my own\r\n" in response
    assert response.count(b"Date:") == 1


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"status": "200"}, TypeError, "status must be an int, not str"),
        ({"status": True}, TypeError, "status must be an int, not bool"),
        ({"status": {"ok": True}}, TypeError, r"use HTTPResponse\(status, headers, body\)"),
        ({"status": 101}, ValueError, "101 is not a final HTTP status"),
        ({"status": 600}, ValueError, "600 is not a final HTTP status"),
        ({"status": 204, "body": "x"}, ValueError, "a response with status 204 cannot have a body"),
        ({"headers": {"A": "b\r\nC: d"}}, ValueError, "the header A contains a control"),
        ({"headers": {"A b": "c"}}, ValueError, "'A b' is not a header name"),
        ({"headers": [("A", 1)]}, TypeError, "the value of the header A must be a str"),
        ({"headers": {"Content-Length": "5"}}, ValueError, "the header Content-Length is set by trio_ws"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, ValueError, "Transfer-Encoding is set by trio_ws"),
        ({"body": object()}, TypeError, "cannot encode a body of type object as JSON"),
        ({"body": {1: {2, object()}}}, TypeError, "cannot encode a body of type dict"),
    ],
)
def test_a_response_that_cannot_be_sent_says_why(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        HTTPResponse(**arguments)


def test_a_response_may_be_looked_at() -> None:
    response = HTTPResponse(201, {"X": "y"}, [1])
    assert (response.status, response.body) == (201, b"[1]")
    assert list(response.headers) == [("X", "y"), ("Content-Type", "application/json")]
    assert repr(response) == "<HTTPResponse 201 3 bytes>"


# -- requests ---------------------------------------------------------------------------------------


async def test_a_function_gets_the_request_with_its_body_and_parameters(autojump_clock: MockClock) -> None:
    app = App()

    @app.http("/items/{item:int}/{rest:path}", methods=["POST", "PUT"])
    async def items(request: Request, item: int) -> Any:
        assert request.path_params == {"item": item, "rest": "a/b"}
        return [request.method, item, request.query_params, request.body.decode(), request.header("X-Y")]

    response = await ask(app, http("PUT /items/5/a%2fb?q=1&q=2", "x-y: z", body=b"data"))
    assert json.loads(body_of(response)) == ["PUT", 5, {"q": ["1", "2"]}, "data", "z"]


async def test_a_chunked_body_is_put_together(autojump_clock: MockClock) -> None:
    async def length(request: Request) -> int:
        return len(request.body)

    data = http("POST /", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert body_of(await ask(app_of(length, methods=["POST"]), data)) == b"5"


async def test_json_is_checked_against_a_type_and_a_wrong_one_is_400(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def move(request: Request) -> Move:
        return request.json(type=Move)

    app = app_of(move, methods=["POST"])
    assert body_of(await ask(app, http("POST /", body=b'{"x":3}'))) == b'{"x":3,"y":0}'
    for body, said in (
        (b'{"x":"3"}', b"Expected `int`, got `str` - at `$.x`"),
        (b"{", b"truncated"),
        (b'"\xff"', b"Expected `object`, got `str`"),
    ):
        response = await ask(app, http("POST /", body=body))
        assert status_of(response) == 400
        assert said in body_of(response)
        assert body_of(response).startswith(b"the body is not the requested JSON: ")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert Request(b"", b'{"x":3}').json() == {"x": 3}


async def test_a_message_error_from_elsewhere_is_a_failure(autojump_clock: MockClock) -> None:
    async def elsewhere(request: Request) -> None:
        raise MessageError("of another connection")

    assert status_of(await ask(app_of(elsewhere), http("GET /"))) == 500


# -- methods and versions ---------------------------------------------------------------------------


async def test_head_is_answered_as_get_without_the_body(autojump_clock: MockClock) -> None:
    async def page(request: Request) -> str:
        return request.method

    get, head = [await ask(app_of(page), http(f"{method} /")) for method in ("GET", "HEAD")]
    assert body_of(get) == b"GET"
    assert head.endswith(b"\r\n\r\n")
    assert header(head, "Content-Length") == "4"
    assert header(head, "Content-Type") == header(get, "Content-Type")


async def test_head_may_be_served_alone(autojump_clock: MockClock) -> None:
    app = app_of(says(HTTPResponse(headers={"X": "head"})), methods=["HEAD"])
    app.http("/", methods=["POST"])(says("post"))
    assert header(await ask(app, http("HEAD /")), "X") == "head"
    assert header(await ask(app, http("GET /")), "Allow") == "HEAD, POST"
    with pytest.raises(ValueError, match="already a route for HEAD /"):
        app.http("/")(says("get"))


async def test_http_1_0_is_served(autojump_clock: MockClock) -> None:
    response = await ask(answering("hi"), http("GET /", version="1.0"))
    assert (status_of(response), body_of(response)) == (200, b"hi")


async def test_another_method_is_405_and_told_what_is_allowed(autojump_clock: MockClock) -> None:
    app = answering("hi")
    app.http("/", methods=["PUT"])(says("put"))
    app.http("/post", methods=["POST"])(says("post"))
    for line, allow in (("DELETE /", "GET, HEAD, PUT"), ("GET /post", "POST"), ("OPTIONS /post", "POST")):
        response = await ask(app, http(line))
        assert (status_of(response), header(response, "Allow")) == (405, allow)


async def test_another_pattern_may_answer_the_method(autojump_clock: MockClock) -> None:
    app = App()
    app.http("/{x:int}")(says("an int"))
    app.http("/{x}", methods=["PUT"])(says("a str"))
    assert body_of(await ask(app, http("PUT /5"))) == b"a str"
    assert body_of(await ask(app, http("GET /5"))) == b"an int"


async def test_requests_without_a_route_get_404(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    for line in ("GET /nothing", "POST /nothing", "OPTIONS *"):
        response = await ask(answering("hi"), http(line))
        assert (status_of(response), body_of(response)) == (404, b"nothing at this path\n")
    assert status_of(await ask(answering("hi"), http("GET /", "Upgrade: websocket"))) == 404
    # Another upgrade may be ignored (RFC 9110 section 7.8), and so may one with a POST.
    assert status_of(await ask(answering("hi"), http("GET /", "Upgrade: h2c", "Connection: Upgrade"))) == 200
    app = app_of(says("hi"), methods=["POST"])
    assert status_of(await ask(app, http("POST /", "Upgrade: websocket", "Connection: Upgrade"))) == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_page_and_a_websocket_may_share_a_path(autojump_clock: MockClock) -> None:
    app = answering("a page")

    @app.websocket("/")
    async def talk(ws: Any) -> None:
        await ws.send("a message")

    async with serving_in_memory(app) as memory:
        assert body_of(await exchange(await memory.stream(), http("GET /"))) == b"a page"
        async with memory.connect("/") as ws:
            assert await ws.receive_text() == "a message"


async def params(request: Request) -> dict[str, Any]:
    return request.path_params


async def test_a_mounted_app_answers_below_its_path(autojump_clock: MockClock) -> None:
    app = App()
    app.mount("/t/{tenant}", app_of(params, "/{n:int}"))
    assert json.loads(body_of(await ask(app, http("GET /t/ada/5")))) == {"tenant": "ada", "n": 5}


# -- errors -----------------------------------------------------------------------------------------


async def fails(request: Request) -> None:
    raise KeyError("a secret")


async def no_json(request: Request) -> object:
    return object()


def gives_a_coroutine(request: Request) -> Awaitable[None]:
    return fails(request)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("function", "text"),
    [
        (fails, "KeyError: 'a secret'"),
        (no_json, "TypeError: cannot encode a body of type object"),
        (gives_a_coroutine, "gives_a_coroutine is a plain function that returned an awaitable; use"),
    ],
)
async def test_a_failure_is_500_with_its_traceback_in_the_log_alone_unless_debug(
    function: Any, text: str, debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of(function)
    app.debug = debug
    async with serving_in_memory(app) as memory:
        response = await exchange(await memory.stream(), http("GET /"))
        assert memory.server.state == "serving"
    assert status_of(response) == 500
    if debug:
        assert text in body_of(response).decode()
        assert body_of(response).startswith(b"Traceback")
    else:
        assert body_of(response) == b"internal server error\n"
    (record,) = caplog.records
    assert record.getMessage() == "the HTTP handler of GET / failed"
    assert record.exc_info is not None
    assert text in "".join(logging.Formatter().formatException(record.exc_info))


async def test_max_body_bytes_is_413_before_the_function_runs(autojump_clock: MockClock) -> None:
    app = app_of(fails, methods=["POST"])
    response = await ask(app, http("POST /", body=b"x" * 11), options=Options(max_body_bytes=10))
    assert status_of(response) == 413


async def test_a_request_that_does_not_come_is_408(autojump_clock: MockClock) -> None:
    response = await ask(app_of(says("hi"), methods=["POST"]), http("POST /", "Content-Length: 5"))
    assert status_of(response) == 408
    assert trio.current_time() == 10


async def test_max_connections_counts_requests_under_way(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(request: Request) -> str:
        await trio.sleep(10)
        return "done"

    responses: list[bytes] = []
    async with serving_in_memory(app_of(slow), max_connections=1) as memory:

        async def one() -> None:
            responses.append(await exchange(await memory.stream(), http("GET /")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            await one()
        await one()
    assert [status_of(response) for response in responses] == [503, 200, 200]


@pytest.mark.parametrize("seconds", [4, 40])
async def test_a_drain_waits_for_requests_under_way_as_for_handlers(
    seconds: int, autojump_clock: MockClock
) -> None:
    async def slow(request: Request) -> str:
        await trio.sleep(seconds)
        return "done"

    before = all_tasks()
    responses: list[bytes] = []
    listener = MemoryListener()
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            async with WebSocketServer(app_of(slow), listeners=[listener]):

                async def one() -> None:
                    responses.append(await exchange(await listener.connect(), http("GET /")))

                nursery.start_soon(one)
                await trio.testing.wait_all_tasks_blocked()
            assert trio.current_time() == min(seconds, 10)
    assert [response[-4:] for response in responses] == [b"done" if seconds == 4 else b""]
    assert all_tasks() == before


async def test_a_client_that_does_not_read_loses_the_rest_after_close_timeout(
    autojump_clock: MockClock,
) -> None:
    async with serving_in_memory(answering(b"x" * 1_000_000), options=Options(close_timeout=3)) as memory:
        stream = await memory.stream(capacity=1000)
        await stream.send_all(http("GET /"))
        while memory.server._exchanges == 0:
            await trio.sleep(0.01)
        began = trio.current_time()
        while memory.server._exchanges:
            await trio.sleep(0.01)
        assert 2.9 < trio.current_time() - began < 3.1


async def test_a_client_that_leaves_costs_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(request: Request) -> bytes:
        await trio.sleep(5)
        return b"x" * 1_000_000

    async with serving_in_memory(app_of(slow)) as memory:
        stream = await memory.stream()
        await stream.send_all(http("GET /"))
        await trio.sleep(1)
        await trio.aclose_forcefully(stream)
        await trio.sleep(5)
        assert memory.server._exchanges == 0
        assert memory.server._clients == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# -- over sockets -----------------------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_thread() -> None:
    main = threading.get_ident()

    def answer(request: Request) -> list[Any]:
        return [threading.get_ident() != main, request.body.decode()]

    async with serving(app_of(answer, methods=["GET", "POST"])) as server:
        async with httpx.AsyncClient(base_url=server.url.replace("ws", "http", 1)) as client:
            response = await client.post("/", content=b"hello")
            assert (response.status_code, response.json()) == (200, [True, "hello"])
            assert [(await client.get("/")).json() for _ in range(5)] == [[True, ""]] * 5


async def test_a_large_answer_comes_whole() -> None:
    data = bytes(range(256)) * 20_000
    async with serving(answering(data)) as server, httpx.AsyncClient() as client:
        response = await client.get(f"{server.url.replace('ws', 'http', 1)}/?x")
        assert response.content == data
        assert (await client.head(f"{server.url.replace('ws', 'http', 1)}/")).headers[
            "content-length"
        ] == str(len(data))
