"""Chromium, driven over its DevTools protocol: JSON over a WebSocket, so by `trio_ws.connect`.

What always holds: the browser has a profile of its own, and is gone with all its processes when the block is.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_ws
from tests.kit.serving import guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["Page", "browser"]

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--window-size=900,700",
    "--remote-debugging-port=0",
]


class Page:
    """One tab."""

    def __init__(self, ws: trio_ws.WebSocket) -> None:
        self._ws = ws
        self._number = 0
        self.logged: list[Any] = []  # by console.log

    async def command(self, method: str, **params: Any) -> Any:
        self._number += 1
        await self._ws.send_json({"id": self._number, "method": method, "params": params})
        while True:
            said = await self._ws.receive_json()
            if said.get("method") == "Runtime.consoleAPICalled":
                self.logged += [arg.get("value") for arg in said["params"]["args"]]
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]

    async def evaluate(self, script: str) -> Any:
        """The value of a piece of JavaScript, awaited where it is a promise."""
        result = await self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until it is true in the page; a test's guard ends a wait that is in vain."""
        while not await self.evaluate(script):
            await trio.sleep(0.02)

    async def screenshot(self) -> bytes:
        """A PNG."""
        return base64.b64decode((await self.command("Page.captureScreenshot"))["data"])


@asynccontextmanager
async def browser(home: Path, *urls: str) -> AsyncIterator[list[Page]]:
    """Run Chromium with a tab for each URL; the test is skipped where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    profile = home / "profile"
    with trio.fail_after(guard()), (home / "chromium.log").open("wb") as log:
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)  # noqa: ASYNC220
        try:
            port_file = profile / "DevToolsActivePort"
            while not (port_file.exists() and len(lines := port_file.read_text().splitlines()) == 2):
                await trio.sleep(0.02)
            address = f"ws://127.0.0.1:{lines[0]}"
            options = trio_ws.Options(max_message_size=64 * 1024 * 1024)
            async with AsyncExitStack() as stack:
                tabs = Page(await stack.enter_async_context(trio_ws.connect(address + lines[1])))
                pages = []
                for url in urls:
                    target = (await tabs.command("Target.createTarget", url="about:blank"))["targetId"]
                    to_it = trio_ws.connect(f"{address}/devtools/page/{target}", options=options)
                    page = Page(await stack.enter_async_context(to_it))
                    await page.command("Runtime.enable")
                    await page.command("Page.navigate", url=url)
                    pages.append(page)
                yield pages
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
