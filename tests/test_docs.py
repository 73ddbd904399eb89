"""docs/: the pages build without warnings, and the reference contains every public name.

``TRIO_WS_TEST_DOCS`` names a folder where ``make docs`` has just built them, because building takes a while.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trio_ws
import trio_ws.testing
from tests.support.chromium import Page, chromium

pytest.importorskip("sphinx", reason="the extra docs is not installed")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pages are."""
    if there := os.environ.get("TRIO_WS_TEST_DOCS"):
        return Path(there)
    target = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-n", "-q"]
    done = subprocess.run(
        [*command, "-d", str(target / "trees"), str(ROOT / "docs"), str(target / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    return target / "html"


def inventory(built: Path) -> set[str]:
    from sphinx.util.inventory import InventoryFile  # noqa: PLC0415 - where Sphinx is there

    data = InventoryFile.loads((built / "objects.inv").read_bytes(), uri="").data
    return {name for kind, objects in data.items() if kind.startswith("py:") for name in objects}


def test_every_public_name_is_in_the_reference(built: Path) -> None:
    names = {f"trio_ws.{name}" for name in trio_ws.__all__}
    names |= {f"trio_ws.testing.{name}" for name in trio_ws.testing.__all__}
    assert names - inventory(built) == set()


def test_no_signature_shows_an_internal_name(built: Path) -> None:
    internal = []
    for page in sorted((built / "reference").glob("*.html")):
        text = page.read_text(encoding="utf-8")
        for signature in re.findall(r'<dt class="sig .*?</dt>', text, re.DOTALL):
            shown = html.unescape(re.sub(r"<[^>]+>", "", signature))
            if re.search(r"(?<![\w.])_[A-Za-z]|ForwardRef| object at 0x", shown):
                internal.append((page.name, " ".join(shown.split())))
    assert internal == []


def test_each_page_has_the_version_the_repository_and_copy_buttons(built: Path) -> None:
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert f"trio_ws {trio_ws.__version__}" in text, page
        assert 'href="https://github.com/trio-ws/trio-ws"' in text, page
        assert "favicon.svg" in text, page
        assert "copy.js" in text, page


async def test_no_page_is_wider_than_its_window(built: Path, tmp_path: Path) -> None:
    pages = ("index", "cli", "limits", "protocol", "how-to/statements", "topics/performance", "tutorial/page")
    async with chromium(tmp_path) as browser:
        for name in (*pages, "reference/connections", "reference/options"):
            page = await browser.open(f"{(built / name).as_uri()}.html")
            for width in (1400, 400):
                await page.screenshot(width=width, height=900)
                root = "document.documentElement"
                wide = await page.evaluate(f"[{root}.scrollWidth, {root}.clientWidth]")
                assert wide[0] <= wide[1], (name, width, wide)
            await page.close()


async def copied_by(page: Page, button: str) -> str:
    """Click the first button that this CSS selector matches, and return the text that it copies."""
    await page.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text }")
    await page.evaluate(f"document.querySelector('{button}').click()")
    return str(await page.until("window.copied"))


async def test_a_copy_button_copies_the_commands(built: Path, tmp_path: Path) -> None:
    async with chromium(tmp_path) as browser:
        page = await browser.open(f"{(built / 'tutorial' / 'index').as_uri()}.html")
        copied = await copied_by(page, "div.copy button")
    assert copied.splitlines()[:2] == ["mkdir chat", "cd chat"]


async def test_another_button_copies_the_program_that_code_is_a_part_of(built: Path, tmp_path: Path) -> None:
    async with chromium(tmp_path) as browser:
        page = await browser.open(f"{(built / 'channels').as_uri()}.html")
        copied = await copied_by(page, "div.copy button + button")
        file = await page.evaluate("document.querySelector('[id^=program-]').dataset.file")
    assert copied == (ROOT / file).read_text(encoding="utf-8")


def test_every_page_is_in_a_table_of_contents(built: Path) -> None:
    first = (built / "index.html").read_text(encoding="utf-8")
    for page in ("tutorial/index", "how-to/tls", "topics/cancellation", "reference/index", "protocol"):
        assert f'href="{page}.html"' in first


def test_the_package_layout_is_drawn(built: Path) -> None:
    page = (built / "architecture.html").read_text(encoding="utf-8")
    assert "layer 0   every exception" in page
    assert "memory links, faults, the raw peer" in page
