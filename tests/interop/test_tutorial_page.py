"""Pages of the documentation in a real browser: the chat of the tutorial, and the code of calls.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import trio_ws
from tests.kit.devtools import browser
from tests.kit.programs import Folder, folders
from tests.kit.serving import serving

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
    async with folder.serving():
        pages = [f"http://localhost:{folder.port}/?name={name}&room=cats" for name in ("ada", "bob")]
        async with browser(tmp_path, *pages) as (ada, bob):
            await ada.until(f"{state} === 'in cats as ada'")
            await bob.until(f"{state} === 'in cats as bob'")
            say = "text.value = '{}'; form.requestSubmit()"
            await ada.evaluate(say.format("meow <b>loud</b>"))
            await bob.until(f"{said} === 'adameow <b>loud</b>'")
            await bob.evaluate(say.format("purr"))
            await ada.until(f"{said} === 'adameow <b>loud</b>|bobpurr'")
            await bob.evaluate(say.format(""))
            await bob.until(f"{state}.startsWith('text: ')")
            if wanted := os.environ.get("SCREENSHOT"):  # to look at
                await trio.Path(wanted).write_bytes(await ada.screenshot())


async def test_the_page_comes_back(folder: Folder, tmp_path: Path) -> None:
    folder.type("page/chat.py", "page/page.html")
    state = "document.getElementById('state').textContent"
    async with folder.serving():
        async with browser(tmp_path, f"http://localhost:{folder.port}/?name=ada") as (ada,):
            await ada.until(f"{state} === 'in lobby as ada'")
            await ada.evaluate("socket.close()")
            await ada.until(f"{state}.includes('gone')")
            await ada.until(f"{state} === 'in lobby as ada'")


class Adding(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b


async def test_calls_of_a_page(tmp_path: Path) -> None:
    async with serving(Adding, options=trio_ws.Options(origins=["null"])) as server:
        text = (ROOT / "examples" / "pages" / "calls.html").read_text(encoding="utf-8")
        (tmp_path / "calls.html").write_text(text.replace("8000", str(server.port)), encoding="utf-8")
        async with browser(tmp_path, (tmp_path / "calls.html").as_uri()) as (page,):
            while page.logged != [3, 3]:
                await page.evaluate("new Promise((done) => setTimeout(done, 20))")
