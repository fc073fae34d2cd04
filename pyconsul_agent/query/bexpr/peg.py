"""A parser machine for ordered choice (PEG) that explains failures in the words of Go's pigeon. Pure.

The language of filters is defined by what a parser made by pigeon accepts, and clients see its errors, so this machine
does as pigeon's does: it remembers how far any attempt came and what was wanted there, and an error that an action or a
predicate reports counts even if another alternative then matches. Unlike pigeon's, it remembers the result of each rule
at each place. That changes no outcome, since the same attempt again reports the same; but time is linear in the length
of the text, where pigeon's grows exponentially with nested parentheses.

A grammar is built of functions `matcher(run, at)`, which return `(end, value)` or None. Places are character indexes;
errors show them as line:column (byte offset).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyconsul_agent.wire.gotypes import quote

Matched = tuple[int, Any] | None
Matcher = Callable[["Run", int], Matched]


class ParseError(ValueError):
    """The text does not belong to the language; the message says where and why."""


class TooDeep(ParseError):
    """More levels than the parser may go down."""


class Run:
    """One parse of one text: results so far, the furthest failures, reported errors."""

    def __init__(self, text: str, depth_max: int) -> None:
        self.text = text
        self.depth_left = depth_max
        self.inverted = False
        self.rules: list[str] = []
        self.memo: dict[tuple[str, int, bool], Matched] = {}
        self.wanted_at = 0
        self.wanted: set[str] = set()
        self._errors: dict[str, None] = {}
        if text and _is_bad(text[0]):
            self.report("invalid encoding", 0)

    def want(self, failed: bool, at: int, what: str) -> None:
        """Note that `what` was wanted at `at`, if the attempt failed; inside of a negation, if it succeeded."""
        if failed == self.inverted or at < self.wanted_at:
            return
        if at > self.wanted_at:
            self.wanted_at = at
            self.wanted = set()
        self.wanted.add("!" + what if self.inverted else what)

    def step(self, at: int) -> int:
        """The place after the character at `at`; bytes that are no text are an error once they come next."""
        at += 1
        if at < len(self.text) and _is_bad(self.text[at]):
            self.report("invalid encoding", at)
        return at

    def report(self, problem: str, at: int) -> None:
        """An error of the rule that is being matched. Nothing can undo it."""
        rule = f": rule {self.rules[-1]}" if self.rules else ""
        self._errors[f"{self.where(at)}{rule}: {problem}"] = None

    def where(self, at: int) -> str:
        """`line:column (offset)`; a newline counts as column 0 of its next line, as pigeon has it."""
        seen = self.text[: at + 1]
        line = seen.count("\n") + 1
        column = at - seen.rfind("\n") if "\n" in seen else at + 1
        return f"{line}:{column} ({len(self.text[:at].encode('utf-8', 'surrogateescape'))})"

    def finish(self, matched: Matched) -> Any:
        """The value of the whole. Raises ParseError."""
        if self._errors:
            raise ParseError("\n".join(self._errors))
        if matched is None:
            names = sorted(self.wanted - {"!."}, key=lambda name: name.encode("utf-8", "surrogateescape"))
            if "!." in self.wanted:
                names.append("EOF")
            listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}" if names else ""
            raise ParseError(f"{self.where(self.wanted_at)}: no match found, expected: {listed}")
        return matched[1]


def _is_bad(character: str) -> bool:
    return "\udc80" <= character <= "\udcff"


# --- terminals ------------------------------------------------------------------------------------------------------


def literal(text: str) -> Matcher:
    """Exactly `text`."""
    name = quote(text)

    def match(run: Run, at: int) -> Matched:
        if not run.text.startswith(text, at):
            _touch(run, at, text)
            run.want(True, at, name)
            return None
        end = at
        for _ in text:
            end = run.step(end)
        run.want(False, at, name)
        return end, text

    return match


def _touch(run: Run, at: int, text: str) -> None:
    """Read as far as `text` fits: what comes next may be no text, which is an error even so."""
    for character in text:
        if not run.text.startswith(character, at):
            return
        at = run.step(at)


def one_of(name: str, characters: str) -> Matcher:
    """One character of a class, which errors call `name`."""
    accepted = frozenset(characters)

    def match(run: Run, at: int) -> Matched:
        if at >= len(run.text) or run.text[at] not in accepted:
            run.want(True, at, name)
            return None
        end = run.step(at)
        run.want(False, at, name)
        return end, run.text[at]

    return match


def any_character(run: Run, at: int) -> Matched:
    """Any one character."""
    if at >= len(run.text):
        run.want(True, at, ".")
        return None
    end = run.step(at)
    run.want(False, at, ".")
    return end, run.text[at]


# --- combinations ---------------------------------------------------------------------------------------------------


def sequence(*parts: Matcher, build: Callable[..., Any] | None = None) -> Matcher:
    """All parts one after the other; the value is a list, or `build(*values)`."""

    def match(run: Run, at: int) -> Matched:
        values = []
        for part in parts:
            found = part(run, at)
            if found is None:
                return None
            at, value = found
            values.append(value)
        return at, values if build is None else build(*values)

    return match


def choice(*alternatives: Matcher) -> Matcher:
    """The first alternative that matches."""

    def match(run: Run, at: int) -> Matched:
        for alternative in alternatives:
            if (found := alternative(run, at)) is not None:
                return found
        return None

    return match


def maybe(part: Matcher) -> Matcher:
    """`part`, or nothing."""
    return lambda run, at: part(run, at) or (at, None)


def many(part: Matcher, *, least: int = 0) -> Matcher:
    """`part` as often as it comes; the value is a list."""

    def match(run: Run, at: int) -> Matched:
        values = []
        while (found := part(run, at)) is not None:
            at, value = found
            values.append(value)
        return (at, values) if len(values) >= least else None

    return match


def chain(part: Matcher, joint: Matcher, build: Callable[[list[Any]], Any]) -> Matcher:
    """`part joint part joint part`: what a rule says that recurs on its right, without the depth of that."""

    def match(run: Run, at: int) -> Matched:
        found = part(run, at)
        if found is None:
            return None
        end, values = found[0], [found[1]]
        while (joined := joint(run, end)) is not None and (found := part(run, joined[0])) is not None:
            end = found[0]
            values.append(found[1])
        return end, values[0] if len(values) == 1 else build(values)

    return match


def followed_by(part: Matcher) -> Matcher:
    """Nothing, where `part` comes next."""
    return lambda run, at: None if part(run, at) is None else (at, None)


def not_followed_by(part: Matcher) -> Matcher:
    """Nothing, where `part` does not come next."""

    def match(run: Run, at: int) -> Matched:
        run.inverted = not run.inverted
        found = part(run, at)
        run.inverted = not run.inverted
        return (at, None) if found is None else None

    return match


def error(problem: str) -> Matcher:
    """Report and fail."""

    def match(run: Run, at: int) -> Matched:
        run.report(problem, at)
        return None

    return match


def text_of(part: Matcher, build: Callable[[str], Any] = str) -> Matcher:
    """`part`, whose value is made of the text that it matched. A ValueError of `build` is reported."""

    def match(run: Run, at: int) -> Matched:
        found = part(run, at)
        if found is None:
            return None
        try:
            return found[0], build(run.text[at : found[0]])
        except ValueError as problem:
            run.report(str(problem), at)
            return found[0], ""

    return match


class Rule:
    """A named matcher, which remembers its results; errors say `shown`. It may be defined after it is used."""

    def __init__(self, name: str, shown: str = "", *, nested: bool = False) -> None:
        self._name = name
        self._shown = quote(shown) if shown else name
        self._nested = nested
        self.body: Matcher = any_character

    def __call__(self, run: Run, at: int) -> Matched:
        key = (self._name, at, run.inverted)
        if key in run.memo:
            return run.memo[key]
        if self._nested:
            run.depth_left -= 1
            if run.depth_left < 0:
                raise TooDeep("the expression is nested too deeply")
        run.rules.append(self._shown)
        found = run.memo[key] = self.body(run, at)
        run.rules.pop()
        if self._nested:
            run.depth_left += 1
        return found


def rule(name: str, shown: str, body: Matcher) -> Rule:
    """A rule that is defined at once."""
    made = Rule(name, shown)
    made.body = body
    return made


def parse(start: Matcher, text: str, *, depth_max: int) -> Any:
    """The value of `text`, all of which `start` must match itself. Raises ParseError."""
    run = Run(text, depth_max)
    return run.finish(start(run, 0))
