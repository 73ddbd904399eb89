"""JSON Schema of types: it accepts the same values as the type."""

from __future__ import annotations

import itertools
from types import GenericAlias
from typing import Annotated, Any, Literal, Optional

import jsonschema
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_ws.schema.types import TypeSchemas

_number = itertools.count()

FLAT = [
    bool,
    int,
    float,
    str,
    None,
    Any,
    Literal["a", "b", 1],
    Annotated[int, msgspec.Meta(ge=0, lt=10)],
    Annotated[str, msgspec.Meta(min_length=1, max_length=2)],
    Annotated[list[int], msgspec.Meta(max_length=2)],
    int | str,
    bool | float | None,
    bytes,
]


def struct(fields: list[tuple[Any, bool]], settings: dict[str, Any]) -> Any:
    """A Struct with fields of these types, of which some have a default; those come last."""
    ordered = sorted(fields, key=lambda one: one[1])
    described: list[Any] = [
        (f"f{at}", Optional[kind], None) if has_default else (f"f{at}", kind)  # noqa: UP045 - of any type
        for at, (kind, has_default) in enumerate(ordered)
    ]
    return msgspec.defstruct(f"Struct{next(_number)}", described, **settings)


def deeper(types: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    plain = types.filter(lambda one: one is not None)
    return st.one_of(
        types.map(lambda one: GenericAlias(list, (one,))),
        types.map(lambda one: GenericAlias(dict, (str, one))),
        st.lists(types, min_size=1, max_size=3).map(lambda many: GenericAlias(tuple, tuple(many))),
        st.builds(
            struct,
            st.lists(st.tuples(plain, st.booleans()), max_size=3),
            st.sampled_from([{}, {"array_like": True}, {"forbid_unknown_fields": True}]),
        ),
    )


TYPES = st.recursive(st.sampled_from(FLAT), deeper, max_leaves=6)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 12),
    st.sampled_from([0.5, -1.5]),  # only JSON Schema treats a float without a fraction as an integer
    st.sampled_from(["", "a", "b", "AA==", "Struct0"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["f0", "f1", "f2", "x", "type"]), inner, max_size=3),
    ),
    max_leaves=8,
)


def fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def like(schema: Any, components: dict[str, Any], values: Any) -> Any:
    """A value that a schema may take, with others at its leaves."""
    if isinstance(schema, dict) and "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]]
    if not isinstance(schema, dict):
        return next(values)
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        return {name: like(one, components, values) for name, one in schema["properties"].items()}
    if kind == "array" and isinstance(schema.get("items"), list):
        return [like(one, components, values) for one in schema["items"]]
    return schema["enum"][0] if "enum" in schema else next(values)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=TYPES, values=st.lists(VALUES, min_size=8, max_size=8))
def test_a_schema_takes_what_its_type_takes(kind: Any, values: list[Any]) -> None:
    found = TypeSchemas([("it", kind, False)])
    judge = jsonschema.Draft7Validator({**found.schemas[0], "components": {"schemas": found.components}})
    jsonschema.Draft7Validator.check_schema(judge.schema)
    shaped = like(found.schemas[0], found.components, itertools.cycle(values))
    for value in [*values, shaped]:
        if not _has_bytes(kind):
            assert judge.is_valid(value) == fits(value, kind), (found.schemas, found.components, value)
        elif fits(value, kind):
            assert judge.is_valid(value)


def _has_bytes(kind: Any) -> bool:
    """Whether it takes base64, which validators of JSON Schema do not look at."""
    todo: list[Any] = [msgspec.inspect.type_info(kind)]
    while todo:
        node = todo.pop()
        if isinstance(node, msgspec.inspect.BytesType):
            return True
        if isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field):
            todo += [getattr(node, name) for name in node.__struct_fields__]
        elif isinstance(node, tuple):
            todo += node
    return False
