"""docs/: it builds without a warning, and its reference has every public name.

``TRIO_WS_TEST_DOCS`` names a folder where ``make docs`` has just built it; it takes a while to do so again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import trio_ws
import trio_ws.testing

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


def test_every_page_is_in_a_table_of_contents(built: Path) -> None:
    first = (built / "index.html").read_text(encoding="utf-8")
    for page in ("tutorial/index", "how-to/tls", "topics/cancellation", "reference/index", "protocol"):
        assert f'href="{page}.html"' in first


def test_the_package_layout_is_drawn(built: Path) -> None:
    page = (built / "architecture.html").read_text(encoding="utf-8")
    assert "layer 0   every exception" in page
    assert "memory links, faults, the raw peer" in page
