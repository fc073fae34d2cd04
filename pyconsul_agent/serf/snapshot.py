"""What to write into the snapshot file and when, so that a restarted agent finds its peers.

Protocol: docs/protocol/gossip.md, section 12. Lines are gathered and handed out at most every half second. Reading is
`wire.serf_snapshot.replay`; the disk is the driver's.
"""

from __future__ import annotations

from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.effects import AppendSnapshot, ReplaceSnapshot
from pyconsul_agent.structs.member import Member, MemberEvent, MemberEventKind
from pyconsul_agent.wire.gossip import Address
from pyconsul_agent.wire.serf_snapshot import (
    LEAVE_LINE,
    SnapshotState,
    alive_line,
    clock_line,
    event_clock_line,
    not_alive_line,
    query_clock_line,
    render,
)

PORT_MAX = 65_535
SNAPSHOT_BYTES_PER_NODE = 128
SNAPSHOT_COMPACTION_FACTOR = 2


def endpoint_text(address: str, port: int) -> str:
    """`ip:port`, IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def known_addresses(state: SnapshotState) -> dict[str, Address]:
    """Where the members of the snapshot were; what is no `ip:port` is passed over."""
    found = {}
    for name, text in state.alive.items():
        host, _, port = text.rpartition(":")
        if host and port.isascii() and port.isdigit() and 0 < int(port[:6]) <= PORT_MAX:
            found[name] = (host.removeprefix("[").removesuffix("]"), int(port))
    return found


class SnapshotRecorder:
    """Follows one pool from the state that was replayed."""

    def __init__(self, config: SerfConfig, start: SnapshotState, file_bytes: int = 0) -> None:
        self._config = config
        self._alive = dict(start.alive)
        self._clock, self._event_clock, self._query_clock = start.clock, start.event_clock, start.query_clock
        self._lines: list[str] = []
        self._file_bytes = file_bytes
        self._has_left = False
        self._must_sync = False

    def member_event(self, event: MemberEvent) -> None:
        """Record a join, or that a member is gone for good.

        Beyond serf, which forgets failed members: a node that was cut off sees all others fail, and would find nobody
        after its restart.
        """
        if self._has_left:
            return
        if event.kind is MemberEventKind.JOIN:
            self._record_alive(event.member)
        elif event.kind in (MemberEventKind.LEAVE, MemberEventKind.REAP) and event.member.name in self._alive:
            del self._alive[event.member.name]
            self._lines.append(not_alive_line(event.member.name))

    def _record_alive(self, member: Member) -> None:
        if "\n" in member.name:  # would end the record early and forge the next one
            return
        address = endpoint_text(member.address, member.port)
        # Durable: after a power failure this may be all that a node without `join` addresses knows of its peers.
        self._must_sync = self._must_sync or self._alive.get(member.name) != address
        self._alive[member.name] = address
        self._lines.append(alive_line(member.name, address))

    def clocks(self, member: int, event: int, query: int) -> None:
        """Record clocks that have grown."""
        if self._has_left:
            return
        if member > self._clock:
            self._clock = member
            self._lines.append(clock_line(member))
        if event > self._event_clock:
            self._event_clock = event
            self._lines.append(event_clock_line(event))
        if query > self._query_clock:
            self._query_clock = query
            self._lines.append(query_clock_line(query))

    def leave(self) -> None:
        """We leave on purpose: nothing more is recorded."""
        if self._has_left:
            return
        self._has_left = True
        self._lines.append(LEAVE_LINE)
        if not self._config.rejoin_after_leave:
            self._alive.clear()

    def flush(self) -> AppendSnapshot | ReplaceSnapshot | None:
        """What to write now."""
        if not self._lines:
            return None
        text = "".join(self._lines)
        self._lines.clear()
        self._file_bytes += len(text.encode("utf-8", "surrogateescape"))
        if self._file_bytes <= self._compaction_bytes() or self._has_left:
            sync, self._must_sync = self._must_sync or self._has_left, False
            return AppendSnapshot(text, sync=sync)
        state = SnapshotState(self._alive, self._clock, self._event_clock, self._query_clock)
        compact = render(state)
        self._file_bytes = len(compact.encode("utf-8", "surrogateescape"))
        return ReplaceSnapshot(compact)

    def _compaction_bytes(self) -> int:
        grown = len(self._alive) * SNAPSHOT_BYTES_PER_NODE * SNAPSHOT_COMPACTION_FACTOR
        return max(self._config.snapshot_bytes_min, grown)
