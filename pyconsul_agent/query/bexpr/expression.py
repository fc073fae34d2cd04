"""Filter expressions, ready to be asked of rows. Pure.

`compile_filter` parses once and makes one function of the whole, which looks at attributes and nothing else. What an
expression may cost is bounded: its length, its depth, the number of its comparisons, each search (`wire.regexp`) and
all searches together.
Source of rules and words: go-bexpr 0.1.2, as Consul 1.10 uses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from pyconsul_agent.query.bexpr.fields import Field, fields_of
from pyconsul_agent.query.bexpr.grammar import Both, Either, Expression, Match, Not, parse
from pyconsul_agent.wire.gotypes import parse_bool, quote
from pyconsul_agent.wire.regexp import compile_regexp

EXPRESSION_CHARACTERS_MAX = 4096
COMPARISONS_MAX = 256
"""Of one expression. go-bexpr names 32 and does not enforce it."""
COMPILED_KEPT_MAX = 256

SEARCH_STEPS_MAX = 1 << 28
"""Of all searches of one filter in all rows of one answer: about a second, if someone made rows for that purpose."""

RowT = TypeVar("RowT")
Predicate = Callable[[Any], bool]


class FilterError(ValueError):
    """An expression that is no filter for these rows. The message is for the one who wrote it."""


class SyntaxProblem(FilterError):
    """It is no expression at all."""


@lru_cache(maxsize=COMPILED_KEPT_MAX)
def parse_filter(text: str) -> Expression:
    """The tree of an expression. Raises SyntaxProblem."""
    if len(text) > EXPRESSION_CHARACTERS_MAX:
        raise SyntaxProblem(f"the expression is longer than {EXPRESSION_CHARACTERS_MAX} characters")
    try:
        tree = parse(text)
    except ValueError as error:
        raise SyntaxProblem(str(error)) from None
    count = sum(1 for _ in _comparisons(tree))
    if count > COMPARISONS_MAX:
        raise SyntaxProblem(f"Number of match expressions ({count}) exceeds the limit ({COMPARISONS_MAX})")
    return tree


class Filter:
    """A compiled expression for rows of one type."""

    def __init__(self, tree: Expression, form: type) -> None:
        self._meter = _Meter()
        self._passes = _compile(tree, fields_of(form), self._meter)

    def keep(self, rows: Iterable[RowT]) -> list[RowT]:
        """The rows that pass. Raises ValueError when searches in their texts could take too long."""
        self._meter.left = SEARCH_STEPS_MAX
        return [row for row in rows if self._passes(row)]


class _Meter:
    """How many steps searches may take yet."""

    left = SEARCH_STEPS_MAX

    def take(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise ValueError("searches for its regular expressions could take too long; that is not supported")


@lru_cache(maxsize=COMPILED_KEPT_MAX)
def compile_filter(text: str, form: type) -> Filter:
    """The filter that an expression is for rows of type `form`. Raises FilterError."""
    return Filter(parse_filter(text), form)


def _comparisons(tree: Expression) -> Iterator[Match]:
    if isinstance(tree, Match):
        yield tree
    elif isinstance(tree, Not):
        yield from _comparisons(tree.part)
    else:
        for part in tree.parts:
            yield from _comparisons(part)


def _compile(tree: Expression, known: Mapping[str, Field], meter: _Meter) -> Predicate:
    if isinstance(tree, Match):
        return _comparison(tree, known, meter)
    if isinstance(tree, Not):
        part = _compile(tree.part, known, meter)
        return lambda row: not part(row)
    parts = tuple(_compile(part, known, meter) for part in tree.parts)
    if isinstance(tree, Both):
        return lambda row: all(part(row) for part in parts)
    assert isinstance(tree, Either)
    return lambda row: any(part(row) for part in parts)


# --- one comparison -------------------------------------------------------------------------------------------------


def _comparison(match: Match, known: Mapping[str, Field], meter: _Meter) -> Predicate:
    """Judge the selector, the operator and the value, in this order; then make a function of them."""
    path = _path(match.selector, known)
    last, shown = path[-1], quote(".".join(match.selector))
    if match.operator not in last.operators:
        raise FilterError(f"Invalid match operator {quote(match.operator)} for selector {shown}")
    wanted = None if match.value is None else _coerced(last, match.value, shown)
    test = _test(match.operator, wanted, meter)
    # compat: 1.10 says true for every operator but these where a map has no such key, also for "matches".
    absent = match.operator not in ("Equal", "Is Not Empty", "In")
    for at in range(len(path) - 1, -1, -1):
        reach = path[at].attribute
        test = _reach(reach, test, absent) if reach else _look_up(match.selector[at], test, absent)
        if at and path[at - 1].kind == "list":
            test = _any(test)
    return test


def _path(selector: tuple[str, ...], known: Mapping[str, Field]) -> list[Field]:
    """The fields that a selector goes through."""
    path: list[Field] = []
    for name in selector:
        field = known.get(name) or known.get("")
        if field is None:
            raise FilterError(f"Selector {quote('.'.join(selector[: len(path) + 1]))} is not valid")
        path.append(field)
        known = field.inner
    return path


_INTEGER = re.compile(
    r"[+-]?(?:0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0(?:_?[0-7])*|[1-9](?:_?[0-9])*)"
)
_INTEGER_CHARACTERS_MAX = 80


def _integer(text: str) -> int:
    """strconv.ParseInt with base 0. Raises ValueError with Go's words."""
    problem = "invalid syntax"
    if _INTEGER.fullmatch(text):
        problem = "value out of range"
        plain = text.replace("_", "")
        digits = plain.lstrip("+-")
        if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            plain = plain.replace("0", "0o", 1)
        if len(plain) <= _INTEGER_CHARACTERS_MAX and -(1 << 63) <= (value := int(plain, 0)) < 1 << 63:
            return value
    raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: {problem}")


def _coerced(field: Field, text: str, shown: str) -> object:
    try:
        return _integer(text) if field.value == "integer" else parse_bool(text) if field.value == "boolean" else text
    except ValueError as error:
        raise FilterError(f"Failed to coerce value {quote(text)} for selector {shown}: {error}") from None


def _test(operator: str, wanted: Any, meter: _Meter) -> Predicate:
    """The comparison itself, of the value that the selector leads to. A list or map may be None, which is empty."""
    if operator == "Equal":
        return lambda value: bool(value == wanted)
    if operator == "Not Equal":
        return lambda value: bool(value != wanted)
    if operator == "Is Empty":
        return lambda value: not value
    if operator == "Is Not Empty":
        return bool
    if operator == "In":
        return lambda value: value is not None and wanted in value
    if operator == "Not In":
        return lambda value: value is None or wanted not in value
    return _search(operator, wanted, meter)


def _search(operator: str, wanted: str, meter: _Meter) -> Predicate:
    try:
        expression = compile_regexp(wanted)
    except ValueError as error:
        raise FilterError(f"Failed to compile regular expression {quote(wanted)}: {error}") from None
    positive = operator == "Matches"

    def search(value: str) -> bool:
        meter.take(expression.steps(len(value)))
        return (expression.search(value) is not None) is positive

    return search


# --- the way to the value -------------------------------------------------------------------------------------------


def _reach(attribute: str, test: Predicate, absent: bool) -> Predicate:
    """`test` of what a struct keeps in a field."""
    # compat: 1.10 ends the connection where a pointer is nil; here it is as an absent key.
    return lambda row: absent if row is None else test(getattr(row, attribute))


def _any(test: Predicate) -> Predicate:
    """`test` of any item of a list."""
    return lambda items: items is not None and any(test(item) for item in items)


def _look_up(key: str, test: Predicate, absent: bool) -> Predicate:
    """`test` of what a map has under a key."""

    def look_up(row: Any) -> bool:
        value = None if row is None else row.get(key)
        return absent if value is None else test(value)

    return look_up
