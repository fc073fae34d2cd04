"""Where in the files a key was set, for errors that are found only after everything was merged.

An error's text speaks of keys: by their names, by an element (`services[3]`), or in words of Consul's (`SPOKEN`).
`located` adds file and line of each that a file sets; what flags set stays as it is, as its user has just typed it.
Files are looked through only when there is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pyconsul_agent.errors import ConfigError

PLACES_MAX = 4
"""So many places are added to one line at most."""

SPOKEN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Invalid log level", ("log_level",)),
    ("Invalid log format", ("log_format",)),
    ("Protocol version", ("protocol",)),
    ("Unsupported default ACL policy", ("acl.default_policy",)),
    ("Advertise address", ("advertise_addr", "advertise_addr_ipv4", "advertise_addr_ipv6")),
    ("Advertise WAN address", ("advertise_addr_wan", "advertise_addr_wan_ipv4", "advertise_addr_wan_ipv6")),
    ("DNS recursor address", ("recursors", "recursor")),
    ("Invalid recursor address", ("recursors", "recursor")),
    ("DNS address", ("addresses.dns", "client_addr")),
    ("HTTP address", ("addresses.http", "client_addr", "ports.http")),
    ("VerifyIncoming", ("verify_incoming", "verify_incoming_rpc", "verify_incoming_https")),
)
"""How an error begins that does not name its key, and the keys that it is about."""

_SINGULAR = {"services": "service", "checks": "check"}
_KEY = re.compile(r"(?<![\w./-])[a-z][a-z0-9_]*+(?:\.[a-z0-9_]++)*+(?![\w\[/])")
"""A word that may be a key: no part of a path, no flag."""
_ELEMENT = re.compile(r"\b(services|checks|watches|config_entries\.bootstrap)\[(\d+)\]")
_TOKEN = re.compile(
    r"""(?P<blank>\s++|\#[^\n]*+|//[^\n]*+|/\*.*?(?:\*/|\Z))
      | (?P<heredoc><<-?(?P<end>\w+)\n.*?(?:\n[ \t]*+(?P=end)(?=\n|\Z)|\Z))
      | "(?P<quoted>(?>\\.|\$\{[^}\n]{0,200}+\}|[^"\\])*+)(?:"|\\?\Z)
      | (?P<mark>[{}\[\]=:,])
      | (?P<word>[^\s{}\[\]=:,"]++)
      | (?P<odd>.)""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Origins:
    """The configuration files, (name, text) in the order in which they were merged."""

    files: Sequence[tuple[str, str]] = field(default=(), repr=False)

    def located(self, text: str) -> str:
        """An error's text with the places of what it speaks of, line by line."""
        if not self.files or text.startswith("failed to parse "):
            return text
        found = [(name, _places(content)) for name, content in self.files]
        return "\n".join(_located(line, found) for line in text.split("\n"))


@contextmanager
def locating(origins: Origins) -> Iterator[None]:
    """Add places to the ConfigError of a block."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(origins.located(str(error))) from None


def _located(line: str, found: Sequence[tuple[str, Mapping[str, list[int]]]]) -> str:
    places = [place for key in _keys_of(line) if (place := _last(key, found))]
    for name, number in _ELEMENT.findall(line):
        places += _element(name, int(number), found)
    shown = ", ".join(list(dict.fromkeys(places))[:PLACES_MAX])
    return f"{line} ({shown})" if shown else line


def _keys_of(line: str) -> list[str]:
    spoken = [key for words, keys in SPOKEN if words in line for key in keys]
    return [*spoken, *_KEY.findall(line)]


def _last(key: str, found: Sequence[tuple[str, Mapping[str, list[int]]]]) -> str:
    """Where a key was set last; what a later file says wins."""
    for name, places in reversed(found):
        if lines := places.get(key):
            return f"{name}:{lines[-1]}"
    return ""


def _element(wanted: str, number: int, found: Sequence[tuple[str, Mapping[str, list[int]]]]) -> list[str]:
    """Where an element of a merged list stands; in each file single blocks come after the list."""
    for name, places in found:
        lines = [*places.get(f"{wanted}[]", ()), *places.get(f"{_SINGULAR.get(wanted, '')}[]", ())]
        if number < len(lines):
            return [f"{name}:{lines[number]}"]
        number -= len(lines)
    return []


# --- reading -------------------------------------------------------------------------------------------------------

Token = tuple[str, str, int]
"""Kind, text, line."""


def _tokens(text: str) -> Iterator[Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match["quoted"] is not None:
            yield "name", match["quoted"], line
        elif match["word"] is not None:
            yield "name", match["word"], line
        elif match["mark"] is not None:
            yield match["mark"], "", line
        elif match["heredoc"] is not None:
            yield "name", "", line
        line += match[0].count("\n")


def _places(text: str) -> dict[str, list[int]]:
    """Lines of each dotted key of JSON or HCL that was understood before; `services[]` has those of the elements."""
    reader = _Reader(list(_tokens(text)))
    with suppress(RecursionError):  # a place less
        reader.block("")
    return reader.places


class _Reader:
    """Follows blocks and lists; what it does not expect it passes over."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self.places: dict[str, list[int]] = {}

    def _kind(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _note(self, path: str) -> None:
        self.places.setdefault(path, []).append(self._tokens[self._at][2])

    def block(self, prefix: str) -> None:
        """Keys with their values, up to the end of the block."""
        while kind := self._kind():
            if kind == "name":
                path = prefix + self._tokens[self._at][1].lower()
                self._note(path)
                while self._kind() == "name":  # HCL's labels
                    self._at += 1
                if self._kind() in ("=", ":"):
                    self._at += 1
                self._value(path)
                continue
            self._at += 1
            if kind == "}" and prefix:
                return

    def _value(self, path: str) -> None:
        kind = self._kind()
        if kind == "{":
            self._note(f"{path}[]")
            self._at += 1
            self.block(f"{path}.")
        elif kind == "[":
            self._at += 1
            while (kind := self._kind()) not in ("]", ""):
                if kind in "{[":
                    self._value(path)
                else:
                    self._at += 1
            self._at += 1
        else:
            self._at += 1
