"""Sphinx builds the documentation from this: ``make docs``.

Invariants: a warning is an error, a reference to a missing name of the package is a warning, and
nothing is fetched from the network.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from pygments.lexers.data import JsonLexer
from pygments.lexers.special import TextLexer
from sphinx import addnodes

import trio_ws

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "trio_ws"
author = "the trio_ws authors"
copyright = "the trio_ws authors"  # noqa: A001 - Sphinx's name
version = release = trio_ws.__version__
repository = "https://github.com/trio-ws/trio-ws"

sys.path.insert(0, str(Path(__file__).parent))
extensions = [
    "programs",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
    "myst_parser",
]
# Links into the documentation of Python and trio need the network, so one has to ask for them.
if os.environ.get("DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
    }

exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    # Annotations name what is not ours, type variables, and aliases that only type checkers see.
    ("py:(class|data)", r"(?!trio_ws\.[A-Z]).*"),
    ("py:.*", r"(trio|ssl|msgspec|logging|socket|contextlib|collections|typing|signal|picows|hiredis)\b.*"),
]
# `name` in a docstring is a reference.
default_role = "py:obj"
nitpick_ignore = [
    ("py:exc", "HTTPError"),  # for those who serve an App by other means
    ("py:obj", "trio_ws.errors"),
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
# The contents of a page show names without their class.
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"trio_ws {version}"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_js_files = [("copy.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": True,
    # Each page links to its source there, and the foot of each page to the repository.
    "source_repository": f"{repository}/",
    "source_branch": "main",
    "source_directory": "docs/",
    "footer_icons": [
        {
            "name": "Repository",
            "url": repository,
            "html": "Repository",
            "class": "",
        }
    ],
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app: Sphinx) -> None:
    """The blocks of docs/protocol.md that its test looks for have names of their own."""
    app.add_lexer("jsonrpc", JsonLexer)
    app.add_lexer("msgpack", TextLexer)
    app.connect("doctree-read", unlink_any)


def unlink_any(app: Sphinx, doctree: nodes.document) -> None:
    """In an annotation Any is typing's, not our predicate."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        if node.get("reftype") == "class" and node.get("reftarget") == "Any":
            node.replace_self(nodes.Text("Any"))
