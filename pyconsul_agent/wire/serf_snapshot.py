"""Lines of serf's snapshot file, `<data-dir>/serf/local.snapshot`: how a restarted agent finds its peers again.

Text, one record a line, appended::

    alive: <name> <ip:port>     not-alive: <name>     leave
    clock: <n>     event-clock: <n>     query-clock: <n>

`coordinate: ...` (old agents) and `# ...` are skipped. A name may hold blanks: the address
follows the last one. What to write when is `serf.snapshot`'s; who touches the disk is the driver.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SNAPSHOT_CLOCK_MAX = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """What a snapshot says: last known address ("ip:port") of every alive node, and three clocks (0: unknown)."""

    alive: dict[str, str] = field(default_factory=dict)
    clock: int = 0
    event_clock: int = 0
    query_clock: int = 0
    odd_lines: int = 0
    """How many lines made no sense and were passed over."""


def alive_line(name: str, address: str) -> str:
    """`address` is "ip:port", IPv6 in brackets."""
    return f"alive: {name} {address}\n"


def not_alive_line(name: str) -> str:
    """The node left or failed."""
    return f"not-alive: {name}\n"


def clock_line(value: int) -> str:
    """The member clock."""
    return f"clock: {value}\n"


def event_clock_line(value: int) -> str:
    """The user event clock."""
    return f"event-clock: {value}\n"


def query_clock_line(value: int) -> str:
    """The query clock."""
    return f"query-clock: {value}\n"


LEAVE_LINE = "leave\n"


def render(state: SnapshotState) -> str:
    """The compacted file: everything that `replay` needs to return `state`."""
    lines = [alive_line(name, address) for name, address in sorted(state.alive.items())]
    lines += [clock_line(state.clock), event_clock_line(state.event_clock), query_clock_line(state.query_clock)]
    return "".join(lines)


def replay(text: str, *, rejoin_after_leave: bool) -> SnapshotState:
    """Read a whole file. An incomplete last line is ignored; odd lines are counted and passed over."""
    alive: dict[str, str] = {}
    clocks = {"clock": 0, "event-clock": 0, "query-clock": 0}
    odd = 0
    for line in text.split("\n")[:-1]:
        kind, _, rest = line.partition(": ")
        if kind == "alive":
            name, blank, address = rest.rpartition(" ")
            if blank:
                alive[name] = address
            else:
                odd += 1
        elif kind == "not-alive":
            alive.pop(rest, None)
        elif kind in clocks:
            if rest.isascii() and rest.isdigit() and len(rest) <= 20 and int(rest) <= SNAPSHOT_CLOCK_MAX:
                clocks[kind] = int(rest)
            else:
                odd += 1
        elif line == "leave":
            if not rejoin_after_leave:
                alive.clear()
                clocks = dict.fromkeys(clocks, 0)
        elif kind != "coordinate" and not line.startswith("#"):
            odd += 1
    return SnapshotState(alive, clocks["clock"], clocks["event-clock"], clocks["query-clock"], odd)
