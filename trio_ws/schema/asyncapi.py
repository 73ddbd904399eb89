"""AsyncAPI 3.0 documents (https://www.asyncapi.com): the messages between an application and its clients.

Each handler becomes a server. Its methods become operations with a reply, on one channel without an address.
Each declared channel becomes a channel whose address is its name. The wildcards of a glob become parameters.
The payloads are packets of ``trio-ws.v1``; see docs/protocol.md.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trio_ws.schema.globs import wildcards

if TYPE_CHECKING:
    from trio_ws._types import JSONObject
    from trio_ws.schema.contract import ChannelContract, HandlerContract, MethodContract, ParameterContract
    from trio_ws.schema.types import JSONSchema, TypeSchemas

__all__ = ["ASYNCAPI_VERSION", "asyncapi_document"]

ASYNCAPI_VERSION = "3.0.0"

_CALL_ID: JSONSchema = {"type": "string", "maxLength": 256}
_CORRELATION = {"location": "$message.payload#/rpc/call_id"}


def asyncapi_document(
    contracts: tuple[HandlerContract, ...],
    types: TypeSchemas,
    *,
    title: str,
    version: str,
    url: str,
) -> JSONObject:
    """Return the document for all handlers of a target.

    Args:
        contracts: the contracts of the handlers.
        types: the schemas of the types in these contracts.
        title: the title of the document.
        version: the version of the interface.
        url: the URL of the target, such as ``ws://localhost:8000``.
    """
    document: JSONObject = {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "servers": {},
        "channels": {},
        "operations": {},
    }
    if len(contracts) == 1 and contracts[0].docstring.text:
        document["info"]["description"] = contracts[0].docstring.text
    for contract, name in zip(contracts, _names(contracts), strict=True):
        _Writer(document, contract, name, "" if len(contracts) == 1 else f"{name}.").write(url)
    if types.components:
        document["components"] = {"schemas": types.components}
    return document


def _names(contracts: tuple[HandlerContract, ...]) -> list[str]:
    names: list[str] = []
    for contract in contracts:
        name, number = contract.name, 1
        while name in names:
            number += 1
            name = f"{contract.name}{number}"
        names.append(name)
    return names


class _Writer:
    """Writes one handler into a document, with a prefix for all names."""

    def __init__(self, document: JSONObject, contract: HandlerContract, server: str, prefix: str) -> None:
        self._document = document
        self._contract = contract
        self._server = server
        self._prefix = prefix

    def write(self, url: str) -> None:
        self._document["servers"][self._server] = _server(url, self._contract)
        if self._contract.methods:
            self._write_calls()
        for channel in self._contract.channels:
            self._write_channel(channel)

    def _write_calls(self) -> None:
        name = f"{self._prefix}calls"
        messages: JSONObject = {"error": _message("An error", _error_packet())}
        self._document["channels"][name] = {
            "address": None,
            "title": f"Calls of {self._contract.name}",
            "servers": [{"$ref": f"#/servers/{self._server}"}],
            "messages": messages,
        }
        for method in self._contract.methods:
            answers = {"item": _item_packet(method), "end": _end_packet()}
            if not method.is_stream:
                answers = {"response": _response_packet(method)}
            messages[f"{method.name}.request"] = _message(f"A call of {method.name}", _request_packet(method))
            for kind, payload in answers.items():
                messages[f"{method.name}.{kind}"] = _message(f"The {kind} of {method.name}", payload)
            self._document["operations"][f"{self._prefix}{method.name}"] = _operation(
                name, method, list(answers)
            )

    def _write_channel(self, channel: ChannelContract) -> None:
        address, parameters = _address(channel.name)
        name = self._unused(re.sub(r"[^\w.-]+", "_", channel.name, flags=re.ASCII))
        described: JSONObject = {
            "address": address,
            "servers": [{"$ref": f"#/servers/{self._server}"}],
            "messages": {"data": {"title": f"Data of {channel.name}", "payload": _channel_packet(channel)}},
        }
        if channel.text:
            described["description"] = channel.text
        if parameters:
            described["parameters"] = {one: {} for one in parameters}
        self._document["channels"][name] = described
        self._document["operations"][f"{name}.publish"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/data"}],
        }

    def _unused(self, name: str) -> str:
        wanted, number = f"{self._prefix}{name}", 1
        taken = self._document["channels"]
        while wanted in taken or f"{wanted}.publish" in self._document["operations"]:
            number += 1
            wanted = f"{self._prefix}{name}_{number}"
        return wanted


def _server(url: str, contract: HandlerContract) -> JSONObject:
    parts = urlsplit(url)
    # AsyncAPI's path parameters have no types.
    path = parts.path.rstrip("/") + re.sub(r"\{(\w+):\w+\}", r"{\1}", contract.path)
    described: JSONObject = {"host": parts.netloc, "protocol": parts.scheme, "pathname": path or "/"}
    variables = re.findall(r"\{(\w+)\}", path)
    if variables:
        described["variables"] = {one: {} for one in variables}
    if contract.docstring.summary:
        described["description"] = contract.docstring.text
    return described


def _operation(channel: str, method: MethodContract, answers: list[str]) -> JSONObject:
    def message(name: str) -> dict[str, str]:
        return {"$ref": f"#/channels/{channel}/messages/{name}"}

    described: JSONObject = {"action": "receive", "channel": {"$ref": f"#/channels/{channel}"}}
    if method.docstring.summary:
        described["summary"] = method.docstring.summary
    if method.docstring.description:
        described["description"] = method.docstring.description
    described["messages"] = [message(f"{method.name}.request")]
    described["reply"] = {
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [*(message(f"{method.name}.{one}") for one in answers), message("error")],
    }
    if method.requires:
        described["x-requires"] = method.requires
    if method.limit is not None:
        described["x-rate-limit"] = {"limit": method.limit.limit, "period": method.limit.period}
    return described


def _message(title: str, payload: JSONSchema) -> JSONObject:
    return {"title": title, "correlationId": _CORRELATION, "payload": payload}


def _address(name: str) -> tuple[str, list[str]]:
    """Return the address of a channel, and its parameters: one for each wildcard of a glob."""
    parts = wildcards(name)
    count = sum(one is None for one in parts)
    parameters = [f"part{number}" if count > 1 else "part" for number in range(1, count + 1)]
    left = iter(parameters)
    # Braces always denote parameters, so others are percent-encoded.
    address = ["{" + next(left) + "}" if one is None else re.sub(r"[{}%]", _percent, one) for one in parts]
    return "".join(address), parameters


def _percent(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


# -- packets ----------------------------------------------------------------------------------------


def _packet(source: int, **fields: JSONSchema) -> JSONSchema:
    properties = {"source": {"const": source}, **fields}
    return {"type": "object", "required": list(properties), "properties": properties}


def _rpc(optional: dict[str, JSONSchema] | None = None, **fields: JSONSchema) -> JSONSchema:
    return _packet(
        5, rpc={"type": "object", "required": list(fields), "properties": {**fields, **(optional or {})}}
    )


def _request_packet(method: MethodContract) -> JSONSchema:
    optional: dict[str, JSONSchema] = {
        "args": _arguments(method.parameters),
        "kwargs": _keyword_arguments(method.parameters),
        "timeout": {"type": "number", "minimum": 0},
    }
    if method.is_stream:
        optional["credits"] = {"type": "integer", "minimum": 0}
        optional["credit_bytes"] = {"type": "integer", "minimum": 0}
    if any(one.is_stream for one in method.parameters):
        optional["streams"] = {"type": "object", "additionalProperties": {"type": "string"}}
    return _rpc(optional, type={"const": "request"}, method={"const": method.name}, call_id=_CALL_ID)


def _value(parameter: ParameterContract) -> JSONSchema:
    if parameter.is_stream:
        return {"type": "null", "x-stream": {"schema": parameter.schema}}
    return parameter.schema


def _arguments(parameters: tuple[ParameterContract, ...]) -> JSONSchema:
    places = [_value(one) for one in parameters if one.kind in ("either", "positional")]
    rest = [one.schema for one in parameters if one.kind == "positional_rest"]
    described: JSONSchema = {"type": "array"}
    if places:
        described["items"] = places
        described["additionalItems"] = rest[0] if rest else False
    elif rest:
        described["items"] = rest[0]
    else:
        described["maxItems"] = 0
    return described


def _keyword_arguments(parameters: tuple[ParameterContract, ...]) -> JSONSchema:
    named = {one.name: one for one in parameters if one.kind in ("either", "keyword")}
    rest = [one.schema for one in parameters if one.kind == "keyword_rest"]
    described: JSONSchema = {"type": "object", "additionalProperties": rest[0] if rest else False}
    if named:
        described["properties"] = {name: _value(one) for name, one in named.items()}
    return described


def _response_packet(method: MethodContract) -> JSONSchema:
    return _rpc({"response": method.result}, type={"const": "response"}, call_id=_CALL_ID)


def _item_packet(method: MethodContract) -> JSONSchema:
    optional = {"response": method.result}
    return _rpc(optional, type={"const": "response"}, call_id=_CALL_ID, is_stream={"const": True})


def _end_packet() -> JSONSchema:
    true: JSONSchema = {"const": True}
    return _rpc(type={"const": "response"}, call_id=_CALL_ID, is_stream=true, is_end=true)


def _error_packet() -> JSONSchema:
    optional: dict[str, JSONSchema] = {"response": {"type": "string"}, "error_data": {}}
    return _rpc(optional, type={"const": "response"}, call_id=_CALL_ID, error={"type": "integer"})


def _channel_packet(channel: ChannelContract) -> JSONSchema:
    return _packet(2, channel={"type": "string"}, data=channel.schema)
