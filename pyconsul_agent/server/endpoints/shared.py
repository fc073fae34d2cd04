"""What endpoints have in common: proposing a command, filtering, distances, and UUIDs and durations as Go has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pyconsul_agent.errors import ConsulError, RaftError, RPCError
from pyconsul_agent.query.bexpr.expression import compile_filter
from pyconsul_agent.query.near import CoordinateSet, sort_near
from pyconsul_agent.server.seams import Proposer
from pyconsul_agent.state.store import Store, node_prefix
from pyconsul_agent.structs.requests import QuerySource
from pyconsul_agent.wire.msgpack import encode

RowT = TypeVar("RowT")


async def propose(proposer: Proposer, kind: int, request: object, *, prefix: str = "") -> Any:
    """Commit `request` as command `kind`; returns the result. Every failure becomes an RPCError with `prefix`."""
    try:
        result = await proposer.apply(kind, encode(request))
    except RaftError as error:
        raise RPCError(f"{prefix}{error}") from error
    if isinstance(result, ConsulError):
        raise RPCError(f"{prefix}{result}") from result
    return result


def filtered(text: str, form: type, rows: Sequence[RowT]) -> tuple[RowT, ...] | None:
    """Rows that pass the filter expression; without one all of them, None if there are none. Raises RPCError."""
    if not text:
        return tuple(rows) or None
    check_filter(text, form)
    try:
        return tuple(compile_filter(text, form).keep(rows))
    except ValueError as error:
        raise RPCError(str(error)) from error


def check_filter(text: str, form: type) -> None:
    """Raises RPCError unless `text` is empty or a filter for rows of type `form`."""
    try:
        if text:
            compile_filter(text, form)
    except ValueError as error:
        raise RPCError(f"Failed to create boolean expression evaluator: {error}") from error


class Near:
    """Sorts rows by distance from the node that a request names as its source."""

    def __init__(self, store: Store, datacenter: str) -> None:
        self._store = store
        self._datacenter = datacenter

    def sort(self, source: QuerySource, rows: list[RowT], node_of: Callable[[RowT], str]) -> list[RowT]:
        """By distance from `source.node`; unchanged if it is empty, unknown or of another datacenter."""
        if not source.node or source.datacenter not in ("", self._datacenter):
            return rows
        return sort_near(rows, self.coordinates(source.node), node_of, self.coordinates)

    def coordinates(self, node: str) -> CoordinateSet:
        """A node's coordinates by segment."""
        found = self._store.tables.coordinates.scan(node_prefix(node))
        return {row.segment: row.coord for row in found if row.coord is not None}


def node_id_problem(text: str) -> str | None:
    """What is wrong with a UUID, in the words of Go's parser; None if nothing."""
    if len(text.encode("utf-8", "surrogateescape")) != 36:
        return "uuid string is wrong length"
    if any(text[at] != "-" for at in (8, 13, 18, 23)):
        return "uuid is improperly formatted"
    digits = text[0:8] + text[9:13] + text[14:18] + text[19:23] + text[24:36]
    for character in digits:
        if character not in "0123456789abcdefABCDEF":
            return f"encoding/hex: invalid byte: U+{ord(character):04X} '{character}'"
    return None


_UNITS_NS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}  # fmt: skip
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION_CHARACTERS_MAX = 64


def parse_duration_ns(text: str) -> int:
    """Go's time.ParseDuration ("1h30m", "15s") in nanoseconds. Raises ValueError with Go's words."""
    body = text[1:] if text[:1] in ("+", "-") else text
    sign = -1 if text.startswith("-") else 1
    if body == "0":
        return 0
    total, at = 0, 0
    while at < len(body) and len(body) <= _DURATION_CHARACTERS_MAX:
        part = _PART.match(body, at)
        if part is None:
            break
        whole, _, fraction = part[1].partition(".")
        unit = _UNITS_NS[part[2]]
        total += int(whole or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        at = part.end()
    if not body or at < len(body):
        if re.fullmatch(r"\d+\.?\d*|\.\d+", body):
            raise ValueError(f'time: missing unit in duration "{text}"')
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * total
