"""The HTML page that lists the methods and channels of a schema, and can call and subscribe to them.

It is a single file: ``static/docs.html`` with the JavaScript client and the schema inlined. It loads no other
resources.

Invariants:

- Text of a schema is never interpreted as markup. It is in the page as JSON with every ``<`` escaped, and the
  script inserts it as text.
- The content security policy allows the page's own script and style by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from trio_ws.schema.typescript import TypeScriptWriter

if TYPE_CHECKING:
    from trio_ws._types import JSONObject
    from trio_ws.schema.contract import HandlerContract, MethodContract
    from trio_ws.schema.types import TypeSchemas

__all__ = ["Page", "fill_page", "make_page"]


class Page(NamedTuple):
    """A page, and the content security policy that it is served with."""

    html: bytes
    policy: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": self.policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }


def fill_page(name: str, data: JSONObject) -> Page:
    """Return a page of ``static``, with its data and, if its script uses it, the JavaScript client.

    Args:
        name: the name of the file.
        data: the data that the script reads.
    """
    text = msgspec.json.encode(data).decode()
    static = importlib.resources.files("trio_ws").joinpath("static")
    html = static.joinpath(name).read_text(encoding="utf-8")
    client = static.joinpath("trio-ws.js").read_text(encoding="utf-8")
    html = html.replace("/* trio-ws.js */", client)
    html = html.replace('{"data": "goes here"}', text.replace("<", "\\u003c"))
    return Page(html.encode(), _policy(html))


def make_page(contracts: tuple[HandlerContract, ...], types: TypeSchemas, *, title: str, path: str) -> Page:
    """Return the page for all handlers of a target.

    Args:
        contracts: the contracts of the handlers.
        types: the schemas of the types in these contracts.
        title: the title of the page.
        path: the path of the page, relative to which the script finds the handlers.
    """
    data = _describe(contracts, types)
    data |= {"title": title, "path": "" if path == "/" else path}
    return fill_page("docs.html", data)


def _policy(html: str) -> str:
    script, style = _hash(html, 'script type="module"'), _hash(html, "style")
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(html: str, tag: str) -> str:
    (content,) = re.findall(f"<{tag}>(.*?)</{tag.split(maxsplit=1)[0]}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _describe(contracts: tuple[HandlerContract, ...], types: TypeSchemas) -> JSONObject:
    writer = TypeScriptWriter(contracts, types)
    return {
        "handlers": [
            {
                "path": one.path,
                "name": one.name,
                "text": one.docstring.text,
                "methods": [_describe_method(method, writer) for method in one.methods],
                "channels": [
                    {"name": channel.name, "type": writer.type(channel.schema), "text": channel.text}
                    for channel in one.channels
                ],
            }
            for one in contracts
        ],
        "types": [
            {"name": writer.name_of(name), "code": writer.component(name)} for name in types.components
        ],
        "components": types.components,
    }


def _describe_method(method: MethodContract, writer: TypeScriptWriter) -> JSONObject:
    return {
        "name": method.name,
        "stream": method.is_stream,
        "summary": method.docstring.summary,
        "text": method.docstring.description,
        "returns": {"type": writer.type(method.result), "text": method.docstring.returns},
        "requires": method.requires,
        "limit": None if method.limit is None else [method.limit.limit, method.limit.period],
        "errors": [{"code": one.code, "name": one.name, "text": one.text} for one in method.errors],
        "parameters": [
            {
                "name": one.name,
                "type": writer.type(one.schema),
                "schema": one.schema,
                "required": one.required,
                "kind": one.kind,
                "stream": one.is_stream,
                "text": one.text,
            }
            for one in method.parameters
        ],
    }
