"""Why is there no leader? Who was expected, who is known, who refused and why, in one line and as data.

`diagnose` is pure: it reads what raft, gossip and the bootstrapper know at this moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.log import Log
from pyconsul_agent.raft.types import Refusal
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.directory import ALIVE, address_of
from pyconsul_agent.structs.diagnosis import DiagnosedServer, Diagnosis
from pyconsul_agent.structs.raft import Configuration, Server, Suffrage

REPORT_INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a diagnosis is made of. `known`: every server of the datacenter that gossip knows, by raft ID."""

    own_id: str
    leader: str
    role: str
    term: int
    last_index: int
    configuration: Configuration
    known: Mapping[str, ServerInfo]
    expect: int = 0
    """Servers that `-bootstrap-expect` still waits for; 0 when that is over, or was never asked for."""
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    dial_errors: Mapping[str, str] = field(default_factory=dict)


def diagnose(facts: Facts, leaderless_s: float) -> Diagnosis:
    """The report; `leaderless_s` is how long there has been no leader."""
    configured = facts.configuration.servers or ()
    voters = [server for server in configured if server.suffrage == Suffrage.VOTER]
    rows = _rows(facts, configured)
    return Diagnosis(
        leader=facts.leader,
        reason="" if facts.leader else _reason(facts, voters, rows),
        leaderless_s=0.0 if facts.leader else round(leaderless_s, 3),
        role=facts.role,
        term=facts.term,
        last_index=facts.last_index,
        expect=facts.expect,
        bootstrapped=bool(configured),
        quorum=len(voters) // 2 + 1 if voters else 0,
        servers=tuple(rows),
    )


def _rows(facts: Facts, configured: Sequence[Server]) -> list[DiagnosedServer]:
    """Those of the raft configuration first, then others that only gossip knows."""
    rows = [_row(facts, server.id, server.address, server.suffrage == Suffrage.VOTER) for server in configured]
    present = {server.id for server in configured}
    others = sorted(facts.known.items(), key=lambda item: item[1].name)
    return rows + [_row(facts, id_, address_of(info), voter=False) for id_, info in others if id_ not in present]


def _row(facts: Facts, server_id: str, address: str, voter: bool) -> DiagnosedServer:
    info = facts.known.get(server_id)
    refusal = facts.refusals.get(server_id)
    return DiagnosedServer(
        name=info.name if info is not None else "",
        id=server_id,
        address=address,
        voter=voter,
        gossip=info.status.word if info is not None else "unknown",
        expect=info.expect if info is not None else 0,
        vote=_refusal(refusal) if refusal is not None else "",
        dial=facts.dial_errors.get(server_id, ""),
    )


def _refusal(refusal: Refusal) -> str:
    if refusal.term > refusal.asked_in_term:
        return f"refused: it is in term {refusal.term}, we asked in term {refusal.asked_in_term}"
    return (
        f"refused in term {refusal.term}: it hears a leader, has voted for another, does not know us as a voter, "
        "or its log is longer"
    )


def _reason(facts: Facts, voters: Sequence[Server], rows: Sequence[DiagnosedServer]) -> str:
    if not (facts.configuration.servers or ()):
        return _not_bootstrapped(facts)
    names = {row.id: row.name or row.address for row in rows}
    if not any(server.id == facts.own_id for server in voters):
        return f"this server has no vote; the voters are {_list(names[server.id] for server in voters)}"
    needed = len(voters) // 2 + 1
    absent = [row for row in rows if row.voter and row.id != facts.own_id and _is_absent(row)]
    if len(voters) - len(absent) < needed:
        return (
            f"no quorum: {needed} of {len(voters)} voters are needed, "
            f"{len(voters) - len(absent)} can be reached; missing are {_list(_absence(row) for row in absent)}"
        )
    refusing = [row for row in rows if row.voter and row.vote]
    if refusing:
        return f"votes refused: {_list(f'{row.name or row.address} ({row.vote})' for row in refusing)}"
    return "a quorum of voters can be reached: an election is due"


def _not_bootstrapped(facts: Facts) -> str:
    if not facts.expect:
        return (
            "this server has no raft configuration: it was started without -bootstrap and -bootstrap-expect, or others "
            "have a cluster already, and no leader has added it yet"
        )
    strangers = [info.name for info in facts.known.values() if info.expect not in (0, facts.expect)]
    if strangers:
        return f"-bootstrap-expect is {facts.expect} here, but another number on {_list(sorted(strangers))}"
    alone = [info.name for info in facts.known.values() if info.bootstrap]
    if alone:
        return f"-bootstrap-expect waits, but {_list(sorted(alone))} runs in bootstrap mode"
    found = sorted(info.name for info in facts.known.values() if info.status in ALIVE and not info.is_read_replica)
    return f"-bootstrap-expect waits for {facts.expect} servers, {len(found)} known: {_list(found)}"


def _is_absent(row: DiagnosedServer) -> bool:
    return bool(row.dial) or row.gossip in ("failed", "left")


def _absence(row: DiagnosedServer) -> str:
    return f"{row.name or row.address} ({row.dial or row.gossip})"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


class LeaderWatch:
    """Says every 10 s without a leader why there is none; `diagnosis` tells the same at any time."""

    def __init__(self, facts: Callable[[], Facts], clock: Clock, log: Log) -> None:
        self._facts = facts
        self._clock = clock
        self._log = log
        self._since = clock.monotonic()

    def leader_changed(self, address: str) -> None:
        """Another leader is known, or none (an empty address)."""
        if not address:
            self._since = self._clock.monotonic()

    def diagnosis(self) -> Diagnosis:
        """As of now."""
        return diagnose(self._facts(), self._clock.monotonic() - self._since)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            found = self.diagnosis()
            if not found.leader and found.leaderless_s >= REPORT_INTERVAL_S:
                self._log.warn("no cluster leader", seconds=round(found.leaderless_s), reason=found.reason)
