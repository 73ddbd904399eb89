"""A Sphinx extension: each piece of code on a page knows the program that it comes from.

The pieces are lines of programs in examples/, which the tests run. The button of copy.js copies the whole
program, so that what is pasted runs. A piece of Python may begin with some of its program's imports, and
leave out whole paragraphs.

Invariants: a page has each of its programs once. A piece that shows all of its program has no second button.
"""

from __future__ import annotations

import ast
import html
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

__all__ = ["is_part_of", "lines_of", "programs", "programs_with", "shown_in", "stands_in"]

EXAMPLES = Path(__file__).parents[1] / "examples"

Lines = list[tuple[int, str]]


def lines_of(text: str) -> Lines:
    """The lines that are not blank, each with its indentation less that of the first."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return [(len(line) - len(line.lstrip()), line.lstrip()) for line in lines]


def stands_in(block: Lines, source: Lines) -> bool:
    """Whether a source has these lines, one after the other, with an indentation that differs as a whole."""
    texts = [text for _, text in block]
    for start in range(len(source) - len(block) + 1):
        part = source[start : start + len(block)]
        if [text for _, text in part] == texts:
            shift = part[0][0] - block[0][0]
            if all(indent - shift == wanted for (indent, _), (wanted, _) in zip(part, block, strict=True)):
                return True
    return False


def is_part_of(block: str, text: str) -> bool:
    """Whether a piece of Python has imports of a program, and paragraphs of it, in their order."""
    imports, rest = _split(block)
    if not imports <= _imported(text):
        return False
    source = lines_of(text)
    for paragraph in re.split(r"\n\n+(?=\S)", rest):
        lines = lines_of(paragraph)
        starts = (at for at in range(len(source)) if stands_in(lines, source[at : at + len(lines)]))
        at = next(starts, None)
        if at is None:
            return False
        source = source[at + len(lines) :]
    return True


def _split(block: str) -> tuple[frozenset[str], str]:
    """What the imports at the beginning of a piece bind, and the rest."""
    head = re.match(r"(?:(?:from|import) .*\n|\n)*", block)
    assert head is not None
    return _imported(head[0]), block[head.end() :]


@cache
def _imported(text: str) -> frozenset[str]:
    """What the import statements of a program bind, each as ``module.name``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {f"{one.name} as {one.asname}" for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{one.name} as {one.asname}" for one in node.names}
    return frozenset(names)


@cache
def programs() -> dict[Path, Lines]:
    """Every example that may be shown, those that were written for the pages first."""
    kinds = {".py", ".html", ".js", ".ini"}
    files = [path for path in EXAMPLES.rglob("*") if path.suffix in kinds or path.parent.name == "deploy"]
    files.sort(key=lambda path: (path.parent.name not in ("pages", "first"), path))
    return {path: lines_of(path.read_text(encoding="utf-8")) for path in files if path.is_file()}


def programs_with(block: str) -> list[Path]:
    """The programs that have these lines."""
    lines = lines_of(block)
    if not lines:
        return []
    found = [path for path, source in programs().items() if stands_in(lines, source)]
    return found or [
        path
        for path in programs()
        if path.suffix == ".py" and is_part_of(block, path.read_text(encoding="utf-8"))
    ]


def shown_in(blocks: list[str]) -> list[Path | None]:
    """The program of each piece of a page; of several that have it, that with most pieces of the page."""
    found = [programs_with(block) for block in blocks]
    often = Counter(path for paths in found for path in paths)
    # max() takes the first of equals, which is one of the pages' own.
    return [max(paths, key=lambda path: often[path], default=None) for paths in found]


def add_programs(app: Sphinx, doctree: nodes.document) -> None:
    """Name the program of each piece of code, and put the programs at the end of the page."""
    from docutils import nodes  # noqa: PLC0415 - only those have it who build the documentation

    pieces = list(doctree.findall(nodes.literal_block))
    used: dict[Path, str] = {}
    for piece, path in zip(pieces, shown_in([piece.astext() for piece in pieces]), strict=True):
        if path is None or piece.get("language") not in ("python", "html", "js", "javascript"):
            continue
        if lines_of(piece.astext()) == programs()[path]:
            continue
        name = used.setdefault(path, f"program-{len(used)}")
        piece["classes"].append(name)
    for path, name in used.items():
        source = path.read_text(encoding="utf-8")
        where = html.escape(path.relative_to(EXAMPLES.parent).as_posix())
        text = f'<template id="{name}" data-file="{where}">{html.escape(source)}</template>'
        doctree += nodes.raw("", text, format="html")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", add_programs)
    return {"parallel_read_safe": True}
