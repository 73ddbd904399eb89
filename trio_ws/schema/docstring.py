"""Parsing of docstrings in Google style: a summary, a description, and sections such as ``Args``."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

__all__ = ["Docstring", "parse_docstring"]

_SECTION = re.compile(r"(Args|Arguments|Returns|Yields|Raises|Attributes):")
_ENTRY = re.compile(r"\*{0,2}(\w[\w.]*)(?:\s*\([^)]*\))?:\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Docstring:
    """The parts of a docstring. Missing parts are empty.

    Attributes:
        summary: the first paragraph, on one line.
        description: the other paragraphs, without the sections.
        parameters: the texts of the section ``Args``, by name.
        returns: the text of ``Returns`` or ``Yields``.
        raises: the texts of ``Raises``, by the name of the exception.
        attributes: the texts of ``Attributes``, by name.
    """

    summary: str = ""
    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    returns: str = ""
    raises: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The summary and the description."""
        return "\n\n".join(one for one in (self.summary, self.description) if one)


def parse_docstring(text: str) -> Docstring:
    """Parse a docstring. Text in no known format stays in the description."""
    prose: list[str] = []
    sections: dict[str, list[str]] = {}
    current: list[str] = prose
    for line in inspect.cleandoc(text).splitlines():
        if match := _SECTION.fullmatch(line):
            current = sections.setdefault(match[1], [])
        else:
            if line and not line[0].isspace() and current is not prose:
                current = prose  # the section ends where its indentation does
            current.append(line)
    summary, _, description = "\n".join(prose).strip().partition("\n\n")
    arguments = sections.get("Args", []) + sections.get("Arguments", [])
    returns = sections.get("Returns", []) + sections.get("Yields", [])
    return Docstring(
        summary=" ".join(summary.split()),
        description=description.strip(),
        parameters=_entries(arguments),
        returns=" ".join(" ".join(returns).split()),
        raises=_entries(sections.get("Raises", [])),
        attributes=_entries(sections.get("Attributes", [])),
    )


def _entries(lines: list[str]) -> dict[str, str]:
    """Parse entries such as ``name: text``, each with the more indented lines below it."""
    text = inspect.cleandoc("\n".join(["", *lines]))
    entries: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", text):
        if match := _ENTRY.fullmatch(entry):
            entries[match[1]] = " ".join(match[2].split())
    return entries
