"""The programs of the README run, and print the output that it shows."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OUTPUTS = ["hello\n", "42\n", "hello after 5.0 seconds\n"]
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(("program", "output"), list(zip(PROGRAMS, OUTPUTS, strict=True)))
def test_a_program_of_the_readme(program: str, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 120


def test_links_work_on_an_index_too_and_lead_to_what_is_here() -> None:
    source = PROJECT["project"]["urls"]["Source"]
    links = re.findall(r"\]\(([^)]*)\)", README)
    assert [link for link in links if not link.startswith("https://")] == []
    ours = [link for link in links if link.startswith(source)]
    assert len(ours) > 10
    for link in ours:
        kind, branch, path = link.removeprefix(f"{source}/").split("#")[0].split("/", 2)
        assert branch == "main"
        assert kind == ("tree" if (ROOT / path).is_dir() else "blob")
        assert (ROOT / path).exists(), link


def test_links_to_headings_lead_to_headings() -> None:
    for path, anchor in re.findall(r"/blob/main/([^)#]+)#([^)]+)\)", README):
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_the_source_distribution_has_what_the_readme_names() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    paths = set(re.findall(r"/(?:blob|tree)/main/([^)#/]+)", README))
    paths |= {"Makefile"} if "make " in README else set()
    assert {f"/{path}" for path in paths} <= set(included)


def test_the_project_has_urls() -> None:
    urls = PROJECT["project"]["urls"]
    assert {"Homepage", "Documentation", "Changelog", "Issues", "Source"} <= set(urls)
    assert all(url.startswith("https://") for url in urls.values())
