"""Python code in the documentation works as pasted: programs run, pieces have their imports and names.

A piece continues the code above it if the text in between says "above": a reader pastes it below that code.
Code that shows a mistake has the line `BROKEN` before it, and is not tested.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from docs.programs import programs
from tests.support.programs import STEPS

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*/README.md")), ROOT / "README.md"]
BROKEN = "<!-- broken on purpose -->"
#: Pages whose programs are pasted by tests of their own, test_tutorial.py and test_readme.py.
PASTED = {ROOT / "docs" / "tutorial" / f"{step}.md" for step in STEPS} | {ROOT / "README.md"}
#: Packages that a page uses, and that may be missing here.
OPTIONAL = {"aiosqlite", "hypercorn", "quart_trio", "starlette", "trustme", "websockets"}


class Fence(NamedTuple):
    """A piece of code: its place, the text before it up to the heading or the code above, and the code."""

    place: str
    before: str
    code: str


def fences_of(text: str, name: str) -> list[Fence]:
    found = re.finditer(r"^(#+ .*|```(\w*).*\n(?:.*\n)*?```)$", text, re.MULTILINE)
    fences, end = [], 0
    for match in found:
        before, end = text[end : match.start()], match.end()
        if match[2] == "python" and BROKEN not in before:
            place = f"{name}:{text.count(chr(10), 0, match.start()) + 1}"
            fences.append(Fence(place, before, match[1].partition("\n")[2].removesuffix("```")))
    return fences


def is_program(code: str) -> bool:
    return re.search(r"^ *(trio|app|asyncio)\.run\(", code, re.MULTILINE) is not None


def pieces_of(fences: list[Fence]) -> dict[str, str]:
    """The pieces by place, each with the code that it continues."""
    pieces, above = {}, ""
    for place, before, code in fences:
        whole = above + code if re.search(r"\babove\b", before) else code
        above = whole
        if not is_program(code):
            pieces[place] = whole
    return pieces


FENCES = {page: fences_of(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))) for page in PAGES}


def undefined_names(folder: Path) -> list[str]:
    """The names that the files in a folder use and do not define, and their errors of syntax."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E9,F821,F822,F823"]
    done = subprocess.run(
        [*command, "--no-cache", "--output-format", "json", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return [f"{Path(one['filename']).stem}: {one['message']}" for one in json.loads(done.stdout)]


#: Runs each of the files that it gets, as if a program imported it.
_IMPORT = """
import runpy, sys, traceback
for path in sys.argv[1:]:
    try:
        runpy.run_path(path, run_name="pasted")
    except ModuleNotFoundError as exc:
        print("missing", exc.name)
    except BaseException:
        print(path, traceback.format_exc())
"""


def paste(pieces: dict[str, str], folder: Path) -> list[Path]:
    """Write each piece into a file of its own."""
    paths = []
    for place, code in pieces.items():
        paths.append(folder / f"{re.sub(r'[/.:]', '_', place)}.py")
        paths[-1].write_text(code, encoding="utf-8")
    return paths


def test_there_are_fences() -> None:
    fences = [fence for page in FENCES.values() for fence in page]
    assert sum(is_program(fence.code) for fence in fences) >= 20
    assert len(fences) > 80


def test_each_program_is_one_that_the_tests_run() -> None:
    known = {shape_of(path.read_text(encoding="utf-8")) for path in programs() if path.suffix == ".py"}
    unknown = [
        fence.place
        for page, fences in FENCES.items()
        for fence in fences
        if is_program(fence.code) and page not in PASTED and shape_of(fence.code) not in known
    ]
    assert unknown == []


def shape_of(code: str) -> str:
    """A program without its docstring and its ``__future__``, which a page need not show."""
    tree = ast.parse(code)
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    tree.body = [one for one in body if not (isinstance(one, ast.ImportFrom) and one.module == "__future__")]
    return ast.dump(tree)


def test_pieces_have_their_imports_and_names(tmp_path: Path) -> None:
    pytest.importorskip("ruff", reason="ruff is not installed")
    paste({place: code for fences in FENCES.values() for place, code in pieces_of(fences).items()}, tmp_path)
    assert undefined_names(tmp_path) == []


def test_pieces_can_be_imported_as_pasted(tmp_path: Path) -> None:
    pieces = {
        place: code
        for page, fences in FENCES.items()
        if page not in PASTED
        for place, code in pieces_of(fences).items()
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _IMPORT, *map(str, paste(pieces, tmp_path))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    said = [line for line in done.stdout.splitlines() if line.removeprefix("missing ") not in OPTIONAL]
    assert (said, done.stderr, done.returncode) == ([], "", 0)


def test_what_the_tests_find(tmp_path: Path) -> None:
    page = f"""# A page

```python
a = missing
```

With the code above:

```python
b = a
```

{BROKEN}

```python
c = (
```

## Another section

```python
b = a

if x:
```

```python
trio.run(main)
```
"""
    fences = fences_of(page, "page.md")
    assert [fence.place for fence in fences] == ["page.md:3", "page.md:9", "page.md:21", "page.md:27"]
    pieces = pieces_of(fences)
    assert [code.count("a = missing") for code in pieces.values()] == [1, 1, 0]
    pytest.importorskip("ruff", reason="ruff is not installed")
    paste(pieces, tmp_path)
    found = undefined_names(tmp_path)
    assert "page_md_3: Undefined name `missing`" in found
    assert len([one for one in found if one.startswith("page_md_21: ")]) >= 1
    assert not any("`a`" in one for one in found if one.startswith("page_md_9"))
