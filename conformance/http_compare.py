"""Whether what an agent answered is what was recorded, as far as two runs can be equal.

Status, headers, and bodies are compared value by value, with key order and formatting. What must differ between runs
is matched: raft indexes keep their order over the scenario, identities map one to one, times need only be times.
A step's own `match` rules come first.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from conformance.http_agent import Answer

LARGE = 16 * 1024
"""Transcripts keep longer bodies that are not JSON as length and hash."""

UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_UUID = re.compile(UUID)
_STAMP = r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)"
_CHANGING = re.compile(rf"({UUID}|(?<=index )\d+|{_STAMP})")
"""What may differ inside a text."""
_TIME = re.compile(rf"{_STAMP}$|\w{{3}}, \d\d \w{{3}} \d{{4}} [\d:]{{8}} GMT$")
_GO_TYPE = re.compile(r"(json: cannot unmarshal \w+)( \S+)? into Go .*", re.S)

RULES = {
    **dict.fromkeys(("CreateIndex", "ModifyIndex", "PrimaryModifyIndex", "Index"), "index"),
    **dict.fromkeys(("CreateTime", "ExpirationTime", "ValidAfter", "ValidBefore", "CreatedAt", "UpdatedAt"), "time"),
    **dict.fromkeys(("StableSince", "NotBefore", "NotAfter"), "time"),
    **dict.fromkeys(("Hash", "ContentHash", "RootCert", "CertPEM", "PrivateKeyPEM", "SigningKeyID"), "opaque"),
    **dict.fromkeys(("SerialNumber", "ExternalTrustDomain", "TrustDomain"), "opaque"),
    **dict.fromkeys(("LTime", "LastTerm", "LastIndex"), "int"),
    "LastContact": "type",
}
HEADER_RULES = {
    "X-Consul-Index": "index",
    "X-Consul-Lastcontact": "int",
    "X-Consul-Contenthash": "opaque",
    "Age": "int",
    "Date": "time",
}
FRAMING = {"Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive"}


class RawNumber(float):
    """A JSON number that remembers its spelling."""

    text: str

    def __new__(cls, text: str) -> RawNumber:
        number = super().__new__(cls, text)
        number.text = text
        return number


def parse_json(text: str) -> Any:
    """JSON with the spelling of fractions kept."""
    return json.loads(text, parse_float=RawNumber)


# --- what was seen --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Observed:
    """An answer as it is compared: `body` is None, or has `json` and `style`, `text`, `base64` or `sha256`."""

    status: int | str = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    raw: bytes = b""
    took: str = ""
    failed: str = ""

    def pick(self, path: str) -> Any:
        """`@Header`, or a dotted path into the JSON body; None where there is none."""
        if path.startswith("@"):
            return self.headers.get(path[1:])
        value = (self.body or {}).get("json")
        for part in path.split("."):
            if isinstance(value, list):
                value = value[int(part)] if part.isdigit() and int(part) < len(value) else None
            elif part:
                value = value.get(part) if isinstance(value, dict) else None
        return value


def observe(answer: Answer, renamed: Mapping[str, str], took: str) -> Observed:
    """An answer with this run's ports and folders replaced by the recorded ones."""

    def canonical(text: str) -> str:
        for mine, recorded in renamed.items():
            text = re.sub(rf"(?<!\d){re.escape(mine)}(?!\d)", recorded, text)
        return text

    headers = {name: canonical(value) for name, value in answer.headers.items()}
    raw = answer.body
    if raw and headers.get("Content-Encoding") == "gzip":
        raw = gzip.decompress(raw)
    is_json = headers.get("Content-Type", "").startswith("application/json")
    return Observed(answer.status, headers, _body(raw, is_json, canonical), raw, took)


def _body(raw: bytes, is_json: bool, canonical: Any) -> dict[str, Any] | None:
    if not raw:
        return None
    if len(raw) > LARGE and not is_json:
        return {"length": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    try:
        text = canonical(raw.decode())
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}
    if is_json:
        try:
            value = parse_json(text)
        except ValueError:
            return {"text": text}
        return {"json": value, "style": style_of(text, value)}
    return {"text": text}


def style_of(text: str, value: Any) -> str:
    """How Go would have to be asked to write `value` as `text`: compact, pretty, or not at all ("other")."""
    # Releases of Go spell these three differently; either will do.
    for old, new in (("\\ufffd", "\ufffd"), ("\\u0008", "\\b"), ("\\u000c", "\\f")):
        text = text.replace(old, new)
    for name, indent, end in (("compact", 0, ""), ("compact-newline", 0, "\n"), ("pretty", 4, "\n")):
        if go_json(value, indent) + end == text:
            return name
    return "other"


def go_json(value: Any, indent: int, level: int = 1) -> str:
    """JSON as Go prints it."""
    if isinstance(value, RawNumber):
        return value.text
    if isinstance(value, str):
        return _go_text(value)
    if not isinstance(value, dict | list) or not value:
        return json.dumps(value)
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        parts = [f"{_go_text(key)}{colon}{go_json(item, indent, level + 1)}" for key, item in value.items()]
    else:
        parts = [go_json(item, indent, level + 1) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    if not indent:
        return opening + ",".join(parts) + closing
    line = "\n" + " " * (indent * level)
    return opening + line + f",{line}".join(parts) + "\n" + " " * (indent * (level - 1)) + closing


def _go_text(text: str) -> str:
    out = json.dumps(text, ensure_ascii=False).replace("\x7f", "\x7f")
    for character in "<>&\u2028\u2029":
        out = out.replace(character, f"\\u{ord(character):04x}")
    return out


# --- the comparison -------------------------------------------------------------------------------------------


class Comparison:
    """One scenario against its transcript. `ordered`: whether the order of indexes is judged."""

    def __init__(
        self, scenario: dict[str, Any], transcript: dict[str, Any], watermark: int, *, ordered: bool = True
    ) -> None:
        self._ordered = ordered
        self._scenario = scenario
        self._transcript = transcript
        self._marks = transcript.get("watermark", 0), watermark
        spelled = set(_UUID.findall(json.dumps(scenario)))
        self._theirs = {text: text for text in spelled}
        self._ours = {text: text for text in spelled}
        self._indexes: list[tuple[int, int, str]] = []
        self._problems: list[str] = []
        self._where = ""
        self._rules: list[tuple[re.Pattern[str], str]] = []
        self._unordered: list[re.Pattern[str]] = []

    def problems(self, observed: Sequence[Observed | None]) -> list[str]:
        """Every difference, in words."""
        steps = zip(self._scenario["steps"], self._transcript["steps"], observed, strict=True)
        for number, (step, want, got) in enumerate(steps):
            if want is None or got is None:
                continue
            request = step.get("do") or step.get("join") or step.get("raw", "")[:40]
            self._where = f"step {number} ({request})"
            self._step(step, want, got)
        if self._ordered:
            self._order()
        return self._problems

    def _differ(self, path: str, want: object, got: object) -> None:
        self._problems.append(f"{self._where} {path}\n      recorded {_short(want)}\n      got      {_short(got)}")

    def _step(self, step: dict[str, Any], want: dict[str, Any], got: Observed) -> None:
        if want.get("failed") or got.failed:
            if not (want.get("failed") and got.failed):
                self._differ("request", want.get("failed", "an answer"), got.failed or "an answer")
            return
        if got.took:
            self._differ("duration", step.get("took") or step.get("until"), got.took)
        self._rules = [(_pattern(path), rule) for path, rule in step.get("match", {}).items()]
        self._unordered = [_pattern(path) for path in step.get("unordered", ())]
        if want["status"] != got.status:
            self._differ("status", want["status"], f"{got.status} {got.body}")
            return
        self._headers(want["headers"], got.headers)
        self._body(want["body"], got)

    def _rule(self, path: str) -> str:
        return next((rule for pattern, rule in self._rules if pattern.match(path)), "")

    def _headers(self, want: dict[str, str], got: dict[str, str]) -> None:
        want, got = ({name.title(): value for name, value in each.items()} for each in (want, got))
        for name in sorted(want.keys() | got.keys()):
            rule = self._rule(f"@{name}") or HEADER_RULES.get(name, "exact")
            if name in FRAMING or rule == "ignore":
                continue
            if name in want and name in got:
                self._apply(rule, f"@{name}", want[name], got[name])
            else:
                self._differ(f"header {name}", want.get(name, "(absent)"), got.get(name, "(absent)"))

    def _body(self, want: dict[str, Any] | None, got: Observed) -> None:
        rule = self._rule("body")
        if rule == "ignore":
            return
        if (want is None) != (got.body is None):
            self._differ("body", want, got.body)
        elif rule.startswith("regex:"):
            if not re.search(rule[6:], got.raw.decode("utf-8", "replace"), re.S):
                self._differ("body", rule, got.body)
        elif rule or want is None or got.body is None:
            return
        elif ("json" in want) != ("json" in got.body):
            self._differ("body", want, got.body)
        elif "json" in want:
            if want["style"] != got.body["style"]:
                self._differ("body formatting", want["style"], got.body["style"])
            self._value("", want["json"], got.body["json"])
        elif "text" in want and "text" in got.body:
            self._apply("exact", "body", want["text"], got.body["text"])
        elif want != got.body:
            self._differ("body", want, got.body)

    def _value(self, path: str, want: Any, got: Any) -> None:
        rule = self._rule(path)
        if not rule and not isinstance(want, dict | list):
            rule = RULES.get(path.rpartition(".")[2], "")
        if rule:
            self._apply(rule, path, want, got)
        elif isinstance(want, dict) and isinstance(got, dict):
            self._object(path, want, got)
        elif isinstance(want, list) and isinstance(got, list):
            self._list(path, want, got)
        else:
            self._apply("exact", path, want, got)

    def _object(self, path: str, want: dict[str, Any], got: dict[str, Any]) -> None:
        if want.keys() == got.keys() and list(want) != list(got):
            self._differ(f"{path} key order", list(want), list(got))
        for key in [*want, *(key for key in got if key not in want)]:
            inner = f"{path}.{key}" if path else key
            if self._rule(inner) == "ignore":
                continue
            if key in want and key in got:
                self._value(inner, want[key], got[key])
            else:
                self._differ(inner, want.get(key, "(absent)"), got.get(key, "(absent)"))

    def _list(self, path: str, want: list[Any], got: list[Any]) -> None:
        if len(want) != len(got):
            self._differ(f"{path} length", want, got)
            return
        if any(pattern.match(path) for pattern in self._unordered):
            want = sorted(want, key=lambda value: _sort_key(value, self._theirs))
            got = sorted(got, key=lambda value: _sort_key(value, {ours: ours for ours in self._ours}))
        for place, (theirs, ours) in enumerate(zip(want, got, strict=True)):
            self._value(f"{path}.{place}" if path else str(place), theirs, ours)

    # --- rules ------------------------------------------------------------------------------------------------

    def _apply(self, rule: str, path: str, want: Any, got: Any) -> None:
        if rule in ("any", "ignore"):
            return
        if rule == "exact":
            self._exact(path, want, got)
        elif rule == "index":
            self._index(path, want, got)
        elif rule == "opaque":
            empty = (None, "")
            if type(want) is not type(got) or (want in empty) != (got in empty):
                self._differ(path, want, got)
            elif want not in empty:
                self._same(path, want, got)
        elif not _holds(rule, want, got):
            self._differ(f"{path} ({rule})", want, got)

    def _exact(self, path: str, want: Any, got: Any) -> None:
        if not isinstance(want, str) or not isinstance(got, str):
            if _kind(want) != _kind(got) or want != got:
                self._differ(path, want, got)
            return
        theirs, ours = (_CHANGING.split(_GO_TYPE.sub(r"\1", text)) for text in (want, got))
        if len(theirs) != len(ours) or theirs[::2] != ours[::2]:
            self._differ(path, want, got)
            return
        for a, b in zip(theirs[1::2], ours[1::2], strict=True):
            if a.isdigit() and b.isdigit():
                self._index(path, a, b)
            elif _UUID.fullmatch(a) and _UUID.fullmatch(b):
                self._same(path, a, b)
            elif not (_TIME.match(a) and _TIME.match(b)):
                self._differ(path, want, got)

    def _same(self, path: str, want: str, got: str) -> None:
        """Identities: one of theirs is always the same one of ours."""
        known = self._theirs.setdefault(want, got)
        back = self._ours.setdefault(got, want)
        if known != got or back != want or (want.startswith("00000000-0000-") and want != got):
            self._differ(f"{path} identity", f"{want} (matched before with {known})", got)

    def _index(self, path: str, want: Any, got: Any) -> None:
        if isinstance(want, str) != isinstance(got, str) or not str(got).isdigit():
            self._differ(path, f"an index such as {want}", got)
            return
        self._indexes.append((int(want), int(got), f"{self._where} {path}"))

    def _order(self) -> None:
        """Indexes are equal, smaller, larger where the recorded ones are; those of the start-up only as a group."""
        later = []
        for want, got, where in self._indexes:
            if want <= 1 or got <= 1:
                if want != got:
                    self._problems.append(f"{where}\n      recorded index {want}\n      got      {got}")
            elif want > self._marks[0]:
                later.append((want, got, where))
            elif self._marks[1] and got > self._marks[1]:
                self._problems.append(f"{where}\n      recorded an index of the start-up phase\n      got      {got}")
        later.sort()
        for (want, got, where), (next_want, next_got, next_where) in pairwise(later):
            if (want == next_want) != (got == next_got) or got > next_got:
                self._problems.append(
                    f"order of indexes: recorded {want} and {next_want}, got {got} and {next_got}\n"
                    f"      {where}\n      {next_where}"
                )
                return


def _holds(rule: str, want: Any, got: Any) -> bool:
    """The rules that need no memory."""
    if rule == "int":
        return isinstance(want, str) == isinstance(got, str) and bool(re.match(r"-?\d+$", str(got)))
    if rule == "number":
        return _kind(got) == "number"
    if rule == "string":
        return isinstance(got, str) and bool(want) == bool(got)
    if rule == "time":
        zero = str(want).startswith("0001-") == str(got).startswith("0001-")
        return bool(want == got or (isinstance(got, str) and _TIME.match(got) and zero))
    if rule == "type":
        return _kind(want) == _kind(got)
    if rule == "keys":
        return isinstance(got, dict) and list(want) == list(got)
    if rule.startswith("regex:"):
        return bool(re.search(rule[6:], got if isinstance(got, str) else json.dumps(got), re.S))
    raise ValueError(f"unknown rule {rule}")


def _sort_key(value: Any, known: Mapping[str, str]) -> str:
    """A value without what may differ between runs; identities that were matched before count."""
    text = json.dumps(value, sort_keys=True)
    bare = re.sub(rf'"({"|".join(RULES)})": ("[^"]*"|[^,}}\]]*)', "", text)
    return _CHANGING.sub("*", bare) + "".join(known.get(identity, "*") for identity in _UUID.findall(text))


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def _short(value: object, limit: int = 300) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[:limit] + "..."


def _pattern(path: str) -> re.Pattern[str]:
    """`*` is one element of a path, `**` any number; headers begin with `@`."""
    if path.startswith("@"):
        return re.compile(re.escape(path.title()) + "$")
    return re.compile(re.escape(path).replace(r"\*\*", ".*").replace(r"\*", "[^.]+") + "$")
