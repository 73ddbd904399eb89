"""docs/channels.md: every program on the page runs, and does what the page says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_ws
from tests.support.serving import serving, serving_in_memory
from tests.support.watching import until
from trio_ws import Options, PacketError, WebSocketClient

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.support.serving import MemoryServer

PAGE = (Path(__file__).parents[2] / "docs" / "channels.md").read_text(encoding="utf-8")


@pytest.fixture
def page() -> dict[str, Any]:
    """The names that the page defines."""
    defined: dict[str, Any] = {"__name__": "page", "trio_ws": trio_ws, "AsyncIterator": AsyncIterator}
    for program in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(program, "docs/channels.md", "exec", dont_inherit=True), defined)
    return defined


async def data_of(client: WebSocketClient) -> Any:
    packet = await client.recv()
    assert packet is not None
    return packet.data


async def client_of(memory: MemoryServer, path: str = "/", **kwargs: Any) -> WebSocketClient:
    return WebSocketClient(f"ws://test{path}", stream=await memory.stream(), **kwargs)


async def test_subscribing(page: dict[str, Any]) -> None:
    news = page["News"]()
    lines: list[str] = []
    read: list[str] = []
    async with serving(news) as server, trio.open_nursery() as nursery:
        nursery.start_soon(page["archive"], news, lines)

        async def read_one() -> None:
            read.append(await page["read"](server.url))

        nursery.start_soon(read_one)
        await until(lambda: "news.tech" in news.channels.statistics().channels)
        async with WebSocketClient(server.url) as reporter:
            assert await reporter.call("report", "tech", "trio 1.0") == 2
            assert await reporter.call("__subscribe__", ["news.tech", "news.sport"]) is True
            assert await reporter.call("report", "sport", "late") == 1, "the archive, and not the reporter"
            with pytest.raises(trio_ws.RPCAccessDeniedError):
                await reporter.call("__subscribe__", ["weather"])
        await until(lambda: read)
        nursery.cancel_scope.cancel()
    assert read == ["trio 1.0"]
    assert lines == ["news.tech: trio 1.0", "news.sport: late"]


async def test_publishing(page: dict[str, Any], autojump_clock: MockClock) -> None:
    news = page["News"]()
    async with (
        serving_in_memory(news) as memory,
        await client_of(memory) as here,
        await client_of(memory, "/?region=us") as there,
    ):
        (first,) = (one for one in news.clients if one.region == "eu")
        async with news.channels.subscribe("*") as subscription:
            await page["tell"](news, first)
            await wait_all_tasks_blocked()
            assert subscription.statistics().waiting == 4, (
                "exclude, predicate and broadcast are for connections"
            )
        assert [await data_of(here), await data_of(here)] == [
            "to some",
            "to every connection, subscribed or not",
        ]
        assert [await data_of(there), await data_of(there)] == [
            "to all but one",
            "to every connection, subscribed or not",
        ]
        with pytest.raises(PacketError):
            news.publish("alerts", object())


async def test_counters(page: dict[str, Any], autojump_clock: MockClock) -> None:
    news = page["News"]()
    async with serving_in_memory(news) as memory, await client_of(memory) as client:
        assert news.publish("alerts", "one") == 1
        assert news.broadcast("two") == 1
        assert [await data_of(client), await data_of(client)] == ["one", "two"]
        assert page["board"](news) == [
            "published=2 delivered=2 dropped=0; 0 messages wait for 0 connections",
            "alerts: 1 in it, 1 to them, 0 dropped",
        ]


async def test_a_stream_of_the_newest(page: dict[str, Any], autojump_clock: MockClock) -> None:
    handler = page["Prices"]()
    async with (
        serving_in_memory(handler) as memory,
        await client_of(memory, options=Options(stream_window=4)) as client,
        client.stream("prices", "ACME", items=float) as prices,
    ):
        await wait_all_tasks_blocked()
        for number in range(1000):
            handler.publish("prices.ACME", float(number))
            await wait_all_tasks_blocked()
        got = [await prices.receive() for _ in range(5)]
        assert got == [0, 1, 2, 3, 999], "the window that was open, and then the newest"


async def test_without_a_handler(page: dict[str, Any], autojump_clock: MockClock) -> None:
    async with serving_in_memory(page["shout"]) as memory, memory.connect() as one:
        async with memory.connect() as two:
            await wait_all_tasks_blocked()
            await one.send("hello")
            assert await two.receive_text() == "hello"
            await two.send("and back")
            assert await one.receive_text() == "and back", "and not what it sent itself"
        await wait_all_tasks_blocked()
        assert len(page["readers"]) == 1


def test_the_page_says_what_options_say() -> None:
    options = Options()
    assert f"`channel_max_items` ({options.channel_max_items:,})" in PAGE
    assert f"`channel_max_bytes` ({options.channel_max_bytes // 1024**2} MiB)" in PAGE


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", PAGE))
def test_links(link: str) -> None:
    path, _, heading = link.partition("#")
    target = Path(__file__).parents[2] / "docs" / path
    assert target.exists()
    if heading:
        titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert heading in [title.lower().replace(" ", "-") for title in titles]
