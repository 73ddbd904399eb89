"""ASGIApp under a scripted ASGI server."""

from __future__ import annotations

import contextvars
import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_ws
from tests.support.asgi import hosting, http_scope, websocket_scope
from tests.support.serving import all_tasks, echo
from trio_ws import (
    App,
    ASGIApp,
    CloseConnection,
    ConnectionClosedError,
    Options,
    Request,
    WebSocket,
    WebSocketHandler,
    asgi_scope,
)
from trio_ws.testing import InMemoryBroker, InMemoryBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from tests.support.asgi import Host

ACCEPT: dict[str, Any] = {"type": "websocket.accept", "subprotocol": None, "headers": []}


def message(payload: str | bytes) -> dict[str, Any]:
    text, binary = (payload, None) if isinstance(payload, str) else (None, payload)
    return {"type": "websocket.send", "text": text, "bytes": binary}


# -- messages ---------------------------------------------------------------------------------------


async def test_messages_go_through_whole(autojump_clock: MockClock) -> None:
    async with hosting(ASGIApp(echo), websocket_scope()) as host:
        assert await host.receive_event("websocket.accept") == ACCEPT
        for payload in ("hä", "", "x" * 200_000):
            await host.send_event("websocket.receive", text=payload, bytes=None)
            assert await host.receive_event("websocket.send") == message(payload)
        for data in (b"\x00\xff", b"", b"y" * 200_000):
            await host.send_event("websocket.receive", bytes=data)
            assert await host.receive_event("websocket.send") == message(data)
        await host.send_event("websocket.disconnect", code=1000)


async def test_a_fragmented_message_is_one_event(autojump_clock: MockClock) -> None:
    async def parts() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    async def send(ws: WebSocket) -> None:
        await ws.send(parts())

    async with hosting(ASGIApp(send), websocket_scope()) as host:
        pass
    assert host.sent[1] == message("ab")


async def test_pings_are_answered_here(autojump_clock: MockClock) -> None:
    async def ping(ws: WebSocket) -> None:
        await ws.accept()
        assert await ws.ping() == 0

    async with hosting(ASGIApp(ping, debug=True), websocket_scope()) as host:
        pass
    assert [event["type"] for event in host.sent] == ["websocket.accept", "websocket.close"]


async def test_no_pings_of_keepalive_and_no_compression(autojump_clock: MockClock) -> None:
    options = Options(ping_interval=1, ping_timeout=1, compression=True)
    deflate = (b"sec-websocket-extensions", b"permessage-deflate")
    async with hosting(ASGIApp(echo, options=options), websocket_scope("/", deflate)) as host:
        assert await host.receive_event("websocket.accept") == ACCEPT
        await trio.sleep(1000)
        await host.send_event("websocket.receive", text="z" * 1000)
        assert await host.receive_event("websocket.send") == message("z" * 1000)
        await host.send_event("websocket.disconnect", code=1000)


async def test_a_cancelled_receive_loses_nothing(autojump_clock: MockClock) -> None:
    got: list[str] = []

    async def impatient(ws: WebSocket) -> None:
        while len(got) < 3:
            with trio.move_on_after(1):
                got.append(await ws.receive_text())

    async with hosting(ASGIApp(impatient), websocket_scope()) as host:
        for text in ("a", "b", "c"):
            await trio.sleep(1)  # just when the receive is cancelled
            await host.send_event("websocket.receive", text=text)
    assert got == ["a", "b", "c"]


async def test_invalid_text_is_refused(autojump_clock: MockClock) -> None:
    async with hosting(ASGIApp(echo), websocket_scope()) as host:
        await host.send_event("websocket.receive", text="\ud800")
    assert host.sent[-1]["code"] == 1007


async def test_max_message_size_holds(autojump_clock: MockClock) -> None:
    async with hosting(ASGIApp(echo, options=Options(max_message_size=10)), websocket_scope()) as host:
        await host.send_event("websocket.receive", bytes=bytes(10))
        await host.send_event("websocket.receive", bytes=bytes(11))
    assert [event["type"] for event in host.sent[1:]] == ["websocket.send", "websocket.close"]
    assert host.sent[-1]["code"] == 1009


# -- backpressure -----------------------------------------------------------------------------------


async def test_a_send_waits_as_long_as_the_host_does(autojump_clock: MockClock) -> None:
    sent = 0

    async def pour(ws: WebSocket) -> None:
        nonlocal sent
        for _ in range(1000):
            await ws.send(bytes(1000))
            sent += 1000

    async with hosting(ASGIApp(pour, options=Options(send_high_water=10_000)), websocket_scope()) as host:
        await host.receive_event("websocket.accept")
        host.hold()
        await wait_all_tasks_blocked()
        # The high-water mark, and one write to the gateway.
        before = len(host.sent) - 1
        assert 8_000 <= sent - 1000 * before <= 10_000 + 16 * 1024 + 1000
        assert host.waiting == 1
        host.release()
    assert len(host.sent) == 1002


async def test_messages_that_are_not_received_stay_at_the_host(autojump_clock: MockClock) -> None:
    async def wait(ws: WebSocket) -> None:
        await ws.accept()
        await released.wait()
        assert len([item async for item in ws]) == 100

    released = trio.Event()
    app = ASGIApp(wait, options=Options(max_queue_bytes=50_000), debug=True)
    async with hosting(app, websocket_scope()) as host, trio.open_nursery() as nursery:

        async def flood() -> None:
            for _ in range(100):
                await host.send_event("websocket.receive", bytes=bytes(10_000))
            await host.send_event("websocket.disconnect", code=1000)

        nursery.start_soon(flood)
        await wait_all_tasks_blocked()
        # max_queue_bytes, one read on top, as much in the gateway, one message on top; and the connect event.
        assert 6 <= host.taken <= (50_000 + 2 * 65_536 + 2 * 10_000) / 10_000 + 1
        released.set()


# -- opening ----------------------------------------------------------------------------------------


async def test_accept_with_subprotocol_and_headers(autojump_clock: MockClock) -> None:
    async def accept(ws: WebSocket) -> None:
        await ws.accept(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])

    app = ASGIApp(accept, subprotocols=["b", "a"])
    async with hosting(app, websocket_scope(subprotocols=["a", "b"])) as host:
        assert await host.receive_event("websocket.accept") == {
            "type": "websocket.accept",
            "subprotocol": "b",
            "headers": [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")],
        }


async def test_request_contains_the_scope_without_headers_of_the_host(autojump_clock: MockClock) -> None:
    async def tell(ws: WebSocket) -> None:
        seen.append(ws)

    seen: list[WebSocket] = []
    headers = [
        (b"connection", b"Upgrade, X-Hop"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA=="),
        (b"sec-websocket-protocol", b"forged"),
        (b"x-two", b"1"),
        (b"x-two", b"\xe4"),
        (b"cookie", b"c=1"),
    ]
    scope = websocket_scope("/a b", *headers, query_string=b"q=%20", raw_path=b"/a%20b", subprotocols=["p"])
    async with hosting(ASGIApp(tell), scope):
        pass
    (ws,) = seen
    assert (ws.request.target, ws.path, ws.query_params) == ("/a%20b?q=%20", "/a b", {"q": [" "]})
    assert ws.headers.get_all("x-two") == ["1", "ä"]
    assert ws.header("cookie") == "c=1"
    assert ws.headers.get_all("sec-websocket-protocol") == ["p"]
    assert ws.headers.get_all("sec-websocket-key") != ["AAAAAAAAAAAAAAAAAAAAAA=="]
    assert ws.request.host == "example.org"
    assert ws.remote_address == ("192.0.2.7", 4711)


@pytest.mark.parametrize(
    ("server", "host"),
    [
        (("192.0.2.1", 80), "192.0.2.1:80"),
        (("::1", 80), "[::1]:80"),
        (("/sock", None), "localhost"),
        (None, "localhost"),
    ],
)
async def test_a_client_that_names_no_host(server: Any, host: str, autojump_clock: MockClock) -> None:
    async def tell(ws: WebSocket) -> None:
        hosts.append(ws.request.host)

    hosts: list[str] = []
    async with hosting(ASGIApp(tell), websocket_scope(headers=[(b"host", b"")], server=server, client=None)):
        pass
    assert hosts == [host]


@pytest.mark.parametrize(
    ("path", "raw", "root", "target"),
    [
        ("/a/b", b"/a/b", "", "/a/b"),
        ("/a/b", b"/a/b", "/a", "/b"),
        ("/a", b"/a", "/a", "/"),
        ("/a/", b"/a/", "/a/", "/"),
        ("/ab", b"/ab", "/a", "/ab"),  # not below the mount
        ("/b", b"/b", "/a", "/b"),  # a proxy took the prefix off
        ("/ä/x/y", b"/%C3%A4/x%2Fy", "/ä", "/x%2Fy"),
        ("/ä/x/y", b"/%c3%a4/x%2Fy", "/ä", "/x/y"),  # written in another way, so decoded and encoded again
        ("/a/b c?", None, "/a", "/b%20c%3F"),
        ("/a/b", b"/other", "/a", "/b"),  # a middleware changed only the path
        ("/a%b", None, "", "/a%25b"),
        ("/x\r\nHost: evil", None, "", "/x%0D%0AHost:%20evil"),
    ],
)
async def test_the_target_below_a_mount(
    path: str, raw: bytes | None, root: str, target: str, autojump_clock: MockClock
) -> None:
    async def tell(ws: WebSocket) -> None:
        targets.append(ws.request.target)

    targets: list[str] = []
    async with hosting(ASGIApp(tell), websocket_scope(path, raw_path=raw, root_path=root)):
        pass
    assert targets == [target]


async def test_an_invalid_header_is_answered_with_400(autojump_clock: MockClock) -> None:
    async with hosting(ASGIApp(echo), websocket_scope("/", (b"x", b"a\r\nevil: b"))) as host:
        pass
    assert host.sent[0]["status"] == 400


async def test_a_request_over_the_limit_is_refused(autojump_clock: MockClock) -> None:
    options = Options(max_header_bytes=1000)
    async with hosting(ASGIApp(echo, options=options), websocket_scope("/" + "x" * 1000)) as host:
        pass
    assert host.sent[0]["status"] == 431


async def test_reject(autojump_clock: MockClock) -> None:
    async def reject(ws: WebSocket) -> None:
        await ws.reject(429, [("Retry-After", "7")], "x" * 100_000)

    async with hosting(ASGIApp(reject), websocket_scope()) as host:
        pass
    start, *parts = host.sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert start["headers"] == [(b"retry-after", b"7"), (b"content-length", b"100000")]
    assert {part["type"] for part in parts} == {"websocket.http.response.body"}
    assert b"".join(part["body"] for part in parts) == b"x" * 100_000
    assert [part["more_body"] for part in parts] == [*[True] * (len(parts) - 1), False]


async def test_reject_where_the_host_knows_no_responses(autojump_clock: MockClock) -> None:
    async def untouched(ws: WebSocket) -> None:
        pass

    async with hosting(ASGIApp(untouched), websocket_scope(extensions=None)) as host:
        pass
    assert host.sent == [{"type": "websocket.close"}]


async def test_a_client_that_left_before_it_was_looked_at(autojump_clock: MockClock) -> None:
    async def never(ws: WebSocket) -> None:
        raise AssertionError

    events = [{"type": "websocket.disconnect", "code": 1006}]

    async def receive() -> dict[str, Any]:
        return events.pop()

    async def send(event: dict[str, Any]) -> None:
        raise AssertionError(event)

    with trio.fail_after(100):
        await ASGIApp(never)(websocket_scope(), receive, send)


async def test_max_connections_holds_for_all(autojump_clock: MockClock) -> None:
    app = ASGIApp(echo, options=Options(max_connections=1))
    async with hosting(app, websocket_scope()) as first:
        await first.receive_event("websocket.accept")
        async with hosting(app, websocket_scope()) as second:
            assert (await second.receive_event("websocket.http.response.start"))["status"] == 503
        await first.send_event("websocket.disconnect", code=1000)
        await first.ended.wait()
        assert app.connections == frozenset()
        async with hosting(app, websocket_scope()) as third:
            await third.receive_event("websocket.accept")
            assert len(app.connections) == 1
            await third.send_event("websocket.disconnect", code=1000)


async def test_a_handler_runs_in_the_context_of_the_call(autojump_clock: MockClock) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        user.set("ada")
        await app({**scope, "session": {"cart": 3}}, receive, send)
        assert asgi_scope() is None

    async def who(ws: WebSocket) -> None:
        scope = asgi_scope()
        assert scope is not None
        await ws.send(f"{user.get()} {scope['session']}")

    app = ASGIApp(who)
    async with hosting(middleware, websocket_scope()) as host:
        pass
    assert host.sent[1] == message("ada {'cart': 3}")


async def test_methods_see_the_scope_of_their_own_client(autojump_clock: MockClock) -> None:
    class Who(WebSocketHandler):
        @trio_ws.rpc_method()
        def now(self, connection: trio_ws.ClientConnection) -> Any:
            scope = asgi_scope()
            return scope and scope["path"]

        @trio_ws.rpc_method()
        async def later(self, connection: trio_ws.ClientConnection) -> Any:
            await trio.sleep(1)
            return self.now(connection)

    app = ASGIApp(Who)
    request = '{"source":5,"rpc":{"type":"request","method":"%s","call_id":"1"}}'
    async with hosting(app, websocket_scope("/one")) as one, hosting(app, websocket_scope("/two")) as two:
        for host in (one, two):
            await host.receive_event("websocket.accept")
        for method in ("now", "later"):
            for host in (one, two):
                await host.send_event("websocket.receive", text=request % method)
            assert '"/one"' in (await one.receive_event("websocket.send"))["text"]
            assert '"/two"' in (await two.receive_event("websocket.send"))["text"]
        for host in (one, two):
            await host.send_event("websocket.disconnect", code=1000)


# -- closing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "code", "reason"),
    [
        ({"code": 1000}, 1000, ""),
        ({"code": 1001, "reason": "tab closed"}, 1001, "tab closed"),
        ({"code": 1005}, 1005, ""),
        ({"code": None, "reason": None}, 1005, ""),
        ({}, 1005, ""),
        ({"code": 4002, "reason": "why"}, 4002, "why"),
        ({"code": 1006}, 1006, ""),
        ({"code": 1015}, 1006, ""),
        ({"code": 17}, 1006, ""),
    ],
)
async def test_how_the_client_went(
    event: dict[str, Any], code: int, reason: str, autojump_clock: MockClock
) -> None:
    async def watch(ws: WebSocket) -> None:
        await ws.accept()
        try:
            assert await ws.recv() is None
            seen.append("clean")
        except ConnectionClosedError as exc:
            assert (exc.code, exc.reason) == (code, reason)
        assert (ws.close_code, ws.close_reason) == (code, reason)
        seen.append("ended")

    seen: list[str] = []
    async with hosting(ASGIApp(watch, debug=True), websocket_scope()) as host:
        await host.receive_event("websocket.accept")
        await host.send_event("websocket.disconnect", **event)
    assert seen == (["clean", "ended"] if code in {1000, 1001, 1005} else ["ended"])
    assert host.sent == [ACCEPT]  # no event is sent to a client that has left


async def test_close_with_code_and_reason_ends_the_call_at_once(autojump_clock: MockClock) -> None:
    async def close(ws: WebSocket) -> None:
        await ws.send("bye")
        raise CloseConnection(4001, "because")

    begun = trio.current_time()
    async with hosting(ASGIApp(close), websocket_scope()) as host:
        pass
    assert host.sent[1:] == [message("bye"), {"type": "websocket.close", "code": 4001, "reason": "because"}]
    assert trio.current_time() == begun


async def test_a_handler_that_fails(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(ws: WebSocket) -> None:
        if ws.path == "/late":
            await ws.accept()
        raise LookupError("oops")

    with caplog.at_level(logging.ERROR):
        async with hosting(ASGIApp(fail), websocket_scope("/late")) as host:
            pass
        assert host.sent[-1] == {"type": "websocket.close", "code": 1011, "reason": "internal error"}
        async with hosting(ASGIApp(fail), websocket_scope("/early")) as host:
            pass
        assert host.sent[0]["status"] == 500
    assert len(caplog.records) == 2


async def test_with_debug_its_exception_is_the_hosts(autojump_clock: MockClock) -> None:
    async def fail(ws: WebSocket) -> None:
        raise LookupError("oops")

    with pytest.RaisesGroup(LookupError):  # the nursery of the test makes the group
        async with hosting(ASGIApp(fail, debug=True), websocket_scope()):
            pass


async def test_a_host_whose_send_raises_oserror(autojump_clock: MockClock) -> None:
    async def talk(ws: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError) as caught:
            while True:
                await ws.send("anyone there?")
                await trio.sleep(1)
        assert caught.value.code == 1006
        seen.append("gone")

    async def receive() -> dict[str, Any]:
        if not seen:
            seen.append("asked")
            return {"type": "websocket.connect"}
        return await trio.sleep_forever()

    async def send(event: dict[str, Any]) -> None:
        if event["type"] == "websocket.send":
            raise OSError("the client has gone")

    seen: list[str] = []
    with trio.fail_after(100):
        await ASGIApp(talk, debug=True)(websocket_scope(), receive, send)
    assert seen == ["asked", "gone"]


async def test_a_host_that_fails_ends_this_call_with_its_error(autojump_clock: MockClock) -> None:
    async def receive() -> dict[str, Any]:
        if events:
            return events.pop()
        return await trio.sleep_forever()

    async def send(event: dict[str, Any]) -> None:
        raise LookupError("a bug of the host's")

    events = [{"type": "websocket.receive", "text": "hello"}, {"type": "websocket.connect"}]

    with trio.fail_after(100), pytest.raises(LookupError, match="a bug of the host's"):
        await ASGIApp(echo)(websocket_scope(), receive, send)


async def test_a_close_that_the_host_does_not_take_ends_in_time(autojump_clock: MockClock) -> None:
    async def close(ws: WebSocket) -> None:
        await ws.accept()
        await released.wait()
        await ws.close(4000)
        ended.append(trio.current_time())

    released = trio.Event()
    ended: list[float] = []
    before = all_tasks()
    async with hosting(ASGIApp(close, options=Options(close_timeout=3)), websocket_scope()) as host:
        await host.receive_event("websocket.accept")
        host.hold()
        begun = trio.current_time()
        released.set()
        await host.ended.wait()
        assert [when - begun for when in ended] == [3]
        assert host.waiting == 0
    assert all_tasks() <= before


# -- the end of the call ----------------------------------------------------------------------------


async def test_a_cancelled_call_says_1001_and_drains(autojump_clock: MockClock) -> None:
    async def tidy(ws: WebSocket) -> None:
        async for _ in ws:
            pass
        await trio.sleep(5)
        ended.append(trio.current_time())

    ended: list[float] = []
    before = all_tasks()
    async with hosting(ASGIApp(tidy, options=Options(drain_timeout=6)), websocket_scope()) as host:
        await host.receive_event("websocket.accept")
        begun = trio.current_time()
        host.scope.cancel()
        assert await host.receive_event("websocket.close") == {
            "type": "websocket.close",
            "code": 1001,
            "reason": "",
        }
        await host.ended.wait()
        assert [when - begun for when in ended] == [5]
    assert all_tasks() <= before


async def test_a_cancelled_call_cancels_what_takes_too_long(autojump_clock: MockClock) -> None:
    async def stubborn(ws: WebSocket) -> None:
        await ws.accept()
        await trio.sleep_forever()

    async with hosting(ASGIApp(stubborn, options=Options(drain_timeout=6)), websocket_scope()) as host:
        await host.receive_event("websocket.accept")
        begun = trio.current_time()
        host.scope.cancel()
        await host.ended.wait()
        assert trio.current_time() - begun == 6


async def test_a_cancelled_call_before_the_client_was_accepted(autojump_clock: MockClock) -> None:
    async def think(ws: WebSocket) -> None:
        await trio.sleep_forever()

    async with hosting(ASGIApp(think), websocket_scope()) as host:
        await wait_all_tasks_blocked()
        host.scope.cancel()
        assert (await host.receive_event("websocket.http.response.start"))["status"] == 503


async def test_a_handler_may_go_on_after_its_client_went(autojump_clock: MockClock) -> None:
    async def tidy(ws: WebSocket) -> None:
        await ws.accept()
        await ws.wait_closed()
        await trio.sleep(1000)
        done.append(True)

    done: list[bool] = []
    async with hosting(ASGIApp(tidy), websocket_scope()) as host:
        await host.receive_event("websocket.accept")
        await host.send_event("websocket.disconnect", code=1000)
    assert done == [True]


async def test_one_instance_of_a_handler_serves_all(autojump_clock: MockClock) -> None:
    class Counter(WebSocketHandler):
        made = 0

        def __init__(self) -> None:
            Counter.made += 1

        @trio_ws.rpc_method()
        def others(self, connection: trio_ws.ClientConnection) -> int:
            return len(self.clients) - 1

    app = ASGIApp(Counter)
    request = '{"source":5,"rpc":{"type":"request","method":"others","call_id":"1"}}'
    async with hosting(app, websocket_scope()) as one, hosting(app, websocket_scope()) as two:
        for host in (one, two):
            await host.receive_event("websocket.accept")
        await one.send_event("websocket.receive", text=request)
        assert '"response":1' in (await one.receive_event("websocket.send"))["text"]
        for host in (one, two):
            await host.send_event("websocket.disconnect", code=1000)
    assert Counter.made == 1


# -- channels ---------------------------------------------------------------------------------------


class Room(WebSocketHandler):
    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        connection.subscribe("room")

    async def on_receive(self, connection: trio_ws.ClientConnection, packet: trio_ws.Packet) -> None:
        self.publish("room", packet.data)


async def say_in_the_room(speaker: Host, text: str, *hosts: Host) -> None:
    await speaker.send_event("websocket.receive", text=f'{{"source":4,"data":"{text}"}}')
    for host in hosts:
        assert text in (await host.receive_event("websocket.send"))["text"]


@pytest.mark.parametrize("lifespan", [True, False])
async def test_channels(lifespan: bool, autojump_clock: MockClock) -> None:
    app = ASGIApp(Room, subprotocols=["json"])
    before = all_tasks()
    async with app.run_lifespan() if lifespan else nullcontext():
        async with hosting(app, websocket_scope()) as one, hosting(app, websocket_scope()) as two:
            async with hosting(app, websocket_scope()) as three:
                for host in (one, two, three):
                    await host.receive_event("websocket.accept")
                await say_in_the_room(one, "hello", one, two, three)
                # Without a lifespan, the first call writes for all connections until it ends.
                for at, leaver in enumerate((one, two)):
                    await leaver.send_event("websocket.disconnect", code=1000)
                    await leaver.ended.wait()
                    await say_in_the_room(three, f"bye {at}", *(two, three)[at:])
                await three.send_event("websocket.disconnect", code=1000)
    assert all_tasks() <= before


async def test_a_broker_joins_two_applications(autojump_clock: MockClock) -> None:
    hub = InMemoryBus()
    apps = [ASGIApp(Room, broker=InMemoryBroker(hub)) for _ in range(2)]
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match=r"async with app\.run_lifespan\(\)")):
        async with hosting(apps[0], websocket_scope()):
            pass
    async with apps[0].run_lifespan(), apps[1].run_lifespan():
        async with hosting(apps[0], websocket_scope()) as one, hosting(apps[1], websocket_scope()) as two:
            for host in (one, two):
                await host.receive_event("websocket.accept")
            await say_in_the_room(one, "hello", one, two)
            for host in (one, two):
                await host.send_event("websocket.disconnect", code=1000)


# -- plain HTTP -------------------------------------------------------------------------------------


async def test_plain_http_is_told_to_upgrade(autojump_clock: MockClock) -> None:
    for version, upgrade in (("1.1", [(b"upgrade", b"websocket")]), ("2", [])):
        async with hosting(ASGIApp(echo), http_scope(http_version=version)) as host:
            await host.send_event("http.request", body=b"", more_body=False)
        start, body = host.sent
        assert (start["type"], start["status"]) == ("http.response.start", 426)
        assert [item for item in start["headers"] if item[0] in {b"upgrade", b"connection"}] == upgrade
        assert body == {
            "type": "http.response.body",
            "body": b"this resource requires a WebSocket connection\n",
            "more_body": False,
        }


@pytest.mark.parametrize(
    ("scheme", "seen"), [("http", "http"), ("https", "https"), ("ws", "http"), ("wss", "https")]
)
async def test_the_scheme_and_the_client_are_the_hosts(
    scheme: str, seen: str, autojump_clock: MockClock
) -> None:
    app, found = App(), []

    @app.http("/")
    async def index(request: Request) -> None:
        found.append((request.scheme, request.client_address, request.tls))

    for trusted, client in ((["192.0.2.1"], ("192.0.2.7", 0)), ([], ("192.0.2.1", 4711))):
        options = Options(trusted_proxies=trusted)
        scope = http_scope("/", (b"x-forwarded-for", b"192.0.2.7"), scheme=scheme, client=["192.0.2.1", 4711])
        async with hosting(ASGIApp(app, options=options), scope) as host:
            await host.send_event("http.request", body=b"", more_body=False)
        assert host.sent[0]["status"] == 204
        assert found.pop() == (seen, client, None)


async def test_the_proxy_protocol_is_the_hosts(autojump_clock: MockClock) -> None:
    options = Options(trusted_proxies=["192.0.2.1"], proxy_protocol=True)
    async with hosting(ASGIApp(echo, options=options), http_scope(client=["192.0.2.1", 4711])) as host:
        await host.send_event("http.request", body=b"", more_body=False)
    assert host.sent[0]["status"] == 426


async def test_head_gets_no_body(autojump_clock: MockClock) -> None:
    async with hosting(ASGIApp(echo), http_scope(method="HEAD")) as host:
        await host.send_event("http.request", body=b"", more_body=False)
    assert host.sent[0]["status"] == 405
    assert host.sent[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]


def posting() -> App:
    app = App()

    @app.http("/", methods=["POST"])
    async def take(request: Request) -> str:
        return "taken"

    return app


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"30")]])
async def test_a_body_over_the_limit_is_refused(
    headers: list[tuple[bytes, bytes]], autojump_clock: MockClock
) -> None:
    app = ASGIApp(posting(), options=Options(max_body_bytes=20))
    async with hosting(app, http_scope("/", *headers, method="POST")) as host:
        for more in (True, True, False):
            await host.send_event("http.request", body=b"x" * 10, more_body=more)
    assert host.sent[0]["status"] == 413


async def test_a_body_that_is_not_as_long_as_it_says(autojump_clock: MockClock) -> None:
    async with hosting(ASGIApp(posting()), http_scope("/", (b"content-length", b"5"), method="POST")) as host:
        await host.send_event("http.request", body=b"123456", more_body=False)
    assert host.sent[0]["status"] == 400


async def test_a_client_that_leaves_in_the_middle_of_its_body(autojump_clock: MockClock) -> None:
    async with hosting(ASGIApp(posting()), http_scope("/", (b"content-length", b"5"), method="POST")) as host:
        await host.send_event("http.request", body=b"123", more_body=True)
        await host.send_event("http.disconnect")
    assert host.sent == []


# -- lifespan, and unsupported hosts ----------------------------------------------------------------


async def test_lifespan(autojump_clock: MockClock) -> None:
    async with hosting(ASGIApp(echo), {"type": "lifespan"}) as host:
        await host.send_event("lifespan.startup")
        assert await host.receive_event("lifespan.startup.complete")
        await host.send_event("lifespan.shutdown")
        assert await host.receive_event("lifespan.shutdown.complete")


async def test_the_end_of_the_lifespan_drains_the_remaining_connections(autojump_clock: MockClock) -> None:
    app = ASGIApp(echo)
    async with hosting(app, {"type": "lifespan"}) as life, hosting(app, websocket_scope()) as host:
        await life.send_event("lifespan.startup")
        await host.receive_event("websocket.accept")
        await life.send_event("lifespan.shutdown")
        assert (await host.receive_event("websocket.close"))["code"] == 1001
        await host.ended.wait()


async def test_a_scope_of_another_kind(autojump_clock: MockClock) -> None:
    with pytest.raises(ValueError, match="webtransport"):
        await ASGIApp(echo)({"type": "webtransport"}, trio.sleep_forever, trio.sleep)


def test_arguments_that_do_not_fit() -> None:
    nothing: Any = None
    with pytest.raises(TypeError, match="needs a target"):
        ASGIApp(nothing)
    with pytest.raises(TypeError, match="a function of one WebSocket"):
        ASGIApp(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"use Options"):
        ASGIApp(echo, options={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a subprotocol"):
        ASGIApp(echo, subprotocols=["a b"])


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope after a number of steps of any tasks."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self.scope = scope
        self.left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


async def test_a_call_can_be_cancelled_at_any_step(autojump_clock: MockClock) -> None:
    # The host cancels. No task is left, nothing is raised, and no event is sent twice.
    for app in (ASGIApp(echo), ASGIApp(Room), ASGIApp(nobody)):
        steps = 0
        finished = False
        while not finished:
            steps += 1
            before = all_tasks()
            async with hosting(app, websocket_scope()) as host:
                await host.send_event("websocket.receive", text='{"source":4,"data":"x"}')
                await host.send_event("websocket.receive", bytes=bytes(100_000))
                await host.send_event("websocket.disconnect", code=1000)
                instrument = CancelAfter(host.scope, steps)
                trio.lowlevel.add_instrument(instrument)
                await host.ended.wait()
                trio.lowlevel.remove_instrument(instrument)
            finished = instrument.left > 0
            assert all_tasks() <= before
            assert app.connections == frozenset()
            kinds = [event["type"] for event in host.sent]
            for once in ("websocket.accept", "websocket.http.response.start", "websocket.close"):
                assert kinds.count(once) <= 1
            assert "websocket.close" not in kinds[:-1]
        assert steps > 20


async def nobody(ws: WebSocket) -> None:
    """Refuses its client with 403."""
