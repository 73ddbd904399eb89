"""If the system has no more threads, clients of plain functions are told to retry; the log stays short."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import trio
from trio._core import _thread_cache

from tests.support.serving import exchange, request, serving, status_of
from trio_ws import (
    App,
    BlockingWebSocket,
    ConnectionClosedError,
    HTTPResponse,
    Request,
    WebSocketServer,
    connect,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ws import WebSocket


def take_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop trio's idle threads, and let starting a thread fail, as in a container at its limit."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread_cache, "THREAD_CACHE", _thread_cache.ThreadCache())
    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    take_threads(monkeypatch)


def target(ws: BlockingWebSocket) -> None:
    ws.send("hello")


async def raw(server: WebSocketServer, data: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        return await exchange(stream, data)


async def test_clients_are_told_to_come_back(no_threads: None, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(target) as server:
        for _ in range(5):
            answer = await raw(server, request())
            assert status_of(answer) == 503
            assert b"\r\nretry-after: 1\r\n" in answer.lower()
    (record,) = caplog.records
    assert "can't start new thread" in record.getMessage()
    assert record.exc_info is None


async def test_once_there_are_threads_again_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(target) as server:
        with pytest.MonkeyPatch.context() as patch:
            take_threads(patch)
            assert status_of(await raw(server, request())) == 503
        async with connect(server.url) as ws:
            message = await ws.recv()
            assert message is not None
            assert message.payload == "hello"


async def test_an_accepted_client_gets_1013(no_threads: None, caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.middleware
    async def accept(ws: WebSocket) -> AsyncIterator[None]:
        await ws.accept()
        yield

    app.websocket("/")(target)
    async with serving(app) as server, connect(server.url) as ws:
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.recv()
        assert caught.value.code == 1013
    assert len(caplog.records) == 1


async def test_plain_requests_get_503(no_threads: None, caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.http("/")
    def page(_: Request) -> HTTPResponse:
        raise AssertionError("there is no thread for it")

    async with serving(app) as server:
        for _ in range(3):
            answer = await raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status_of(answer) == 503
            assert b"\r\nretry-after: 1\r\n" in answer.lower()
    assert len(caplog.records) == 1
