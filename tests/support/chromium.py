"""A headless Chromium that tests control like a user: pages, typing, and their content.

It is controlled through the Chrome DevTools Protocol, over our own WebSocket.

Invariants: every page has its own profile, an error of a page's script fails the test, and the browser ends
with all its processes.
"""

from __future__ import annotations

import base64
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_ws import Options, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from trio_ws import WebSocket

__all__ = ["CHROMIUM", "FLAGS", "Browser", "Page", "assert_looks", "chromium", "devtools", "environment"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
#: A promise of the first true value of an expression, which is evaluated whenever the page changes.
_UNTIL = """new Promise((resolve) => {
  const options = { subtree: true, childList: true, attributes: true, characterData: true }
  const look = () => { const value = (%s); if (value) { observer.disconnect(); resolve(value) } }
  const observer = new MutationObserver(look)
  observer.observe(document, options)
  look()
})"""


class Browser:
    """See the module docstring. Made by `chromium`."""

    def __init__(self, ws: WebSocket) -> None:
        self.errors: list[str] = []
        self._ws = ws
        self._ids = itertools.count(1)
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._loads: dict[str, trio.Event] = {}

    async def read(self) -> None:
        """Handle the browser's messages until it exits."""
        async for message in self._ws:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).send_nowait(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Page.lifecycleEvent" and said["params"]["name"] == "load":
                self._loaded(said["params"]["loaderId"]).set()

    def _loaded(self, loader: str) -> trio.Event:
        return self._loads.setdefault(loader, trio.Event())

    async def do(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One command of the protocol; its result."""
        number = next(self._ids)
        put, answers = trio.open_memory_channel[dict[str, Any]](1)
        self._answers[number] = put
        command = {"id": number, "method": method, "params": params}
        await self._ws.send_json(command if session is None else {**command, "sessionId": session})
        answer = await answers.receive()
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> Page:
        """Open a new page, and return it when it is loaded."""
        context = await self.do("Target.createBrowserContext")
        target = await self.do(
            "Target.createTarget", url="about:blank", browserContextId=context["browserContextId"]
        )
        attached = await self.do("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"], target["targetId"])
        for command in ("Page.enable", "Runtime.enable"):
            await page.do(command)
        await page.do("Page.setLifecycleEventsEnabled", enabled=True)
        navigated = await page.do("Page.navigate", url=url)
        assert "errorText" not in navigated, navigated
        await self._loaded(navigated["loaderId"]).wait()
        return page


class Page:
    """One page of a `Browser`."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol; its result."""
        return await self._browser.do(method, self._session, **params)

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or the result of its promise."""
        result = await self.do(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in result, (expression, result)
        return result["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until the value of an expression is true, and return the value."""
        return await self.evaluate(_UNTIL % expression)

    async def type(self, selector: str, text: str, *, enter: bool = False) -> None:
        """Replace the text of a field, and press Enter if ``enter`` is true."""
        await self.evaluate(f"document.querySelector({selector!r}).focus()")
        await self.evaluate("document.activeElement.select()")
        await self.do("Input.insertText", text=text)
        if enter:
            await self.press("Enter", 13, "\r")

    async def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            await self.do(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    async def screenshot(self, *, width: int, height: int, scheme: str = "light") -> bytes:
        """Return a screenshot as PNG; ``scheme`` is light or dark."""
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        await self.do(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        return base64.b64decode((await self.do("Page.captureScreenshot"))["data"])

    async def close(self) -> None:
        """Close the page, as a user would."""
        await self._browser.do("Target.closeTarget", targetId=self._target)


@asynccontextmanager
async def chromium(home: Path) -> AsyncIterator[Browser]:
    """Run a browser for the duration of a block. Skips the test if none is installed."""
    async with devtools(home) as url, trio.open_nursery() as nursery:
        options = Options(max_message_size=16 * 1024 * 1024)
        async with connect(url, options=options) as ws:
            browser = Browser(ws)
            nursery.start_soon(browser.read)
            yield browser
            assert browser.errors == []
            nursery.cancel_scope.cancel()


async def assert_looks(page: Page, axe: str, *, widths: Iterable[int], before: str = "") -> None:
    """Assert that nothing is cut off, in both themes, and that axe finds nothing.

    Args:
        page: a page of this project.
        axe: the script of axe-core.
        widths: widths of the window in pixels.
        before: a script that is run before each look.
    """
    await page.evaluate(f"(() => {{ {axe} }})()")
    for width in widths:
        for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")):
            await page.screenshot(width=width, height=900, scheme=scheme)
            assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == background
            if before:
                await page.evaluate(before)
            size = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            scrolled, visible = await page.evaluate(size)
            assert scrolled <= visible, width
            found = await page.evaluate(
                "axe.run().then(({ violations }) => violations.map((one) =>"
                " `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 200)).join(' | ')}`))"
            )
            assert found == [], (width, scheme)


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Yield the environment for a browser, with a folder for temporary files that is removed at the end.

    A browser that is killed leaves the folder of its singleton socket behind. The path is short, because the
    path of a socket is limited to about 100 bytes.
    """
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        yield {**os.environ, "TMPDIR": folder}


@asynccontextmanager
async def devtools(home: Path) -> AsyncIterator[str]:
    """Run a browser, and yield the URL of its DevTools protocol. Skips the test if none is installed."""
    if CHROMIUM is None:
        pytest.skip("neither Chromium nor Chrome is installed; on Debian: apt-get install chromium")
    # The default window would take as long to open as everything else together.
    flags = [*FLAGS, "--no-startup-window", "--remote-debugging-port=0"]
    command = [CHROMIUM, *flags, f"--user-data-dir={home / 'profile'}"]
    with environment() as variables:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=variables,
        )
        assert process.stderr is not None
        try:
            async with trio.open_nursery() as nursery:
                yield await nursery.start(_listen, process.stderr)
                nursery.cancel_scope.cancel()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):  # SIGKILL ends it, so this wait is short
                await process.wait()
            await trio.aclose_forcefully(process.stderr)


async def _listen(stderr: trio.abc.ReceiveStream, task_status: trio.TaskStatus[str]) -> None:
    """Read its stderr until the end, and report the URL at which it listens."""
    said = b""
    found = False
    async for more in stderr:
        if found:
            continue
        said += more
        _, listening, rest = said.partition(b"DevTools listening on ")
        if listening and b"\n" in rest:
            found = True
            task_status.started(rest.split()[0].decode())
    assert found, said.decode(errors="replace")
