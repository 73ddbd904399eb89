"""Pages of the documentation in a real browser: the chat of the tutorial, and the code of calls.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import trio_ws
from tests.support.chromium import chromium
from tests.support.programs import Folder, folders
from tests.support.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    yield from folders(tmp_path)


async def test_two_windows_and_a_restart(folder: Folder, tmp_path: Path) -> None:
    folder.type("page/chat.py", "page/page.html")
    said = "[...document.querySelectorAll('li')].map((item) => item.textContent).join('|')"
    state = "document.getElementById('state').textContent"
    async with folder.serving(), chromium(tmp_path) as browser:
        url = f"http://localhost:{folder.port}/?room=cats&name="
        ada, bob = await browser.open(url + "ada"), await browser.open(url + "bob")
        await ada.until(f"{state} === 'in cats as ada'")
        await bob.until(f"{state} === 'in cats as bob'")
        await ada.type("#text", "meow <b>loud</b>", enter=True)
        await bob.until(f"{said} === 'adameow <b>loud</b>'")
        await bob.type("#text", "purr", enter=True)
        await ada.until(f"{said} === 'adameow <b>loud</b>|bobpurr'")
        await bob.type("#text", "", enter=True)
        await bob.until(f"{state}.startsWith('text: ')")
        if wanted := os.environ.get("SCREENSHOT"):  # to look at
            await trio.Path(wanted).write_bytes(await ada.screenshot(width=900, height=600))


async def test_the_page_comes_back(folder: Folder, tmp_path: Path) -> None:
    folder.type("page/chat.py", "page/page.html")
    state = "document.getElementById('state').textContent"
    async with chromium(tmp_path) as browser:
        async with folder.serving():
            ada = await browser.open(f"http://localhost:{folder.port}/?name=ada")
            await ada.until(f"{state} === 'in lobby as ada'")
        await ada.until(f"{state}.includes('gone')")
        async with folder.serving():
            await ada.until(f"{state} === 'in lobby as ada'")


class Adding(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b


async def test_calls_of_a_page(tmp_path: Path) -> None:
    async with serving(Adding, options=trio_ws.Options(origins=["null"])) as server:
        text = (ROOT / "examples" / "pages" / "calls.html").read_text(encoding="utf-8")
        watch = "<script>let logged = ''; console.log = (it) => { document.title = logged += it }</script>"
        page = tmp_path / "calls.html"
        page.write_text(watch + text.replace("8000", str(server.port)), encoding="utf-8")
        async with chromium(tmp_path) as browser:
            await (await browser.open(page.as_uri())).until("document.title === '33'")
