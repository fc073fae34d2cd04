"""The language of filters, as Consul 1.10 has it (go-bexpr 0.1.2): from text to a tree. Pure.

    Tags contains "v1" and not (Meta.rack == r1 or Meta["zone id"] is empty)

| expression                                   | is true when                              |
|----------------------------------------------|-------------------------------------------|
| `selector == value`, `selector != value`     | equal, not equal                          |
| `value in selector`, `selector contains value`, both with `not` | a part: of a list, of a map's keys, of a text |
| `selector is empty`, `selector is not empty` | nothing is in the list or map             |
| `selector matches value`, `not matches`      | the regular expression is found in a text |
| `not e`, `e and e`, `e or e`, `( e )`        | as said; `and` binds closer than `or`     |

A value is a bare word, a number, or text in quotes or backticks. The rules below keep the order of the original: which
alternative is tried first decides what an error says.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.query.bexpr import peg
from pyconsul_agent.query.bexpr.peg import (
    Matcher,
    Rule,
    any_character,
    chain,
    choice,
    error,
    followed_by,
    literal,
    many,
    maybe,
    not_followed_by,
    one_of,
    rule,
    sequence,
    text_of,
)
from pyconsul_agent.query.bexpr.unquote import unquote

DEPTH_MAX = 80
"""Each `not` is a level, each pair of parentheses two."""


@dataclass(frozen=True, slots=True)
class Match:
    """One comparison. `operator` is the name that errors show; `value` is None for those without one."""

    selector: tuple[str, ...]
    operator: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Not:
    """True when `part` is not."""

    part: Expression


@dataclass(frozen=True, slots=True)
class Both:
    """True when all parts are."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """True when one part is."""

    parts: tuple[Expression, ...]


Expression = Match | Not | Both | Either

# --- words ----------------------------------------------------------------------------------------------------------

_ = rule("_", "whitespace", many(one_of(r"[ \t\r\n]", " \t\r\n"), least=1))
_space = maybe(_)
_end = rule("EOF", "", not_followed_by(any_character))

_text = Rule("StringLiteral", "string")
_raw = many(rule("RawStringChar", "", sequence(not_followed_by(literal("`")), any_character)))
_double = many(rule("DoubleStringChar", "", sequence(not_followed_by(literal('"')), any_character)))
_text.body = choice(
    text_of(
        choice(sequence(literal("`"), _raw, literal("`")), sequence(literal('"'), _double, literal('"'))),
        unquote,
    ),
    sequence(
        choice(sequence(literal("`"), _raw), sequence(literal('"'), _double)),
        _end,
        error("Unterminated string literal"),
    ),
)

_digits = many(one_of("[0-9]", string.digits))
_amount = rule(
    "IntegerOrFloat",
    "",
    sequence(
        choice(literal("0"), sequence(one_of("[1-9]", "123456789"), _digits)),
        maybe(sequence(literal("."), many(one_of("[0-9]", string.digits), least=1))),
    ),
)
_after_number = rule("AfterNumbers", "", followed_by(choice(_, _end, literal(")"))))
_number = rule(
    "NumberLiteral",
    "number",
    choice(
        text_of(sequence(maybe(literal("-")), _amount, followed_by(_after_number))),
        sequence(maybe(literal("-")), _amount, not_followed_by(_after_number), error("Invalid number literal")),
    ),
)

_identifier = rule(
    "Identifier",
    "",
    text_of(
        sequence(
            one_of("[a-zA-Z]", string.ascii_letters),
            many(one_of("[a-zA-Z0-9_]", string.ascii_letters + string.digits + "_")),
        )
    ),
)
_index = rule(
    "IndexExpression",
    "index",
    choice(
        sequence(literal("["), _space, _text, _space, literal("]"), build=lambda _1, _2, key, _3, _4: key),
        sequence(literal("["), _space, not_followed_by(_text), error("Invalid index")),
        sequence(
            literal("["), _space, _text, _space, not_followed_by(literal("]")), error("Unclosed index expression")
        ),
    ),
)
_further = rule(
    "SelectorOrIndex", "", choice(sequence(literal("."), _identifier, build=lambda _dot, name: name), _index)
)
_selector = rule(
    "Selector", "selector", sequence(_identifier, many(_further), build=lambda first, rest: (first, *rest))
)


def _joined(selector: tuple[str, ...]) -> str:
    return ".".join(selector)


_value = rule("Value", "value", choice(sequence(_selector, build=_joined), _number, _text))

# --- comparisons ----------------------------------------------------------------------------------------------------


def _operator(name: str, shown: str, *parts: Matcher) -> Rule:
    return rule(name, "", sequence(*parts, build=lambda *_values: shown))


_equal = _operator("MatchEqual", "Equal", _space, literal("=="), _space)
_not_equal = _operator("MatchNotEqual", "Not Equal", _space, literal("!="), _space)
_is_empty = _operator("MatchIsEmpty", "Is Empty", _, literal("is"), _, literal("empty"))
_is_not_empty = _operator("MatchIsNotEmpty", "Is Not Empty", _, literal("is"), _, literal("not"), _, literal("empty"))
_in = _operator("MatchIn", "In", _, literal("in"), _)
_not_in = _operator("MatchNotIn", "Not In", _, literal("not"), _, literal("in"), _)
_contains = _operator("MatchContains", "In", _, literal("contains"), _)
_not_contains = _operator("MatchNotContains", "Not In", _, literal("not"), _, literal("contains"), _)
_matches = _operator("MatchMatches", "Matches", _, literal("matches"), _)
_not_matches = _operator("MatchNotMatches", "Not Matches", _, literal("not"), _, literal("matches"), _)

_selector_first = rule(
    "MatchSelectorOpValue",
    "match",
    sequence(
        _selector,
        choice(_equal, _not_equal, _contains, _not_contains, _matches, _not_matches),
        _value,
        build=Match,
    ),
)
_selector_alone = rule(
    "MatchSelectorOp",
    "match",
    sequence(_selector, choice(_is_empty, _is_not_empty), build=lambda names, operator: Match(names, operator, None)),
)
_value_first = rule(
    "MatchValueOpSelector",
    "match",
    choice(
        sequence(
            _value,
            choice(_in, _not_in),
            _selector,
            build=lambda value, operator, names: Match(names, operator, value),
        ),
        sequence(_value, choice(_in, _not_in), not_followed_by(_selector), error("Invalid selector")),
    ),
)
_match = rule("MatchExpression", "match", choice(_selector_first, _selector_alone, _value_first))

# --- logic ----------------------------------------------------------------------------------------------------------

_or = Rule("OrExpression")
_and = Rule("AndExpression")
_not = Rule("NotExpression", nested=True)
_group = Rule("ParenthesizedExpression", "grouping", nested=True)


def _negated(_word: str, _between: Any, part: Expression) -> Expression:
    return part.part if isinstance(part, Not) else Not(part)


def _both(parts: list[Expression]) -> Expression:
    return Both(tuple(parts))


def _either(parts: list[Expression]) -> Expression:
    return Either(tuple(parts))


_or.body = chain(_and, sequence(_, literal("or"), _), _either)
_and.body = chain(_not, sequence(_, literal("and"), _), _both)
_not.body = choice(sequence(literal("not"), _, _not, build=_negated), _group)
_group.body = choice(
    sequence(literal("("), _space, _or, _space, literal(")"), build=lambda _1, _2, inner, _3, _4: inner),
    _match,
    sequence(literal("("), _space, _or, _space, not_followed_by(literal(")")), error("Unmatched parentheses")),
)
_input = rule(
    "Input",
    "",
    choice(
        sequence(
            _space, literal("("), _space, _or, _space, literal(")"), _space, _end,
            build=lambda _1, _2, _3, inner, *_rest: inner,
        ),
        sequence(_space, _or, _space, _end, build=lambda _1, inner, _2, _3: inner),
    ),
)  # fmt: skip


def parse(text: str) -> Expression:
    """The tree of an expression. Raises ParseError, with the words of the original."""
    tree: Expression = peg.parse(_input, text, depth_max=DEPTH_MAX)
    return tree
