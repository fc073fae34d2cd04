"""Go's flag rules, and usage text in Go's layout. Knows no command and opens nothing.

One or two dashes; `-x=v` or `-x v` (the value may start with a dash); a boolean takes a value only by `=`; parsing
stops at the first argument that is not a flag, and at `--`, which is dropped; a single `-` is an argument. The last one
of a repeated flag wins, unless it is a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pyconsul_agent.wire.gotypes import parse_bool, parse_duration

Kind = Literal["bool", "string", "int", "uint", "duration", "strings", "pairs"]
Value = bool | int | str | list[str] | dict[str, str]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `shown` names its value in usage text; `hidden` flags are accepted but not listed (old spellings).

    `store`: the name under which the value is kept, for several flags that are one (and whose order counts).
    """

    name: str
    kind: Kind
    help: str
    default: Value = ""
    shown: str = ""
    hidden: bool = False
    colon_pairs: bool = False
    store: str = ""


class UsageError(Exception):
    """The arguments cannot be used; the text is Go's."""


class HelpAsked(Exception):
    """`-h`, `-help` or `--help` was given."""


def parse(flags: Sequence[Flag], arguments: Sequence[str]) -> tuple[dict[str, Value], list[str]]:
    """The flags that were given, by name, and the arguments that are left. Raises UsageError and HelpAsked."""
    known = {flag.name: flag for flag in flags}
    given: dict[str, Value] = {}
    rest = list(arguments)
    while rest:
        argument = rest[0]
        if len(argument) < 2 or not argument.startswith("-"):
            break
        rest.pop(0)
        if argument == "--":
            break
        name, equals, text = argument.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {argument}")
        flag = known.get(name)
        if flag is None:
            if name in ("h", "help"):
                raise HelpAsked
            raise UsageError(f"flag provided but not defined: -{name}")
        if flag.kind == "bool":
            given[flag.store or name] = _boolean(name, text) if equals else True
            continue
        if not equals:
            if not rest:
                raise UsageError(f"flag needs an argument: -{name}")
            text = rest.pop(0)
        kept = flag.store or name
        given[kept] = _value(flag, text, given.get(kept))
    return given, rest


def with_defaults(flags: Sequence[Flag], given: Mapping[str, Value]) -> dict[str, Value]:
    """`given` completed by the defaults."""
    return {kept: given.get(kept, default_of(flag)) for flag in flags for kept in (flag.store or flag.name,)}


def default_of(flag: Flag) -> Value:
    """What a flag is when it is not given."""
    empty: dict[str, Value] = {"bool": False, "int": 0, "uint": 0, "strings": [], "pairs": {}}
    return flag.default if flag.default != "" else empty.get(flag.kind, "")


def _boolean(name: str, text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError:
        raise UsageError(f'invalid boolean value "{text}" for -{name}: parse error') from None


def _value(flag: Flag, text: str, before: Value | None) -> Value:
    if flag.kind in ("int", "uint"):
        return _number(flag, text)
    if flag.kind == "duration":
        try:
            parse_duration(text)
        except ValueError as error:
            raise UsageError(f'invalid value "{text}" for flag -{flag.name}: {error}') from None
        return text
    if flag.kind == "strings":
        return [*(before if isinstance(before, list) else []), text]
    if flag.kind == "pairs":
        key, separator, value = text.partition(":" if flag.colon_pairs else "=")
        if not separator and not flag.colon_pairs:
            raise UsageError(f'invalid value "{text}" for flag -{flag.name}: missing "=" value in argument: "{text}"')
        return {**(before if isinstance(before, dict) else {}), key: value}
    return text


def _number(flag: Flag, text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") and flag.kind == "int" else text
    call = "Atoi" if flag.kind == "int" else "ParseUint"
    if not (digits.isascii() and digits.isdigit()):
        raise UsageError(
            f'invalid value "{text}" for flag -{flag.name}: strconv.{call}: parsing "{text}": invalid syntax'
        )
    if len(digits) > 20 or abs(int(text)) >= 1 << (63 if flag.kind == "int" else 64):
        raise UsageError(
            f'invalid value "{text}" for flag -{flag.name}: strconv.{call}: parsing "{text}": value out of range'
        )
    return int(text)


# --- usage text ----------------------------------------------------------------------------------------------------

WIDTH = 72


def usage(usage_line: str, text: str, groups: Sequence[tuple[str, Sequence[Flag]]]) -> str:
    """Help as Consul lays it out: the usage line, the text, then flags by group, each with its indented description.

    A group without a title has no heading.
    """
    parts = [f"Usage: {usage_line}\n" if usage_line else "Usage:\n"]
    if text:
        parts.append(f"\n{_indent(text, 2)}\n")
    for title, flags in groups:
        listed = sorted((flag for flag in flags if not flag.hidden), key=lambda flag: flag.name)
        if listed:
            parts += [f"\n{title}\n"] if title else []
            parts += [f"\n{_flag_text(flag)}\n" for flag in listed]
    return "".join(parts)


def _flag_text(flag: Flag) -> str:
    names = {"bool": "", "int": "=<int>", "uint": "=<uint>", "duration": "=<duration>", "pairs": "=<key=value>"}
    shown = f"=<{flag.shown}>" if flag.shown else names.get(flag.kind, "=<string>")
    shown_default = "true" if flag.default is True else flag.default
    default = f" The default is {shown_default}." if flag.default not in ("", False, 0) else ""
    return f"  -{flag.name}{shown}\n{_indent(flag.help + default, 5)}"


def _indent(text: str, blanks: int) -> str:
    """Paragraphs wrapped to the width; lines that are indented already are kept as they are."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        if paragraph.startswith(" ") or not paragraph:
            lines.append(" " * blanks + paragraph if paragraph else "")
            continue
        line = ""
        for word in paragraph.split():
            if line and blanks + len(line) + 1 + len(word) > WIDTH:
                lines.append(" " * blanks + line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(" " * blanks + line)
    return "\n".join(lines)
