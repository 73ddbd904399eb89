"""The examples about channels: the chat in browsers, the chat in two processes over Redis, and the prices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import trio

import trio_ws
from tests.support.chromium import Browser, Page, chromium
from tests.support.redis import redis_server
from tests.support.serving import guard
from tests.test_examples import EXAMPLES, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


class Server:
    """Run an example with a server as a process."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._said = b""

    async def line(self) -> str:
        """The next line that it prints; "" at its end."""
        assert self._process.stdout is not None
        while b"\n" not in self._said:
            more = await self._process.stdout.receive_some()
            if not more:
                break
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    async def page(self) -> str:
        """Where the page is, when it serves."""
        return (await self.line()).split()[-1].replace("ws://", "http://")

    async def stop(self) -> int:
        """Ctrl+C; its exit code."""
        self._process.send_signal(signal.SIGINT)
        return await self._process.wait()

    def kill(self) -> None:
        self._process.kill()


@asynccontextmanager
async def running(name: str, *args: str) -> AsyncIterator[Server]:
    with trio.fail_after(guard()):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-W", "error", str(EXAMPLES / name), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            yield Server(process)
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            await process.stdout.aclose()


# -- the page ---------------------------------------------------------------------------------------

HERE = "[...document.querySelectorAll('#people li')].map((li) => li.lastChild.data).join()"
LOG = """[...document.querySelectorAll('#log li')].map((li) => li.querySelector('p')
    ? li.querySelector('strong').innerText + ': ' + li.querySelector('p').innerText
    : li.innerText)"""


async def enter(browser: Browser, url: str, name: str, room: str) -> Page:
    """Open a page, and enter a room."""
    page = await browser.open(url)
    await page.type("#name", name)
    await page.type("#wanted", room, enter=True)
    await page.until("document.querySelector('#state').innerText === 'connected'")
    await page.until(f"{HERE}.includes('(you)')")
    return page


async def says(page: Page, text: str) -> None:
    await page.type("#text", text, enter=True)
    await page.until("document.querySelector('#text').value === ''")


async def test_two_pages_talk_to_each_other(tmp_path: Path) -> None:
    async with running("chat.py", "0") as server, chromium(tmp_path) as browser:
        url = await server.page()
        ada = await enter(browser, url, "Ada", "lobby")
        bob = await enter(browser, url, "Bob", "lobby")
        cy = await enter(browser, url, "Cy", "attic")
        assert await ada.until(f"{HERE} === 'Ada (you),Bob'")
        assert await bob.until(f"{HERE} === 'Ada,Bob (you)'")

        await says(ada, "<b>hello</b> & welcome")
        await bob.until(f"{LOG}.length === 1")
        await says(bob, "thank you")
        await ada.until(f"{LOG}.length === 3")
        assert await ada.evaluate(LOG) == ["Bob came in", "You: <b>hello</b> & welcome", "Bob: thank you"]
        assert await bob.evaluate(LOG) == ["Ada: <b>hello</b> & welcome", "You: thank you"]

        await bob.close()
        await ada.until(f"{HERE} === 'Ada (you)'")
        assert (await ada.evaluate(LOG))[-1] == "Bob left"
        # What reaches the attic after all of that was published after it, on one process, in order.
        dee = await enter(browser, url, "Dee", "attic")
        await cy.until(f"{HERE} === 'Cy (you),Dee'")
        assert await cy.evaluate(LOG) == ["Dee came in"]
        assert await dee.evaluate(LOG) == []
        assert await server.stop() == 0


async def test_a_page_comes_back_when_the_server_does(tmp_path: Path) -> None:
    async with chromium(tmp_path) as browser:
        async with running("chat.py", "0") as server:
            url = await server.page()
            ada = await enter(browser, url, "Ada", "lobby")
            server.kill()
            await ada.until("document.querySelector('#state').innerText.startsWith('no connection')")
            await ada.type("#text", "are you there?", enter=True)
            await ada.until("document.querySelector('#trouble').innerText.startsWith('Not sent')")
            assert await ada.evaluate("document.querySelector('#text').value") == "are you there?"
        async with running("chat.py", url.rpartition(":")[2].strip("/")):
            await ada.until("document.querySelector('#state').innerText === 'connected'")
            bob = await enter(browser, url, "Bob", "lobby")
            await says(bob, "yes, again")
            await ada.until(f"{LOG}.length === 3")
            assert (await ada.evaluate(LOG))[1:] == ["Bob came in", "Bob: yes, again"]


async def test_a_client_that_joins_later_or_reconnects_reads_earlier_messages(tmp_path: Path) -> None:
    async with running("chat.py", "0") as server, chromium(tmp_path) as browser:
        url = await server.page()
        ada = await enter(browser, url, "Ada", "lobby")
        await says(ada, "first")
        bob = await enter(browser, url, "Bob", "lobby")
        await bob.until(f"{LOG}.length === 1")
        assert await bob.evaluate(LOG) == ["Ada: first"]
        await bob.evaluate("document.querySelector('#leave').click()")
        await says(ada, "second")
        await bob.type("#name", "Bob", enter=True)
        await bob.until(f"{LOG}.length === 2")
        assert await bob.evaluate(LOG) == ["Ada: first", "Ada: second"]


async def test_accessibility_and_errors_of_the_page(tmp_path: Path) -> None:
    """All fields have names for screen readers, and errors of the server are shown."""
    async with running("chat.py", "0") as server, chromium(tmp_path) as browser:
        page = await browser.open(await server.page())
        assert await names_of(page) == {"textbox": ["Your name", "Room"], "button": ["Enter"]}
        await page.evaluate("document.querySelector('#door form').noValidate = true")
        await page.type("#name", "Mallory")
        await page.type("#wanted", "*", enter=True)
        assert "room" in await page.until("document.querySelector('#refused').innerText")
        await page.type("#wanted", "lobby", enter=True)
        await page.until(f"{HERE} === 'Mallory (you)'")
        assert await names_of(page) == {
            "textbox": ["Your message"],
            "button": ["Leave", "Send"],
            "list": ["Who is here"],
            "log": ["What was said"],
        }


async def names_of(page: Page) -> dict[str, list[str]]:
    """What one can act on, or listen to, on a page, as assistive technology sees it."""
    names: dict[str, list[str]] = {}
    for node in (await page.do("Accessibility.getFullAXTree"))["nodes"]:
        role = node.get("role", {}).get("value")
        if not node["ignored"] and role in ("textbox", "button", "list", "log"):
            names.setdefault(role, []).append(node["name"]["value"])
    return names


# -- two processes ----------------------------------------------------------------------------------


class Guest:
    """Somebody in a room, by a client of ours."""

    def __init__(self, client: trio_ws.WebSocketClient, uid: str) -> None:
        self.client = client
        self.uid = uid

    async def hears(self) -> Any:
        packet = await self.client.recv()
        assert packet is not None
        return packet.data


@asynccontextmanager
async def guest(url: str, name: str, room: str) -> AsyncIterator[Guest]:
    async with trio_ws.WebSocketClient(f"{url}/ws") as client:
        entered = await client.call("join", name, room)
        yield Guest(client, entered["uid"])


@contextmanager
def only(served: int, among: list[int]) -> Iterator[None]:
    """New clients connect to this process."""
    others = [pid for pid in among if pid != served]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


async def test_two_processes_are_one_chat() -> None:
    async with redis_server() as redis, running("chat_redis.py", "0", redis.url) as server:
        url = (await server.line()).split()[-1]
        first, second = pids = [int(pid) for pid in (await server.line()).split()[1:]]
        await redis.until_subscribed(4)  # each process to its broadcasts and to the roll calls
        async with AsyncExitStack() as stack:
            with only(first, pids):
                ada = await stack.enter_async_context(guest(url, "Ada", "lobby"))
                cy = await stack.enter_async_context(guest(url, "Cy", "attic"))
            assert await ada.hears() == {"here": {ada.uid: "Ada"}, "came": ada.uid}
            assert await cy.hears() == {"here": {cy.uid: "Cy"}, "came": cy.uid}
            async with AsyncExitStack() as stay:
                with only(second, pids):
                    bob = await stay.enter_async_context(guest(url, "Bob", "lobby"))
                # Each process reports its clients in the lobby, in any order.
                for one in (ada, bob):
                    here = [await one.hears(), await one.hears()]
                    assert {"here": {ada.uid: "Ada"}, "came": bob.uid} in here
                    assert {"here": {bob.uid: "Bob"}, "came": bob.uid} in here
                await ada.client.call("say", "hello over there")
                heard = await bob.hears()
                assert heard.pop("id")
                assert heard == {"uid": ada.uid, "name": "Ada", "text": "hello over there"}
                said = await bob.client.call("say", "and back")
                expected = {"id": said, "uid": bob.uid, "name": "Bob", "text": "and back"}
                assert await ada.hears() == expected
            assert await ada.hears() == {"gone": bob.uid}
            # The next message that Cy receives in the attic is about a new member.
            dee = await stack.enter_async_context(guest(url, "Dee", "attic"))
            assert (await cy.hears())["came"] == dee.uid
        assert await server.stop() == 0
        assert await server.line() == "drained"


# -- prices -----------------------------------------------------------------------------------------


def test_prices() -> None:
    lines = run("prices.py").splitlines()
    said = {line.split()[1]: line for line in lines if line.startswith("the ")}
    seen = {who: int(line.split()[3]) for who, line in said.items()}
    assert seen.keys() == {"phone", "screen"}
    for line in said.values():
        assert line.endswith("prices, the last of them was number 20000")
    lost = int(lines[-1].removeprefix("dropped: "))
    assert lost > 0
    assert sum(seen.values()) + lost == 2 * 20_000, "each price was seen, or counted as dropped"
    board = [line for line in lines if line.startswith("published=")]
    assert [line.split()[1] for line in board] == ["4000", "8000", "12000", "16000", "20000"]
