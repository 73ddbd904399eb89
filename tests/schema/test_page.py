"""The interactive page of an App, in a real Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - methods need it
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

import trio_ws
from tests.support.chromium import assert_looks, chromium
from tests.support.npm import npm_package
from trio_ws import ClientConnection, rpc_method

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.chromium import Page

#: Seconds after which a test counts as hung: it starts a browser, on a machine that may be busy.
GUARD = 120

#: Text that would run if it were taken for markup.
EVIL = "</script><script>globalThis.struck = 1</script><img src=x onerror='globalThis.struck = 1'>"


class Item(msgspec.Struct):
    """Something to buy."""

    name: str
    tags: list[str] = []


class Lab(trio_ws.WebSocketHandler):
    __doc__ = f"""A laboratory. {EVIL}"""

    client_globs = True
    channel_types = {"news.*": str}

    def __init__(self) -> None:
        self.yielded = 0
        self.ended = trio.Event()

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return name.startswith("news.")

    @rpc_method()
    def add(self, connection: ClientConnection, a: int, b: int = 20) -> int:
        """Add two numbers.

        Args:
            a: the first.
        """
        return a + b

    @rpc_method()
    def keep(self, connection: ClientConnection, item: Item, loud: bool = False) -> Item:
        return Item(item.name.upper() if loud else item.name, item.tags)

    @rpc_method()
    def places(self, connection: ClientConnection, first: str, /, *rest: int) -> list[Any]:
        return [first, *rest]

    @rpc_method()
    def fail(self, connection: ClientConnection) -> None:
        raise trio_ws.RPCError(f"no {EVIL}", code=4001, data={"why": "because"})

    @rpc_method()
    async def wait(self, connection: ClientConnection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.ended.set()

    @rpc_method()
    async def count(self, connection: ClientConnection) -> AsyncIterator[int]:
        try:
            while True:
                self.yielded += 1
                yield self.yielded
        finally:
            self.ended.set()

    @rpc_method()
    async def total(self, connection: ClientConnection, numbers: AsyncIterator[float]) -> float:
        return sum([number async for number in numbers])


@asynccontextmanager
async def serving(app: trio_ws.App) -> AsyncIterator[trio_ws.WebSocketServer]:
    with trio.fail_after(GUARD):
        async with trio_ws.WebSocketServer(app, 0, host="127.0.0.1") as server:
            yield server


@asynccontextmanager
async def page_of(tmp_path: Path, handler: Lab) -> AsyncIterator[Page]:
    app = trio_ws.App(debug=True)
    api = trio_ws.App()
    api.mount("/lab", handler)
    api.mount_docs("/docs", title="The lab")
    app.mount("/api", api)
    async with serving(app) as server, chromium(tmp_path) as browser:
        page = await browser.open(server.url.replace("ws", "http", 1) + "/api/docs")
        await page.until("document.querySelectorAll('form').length > 0")
        yield page


def status(method: str) -> str:
    return f"document.querySelector('[id=\"{method}\"] .actions [role=status]').textContent"


def result(method: str) -> str:
    return f"document.querySelector('[id=\"{method}\"] .result').innerText"


async def click(page: Page, method: str, button: str) -> None:
    buttons = f"[...document.querySelectorAll('[id=\"{method}\"] button')]"
    await page.evaluate(f"{buttons}.find((one) => one.textContent === {button!r}).click()")


async def test_calls(tmp_path: Path) -> None:
    async with page_of(tmp_path, Lab()) as page:
        assert await page.evaluate("document.title") == "The lab"
        await page.type("#add [name=a]", "22", enter=True)
        await page.until(f"{status('add')}.startsWith('done')")
        assert await page.evaluate(result("add")) == "42"
        await page.type("#add [name=b]", "-2", enter=True)
        await page.until(f"{result('add')} === '20'")

        assert await page.evaluate("JSON.parse(document.querySelector('#keep textarea').value).name") == ""
        await page.type("#keep textarea", '{"name": "tea", "tags": ["hot"]}')
        await page.evaluate("document.querySelector('#keep select').value = 'true'")
        await click(page, "keep", "Call")
        await page.until(f"{status('keep')}.startsWith('done')")
        assert await page.evaluate(f"JSON.parse({result('keep')})") == {"name": "TEA", "tags": ["hot"]}

        await page.type("#places [name=first]", "x")
        await page.type("#places [name=rest]", "[1, 2]")
        await click(page, "places", "Call")
        await page.until(f"{status('places')}.startsWith('done')")
        assert await page.evaluate(f"JSON.parse({result('places')})") == ["x", 1, 2]

        await page.type("#total textarea", "1.5\n2\n\n3")
        await click(page, "total", "Call")
        await page.until(f"{result('total')} === '6.5'")


async def test_errors_are_shown_at_their_field(tmp_path: Path) -> None:
    async with page_of(tmp_path, Lab()) as page:
        await page.type("#add [name=a]", "many", enter=True)
        field = "document.querySelector('#add [name=a]')"
        await page.until(f"{field}.getAttribute('aria-invalid') === 'true'")
        assert await page.evaluate(f"document.activeElement === {field}")
        note = f"document.getElementById({field}.getAttribute('aria-describedby')).innerText"
        assert "many is not a number" in await page.evaluate(note)
        assert "the first." in await page.evaluate(note)
        await page.type("#keep textarea", "{tea", enter=False)
        await click(page, "keep", "Call")
        await page.until("document.querySelector('#keep .error').innerText.startsWith('not JSON')")

        await click(page, "fail", "Call")
        await page.until(f"{status('fail')}.startsWith('error 4001')")
        assert "because" in await page.evaluate(result("fail"))
        await page.type("#keep textarea", '{"name": 7}')
        await click(page, "keep", "Call")
        await page.until(f"{status('keep')}.startsWith('error -32602')")
        assert "$.item.name" in await page.evaluate(result("keep"))


async def test_cancelling_a_call_reaches_the_method(tmp_path: Path) -> None:
    handler = Lab()
    async with page_of(tmp_path, handler) as page:
        await click(page, "wait", "Call")
        await page.until("document.querySelector('#log').innerText.includes('wait()')")
        await click(page, "wait", "Cancel")
        await handler.ended.wait()
        await page.until(f"{status('wait')}.startsWith('cancelled')")
        assert "__abort__" in await page.evaluate("document.querySelector('#log').innerText")


async def test_a_stream_is_paused_and_cancelled(tmp_path: Path) -> None:
    handler = Lab()
    last = "parseInt(document.querySelector('#count .result li:last-child').innerText)"
    async with page_of(tmp_path, handler) as page:
        await click(page, "count", "Start")
        await page.until("document.querySelectorAll('#count .result li').length > 3")
        await click(page, "count", "Pause")
        # Behind the answers to two calls nothing is under way: the server waits for credit of 16 items.
        seen = []
        for number in (1, 2):
            await page.type("#add [name=a]", str(number), enter=True)
            await page.until(f"{result('add')} === '{20 + number}'")
            seen.append(await page.evaluate(last))
        assert seen[0] == seen[1]
        assert handler.yielded <= seen[1] + 17
        await click(page, "count", "Go on")
        await page.until(f"{last} > {seen[1] + 250}")
        assert await page.evaluate("document.querySelectorAll('#count .result li').length") == 200
        await click(page, "count", "Cancel")
        await handler.ended.wait()
        await page.until(f"{status('count')}.startsWith('cancelled')")

        assert await page.evaluate("document.querySelector('#log').childElementCount") == 200
        await page.evaluate("document.querySelector('#log-clear').click()")
        await page.type("#add [name=a]", "3", enter=True)
        await page.until(f"{result('add')} === '23'")
        await page.evaluate("document.querySelector('#log details summary').click()")
        await page.until("document.querySelector('#log pre')")
        frame = await page.evaluate("JSON.parse(document.querySelector('#log pre').innerText)")
        assert frame["rpc"]["response"] == 23


async def test_a_channel_survives_a_lost_connection(tmp_path: Path) -> None:
    handler = Lab()
    card = "channel:news.*"
    async with page_of(tmp_path, handler) as page:
        await click(page, card, "Subscribe")
        await page.until(f"{status(card)} === 'subscribed'")
        assert handler.publish("news.a", {"title": EVIL}) == 1
        await page.until(f"{result(card)}.includes('news.a: ')")
        for connection in handler.clients:
            await connection.close(1012, "restart")
        badge = "document.querySelector('.badge').textContent"
        await page.until(f"{result(card)}.includes('some packets were missed')")
        await page.until(f"{badge} === 'connected'")
        # It subscribes again before anything else is sent.
        await page.type("#add [name=a]", "1", enter=True)
        await page.until(f"{result('add')} === '21'")
        assert handler.publish("news.b", "again") == 1
        await page.until(f"{result(card)}.includes('news.b: \"again\"')")
        await click(page, card, "Unsubscribe")
        await page.until(f"{status(card)}.startsWith('unsubscribed')")
        await page.until("document.querySelector('#log').innerText.includes('__unsubscribe__')")
        await page.evaluate("document.querySelector('.head button').click()")
        await page.until(f"{badge} === 'not connected'")


async def test_nothing_is_loaded_and_no_text_is_markup(tmp_path: Path) -> None:
    async with page_of(tmp_path, Lab()) as page:
        await click(page, "fail", "Call")
        await page.until(f"{status('fail')}.startsWith('error')")
        assert await page.evaluate("globalThis.struck") is None
        assert await page.evaluate("document.images.length + document.scripts.length") == 2
        assert EVIL in await page.evaluate("document.querySelector('.head p').innerText")
        loaded = "performance.getEntriesByType('resource').map((one) => one.name)"
        assert await page.evaluate(loaded) == []


class Room(trio_ws.WebSocketHandler):
    @rpc_method()
    def number(self, connection: ClientConnection) -> int:
        return int(connection.request.path_params["number"])


async def test_several_handlers_and_a_parameter_in_a_path(tmp_path: Path) -> None:
    app = trio_ws.App(debug=True)
    app.mount("/lab", Lab)
    app.mount("/rooms/{number:int}", Room)
    app.mount_docs("/")
    async with serving(app) as server, chromium(tmp_path) as browser:
        page = await browser.open(server.url.replace("ws", "http", 1))
        room, lab = "/rooms/{number:int}:number", "/lab:add"
        await page.until(f"document.getElementById('{room}')")
        await click(page, room, "Call")
        await page.until(f"{result(room)}.includes('put a value in the place of {{number}}')")
        address = "document.querySelectorAll('.head input')[1].value"
        assert await page.evaluate(address) == f"{server.url.rstrip('/')}/rooms/{{number}}"
        await page.evaluate(f"{address} = '{server.url.rstrip('/')}/rooms/7'")
        await click(page, room, "Call")
        await page.until(f"{result(room)} === '7'")
        await page.evaluate(f"document.getElementById('{lab}').querySelector('[name=a]').value = '1'")
        await click(page, lab, "Call")
        await page.until(f"{result(lab)} === '21'")
        states = "[...document.querySelectorAll('.badge')].map((one) => one.textContent)"
        assert await page.evaluate(states) == ["connected", "connected"]


async def test_the_keyboard_alone(tmp_path: Path) -> None:
    async with page_of(tmp_path, Lab()) as page:
        await page.press("/", 191, "/")
        assert await page.evaluate("document.activeElement.id") == "filter"
        await page.do("Input.insertText", text="ADD")
        shown = "[...document.querySelectorAll('#index li:not([hidden])')].map((one) => one.innerText)"
        assert await page.evaluate(shown) == ["add"]
        for _ in range(10):
            await page.press("Tab", 9)
            if await page.evaluate("document.activeElement.hash") == "#add":
                break
        await page.press("Enter", 13, "\r")
        await page.until("location.hash === '#add'")
        for _ in range(20):
            await page.press("Tab", 9)
            if await page.evaluate("document.activeElement.name") == "a":
                break
        await page.do("Input.insertText", text="1")
        await page.press("Enter", 13, "\r")
        await page.until(f"{result('add')} === '21'")


async def test_any_width_and_both_themes(tmp_path: Path) -> None:
    """Nothing is cut off, and axe finds nothing that would keep anybody out: names, roles, contrast."""
    axe = (npm_package("axe-core") / "axe.min.js").read_text(encoding="utf-8")
    async with page_of(tmp_path, Lab()) as page:
        await page.type("#add [name=a]", "1", enter=True)
        await page.until(f"{status('add')}.startsWith('done')")
        await page.type("#add [name=a]", "x", enter=True)
        await click(page, "fail", "Call")
        await page.until(f"{status('fail')}.startsWith('error')")
        open_all = "for (const one of document.querySelectorAll('details')) one.open = true"
        await assert_looks(page, axe, widths=(360, 900, 1500), before=open_all)
