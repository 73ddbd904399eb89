"""OpenRPC 1.3 documents (https://spec.open-rpc.org): the methods of one handler.

OpenRPC only has methods with one result. Everything else is an extension, whose name begins with ``x-``:

- ``x-stream`` of a method is the schema of its items. Its result is null, at the end of the stream.
- ``x-stream`` of a parameter is the schema of the items that the caller sends. The parameter itself is null.
- ``x-kind`` of a parameter is ``positional``, ``keyword``, ``positional_rest`` or ``keyword_rest``.
- ``x-requires`` of a method describes the clients that may call it.
- ``x-rate-limit`` of a method is its rate limit: ``limit`` calls in ``period`` seconds.
- ``x-channels`` of the document is the list of channels, each with a name or glob and the schema of its data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ws._types import JSONObject, Value
    from trio_ws.schema.contract import HandlerContract, MethodContract, ParameterContract
    from trio_ws.schema.types import TypeSchemas

__all__ = ["OPENRPC_VERSION", "openrpc_document"]

OPENRPC_VERSION = "1.3.2"

_NULL = {"type": "null"}


def openrpc_document(
    contract: HandlerContract,
    types: TypeSchemas,
    *,
    title: str,
    version: str,
    url: str | None = None,
    methods: Iterable[MethodContract] | None = None,
) -> JSONObject:
    """Return the document of one handler.

    Args:
        contract: the contract of the handler.
        types: the schemas of the types in the contract.
        title: the title of the document.
        version: the version of the interface.
        url: the URL of the handler; None to leave it out.
        methods: the methods to describe. Default: all.
    """
    chosen = contract.methods if methods is None else tuple(methods)
    used = [schema for method in chosen for schema in method.schemas]
    used += [channel.schema for channel in contract.channels]
    document: JSONObject = {
        "openrpc": OPENRPC_VERSION,
        "info": _with_text({"title": title, "version": version}, contract.docstring.text),
        "methods": [_method(one) for one in chosen],
    }
    if url is not None:
        document["servers"] = [{"name": contract.name, "url": url}]
    components = types.reachable_from(used)
    if components:
        document["components"] = {"schemas": components}
    if contract.channels:
        document["x-channels"] = [
            _with_text({"name": one.name, "schema": one.schema}, one.text) for one in contract.channels
        ]
    return document


def _method(method: MethodContract) -> JSONObject:
    kinds = {one.kind for one in method.parameters}
    structure = "either"
    if kinds & {"positional", "positional_rest"}:
        structure = "by-position"
    elif kinds & {"keyword", "keyword_rest"}:
        structure = "by-name"
    described: JSONObject = {"name": method.name, "paramStructure": structure}
    if method.docstring.summary:
        described["summary"] = method.docstring.summary
    _with_text(described, method.docstring.description)
    described["params"] = [_parameter(one) for one in method.parameters]
    schema: Value = _NULL if method.is_stream else method.result
    described["result"] = _with_text(
        {"name": "end" if method.is_stream else "result", "schema": schema}, method.docstring.returns
    )
    if method.is_stream:
        described["x-stream"] = {"schema": method.result}
    described["errors"] = [{"code": one.code, "message": one.text} for one in method.errors]
    if method.requires:
        described["x-requires"] = method.requires
    if method.limit is not None:
        described["x-rate-limit"] = {"limit": method.limit.limit, "period": method.limit.period}
    return described


def _parameter(parameter: ParameterContract) -> JSONObject:
    described: JSONObject = {
        "name": parameter.name,
        "required": parameter.required,
        "schema": parameter.schema,
    }
    if parameter.is_stream:
        described["schema"] = _NULL
        described["x-stream"] = {"schema": parameter.schema}
    if parameter.kind != "either":
        described["x-kind"] = parameter.kind
    return _with_text(described, parameter.text)


def _with_text(described: JSONObject, text: str) -> JSONObject:
    if text:
        described["description"] = text
    return described
