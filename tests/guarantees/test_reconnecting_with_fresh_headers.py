"""Functions for headers and URIs are called for each attempt, and ``Retry-After`` is respected."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.network import Network, refusal
from tests.support.serving import serving, serving_in_memory
from trio_ws import (
    Backoff,
    ConnectionFailedError,
    HandshakeRejectedError,
    Headers,
    InvalidURIError,
    Options,
    WebSocketClient,
    connect,
)
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ws import WebSocket

STEADY = Backoff(initial=1, factor=1, jitter=False)


class RequestLog:
    """A handler that records the headers and the path of a request, and closes."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, ws: WebSocket) -> None:
        self.asked.append(f"{ws.path} {ws.header('authorization')}")
        await ws.accept()
        await ws.close()


class Counting:
    """Returns another token each time, in each of the forms that headers may have."""

    def __init__(self) -> None:
        self.count = 0

    def plain(self) -> dict[str, str]:
        self.count += 1
        return {"Authorization": f"token-{self.count}"}

    async def waiting(self) -> list[tuple[str, str]]:
        await trio.sleep(0.25)
        return list(self.plain().items())


class Live(Mapping[str, str]):
    """A mapping whose content changes."""

    def __init__(self, counting: Counting) -> None:
        self.counting = counting

    def __getitem__(self, name: str) -> str:
        return self.counting.plain()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(["Authorization"])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("way", ["async function", "function", "mapping"])
async def test_each_try_has_fresh_headers(way: str, autojump_clock: MockClock) -> None:
    log, counting = RequestLog(), Counting()
    headers: Any = {
        "async function": counting.waiting,
        "function": counting.plain,
        "mapping": Live(counting),
    }[way]
    async with serving_in_memory(log) as memory:
        network = Network(memory.listener)
        network.plan = [refusal(503)]
        async with WebSocketClient("ws://test/", stream=network, headers=headers, reconnect=STEADY):
            while len(log.asked) < 3:
                await trio.sleep(1)
    tokens = [int(line.removeprefix("/ token-")) for line in log.asked]
    assert tokens == sorted(set(tokens))


async def test_each_try_asks_where_to_go(autojump_clock: MockClock) -> None:
    log = RequestLog()
    places = iter(range(1, 100))

    async def uri() -> str:
        return f"ws://test/{next(places)}"

    async with serving_in_memory(log) as memory:
        network = Network(memory.listener)
        async with WebSocketClient(uri, stream=network, reconnect=STEADY):
            while len(log.asked) < 3:
                await trio.sleep(1)
    assert log.asked[:3] == ["/1 None", "/2 None", "/3 None"]


async def test_headers_of_an_iterator_are_kept(autojump_clock: MockClock) -> None:
    log = RequestLog()
    async with serving_in_memory(log) as memory:
        network = Network(memory.listener)
        headers = iter([("Authorization", "x")])
        async with WebSocketClient("ws://test/", stream=network, headers=headers, reconnect=STEADY):
            while len(log.asked) < 2:
                await trio.sleep(1)
    assert log.asked[:2] == ["/ x", "/ x"]


async def test_connect_asks_too() -> None:
    counting = Counting()

    async def handler(ws: WebSocket) -> None:
        await ws.send(str(ws.header("authorization")))

    async with serving(handler) as server:
        async with connect(lambda: server.url, headers=counting.waiting) as ws:
            assert await ws.receive_text() == "token-1"


async def test_a_function_that_raises_is_a_failed_try(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = RequestLog()
    failures: list[Exception] = [KeyError("token"), trio.TooSlowError(), ConnectionFailedError("no issuer")]

    async def headers() -> dict[str, str]:
        if failures:
            raise failures.pop(0)
        return {"Authorization": "x"}

    async with serving_in_memory(log) as memory:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network, headers=headers, reconnect=STEADY):
            while not log.asked:
                await trio.sleep(1)
    assert len(network.times) - len(log.asked) <= 1
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in told] == ["the function for headers failed"] * 2
    assert all(record.exc_info for record in told)


async def test_the_error_of_a_headers_function_is_the_cause(autojump_clock: MockClock) -> None:
    listener = MemoryListener()
    mine = KeyError("token")

    def headers() -> dict[str, str]:
        raise mine

    stream = await listener.connect()
    with pytest.raises(
        ConnectionFailedError, match="the function for headers raised KeyError: 'token'"
    ) as info:
        async with connect("ws://test/", headers=headers, stream=stream):
            pytest.fail("without its headers")
    assert info.value.__cause__ is mine
    # The client owns the stream, and has closed it.
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")


@pytest.mark.parametrize("reconnect", [None, Backoff(attempts=1)])
async def test_a_function_that_takes_too_long(reconnect: Backoff | None, autojump_clock: MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(ConnectionFailedError, match="did not open within open_timeout"):
        async with WebSocketClient(
            "ws://test/", headers=trio.sleep_forever, reconnect=reconnect, options=Options(open_timeout=2)
        ):
            pytest.fail("without its headers")
    assert trio.current_time() - began == 2


async def test_returned_uris_and_headers_are_checked(autojump_clock: MockClock) -> None:
    for uri, error in ((lambda: "http://test/", InvalidURIError), (lambda: None, TypeError)):
        with pytest.raises(error):
            async with connect(uri):  # type: ignore[arg-type]
                pytest.fail("that is no WebSocket")
    with pytest.raises(ValueError, match="control character"):
        async with connect("ws://test/", headers=lambda: {"X": "a\nb"}):
            pytest.fail("that is no header")


async def test_wrong_arguments_are_told_before_it_is_asked(autojump_clock: MockClock) -> None:
    wrongs: list[dict[str, Any]] = [{"proxy": "ftp://x"}, {"subprotocols": "chat"}, {"options": 3}]
    for wrong in wrongs:
        with pytest.raises((TypeError, ValueError)):
            async with connect(trio.sleep_forever, **wrong):
                pytest.fail("that cannot be")
    assert trio.current_time() == 0


@pytest.mark.parametrize("status", [408, 425, 429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_waited_out(status: int, form: str, autojump_clock: MockClock) -> None:
    then = datetime.now(UTC) + timedelta(seconds=20)
    value = "20" if form == "seconds" else format_datetime(then, usegmt=True)
    log = RequestLog()
    async with serving_in_memory(log) as memory:
        network = Network(memory.listener)
        network.plan = [refusal(status, f"Retry-After: {value}")]
        async with WebSocketClient("ws://test/", stream=network, reconnect=STEADY):
            pass
    # The date is from this machine's clock, which may have advanced by a second.
    assert 19 <= network.times[1] - network.times[0] <= 21


@pytest.mark.parametrize("value", ["86400", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_retry_after_is_limited_by_max_retry_after(value: str, autojump_clock: MockClock) -> None:
    error = HandshakeRejectedError(429, Headers([("Retry-After", value)]))
    assert Backoff(jitter=False, max_retry_after=45).delay(1, error) == 45.5


@pytest.mark.parametrize(("status", "again"), [(407, False), (403, False), (429, True), (502, True)])
async def test_the_status_of_a_proxy_decides_too(
    status: int, again: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = MemoryListener()

    async def proxy(host: str, port: int, **kwargs: object) -> object:
        link = await listener.open_link()
        await link.server.send_all(f"HTTP/1.1 {status} No\r\n\r\nand a body without end".encode())
        return link.client

    monkeypatch.setattr(trio, "open_tcp_stream", proxy)
    with pytest.raises(ConnectionFailedError, match=f"refuses with HTTP status {status}") as info:
        async with connect("ws://test/", proxy="http://proxy:1"):
            pytest.fail("through no proxy")
    assert Backoff().retries(info.value) is again
