"""What a server measures of consensus, of the state machine and of a leader's duties. Pure.

Whoever works holds a meter and calls it with seconds. Labels are bounded: peers and operations up to a number.
"""

from __future__ import annotations

from pyconsul_agent.telemetry.registry import Registry, Series

PEERS_MAX = 64
COMMANDS_MAX = 256
COMMANDS = {
    0: "register", 1: "deregister", 2: "kvs", 3: "session", 5: "tombstone", 6: "coordinate.batch-update",
    7: "prepared-query", 8: "txn", 9: "autopilot", 12: "intention", 13: "ca", 17: "acl.token", 18: "acl.token",
    19: "acl.policy", 20: "acl.policy", 21: "ca.leaf", 22: "config_entry", 23: "acl.role", 24: "acl.role",
    25: "acl.bindingrule", 26: "acl.bindingrule", 27: "acl.authmethod", 28: "acl.authmethod",
    30: "federation_state", 31: "system_metadata",
}  # fmt: skip
"""Names of the commands by type byte."""


class FSMMeter:
    """Measures commands of the log: each is `raft.fsm.apply` and `fsm.<command>`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._applied = registry.samples("raft.fsm.apply")
        self._rows: dict[tuple[int, str, str], Series] = {}

    def __call__(self, kind: int, op: str, of: str, seconds: float) -> None:
        """A command was applied. `op` and `of` (a kind of config entries, a datacenter) may be empty."""
        row = self._rows.get((kind, op, of))
        if row is None:
            row = self._make(kind, op, of)
        milliseconds = seconds * 1000
        self._applied.add(milliseconds)
        row.add(milliseconds)

    def _make(self, kind: int, op: str, of: str) -> Series:
        full = len(self._rows) >= COMMANDS_MAX
        if full:
            op, of = op and "other", of and "other"
        name = ".".join(part for part in ("fsm", COMMANDS.get(kind, "other"), of) if part)
        row = self._registry.samples(name, **({"op": op} if op else {}))
        if not full:
            self._rows[kind, op, of] = row
        return row


class RaftMeter:
    """Measures consensus. Times are given in seconds."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.applied = registry.counter("raft.apply")
        self.barriers = registry.counter("raft.barrier")
        self.verified = registry.counter("raft.verify_leader")
        self.commit_time = registry.samples("raft.commitTime")
        self.last_contact = registry.samples("raft.leader.lastContact")
        self._dispatched = registry.samples("raft.leader.dispatchLog")
        self._stored = registry.samples("raft.rpc.appendEntries.storeLogs")
        self._requests: dict[str, Series] = {}
        self._peers: dict[tuple[str, str], tuple[Series, Series]] = {}

    def stored(self, entries: int, seconds: float, *, leads: bool) -> None:
        """Entries were made durable, as their leader or by a leader's order."""
        if leads:
            self._dispatched.add(seconds * 1000)
            self._registry.gauge("raft.leader.dispatchNumLogs", entries)
        else:
            self._stored.add(seconds * 1000)

    def request(self, kind: str, seconds: float) -> None:
        """A peer's request (`appendEntries`, `processHeartbeat`, `requestVote`, `installSnapshot`) was answered."""
        series = self._requests.get(kind)
        if series is None:
            series = self._requests[kind] = self._registry.samples(f"raft.rpc.{kind}")
        series.add(seconds * 1000)

    def replied(self, peer: str, kind: str, entries: int, seconds: float) -> None:
        """A peer answered us: `heartbeat`, `appendEntries.rpc` with so many entries, or `installSnapshot`."""
        found = self._peers.get((peer, kind))
        if found is None:
            known = len(self._peers) < PEERS_MAX
            label = peer if known else "other"
            name = "raft.replication"
            found = (
                self._registry.samples(f"{name}.{kind}", peer_id=label),
                self._registry.counter(f"{name}.appendEntries.logs", peer_id=label),
            )
            if known:
                self._peers[peer, kind] = found
        found[0].add(seconds * 1000)
        if entries:
            found[1].add(entries)

    def rare(self, name: str, seconds: float) -> None:
        """Something that happens now and then: `raft.snapshot.persist` and the like."""
        self._registry.sample(name, seconds * 1000)

    def restored(self) -> None:
        """A user's snapshot is being restored."""
        self._registry.count("raft.restore")


class DutyMeter:
    """Measures what a leader does now and then, by full name."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, name: str, seconds: float) -> None:
        """`leader.barrier` and the like took so long."""
        self._registry.sample(name, seconds * 1000)
