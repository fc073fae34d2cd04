"""Templates of prepared queries: one stored query that stands for every name with its prefix.

Strings of the `Service` part may hold `${...}` with the variables `name.full`, `name.prefix`, `name.suffix` and
`agent.segment`, quoted text, and `match(N)`, a group of the template's regular expression. `$${` is a plain `${`.
Of the original's expression language that is all; arithmetic, conditions and indexing are refused, as are regular
expressions that could take long: names come from whoever can send a DNS query. Knows no store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from pyconsul_agent.structs.prepared_query import PreparedQuery
from pyconsul_agent.wire.regexp import BadRegexp, compile_regexp

NAME_PREFIX_MATCH = "name_prefix_match"
MATCHED_CHARACTERS_MAX = 128
"""Longer names are not matched."""
SHOWN_CHARACTERS_MAX = 200
"""So much of a string stands in an error about it."""
RENDERED_CHARACTERS_MAX = 1024 * 1024
"""All strings of a rendered query together: a long name may stand in them very often."""


class BadTemplate(ValueError):
    """A template that cannot be compiled or rendered; the text says why."""


def check(query: PreparedQuery) -> None:
    """Raises BadTemplate when `query` could not be rendered."""
    render(query, query.name, segment="")


def render(query: PreparedQuery, name: str, *, segment: str) -> PreparedQuery:
    """The query that a template gives for `name`, asked for by an agent of `segment`. Raises BadTemplate."""
    if query.template.type != NAME_PREFIX_MATCH:
        raise BadTemplate(f"Bad Template.Type '{query.template.type}'")
    groups = _groups(query.template.regexp, name)
    variables = {
        "name.full": name,
        "name.prefix": query.name,
        "name.suffix": name.removeprefix(query.name),
        "agent.segment": segment,
    }

    left = RENDERED_CHARACTERS_MAX

    def visit(path: str, text: str) -> str:
        nonlocal left
        try:
            expanded = _expand(text, variables, groups, left)
        except BadTemplate as error:
            raise BadTemplate(f"Bad format '{text[:SHOWN_CHARACTERS_MAX]}' in Service{path}: {error}") from error
        left -= len(expanded)
        return expanded

    service = _walk(query.service, "", visit)
    if query.template.remove_empty_tags:
        service = replace(service, tags=tuple(tag for tag in service.tags or () if tag))
    return replace(query, service=service)


def _walk(value: Any, path: str, visit: Callable[[str, str], str]) -> Any:
    """`value` with every string in it replaced by what `visit` makes of it; keys of maps stay."""
    if isinstance(value, str):
        return visit(path, value)
    if isinstance(value, tuple):
        return tuple(_walk(item, f"{path}[{place}]", visit) for place, item in enumerate(value))
    if isinstance(value, Mapping):
        return {key: _walk(item, f"{path}[{key}]", visit) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {
            field.name: _walk(getattr(value, field.name), f"{path}.{field.metadata['wire']}", visit)
            for field in fields(value)
        }
        return replace(value, **parts)
    return value


# --- expressions ------------------------------------------------------------------------------------------------

_EXPRESSION = re.compile(
    r"""\s*(?:
        (?P<variable>[A-Za-z_][\w.]*)
      | "(?P<text>[^"\\$]*)"
      | match\s*\(\s*(?P<group>-?[0-9]{1,9})\s*\)
    )\s*\}""",
    re.VERBOSE | re.ASCII,
)


def _expand(text: str, variables: Mapping[str, str], groups: tuple[str, ...], characters_max: int) -> str:
    """`text` with its expressions evaluated. Raises BadTemplate, also for a result that is too long."""
    out: list[str] = []
    at = 0
    left = characters_max - len(text)
    while (start := text.find("${", at)) >= 0:
        if start > at and text[start - 1] == "$":
            out.append(text[at : start - 1] + "${")
            at = start + 2
            continue
        out.append(text[at:start])
        found = _EXPRESSION.match(text, start + 2)
        if found is None:
            raise BadTemplate("the expression is malformed, or of a kind that is not supported")
        out.append(_value(found, variables, groups))
        left -= len(out[-1])
        if left < 0:
            raise BadTemplate("the result is too long")
        at = found.end()
    out.append(text[at:])
    return "".join(out)


def _value(found: re.Match[str], variables: Mapping[str, str], groups: tuple[str, ...]) -> str:
    if (variable := found["variable"]) is not None:
        if variable not in variables:
            raise BadTemplate(f"unknown variable accessed: {variable}")
        return variables[variable]
    if (text := found["text"]) is not None:
        return text
    number = int(found["group"])
    return groups[number] if 0 <= number < len(groups) else ""


def _groups(pattern: str, name: str) -> tuple[str, ...]:
    """The whole match and its groups, those that took no part empty; nothing without a match."""
    if not pattern:
        return ()
    try:
        compiled = compile_regexp(pattern)
        if len(name) > MATCHED_CHARACTERS_MAX:
            raise BadTemplate(f"a name longer than {MATCHED_CHARACTERS_MAX} characters is not matched")
        found = compiled.search(name)
    except BadRegexp as error:
        raise BadTemplate(f"Bad Regexp: {error}") from error
    return () if found is None else (found[0], *found.groups(""))
