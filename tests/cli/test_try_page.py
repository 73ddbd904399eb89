"""The page that ``serve`` adds for plain WebSockets, in a real Chromium."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

import trio_ws
from tests.support.chromium import assert_looks, chromium
from tests.support.npm import npm_package
from trio_ws.cli.pages import for_this_machine
from trio_ws.server.server import add_pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.chromium import Page

#: Seconds after which a test counts as hung: it starts a browser, on a machine that may be busy.
GUARD = 120

#: Text that would run if it were taken for markup.
EVIL = "</script><script>globalThis.struck = 1</script><img src=x onerror='globalThis.struck = 1'>"

LOG = "document.querySelector('#log').innerText"
STATE = "document.querySelector('#state').textContent"
LINES = "document.querySelectorAll('#log li').length"


async def parrot(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        match message.text:
            case "bytes":
                await ws.send(b"\x00\xff")
            case "flood":
                for number in range(2000):
                    await ws.send(f"number {number}")
            case "bye":
                await ws.close(4000, f"good bye {EVIL}")
            case "break":
                raise ValueError("broken")
            case _:
                await ws.send(message)


parrot.__doc__ = f"A parrot. {EVIL}"


@asynccontextmanager
async def page_of(tmp_path: Path, target: Any = parrot) -> AsyncIterator[Page]:
    server = trio_ws.WebSocketServer(target, 0, host="127.0.0.1")
    add_pages(server, for_this_machine, f"chat:parrot {EVIL}")
    with trio.fail_after(GUARD):
        async with server, chromium(tmp_path) as browser:
            yield await browser.open(server.url.replace("ws", "http", 1))


async def test_messages_and_the_end(tmp_path: Path) -> None:
    async with page_of(tmp_path) as page:
        assert await page.evaluate(STATE) == "not connected"
        await page.type("#message", "hello", enter=True)  # connects first
        await page.until(f"{LOG}.match(/hello/g)?.length === 2")
        assert await page.evaluate(STATE) == "connected"
        assert await page.evaluate("document.querySelector('#connect').textContent") == "Disconnect"
        await page.type("#message", EVIL, enter=True)
        await page.until(f"{LOG}.split({EVIL!r}).length === 3")
        await page.type("#message", "bytes", enter=True)
        await page.until(f"{LOG}.includes('2 bytes, binary: 00 ff')")
        await page.until("document.querySelector('#spoken').textContent.includes('00 ff')")
        await page.type("#message", "bye", enter=True)
        await page.until(f"{LOG}.includes('closed by the server with 4000, reason: good bye </script>')")
        assert (await page.evaluate(STATE)).startswith("closed: 4000 good bye")

        await page.type("#message", "break", enter=True)
        await page.until(f"{LOG}.includes('closed by the server with 1011 (internal error)')")
        await page.evaluate("document.querySelector('#connect').click()")
        await page.until(f"{STATE} === 'connected'")
        await page.evaluate("document.querySelector('#connect').click()")
        await page.until(f"{LOG}.includes('closed by this page with 1000 (normal closure), no reason')")

        assert await page.evaluate("globalThis.struck") is None
        assert await page.evaluate("document.images.length + document.scripts.length") == 2
        assert EVIL in await page.evaluate("document.querySelector('#text').innerText")
        loaded = "performance.getEntriesByType('resource').map((one) => one.name)"
        assert await page.evaluate(loaded) == []


async def test_a_flood_is_cut(tmp_path: Path) -> None:
    async with page_of(tmp_path) as page:
        await page.type("#message", "flood", enter=True)
        await page.until(f"{LOG}.includes('number 1999')")
        assert await page.evaluate(LINES) == 500
        await page.evaluate("document.querySelector('#clear').click()")
        assert await page.evaluate(LINES) == 0
        await page.type("#message", "x" * 11_000, enter=True)
        await page.until(f"{LOG}.match(/1000 more characters/g)?.length === 2")


async def refuse(ws: trio_ws.WebSocket) -> None:
    await ws.reject(401)


async def room(ws: trio_ws.WebSocket) -> None:
    await ws.accept(subprotocol="chat.v2")
    await ws.send(f"room {ws.path_params['number']}")
    await ws.recv()


async def test_the_routes_of_an_app(tmp_path: Path) -> None:
    app = trio_ws.App()
    app.websocket("/refuse")(refuse)
    app.websocket("/rooms/{number:int}", subprotocols=["chat.v1", "chat.v2"])(room)
    app.mount("/calls", trio_ws.WebSocketHandler)
    async with page_of(tmp_path, app) as page:
        choose = (
            "(path) => { const route = document.querySelector('#route'); route.value = path;"
            " route.dispatchEvent(new Event('change')) }"
        )
        await page.evaluate(f"({choose})('/refuse')")
        await page.evaluate("document.querySelector('#connect').click()")
        await page.until(f"{LOG}.includes('no connection: the server is not there, or refused')")
        await page.evaluate(f"({choose})('/rooms/{{number:int}}')")
        await page.evaluate("document.querySelector('#connect').click()")
        problem = "document.querySelector('#problem').innerText"
        assert await page.evaluate(problem) == "replace {number} in the address by a value"
        assert await page.evaluate("document.activeElement.id") == "address"
        await page.type("#address", "/rooms/7")
        await page.type("#subprotocols", "chat.v1, chat.v2", enter=True)
        await page.until(f"{LOG}.includes('room 7')")
        assert "with the subprotocol chat.v2" in await page.evaluate(LOG)
        # Another route ends the connection, so that the next message is not for this one.
        await page.evaluate(f"({choose})('/refuse')")
        await page.until(f"{STATE}.startsWith('closed: 1000')")
        assert await page.evaluate("document.querySelector('#docs-link').pathname") == "/try"


async def test_the_keyboard_alone(tmp_path: Path) -> None:
    async with page_of(tmp_path) as page:
        seen = []
        for _ in range(7):
            await page.press("Tab", 9)
            seen.append(await page.evaluate("document.activeElement.id || document.activeElement.innerText"))
            if seen[-1] == "message":
                await page.do("Input.insertText", text="typed")
                await page.press("Enter", 13, "\r")
        assert seen == ["address", "subprotocols", "connect", "message", "Send", "clear", "log"]
        await page.until(f"{LOG}.match(/typed/g)?.length === 2")


async def test_any_width_and_both_themes(tmp_path: Path) -> None:
    """Nothing is cut off, and axe finds nothing that would keep anybody out: names, roles, contrast."""
    axe = (npm_package("axe-core") / "axe.min.js").read_text(encoding="utf-8")
    async with page_of(tmp_path) as page:
        await page.type("#message", "a" * 300, enter=True)
        await page.type("#message", "bye", enter=True)
        await page.until(f"{STATE}.startsWith('closed: 4000')")
        await page.until(f"{LINES} === 5")
        await page.evaluate("document.querySelector('#address').value = '/{room}'")
        await page.evaluate("document.querySelector('#connect').click()")
        await assert_looks(page, axe, widths=(360, 900, 1400))
