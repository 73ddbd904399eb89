"""TypeScript declarations: the methods and channels of handlers, for programs that call them.

For a target with one handler, the module has ``interface Methods`` and ``interface Channels``. With several
handlers, these names begin with the name of the handler's class. A method takes its parameters as one object,
or as one tuple if they are passed by position. A stream is an ``AsyncIterable``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from trio_ws.schema.globs import is_glob, wildcards
from trio_ws.schema.types import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ws._types import Value
    from trio_ws.schema.contract import (
        ChannelContract,
        HandlerContract,
        MethodContract,
        ParameterContract,
    )
    from trio_ws.schema.types import JSONSchema, TypeSchemas

__all__ = ["TypeScriptWriter", "typescript_module"]

_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII).fullmatch
_SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
_WORDS = """
any as async await boolean break case catch class const continue debugger declare default delete do else enum
export extends false finally for from function get if implements import in infer instanceof interface is keyof
let module namespace never new null number object of package private protected public readonly require return
set static string super switch symbol this throw true try type typeof undefined unique unknown var void while
with yield AsyncIterable Promise Array
"""
#: Names that a user's type must not have in the module.
_RESERVED = frozenset(_WORDS.split())
_INDENT = "  "


def typescript_module(contracts: tuple[HandlerContract, ...], types: TypeSchemas) -> str:
    """Return the text of the module.

    Raises:
        ValueError: a method has positional-only parameters and required keyword-only parameters.
    """
    return TypeScriptWriter(contracts, types).module()


class TypeScriptWriter:
    """Writes contracts as TypeScript.

    Args:
        contracts: the contracts of the handlers.
        types: the schemas of the types in these contracts.
    """

    def __init__(self, contracts: tuple[HandlerContract, ...], types: TypeSchemas) -> None:
        self._contracts = contracts
        self._types = types
        self._prefixes = _prefixes(contracts)
        taken = {
            f"{prefix}{kind}" for prefix in self._prefixes for kind in ("Methods", "Channels", "ChannelData")
        }
        self._names: dict[str, str] = {}
        for name in types.components:
            self._names[name] = _unused(re.sub(r"\W|^(?=\d)", "_", name), taken | _RESERVED)
            taken.add(self._names[name])

    def module(self) -> str:
        """Return the text of the module with all declarations."""
        parts = ["// Made by `trio-ws types`. Changes will be lost.\n"]
        parts += [self.component(name) for name in self._types.components]
        for prefix, contract in zip(self._prefixes, self._contracts, strict=True):
            parts.append(self._methods(prefix, contract))
            parts.append(self._channels(prefix, contract))
            if any(is_glob(one.name) for one in contract.channels):
                parts.append(_channel_data(prefix, contract.channels))
        return "\n".join(parts)

    def name_of(self, name: str) -> str:
        """Return the TypeScript name of a component."""
        return self._names[name]

    # -- declarations -------------------------------------------------------------------------------

    def component(self, name: str) -> str:
        """Return the declaration of a component."""
        schema = self._types.components[name]
        text = _comment(schema.get("description", ""), "")
        own = self._names[name]
        plain_object = schema.get("type") == "object" and not isinstance(
            schema.get("additionalProperties"), dict
        )
        if plain_object and schema.get("properties"):
            return f"{text}export interface {own} {self._members(schema, '')}\n"
        return f"{text}export type {own} = {self.type(schema)};\n"

    def _methods(self, prefix: str, contract: HandlerContract) -> str:
        lines = [f"{_comment(contract.docstring.text, '')}export interface {prefix}Methods {{"]
        lines += [_comment(_doc_of(one), _INDENT) + self._method(one) for one in contract.methods]
        return "\n".join([*lines, "}\n"])

    def _method(self, method: MethodContract) -> str:
        result = self.type(method.result)
        container = "AsyncIterable" if method.is_stream else "Promise"
        return f"{_INDENT}{_key(method.name)}({self._parameters(method)}): {container}<{result}>;"

    def _channels(self, prefix: str, contract: HandlerContract) -> str:
        lines = [
            f"/** The data of each channel, by its name or glob. */\nexport interface {prefix}Channels {{"
        ]
        for one in contract.channels:
            text = _comment(one.text, _INDENT)
            lines.append(f"{text}{_INDENT}{_key(one.name)}: {self.type(one.schema, _INDENT)};")
        return "\n".join([*lines, "}\n"])

    # -- parameters ---------------------------------------------------------------------------------

    def _parameters(self, method: MethodContract) -> str:
        parameters = method.parameters
        if not parameters:
            return ""
        if any(one.kind in ("positional", "positional_rest") for one in parameters):
            return self._tuple_of(method)
        optional = all(not one.required for one in parameters)
        named = [one for one in parameters if one.kind != "keyword_rest"]
        inner = _INDENT * 2
        lines = [
            _comment(one.text, inner) + f"{inner}{_key(one.name)}{_mark(one)}: {self._value(one, inner)};"
            for one in named
        ]
        for one in parameters:
            if one.kind == "keyword_rest":
                every = dict.fromkeys(
                    [self.type(one.schema, inner), *(self._value(other, inner) for other in named)]
                )
                undefined = ["undefined"] if any(not other.required for other in named) else []
                lines.append(f"{inner}[{one.name}: string]: {_union([*every, *undefined])};")
        body = "\n".join(["{", *lines, f"{_INDENT}}}"])
        return f"params{'?' if optional else ''}: {body}"

    def _tuple_of(self, method: MethodContract) -> str:
        named = [one.name for one in method.parameters if one.kind == "keyword" and one.required]
        if named:
            raise ValueError(
                f"the method {method.name!r} has positional-only parameters and requires"
                f" {named[0]!r} by name, which the generated types cannot express; remove the slash or the"
                " star from its signature"
            )
        members = []
        for one in method.parameters:
            name = one.name if one.name not in _RESERVED else f"{one.name}_"
            if one.kind == "positional_rest":
                members.append(f"...{name}: {_in_array(self.type(one.schema))}[]")
            elif one.kind in ("either", "positional"):
                members.append(f"{name}{_mark(one)}: {self._value(one, _INDENT)}")
        optional = all(not one.required for one in method.parameters)
        return f"params{'?' if optional else ''}: [{', '.join(members)}]"

    def _value(self, parameter: ParameterContract, indent: str) -> str:
        written = self.type(parameter.schema, indent)
        if not parameter.is_stream:
            return written
        return f"AsyncIterable<{written}>" + (" | null" if parameter.nullable else "")

    # -- types --------------------------------------------------------------------------------------

    def type(self, schema: Value, indent: str = "") -> str:
        """Return a schema as a TypeScript type."""
        if schema is False:
            return "never"
        if not isinstance(schema, dict):
            return "unknown"
        if "$ref" in schema:
            return self._names[schema["$ref"].removeprefix(REFERENCE)]
        if "const" in schema:
            return json.dumps(schema["const"])
        if "enum" in schema:
            return _union(map(json.dumps, schema["enum"]))
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return _union(self.type(one, indent) for one in schema[key])
        if "allOf" in schema:
            return " & ".join(_in_array(self.type(one, indent)) for one in schema["allOf"])
        kind = schema.get("type")
        if isinstance(kind, list):
            return _union(self.type({**schema, "type": one}, indent) for one in kind)
        if kind == "array":
            return self._array(schema, indent)
        if kind == "object" or "properties" in schema:
            return self._object(schema, indent)
        return _SIMPLE.get(str(kind), "unknown")

    def _array(self, schema: JSONSchema, indent: str) -> str:
        items = schema.get("items", True)
        if not isinstance(items, list):
            return f"{_in_array(self.type(items, indent))}[]"
        least = schema.get("minItems", 0)
        members = [
            _in_array(self.type(one, indent)) + ("?" if at >= least else "") for at, one in enumerate(items)
        ]
        more = schema.get("additionalItems", schema.get("maxItems") != len(items))
        if more is not False:
            members.append(f"...{_in_array(self.type(more, indent))}[]")
        return f"[{', '.join(members)}]"

    def _object(self, schema: JSONSchema, indent: str) -> str:
        more = schema.get("additionalProperties", not schema.get("properties"))
        if not schema.get("properties"):
            return "{ [key: string]: " + self.type(more, indent) + " }" if more is not False else "{}"
        return self._members(schema, indent)

    def _members(self, schema: JSONSchema, indent: str) -> str:
        inner = indent + _INDENT
        required = schema.get("required", ())
        lines = []
        written = []
        for name, one in schema["properties"].items():
            text = _comment(one.get("description", "") if isinstance(one, dict) else "", inner)
            written.append(self.type(one, inner))
            lines.append(f"{text}{inner}{_key(name)}{'' if name in required else '?'}: {written[-1]};")
        more = schema.get("additionalProperties")
        if isinstance(more, dict):
            every = [self.type(more, inner), *written]
            undefined = [] if set(schema["properties"]) <= set(required) else ["undefined"]
            lines.append(f"{inner}[key: string]: {_union([*every, *undefined])};")
        return "\n".join(["{", *lines, f"{indent}}}"])


def _prefixes(contracts: tuple[HandlerContract, ...]) -> list[str]:
    if len(contracts) == 1:
        return [""]
    prefixes: list[str] = []
    for one in contracts:
        prefixes.append(_unused(one.name, set(prefixes)))
    return prefixes


def _unused(name: str, taken: set[str] | frozenset[str]) -> str:
    wanted, number = name, 1
    while wanted in taken:
        number += 1
        wanted = f"{name}{number}"
    return wanted


def _channel_data(prefix: str, channels: tuple[ChannelContract, ...]) -> str:
    """Return a type for the data of a channel whose name a glob matches."""
    own = f"{prefix}Channels"
    lines = [
        "/** The data of the channel of a name. */",
        f"export type {prefix}ChannelData<Name extends string> = Name extends keyof {own} ? {own}[Name]",
    ]
    for one in channels:
        if is_glob(one.name):
            literal = "".join(
                "${string}" if part is None else _in_template(part) for part in wildcards(one.name)
            )
            lines.append(f"{_INDENT}: Name extends `{literal}` ? {own}[{json.dumps(one.name)}]")
    return "\n".join([*lines, f"{_INDENT}: unknown;\n"])


def _in_template(text: str) -> str:
    return re.sub(r"[`\\$]", r"\\\g<0>", text)


def _doc_of(method: MethodContract) -> str:
    notes = [method.docstring.text]
    if method.docstring.returns:
        notes.append(f"@returns {method.docstring.returns}")
    if method.requires:
        notes.append(f"Requires: {method.requires}.")
    if method.limit is not None:
        notes.append(f"At most {method.limit.limit} calls in {method.limit.period:g} seconds.")
    declared = [
        f"@throws {one.name} ({one.code}): {one.text}" for one in method.errors[: len(method.source.errors)]
    ]
    return "\n\n".join([one for one in notes if one] + (["\n".join(declared)] if declared else []))


def _comment(text: str, indent: str) -> str:
    if not text.strip():
        return ""
    lines = text.strip().replace("*/", "*\\/").splitlines()
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    body = "\n".join(f"{indent} * {line}".rstrip() for line in lines)
    return f"{indent}/**\n{body}\n{indent} */\n"


def _key(name: str) -> str:
    return name if _PLAIN_KEY(name) else json.dumps(name)


def _mark(parameter: ParameterContract) -> str:
    return "" if parameter.required else "?"


def _union(types: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(types)) or "never"


def _in_array(written: str) -> str:
    return f"({written})" if re.search(r" [|&] ", written) else written
