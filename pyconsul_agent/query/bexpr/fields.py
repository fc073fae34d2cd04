"""What may be selected of each kind of row: its fields by their names in JSON, and what may be asked of them. Pure.

The configuration of a type follows from the type, as in Consul: texts may be compared, searched and matched; numbers
and booleans compared; lists and maps asked for what they hold and whether they are empty; structs only for their
fields. `HIDDEN` are the fields that Consul keeps out.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Literal

from pyconsul_agent.structs.base import Duration, GoTime

Kind = Literal["text", "integer", "boolean", "list", "map", "struct"]

COMPARE = frozenset({"Equal", "Not Equal"})
CONTAIN = frozenset({"In", "Not In"})
EMPTY = frozenset({"Is Empty", "Is Not Empty"})
MATCH = frozenset({"Matches", "Not Matches"})
INDEXES = frozenset({"CreateIndex", "ModifyIndex"})
HIDDEN: Mapping[str, frozenset[str]] = {
    "NodeService": frozenset({"LocallyRegisteredAsSidecar"}),
    "ServiceConnect": frozenset({"SidecarService"}),
    "ConnectProxyConfig": frozenset({"Config"}),
    "Upstream": frozenset({"Config", "IngressHosts", "CentrallyConfigured"}),
    "HealthCheck": frozenset({"Definition"}),
    "Intention": frozenset({"CreatedAt", "UpdatedAt", "Permissions", "DefaultAddr", "DefaultPort", "Hash"}),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One step of a selector. `attribute` is where a struct keeps it; `inner` are the fields below.

    Below a map there is one field for any key, named "". Fields below a list are those of its items.
    """

    kind: Kind
    operators: frozenset[str]
    value: Kind | None
    """What the value of a comparison must be; None where there is none."""
    inner: Mapping[str, Field]
    attribute: str = ""


TEXT = Field("text", COMPARE | CONTAIN | MATCH, "text", {})
INTEGER = Field("integer", COMPARE, "integer", {})
BOOLEAN = Field("boolean", COMPARE, "boolean", {})


@cache
def fields_of(form: type) -> Mapping[str, Field]:
    """The fields of a struct type, by their names in JSON. There are as many types as in the program."""
    hints = typing.get_type_hints(form)
    hidden = HIDDEN.get(form.__name__, frozenset()) | INDEXES
    found: dict[str, Field] = {}
    for each in fields(form):
        name = each.metadata["wire"]
        shape = None if name in hidden else _field(hints[each.name])
        if shape is not None:
            found[name] = Field(shape.kind, shape.operators, shape.value, shape.inner, each.name)
    return found


def _field(hint: Any) -> Field | None:
    """The configuration of a type; None for types that cannot be filtered by."""
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in hint.__args__ if part is not type(None))
    simple = {str: TEXT, int: INTEGER, Duration: INTEGER, bool: BOOLEAN}.get(hint)
    if simple is not None:
        return simple
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _list(_field(hint.__args__[0]))
    if origin is Mapping:
        inner = _field(hint.__args__[1])
        return Field("map", EMPTY | CONTAIN, "text", {} if inner is None else {"": inner})
    if is_dataclass(hint) and hint is not GoTime:
        return Field("struct", frozenset(), None, fields_of(typing.cast(type, hint)))
    return None


def _list(item: Field | None) -> Field:
    if item is not None and item.value is not None and not item.inner:
        return Field("list", CONTAIN | EMPTY, item.value, {})
    return Field("list", EMPTY, None, {} if item is None else item.inner)
