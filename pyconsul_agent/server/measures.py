"""The numbers of a server that are read now and then rather than counted: gauges of raft, members and state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from pyconsul_agent.server.leader.standing import Standing, failure_tolerance
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.config_kinds import kind_of
from pyconsul_agent.structs.member import Member, MemberStatus

Gauge = tuple[str, float, Mapping[str, str]]
"""(name, value, labels)."""


class RaftFacts(Protocol):
    """What is asked of raft."""

    @property
    def is_leader(self) -> bool: ...
    @property
    def last_index(self) -> int: ...
    @property
    def applied_index(self) -> int: ...
    @property
    def commit_index(self) -> int: ...
    def configuration(self) -> tuple[Any, int]: ...


class ServerMeasures:
    """Reads them; `read` is called once in an interval."""

    def __init__(
        self,
        raft: RaftFacts,
        store: Callable[[], Store],
        members: Callable[[], Iterable[Member]],
        standings: Callable[[], Mapping[str, Standing]],
        sessions: Callable[[], int],
        *,
        datacenter: str,
    ) -> None:
        self._raft = raft
        self._store = store
        self._members = members
        self._standings = standings
        self._sessions = sessions
        self._datacenter = datacenter
        self._committed = 0

    def read(self) -> Iterator[Gauge]:
        """Every gauge."""
        yield from self._of_raft()
        yield from self._of_state()
        here = {"datacenter": self._datacenter}
        alive = [member for member in self._members() if member.status is MemberStatus.ALIVE]
        servers = sum(member.tags.get("role") == "consul" for member in alive)
        yield "members.servers", servers, here
        yield "members.clients", len(alive) - servers, here

    def _of_raft(self) -> Iterator[Gauge]:
        raft = self._raft
        yield "raft.last_index", raft.last_index, {}
        yield "raft.applied_index", raft.applied_index, {}
        yield "raft.commitNumLogs", max(raft.commit_index - self._committed, 0), {}
        self._committed = raft.commit_index
        yield "raft.peers", len(raft.configuration()[0].servers), {}
        standings = self._standings()
        if raft.is_leader and standings:
            yield "autopilot.healthy", float(all(each.healthy for each in standings.values())), {}
            yield "autopilot.failure_tolerance", failure_tolerance(standings.values()), {}
        if raft.is_leader:
            yield "session_ttl.active", self._sessions(), {}

    def _of_state(self) -> Iterator[Gauge]:
        store, here = self._store(), {"datacenter": self._datacenter}
        tables = store.tables
        yield "rpc.queries_blocking", len(store.watchers), {}
        yield "runtime.watchers", len(store.watchers), {}
        yield "state.nodes", len(tables.nodes), here
        yield "state.services", sum(1 for _ in tables.services.index_keys("name")), here
        yield "state.service_instances", len(tables.services), here
        yield "state.kv_entries", len(tables.kvs), here
        for kind, count in sorted(Counter(kind_of(entry) for entry in tables.config_entries.scan()).items()):
            yield "state.config_entries", count, {**here, "kind": kind}
