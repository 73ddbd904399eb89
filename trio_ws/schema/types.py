"""JSON Schema of Python types. msgspec generates it, or pydantic for its own models.

Invariants:

- The schemas are JSON Schema draft 7, which both OpenRPC 1.3 and AsyncAPI 3 use.
- Named types are components. Two types with the same name get different, longer names.
- A type without a schema raises a TypeError that says where the type is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from trio_ws._types import JSONObject, Value
from trio_ws.models import is_model
from trio_ws.schema.docstring import parse_docstring

__all__ = ["REFERENCE", "JSONSchema", "TypeSchemas", "references"]

JSONSchema: TypeAlias = JSONObject
SchemaHook: TypeAlias = Callable[[type], JSONSchema]

REFERENCE = "#/components/schemas/"

_VALIDATION, _SERIALIZATION = "validation", "serialization"
#: Keywords whose value is one schema, a list of them, or a map of them by name.
_ONE = ("items", "additionalItems", "additionalProperties", "not", "propertyNames", "contains")
_MANY = ("allOf", "anyOf", "oneOf")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")


class TypeSchemas:
    """The schemas of many types, which share their components.

    Args:
        types: for each type, its name in errors, the type, and whether it is the type of results, for which
            pydantic has different schemas.

    Raises:
        TypeError: a type has no schema.

    Attributes:
        schemas: one for each type, in order.
        components: the schemas of types with a name, by name.
    """

    def __init__(self, types: list[tuple[str, object, bool]]) -> None:
        models: list[type] = []

        def collect(kind: type) -> JSONSchema:
            if not is_model(kind):
                raise NotImplementedError
            models.append(kind)
            return {"type": "object"}

        try:
            _, components = _generate([one for _, one, _ in types], collect)
        except Exception:
            for where, one, _ in types:
                _check(where, one, collect)
            raise
        known, defined = _describe_models(list(dict.fromkeys(models)), set(components))
        inputs, components = _generate([one for _, one, _ in types], lambda cls: known[cls, _VALIDATION])
        outputs = inputs
        if models:
            outputs, _ = _generate([one for _, one, _ in types], lambda cls: known[cls, _SERIALIZATION])
        chosen = [outputs[at] if is_result else inputs[at] for at, (_, _, is_result) in enumerate(types)]
        self.schemas: list[JSONSchema] = [_as_draft_7(one) for one in chosen]
        self.components: dict[str, JSONSchema] = {
            name: _with_fields_described(_as_draft_7(one)) for name, one in {**components, **defined}.items()
        }

    def reachable_from(self, schemas: list[JSONSchema]) -> dict[str, JSONSchema]:
        """Return the components that these schemas use, directly or indirectly."""
        return {name: self.components[name] for name in sorted(references(schemas, self.components))}


def _generate(
    types: list[object], hook: SchemaHook | None
) -> tuple[tuple[JSONSchema, ...], dict[str, JSONSchema]]:
    return msgspec.json.schema_components(types, schema_hook=hook, ref_template=REFERENCE + "{name}")


def _check(where: str, kind: object, hook: SchemaHook | None) -> None:
    try:
        _generate([kind], hook)
    except Exception as exc:
        reason = str(exc).rpartition("\n")[2]
        raise TypeError(
            f"{where} has no JSON Schema: {reason or type(exc).__name__}. Annotate it with what msgspec"
            " knows, such as a Struct, a dataclass or Any, or with a model of pydantic"
        ) from exc


def _describe_models(
    models: list[type], taken: set[str]
) -> tuple[dict[tuple[type, str], JSONSchema], dict[str, JSONSchema]]:
    """Return a reference for each model and mode, and the components, under names that are not taken."""
    if not models:
        return {}, {}
    from pydantic.json_schema import models_json_schema  # noqa: PLC0415 - the application imported it

    wanted: Any = [(one, mode) for one in models for mode in (_VALIDATION, _SERIALIZATION)]
    found: Any
    found, document = models_json_schema(wanted, ref_template=REFERENCE + "{model}")
    defined: dict[str, JSONSchema] = document.get("$defs", {})
    names = {name: name for name in defined}
    for name in sorted(defined.keys() & taken):
        wanted, number = f"{name}Model", 1
        while wanted in taken | defined.keys():
            number += 1
            wanted = f"{name}Model{number}"
        names[name] = wanted
    renamed = {names[name]: _with_names(one, names) for name, one in defined.items()}
    return {key: _with_names(one, names) for key, one in found.items()}, renamed


def _with_names(schema: Value, names: dict[str, str]) -> Value:
    if isinstance(schema, list):
        return [_with_names(one, names) for one in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _with_names(one, names) for key, one in schema.items()}
    target = changed.get("$ref")
    if isinstance(target, str):
        name = target.removeprefix(REFERENCE)
        changed["$ref"] = REFERENCE + names.get(name, name)
    return changed


def _as_draft_7(schema: Value) -> Value:
    """Convert a schema from draft 2020-12, which msgspec and pydantic generate, to draft 7."""
    if not isinstance(schema, dict):
        return schema  # true or false
    changed: JSONSchema = {}
    for key, value in schema.items():
        if key == "discriminator":
            continue  # a keyword of OpenAPI; the schemas of the choices have the same tags
        if key in _NAMED and isinstance(value, dict):
            changed[key] = {name: _as_draft_7(one) for name, one in value.items()}
        elif key in _MANY or (key == "prefixItems" and isinstance(value, list)):
            changed[key] = [_as_draft_7(one) for one in value]
        elif key in _ONE:
            changed[key] = _as_draft_7(value)
        else:
            changed[key] = value
    if "prefixItems" in changed:
        rest = changed.pop("items", None)
        changed["items"] = changed.pop("prefixItems")
        if rest is not None:
            changed["additionalItems"] = rest
    if "$ref" in changed and len(changed) > 1:
        changed["allOf"] = [{"$ref": changed.pop("$ref")}]  # draft 7 ignores other keywords next to $ref
    return changed


def _with_fields_described(schema: JSONSchema) -> JSONSchema:
    """Add descriptions of fields to a schema, from the section ``Attributes`` of the docstring."""
    docstring = parse_docstring(schema.get("description", ""))
    if not docstring.attributes:
        return schema
    changed = {**schema, "description": docstring.text}
    if isinstance(schema.get("properties"), dict):
        changed["properties"] = {
            name: _with_description(one, docstring.attributes.get(name, ""))
            for name, one in schema["properties"].items()
        }
    return changed


def _with_description(schema: Value, text: str) -> Value:
    if not text or not isinstance(schema, dict) or "description" in schema:
        return schema
    if "$ref" in schema:
        return {"allOf": [schema], "description": text}
    return {**schema, "description": text}


def references(schemas: Value, components: dict[str, JSONSchema]) -> set[str]:
    """Return the names of the components that schemas use, directly or indirectly."""
    found: set[str] = set()
    todo: list[Value] = [schemas]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo += one
        elif isinstance(one, dict):
            target = one.get("$ref")
            if isinstance(target, str) and target.startswith(REFERENCE):
                name = re.sub("~1", "/", target.removeprefix(REFERENCE))
                if name in components and name not in found:
                    found.add(name)
                    todo.append(components[name])
            todo += [value for value in one.values() if isinstance(value, dict | list)]
    return found
