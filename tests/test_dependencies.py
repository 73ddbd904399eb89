"""The package imports exactly what it declares: pyproject.toml compared with the import statements.

A package of an extra may be imported in these modules only, none of which ``import trio_ws`` imports.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Where an extra may be imported, below trio_ws.
EXTRAS = {
    "proxy": ["client/proxy.py"],
    "redis": ["channels/redis/"],
    "cli": ["cli/"],
    "pydantic": ["schema/"],
    "pytest": ["testing/pytest_plugin.py"],
}
#: Import names that are not those of their distributions.
DISTRIBUTIONS = {"python_socks": "python-socks"}


def requirements(extra: str | None = None) -> list[Requirement]:
    texts = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def names(extra: str | None = None) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements(extra)}


def imports(path: Path) -> set[str]:
    """The distributions that a module imports from, except for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    tops = {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"trio_ws"}
    return {canonicalize_name(DISTRIBUTIONS.get(top, top)) for top in tops}


def test_every_import_is_declared() -> None:
    used: set[str] = set()
    for path in sorted((ROOT / "trio_ws").rglob("*.py")):
        inside = path.relative_to(ROOT / "trio_ws").as_posix()
        allowed = names().union(
            *(names(extra) for extra, places in EXTRAS.items() if any(inside.startswith(p) for p in places))
        )
        # Only pytest imports its plugin.
        found = imports(path) - ({"pytest"} if inside == "testing/pytest_plugin.py" else set())
        assert found <= allowed, f"{inside} imports {found - allowed}, which pyproject.toml does not declare"
        used |= found
    assert names() <= used, f"{names() - used} are declared, and nothing imports them"


def test_importing_the_package_needs_no_extra() -> None:
    extras = {name for extra in EXTRAS for name in names(extra)} - names()
    code = f"""
import sys, importlib.metadata as metadata
import trio_ws
owners = metadata.packages_distributions()
loaded = {{name.partition('.')[0] for name in sys.modules}}
print(sorted(d for top in loaded for d in owners.get(top, []) if d.lower().replace('_', '-') in {extras!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_each_has_a_lowest_version_and_no_cap(requirement: Requirement) -> None:
    operators = {one.operator for one in requirement.specifier}
    assert operators == {">="}, f"{requirement}: the lowest version is run in CI; a cap breaks users"


def test_python_has_no_cap() -> None:
    assert PROJECT["requires-python"] == ">=3.11"
    classified = {
        Version(one.rpartition(" ")[2]).release
        for one in PROJECT["classifiers"]
        if one.startswith("Programming Language :: Python :: 3.")
    }
    assert classified == {(3, minor) for minor in range(11, 16)}
