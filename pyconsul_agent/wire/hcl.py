r"""HCL version 1: the language of configuration files and of ACL rules (docs/protocol/hcl.md).

`parse` gives the items in order, `plain` the maps and lists that Go's decoder would make of them: every object is a
list element, because a repeated block makes the list longer.

>>> plain(parse('ports { http = 8500, dns = -1 }'))
{'ports': [{'http': 8500, 'dns': -1}]}
>>> plain(parse('key_prefix "" { policy = "read" }\nkey_prefix "a" { policy = "deny" }'))
{'key_prefix': [{'': [{'policy': 'read'}]}, {'a': [{'policy': 'deny'}]}]}

`${...}` stays literal text: version 1 leaves interpolation to the program.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.errors import DecodeError

CHARACTERS_MAX = 4 * 1024 * 1024
"""Longest text that is read."""

DEPTH_MAX = 64
"""Deepest nesting of blocks and lists."""

Value = Any
"""str, bool, int, float, list of values, or `Block`."""


@dataclass(frozen=True, slots=True)
class Item:
    """`key = value`, or a block whose further keys are labels: `service "web" { ... }`. `offset`: where it starts."""

    keys: tuple[str, ...]
    value: Value
    offset: int


@dataclass(frozen=True, slots=True)
class Block:
    """The items between braces, in order."""

    items: tuple[Item, ...]


def parse(text: str) -> Block:
    """The items of a whole text. Raises DecodeError naming line and column, as `At 3:7: ...`."""
    if len(text) > CHARACTERS_MAX:
        raise DecodeError(f"HCL text of {len(text)} characters is too long")
    parser = _Parser(text.removeprefix("\ufeff"))
    items = parser.items(until="", depth=0)
    return Block(items)


def plain(block: Block) -> dict[str, Any]:
    """Maps and lists as Go's decoder makes them; objects under one key are gathered in a list."""
    result: dict[str, Any] = {}
    for item in block.items:
        key, value = item.keys[0], _plain_value(item.value)
        if isinstance(item.value, Block):
            for label in reversed(item.keys[1:]):
                value = [{label: value}] if isinstance(value, list) else [{label: [value]}]
            value = value if isinstance(value, list) else [value]
            before = result.get(key)
            result[key] = [*before, *value] if isinstance(before, list) else value
        else:
            result[key] = value
    return result


def _plain_value(value: Value) -> Any:
    if isinstance(value, Block):
        return plain(value)
    if isinstance(value, list):
        return [_plain_value(element) for element in value]
    return value


_SPACE = re.compile(r"(?:[ \t\r\n]+|\#[^\n]*|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_IDENTIFIER = re.compile(r"[^\W\d][\w.\-]*")
_NUMBER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)")
_HEREDOC = re.compile(r"<<(-?)([^\W_][\w]*|_\w+)[ \t]*\r?\n")
_PLAIN_CHARACTERS = re.compile(r'[^"\\$\n]+')
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\\"])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}


class _Parser:
    """Recursive descent over the text; `at` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, reason: str, at: int | None = None) -> DecodeError:
        where = self.at if at is None else at
        line = self.text.count("\n", 0, where) + 1
        column = where - (self.text.rfind("\n", 0, where) + 1) + 1
        return DecodeError(f"At {line}:{column}: {reason}")

    def peek(self) -> str:
        """The next character that is neither space nor comment; empty at the end."""
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        if self.text.startswith("/*", self.at):
            raise self.fail("comment not terminated")
        return self.text[self.at : self.at + 1]

    def items(self, *, until: str, depth: int) -> tuple[Item, ...]:
        """Items up to `until` (a brace, or empty for the end of the text), which is consumed."""
        if depth > DEPTH_MAX:
            raise self.fail("nested too deeply")
        found: list[Item] = []
        while (character := self.peek()) != until:
            if not character:
                raise self.fail("object expected closing RBRACE got: EOF")
            found.append(self.item(depth))
            if self.peek() == ",":
                self.at += 1
        self.at += len(until)
        return tuple(found)

    def item(self, depth: int) -> Item:
        offset = self.at
        keys = [self.key()]
        while True:
            character = self.peek()
            if character == "=":
                if len(keys) > 1:
                    raise self.fail("nested object expected: LBRACE got: ASSIGN")
                self.at += 1
                return Item((keys[0],), self.value(depth), offset)
            if character == "{":
                self.at += 1
                return Item(tuple(keys), Block(self.items(until="}", depth=depth + 1)), offset)
            if not character or character in "}],:;":
                raise self.fail(f"key '{keys[-1]}' expected start of object ('{{') or assignment ('=')")
            keys.append(self.key())

    def key(self) -> str:
        if self.text[self.at] == '"':
            return self.string()
        match = _IDENTIFIER.match(self.text, self.at)
        if match is None:
            raise self.fail(f"illegal character {self.text[self.at]!r}, expected a key")
        self.at = match.end()
        return match.group()

    def value(self, depth: int) -> Value:
        character = self.peek()
        if character == '"':
            return self.string()
        if character == "{":
            self.at += 1
            return Block(self.items(until="}", depth=depth + 1))
        if character == "[":
            self.at += 1
            return self.list(depth + 1)
        if self.text.startswith("<<", self.at):
            return self.heredoc()
        match = _NUMBER.match(self.text, self.at)
        if match is not None:
            return self.number(match)
        match = _IDENTIFIER.match(self.text, self.at)
        if match is not None and match.group() in ("true", "false"):
            self.at = match.end()
            return match.group() == "true"
        raise self.fail(f"Unknown token: {self.text[self.at : self.at + 20]!r}")

    def list(self, depth: int) -> list[Value]:
        if depth > DEPTH_MAX:
            raise self.fail("nested too deeply")
        found: list[Value] = []
        while self.peek() != "]":
            if not self.peek():
                raise self.fail("error parsing list, expected comma or list end, got: EOF")
            found.append(self.value(depth))
            character = self.peek()
            if character == ",":
                self.at += 1
            elif character != "]":
                raise self.fail("error parsing list, expected comma or list end")
        self.at += 1
        return found

    def number(self, match: re.Match[str]) -> int | float:
        start, literal = self.at, match.group()
        self.at = match.end()
        if re.match(r"[\w.]", self.text[self.at : self.at + 1]):
            raise self.fail("malformed number", start)
        sign, digits = (-1, literal[1:]) if literal.startswith("-") else (1, literal)
        if len(digits) > 400:
            raise self.fail("number too long", start)
        if digits[:2].lower() == "0x":
            return sign * int(digits, 16)
        if digits.isdigit():
            if len(digits) > 1 and digits[0] == "0":
                if re.search("[89]", digits):
                    raise self.fail("illegal octal number", start)
                return sign * int(digits, 8)
            return sign * int(digits)
        return sign * float(digits)

    def string(self) -> str:
        """A quoted text; inside `${ }` quotes and newlines are ordinary characters."""
        start = self.at
        self.at += 1
        parts: list[str] = []
        while True:
            match = _PLAIN_CHARACTERS.match(self.text, self.at)
            if match is not None:
                parts.append(match.group())
                self.at = match.end()
            character = self.text[self.at : self.at + 1]
            if character == '"':
                self.at += 1
                return "".join(parts)
            if character == "\\":
                parts.append(self.escape())
            elif character == "$" and self.text.startswith("${", self.at):
                parts.append(self.interpolation(start))
            elif character == "$":
                parts.append("$")
                self.at += 1
            else:
                raise self.fail("literal not terminated", start)

    def escape(self) -> str:
        match = _ESCAPE.match(self.text, self.at)
        if match is None:
            raise self.fail("illegal char escape")
        self.at = match.end()
        simple, octal, byte, short, long = match.groups()
        if simple is not None:
            return _ESCAPED[simple]
        code = int(octal, 8) if octal is not None else int(byte or short or long, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise self.fail("illegal char escape: invalid Unicode code point", match.start())
        return chr(code)

    def interpolation(self, start: int) -> str:
        begin, braces = self.at, 0
        for position in range(self.at, len(self.text)):
            character = self.text[position]
            braces += (character == "{") - (character == "}")
            if character == "}" and braces == 0:
                self.at = position + 1
                return self.text[begin : self.at]
        raise self.fail("literal not terminated", start)

    def heredoc(self) -> str:
        start = self.at
        match = _HEREDOC.match(self.text, self.at)
        if match is None:
            raise self.fail("malformed heredoc")
        end = re.compile(rf"^([ \t]*){re.escape(match.group(2))}[ \t]*\r?$", re.MULTILINE).search(
            self.text, match.end()
        )
        if end is None:
            raise self.fail("heredoc not terminated", start)
        body, indent = self.text[match.end() : end.start()], end.group(1)
        self.at = end.end()
        if match.group(1) and indent:
            lines = body.split("\n")
            if all(line.startswith(indent) for line in lines[:-1]):
                return "\n".join(line.removeprefix(indent) for line in lines)
        return body
