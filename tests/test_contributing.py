"""The contributor's guide and the changelog fragments agree with the repository."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_guide_lists_every_folder_of_the_package() -> None:
    folders = {path.parent.name for path in (ROOT / "trio_ws").glob("*/*.py")}
    listed = set(re.findall(r"^\| `(\w+)/` \|", GUIDE, re.MULTILINE))
    assert folders - {"wire"} == listed  # the deprecated name of protocol


def test_the_guide_lists_terms_in_order() -> None:
    glossary = GUIDE.split("## Glossary")[1].split("\n## ")[0]
    terms = re.findall(r"^\| ([^|]+) \|", glossary, re.MULTILINE)[2:]
    assert terms == sorted(terms, key=str.lower)
    assert len(terms) == len(set(terms)) > 30


def test_links_between_the_guides_lead_to_files() -> None:
    for name in ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "README.md", "changes/README.md"):
        path = ROOT / name
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{name}: {link}"


def test_fragments_have_a_known_type_and_text() -> None:
    types = {one["directory"] for one in PROJECT["tool"]["towncrier"]["type"]}
    for path in (ROOT / "changes").glob("*.md"):
        if path.name != "README.md":
            assert re.fullmatch(r"(?:\d+|\+[a-z0-9-]+)\.([a-z]+)\.md", path.name), path.name
            assert path.name.split(".")[-2] in types
            assert path.read_text(encoding="utf-8").strip()


def test_the_source_distribution_has_the_guides() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    for name in ("Makefile", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "changes", "benchmarks"):
        assert f"/{name}" in included
        assert (ROOT / name).exists()
    assert all((ROOT / name.lstrip("/")).exists() for name in included)


def test_github_and_local_ci_run_the_same_commands() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    local = (ROOT / ".ci/run").read_text(encoding="utf-8")
    for command in (
        ".ci/install",
        ".ci/sockets",
        "make docs",
        "make check",
        "make test",
        "-m tests.conformance.run --groups quick --role both",
        "-m tests.adversary.chaos --seconds 60 --idle 500 --churn 40",
    ):
        assert command in workflow
        assert command in local
