"""A watch as a value: what to ask the HTTP API, whether the answer is news, when to ask again after an error.

Pure: no clock and no sockets. A driver asks `request()`, hands the outcome to `answered()` or `failed()`, and does what
they say. `consul watch` drives it with blocking calls, an agent with its loop; both hand the same bytes to handlers
(`watch/handler.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyconsul_agent.watch import shapes
from pyconsul_agent.wire import gojson

TYPES = ("key", "keyprefix", "services", "nodes", "service", "checks", "event")
MESH_TYPES = ("connect_roots", "connect_leaf", "agent_service")
"""Known to Consul, refused in configuration and on the command line."""
RETRY_S = 5.0
RETRY_S_MAX = 180.0
PARAMETERS_OF_ALL = ("datacenter", "token", "type", "handler_type")


class BadWatch(Exception):
    """The parameters make no watch; the text is Consul's."""


@dataclass(frozen=True, slots=True)
class Request:
    """A GET of the HTTP API. `query` values may be lists; `token` goes into the header."""

    path: str
    query: Mapping[str, str | Sequence[str]]
    token: str = ""


@dataclass(frozen=True, slots=True)
class News:
    """What a handler is called with: the decoded value in the order of its keys, and the index."""

    value: Any
    index: int

    def compact(self) -> bytes:
        """The JSON that a handler reads, with a newline."""
        return gojson.dump(self.value) + b"\n"

    def pretty(self) -> str:
        """The JSON that people read."""
        return gojson.indent(gojson.dump(self.value)).decode("utf-8", "surrogateescape").rstrip("\n")


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer or a transport that failed: what to log, and how long to wait."""

    text: str
    retry_s: float


@dataclass(slots=True)
class Plan:
    """A watch under way. `parameters` are those of the definition without its handler."""

    kind: str
    path: str
    parameters: Mapping[str, str | Sequence[str]]
    token: str = ""
    _index: int = 0
    _last: Any = field(default=None)
    _asked: bool = False
    _failures: int = 0
    _event_seen: int = 0

    def request(self) -> Request:
        """What to ask now; the first time it answers at once, then when something changed."""
        query = dict(self.parameters)
        if self._index:
            query["index"] = str(self._index)
        return Request(self.path, query, self.token)

    def answered(self, status: int, index: int, body: bytes) -> News | Failure | None:
        """What an answer means: news for the handler, a failure, or nothing new. `index` is its X-Consul-Index."""
        missing = status == 404 and self.kind in ("key", "keyprefix")
        if status != 200 and not missing:
            text = body.decode("utf-8", "replace")
            # compat: reads of keys come without the server's words (1.10.11).
            words = "" if self.kind in ("key", "keyprefix") else f" ({text.rstrip(chr(10)) or text})"
            return self.failed(f"Unexpected response code: {status}{words}")
        try:
            value = None if missing else shapes.SHAPES[self.kind](json.loads(body))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            return self.failed(f"invalid answer: {error}")
        return self._news(index, value)

    def failed(self, text: str) -> Failure:
        """A request that had no answer. The wait grows with the square of failures in a row."""
        self._failures += 1
        self._index = 0
        return Failure(text, min(RETRY_S * self._failures**2, RETRY_S_MAX))

    def _news(self, index: int, value: Any) -> News | None:
        self._failures = 0
        first, before, seen = not self._asked, self._last, self._index
        if not first and index == seen:
            return None
        if self.kind == "event":
            # The index of events is no count but made from the last one's id; so it also outlives a failure.
            value, self._event_seen, self._index = list(_after(value, self._event_seen)), index, index
            if not first and not value:
                return None
        else:
            # An index that went backwards is that of another history: start over.
            self._index = 0 if index < seen else index
            if not first and value == before:
                return None
        self._asked, self._last = True, value
        return News(value, index)


def _after(events: Sequence[Mapping[str, Any]], index: int) -> Sequence[Mapping[str, Any]]:
    """The events behind the one whose index was seen last."""
    for at, event in enumerate(events):
        if index and _event_index(str(event["ID"])) == index:
            return events[at + 1 :]
    return events


def _event_index(identity: str) -> int:
    """The two halves of an event's id, folded: the index of a list that ends with it."""
    digits = identity.replace("-", "")
    try:
        return int(digits[:16], 16) ^ int(digits[16:32], 16)
    except ValueError:
        return 0


# --- from parameters -----------------------------------------------------------------------------------------------


class _Parameters:
    """Takes values out of a definition by kind; what is left over at the end is unknown."""

    def __init__(self, definition: Mapping[str, Any]) -> None:
        self.left = {str(key).lower(): value for key, value in definition.items()}

    def text(self, name: str) -> str:
        value = self.left.pop(name, "")
        if not isinstance(value, str):
            raise BadWatch(f"Expecting {name} to be a string")
        return value

    def flag(self, name: str) -> bool:
        value = self.left.pop(name, False)
        if not isinstance(value, bool):
            raise BadWatch(f"Expecting {name} to be a boolean")
        return value

    def texts(self, name: str) -> list[str]:
        value = self.left.pop(name, [])
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list):
            raise BadWatch(f"Expecting {name} to be a string or []string")
        for at, each in enumerate(value):
            if not isinstance(each, str):
                raise BadWatch(f"Index {at} of {name} expected to be string")
        return value


def parse(definition: Mapping[str, Any], *, exempt: Sequence[str] = ()) -> Plan:
    """A definition as a plan; keys of `exempt` are left to whoever runs handlers. Raises BadWatch."""
    given = _Parameters({key: value for key, value in definition.items() if key.lower() not in exempt})
    datacenter, token, kind = given.text("datacenter"), given.text("token"), given.text("type")
    given.left.pop("handler_type", None)
    if not kind:
        raise BadWatch("Watch type must be specified")
    if kind in MESH_TYPES:
        raise BadWatch(f"Type {kind} is not supported in the CLI tool")
    if kind not in TYPES:
        raise BadWatch(f"Unsupported watch type: {kind}")
    query: dict[str, str | Sequence[str]] = {"dc": datacenter} if datacenter else {}
    # The stale setting means nothing for events, which every agent keeps itself.
    if kind != "event" and given.flag("stale"):
        query["stale"] = ""
    path = _READERS[kind](given, query)
    if given.left:
        raise BadWatch(f"Invalid parameters: [{' '.join(sorted(given.left))}]")
    return Plan(kind, path, query, token)


Query = dict[str, str | Sequence[str]]


def _key(given: _Parameters, query: Query) -> str:
    key = given.text("key")
    if not key:
        raise BadWatch("Must specify a single key to watch")
    return f"/v1/kv/{key}"


def _keyprefix(given: _Parameters, query: Query) -> str:
    prefix = given.text("prefix")
    if not prefix:
        raise BadWatch("Must specify a single prefix to watch")
    query["recurse"] = ""
    return f"/v1/kv/{prefix}"


def _services(given: _Parameters, query: Query) -> str:
    _filter(given, query)
    return "/v1/catalog/services"


def _nodes(given: _Parameters, query: Query) -> str:
    _filter(given, query)
    return "/v1/catalog/nodes"


def _service(given: _Parameters, query: Query) -> str:
    service = given.text("service")
    if not service:
        raise BadWatch("Must specify a single service to watch")
    if tags := given.texts("tag"):
        query["tag"] = tags
    if given.flag("passingonly"):
        query["passing"] = "1"
    _filter(given, query)
    return f"/v1/health/service/{service}"


def _checks(given: _Parameters, query: Query) -> str:
    service, state = given.text("service"), given.text("state")
    if service and state:
        raise BadWatch("Cannot specify service and state")
    _filter(given, query)
    return f"/v1/health/checks/{service}" if service else f"/v1/health/state/{state or 'any'}"


def _event(given: _Parameters, query: Query) -> str:
    if name := given.text("name"):
        query["name"] = name
    return "/v1/event/list"


def _filter(given: _Parameters, query: Query) -> None:
    if expression := given.text("filter"):
        query["filter"] = expression


_READERS = {
    "key": _key, "keyprefix": _keyprefix, "services": _services, "nodes": _nodes, "service": _service,
    "checks": _checks, "event": _event,
}  # fmt: skip
