"""The examples with feeds: a dashboard with latest values in a browser, and an order book with resync."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from examples.order_book import Exchange, Follower
from tests.support.chromium import chromium
from tests.support.examples import examples
from tests.support.network import Network
from tests.support.serving import serving_in_memory
from tests.test_examples import run
from tests.test_examples_channels import running
from trio_ws import Backoff, WebSocketClient

if TYPE_CHECKING:
    from pathlib import Path

VALUES = """Object.fromEntries([...document.querySelectorAll('#gauges tr')].map((row) =>
    [row.cells[0].innerText, Number(row.cells[1].innerText)]))"""


async def test_a_dashboard_has_the_latest_values(tmp_path: Path) -> None:
    async with running("dashboard.py", "0", "--quiet") as server, chromium(tmp_path) as browser:
        url = await server.page()
        async with WebSocketClient(url.replace("http", "ws").rstrip("/") + "/rpc") as sensor:
            for value in (1, 2, 3.5):
                await sensor.publish("gauge.temperature", value)
            page = await browser.open(url)
            await page.until(f"({VALUES}).temperature === 3.5")
            for value in range(1, 200):
                await sensor.publish("gauge.humidity", value)
            await page.until(f"({VALUES}).humidity === 199")
            assert await page.evaluate(VALUES) == {"temperature": 3.5, "humidity": 199}
        assert await server.stop() == 0


def test_the_order_book_says_when_it_asked() -> None:
    lines = run("order_book.py").splitlines()
    assert [line.split(":")[1] for line in lines] == [
        " asked 1 times for the book",
        " asked 2 times for the book",
    ]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from([1, 20, 300])),
        st.tuples(st.just("cut"), st.integers(0, 3000)),
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 100])),
    ),
    max_size=30,
)


async def follow(script: list[tuple[str, int]]) -> None:
    random.seed(1)
    exchange = Exchange()
    async with serving_in_memory(exchange) as memory:
        network = Network(memory.listener)
        backoff = Backoff(initial=0.5, maximum=2, random=random.Random(1))
        async with (
            WebSocketClient("ws://test/", stream=network, reconnect=backoff) as client,
            trio.open_nursery() as nursery,
        ):
            follower = Follower(client)
            await nursery.start(follower.run)
            for step, number in script:
                if step == "change":
                    for _ in range(number):
                        exchange.change_at_random()
                elif step == "cut":
                    if not network.links[-1].broken:
                        network.links[-1].cut_after(number)
                else:
                    await trio.sleep(number)
            for link in network.links:
                link.cut()
            await trio.sleep(30)
            exchange.change_at_random()
            await trio.sleep(1)
            assert follower.book == exchange.current
            nursery.cancel_scope.cancel()


@examples(50)
@given(steps)
def test_an_order_book_is_right_in_the_end(script: list[tuple[str, int]]) -> None:
    trio.run(follow, script, clock=MockClock(autojump_threshold=0))
