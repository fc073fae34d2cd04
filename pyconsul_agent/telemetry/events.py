"""The table of user-visible events: each happens once and has two texts, classic (0.5) and modern (1.10).

`expand(name, role, fields)` gives the lines of both renderings. Knows nothing of clocks, levels set by users, or sinks.
An event may also have console lines (`==> ...`): the classic agent printed these around its log, not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["server", "client"]
Fields = Mapping[str, object]

TRACE, DEBUG, INFO, WARN, ERROR = range(5)


@dataclass(frozen=True, slots=True)
class Line:
    """One log line before rendering. `module` is the logger's name (modern) or the subsystem (classic)."""

    level: int
    module: str
    message: str
    pairs: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Console:
    """A line of the classic console. `held_only`: part of the start-up screen, not printed once the agent runs."""

    text: str
    held_only: bool = False
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Texts:
    """Both renderings of one event."""

    modern: tuple[Line, ...] = ()
    classic: tuple[Line, ...] = ()
    console: tuple[Console, ...] = ()


Template = Callable[[Role, Fields], Texts]


def expand(name: str, role: Role, fields: Fields) -> Texts:
    """The lines of event `name`. An unknown name or a missing field is a bug of the caller: KeyError."""
    return _EVENTS[name](role, fields)


def names() -> list[str]:
    """Every event's name, sorted."""
    return sorted(_EVENTS)


# --- builders ------------------------------------------------------------------------------------------------------


def _simple(
    level: int,
    classic: str | None,
    module: str,
    message: str,
    *,
    pairs: Mapping[str, str] | None = None,
    subsystem: str | None = None,
    console: tuple[Console, ...] = (),
) -> Template:
    """An event of one line in each rendering. Texts are `str.format` templates over the fields and `role`.

    `pairs` maps a pair's key to a field's name, to a template (it holds a brace) or to a constant (`=text`).
    """

    def texts(role: Role, fields: Fields) -> Texts:
        values = {**fields, "role": role}
        rendered = tuple(
            (key, source[1:] if source[0] == "=" else source.format_map(values) if "{" in source else values[source])
            for key, source in (pairs or {}).items()
        )
        name = module.format_map(values)
        lines = (Line(level, name, message.format_map(values), rendered),)
        old = () if classic is None else (Line(level, subsystem or subsystem_of(name), classic.format_map(values)),)
        screen = tuple(Console(c.text.format_map(values), c.held_only, c.is_warning) for c in console)
        return Texts(lines, old, screen)

    return texts


def subsystem_of(module: str) -> str:
    """The classic subsystem of a modern logger name: `agent.server.serf.lan` -> `serf`, `agent.leader` -> `consul`."""
    parts = module.split(".")
    for word in ("raft", "serf", "memberlist", "snapshot", "http", "dns"):
        if word in parts:
            return word
    if parts[:2] == ["agent", "rpc"]:
        return "agent.rpc"
    consul = {"server", "client", "leader", "router", "fsm", "autopilot", "acl", "connect"}
    return "consul" if len(parts) > 1 and parts[1] in consul else "agent"


def _pool(fields: Fields) -> str:
    return str(fields.get("pool", "lan")).lower()


def _list(value: object) -> str:
    """Go's `%v` of a list of strings."""
    return f"[{' '.join(str(item) for item in value)}]" if isinstance(value, list | tuple) else str(value)


def _join_start(role: Role, fields: Fields) -> Texts:
    pool, addresses = _pool(fields), _list(fields["addresses"])
    return Texts(
        modern=(
            Line(INFO, "agent", "Joining cluster"),
            Line(INFO, "agent", f"({pool.upper()}) joining", ((f"{pool}_addresses", addresses),)),
        ),
        classic=(Line(INFO, "agent", f"({pool.upper()}) joining: {addresses}"),),
        console=(Console(f"==> Joining {'cluster' if pool == 'lan' else '-wan cluster'}...", held_only=True),),
    )


def _join_done(role: Role, fields: Fields) -> Texts:
    pool, count = _pool(fields), fields["count"]
    return Texts(
        modern=(
            Line(INFO, "agent", f"({pool.upper()}) joined", (("number_of_nodes", count),)),
            Line(INFO, "agent", "Join completed. Initial agents synced with", (("agent_count", count),)),
        ),
        classic=(Line(INFO, "agent", f"({pool.upper()}) joined: {count} Err: <nil>"),),
        console=(Console(f"    Join completed. Synced with {count} initial agents", held_only=True),),
    )


def _join_failed(role: Role, fields: Fields) -> Texts:
    pool, error = _pool(fields).upper(), fields["error"]
    return Texts(
        modern=(Line(WARN, "agent", f"({pool}) couldn't join", (("number_of_nodes", 0), ("error", error))),),
        classic=(Line(INFO, "agent", f"({pool}) joined: 0 Err: {error}"),),
        console=(Console(f"==> {error}", held_only=True),),
    )


def _member_event(role: Role, fields: Fields) -> Texts:
    """`kind` is join, leave, failed, update or reap, in any letter case, with or without serf's prefix."""
    kind = str(fields["kind"]).lower().removeprefix("member-").capitalize()
    what = f"EventMember{kind}: {fields['name']} {fields['address']}"
    return Texts(
        modern=(Line(INFO, f"agent.{role}.serf.{_pool(fields)}", f"serf: {what}"),),
        classic=(Line(INFO, "serf", what),),
    )


def _rejoin(words: str) -> Template:
    def texts(role: Role, fields: Fields) -> Texts:
        what = f"{words} to previously known node: {fields['name']}: {fields['address']}"
        return Texts(
            modern=(Line(INFO, f"agent.{role}.serf.{_pool(fields)}", f"serf: {what}"),),
            classic=(Line(INFO, "serf", what),),
        )

    return texts


def _server_seen(added: bool) -> Template:
    def texts(role: Role, fields: Fields) -> Texts:
        name, address, datacenter = fields["name"], fields["address"], fields["datacenter"]
        verb = "adding" if added else "removing"
        classic = Line(INFO, "consul", f"{verb} server {name} (Addr: {address}) (DC: {datacenter})")
        if _pool(fields) == "wan":
            event = "member-join" if added else "member-leave"
            modern = Line(
                INFO,
                "agent.server",
                "Handled event for server in area",
                (("event", event), ("server", name), ("area", "wan")),
            )
        else:
            words = f"{verb.capitalize()} LAN server" if role == "server" else f"{verb} server"
            server = f"{name} (Addr: tcp/{address}) (DC: {datacenter})"
            modern = Line(INFO, f"agent.{role}", words, (("server", server),))
        return Texts((modern,), (classic,))

    return texts


def _raft_bootstrap(role: Role, fields: Fields) -> Texts:
    peers = fields["peers"]
    listed = [str(p) for p in peers] if isinstance(peers, list | tuple) else str(peers).split(",")
    return Texts(
        modern=(
            Line(
                INFO,
                "agent.server",
                "Found expected number of peers, attempting bootstrap",
                (("peers", ",".join(listed)),),
            ),
        ),
        classic=(Line(INFO, "consul", f"Attempting bootstrap with nodes: {_list(listed)}"),),
    )


def _shutdown_complete(role: Role, fields: Fields) -> Texts:
    return Texts(
        modern=(Line(INFO, "agent", f"consul {role} down"), Line(INFO, "agent", "shutdown complete")),
        classic=(Line(INFO, "agent", "shutdown complete"),),
    )


def _marked_failed(role: Role, fields: Fields) -> Texts:
    text = f"Marking {fields['name']} as failed, suspect timeout reached"
    modern = f"memberlist: {text} ({fields['confirmations']} peer confirmations)"
    return Texts(
        modern=(Line(INFO, f"agent.{role}.memberlist.{_pool(fields)}", modern),),
        classic=(Line(INFO, "memberlist", text),),
    )


def _suspect(role: Role, fields: Fields) -> Texts:
    text = f"Suspect {fields['name']} has failed, no acks received"
    return Texts(
        modern=(Line(INFO, f"agent.{role}.memberlist.{_pool(fields)}", f"memberlist: {text}"),),
        classic=(Line(INFO, "memberlist", text),),
    )


def _bootstrap_warning(role: Role, fields: Fields) -> Texts:
    return Texts(
        modern=(Line(WARN, "agent", "bootstrap = true: do not enable unless necessary"),),
        console=(
            Console("==> WARNING: Bootstrap mode enabled! Do not enable unless necessary", True, is_warning=True),
        ),
    )


def _leave_start(role: Role, fields: Fields) -> Texts:
    mode = str(fields.get("mode", role))
    return Texts(
        modern=(Line(INFO, f"agent.{mode}", f"{mode} starting leave"),),
        classic=(Line(INFO, "consul", f"{mode} starting leave"),),
    )


_RAFT = "agent.server.raft"
_PEER = {"peer": "{{Voter {peer_id} {address}}}"}

_EVENTS: dict[str, Template] = {
    "bootstrap_warning": _bootstrap_warning,
    "expect_warning": _simple(
        WARN,
        None,
        "agent",
        "bootstrap_expect > 0: expecting {count} servers",
        console=(Console("==> WARNING: Expect Mode enabled, expecting {count} servers", True, is_warning=True),),
    ),
    "agent_running": _simple(INFO, None, "agent", "Consul agent running!"),
    "join_start": _join_start,
    "join_done": _join_done,
    "join_failed": _join_failed,
    "member_event": _member_event,
    "rejoin_attempt": _rejoin("Attempting re-join"),
    "rejoined": _rejoin("Re-joined"),
    "server_added": _server_seen(added=True),
    "server_removed": _server_seen(added=False),
    "raft_follower": _simple(
        INFO,
        "Node at {address} [Follower] entering Follower state",
        _RAFT,
        "entering follower state",
        pairs={"follower": "Node at {address} [Follower]", "leader": "leader"},
    ),
    "raft_candidate": _simple(
        INFO,
        "Node at {address} [Candidate] entering Candidate state",
        _RAFT,
        "entering candidate state",
        pairs={"node": "Node at {address} [Candidate]", "term": "term"},
    ),
    "raft_leader": _simple(
        INFO,
        "Node at {address} [Leader] entering Leader state",
        _RAFT,
        "entering leader state",
        pairs={"leader": "Node at {address} [Leader]"},
    ),
    "raft_lease_lost": _simple(
        WARN,
        "Failed to contact quorum of nodes, stepping down",
        _RAFT,
        "failed to contact quorum of nodes, stepping down",
    ),
    "raft_no_peers": _simple(
        WARN,
        "EnableSingleNode disabled, and no known peers. Aborting election.",
        _RAFT,
        "no known peers, aborting election",
    ),
    "raft_bootstrap": _raft_bootstrap,
    "raft_election_start": _simple(
        WARN,
        "Heartbeat timeout reached, starting election",
        _RAFT,
        "heartbeat timeout reached, starting election",
        pairs={"last-leader": "last_leader"},
    ),
    "raft_election_again": _simple(
        WARN,
        "Election timeout reached, restarting election",
        _RAFT,
        "Election timeout reached, restarting election",
    ),
    "raft_election_won": _simple(INFO, "Election won. Tally: {tally}", _RAFT, "election won", pairs={"tally": "tally"}),
    "raft_vote_refused": _simple(
        WARN,
        "Rejecting vote from {candidate} since we have a leader: {leader}",
        _RAFT,
        "rejecting vote request since we have a leader",
        pairs={"from": "candidate", "leader": "leader"},
    ),
    "raft_duplicate_vote": _simple(
        INFO,
        "Duplicate RequestVote for same term: {term}",
        _RAFT,
        "duplicate requestVote for same term",
        pairs={"term": "term"},
    ),
    "leadership_acquired": _simple(INFO, "cluster leadership acquired", "agent.server", "cluster leadership acquired"),
    "leadership_lost": _simple(INFO, "cluster leadership lost", "agent.server", "cluster leadership lost"),
    "leader_elected": _simple(
        INFO, "New leader elected: {node}", "agent.{role}", "New leader elected", pairs={"payload": "node"}
    ),
    "raft_pipelining": _simple(
        INFO, "pipelining replication to peer {address}", _RAFT, "pipelining replication", pairs=_PEER
    ),
    "raft_pipeline_aborted": _simple(
        INFO, "aborting pipeline replication to peer {address}", _RAFT, "aborting pipeline replication", pairs=_PEER
    ),
    "raft_restore_undone": _simple(
        WARN,
        "Restored snapshot was never committed, going back before it (Index: {index})",
        _RAFT,
        "restored snapshot was never committed, going back before it",
        pairs={"index": "index", "last-index": "last_index"},
    ),
    "raft_peer_removed": _simple(
        INFO,
        "Removed peer {address}, stopping replication (Index: {last_index})",
        _RAFT,
        "removed peer, stopping replication",
        pairs={"peer": "peer_id", "last-index": "last_index"},
    ),
    "member_alive": _simple(
        INFO,
        "member '{name}' joined, marking health alive",
        "agent.server",
        "member joined, marking health alive",
        pairs={"member": "name"},
    ),
    "member_failed": _simple(
        INFO,
        "member '{name}' failed, marking health critical",
        "agent.server",
        "member failed, marking health critical",
        pairs={"member": "name"},
    ),
    "member_left": _simple(
        INFO,
        "member '{name}' left, deregistering",
        "agent.server",
        "deregistering member",
        pairs={"member": "name", "reason": "=left"},
    ),
    "member_reaped": _simple(
        INFO,
        "member '{name}' reaped, deregistering",
        "agent.server",
        "deregistering member",
        pairs={"member": "name", "reason": "=reaped"},
    ),
    "synced_service": _simple(INFO, "Synced service '{id}'", "agent", "Synced service", pairs={"service": "id"}),
    "synced_check": _simple(INFO, "Synced check '{id}'", "agent", "Synced check", pairs={"check": "id"}),
    "synced_node": _simple(INFO, "Synced node info", "agent", "Synced node info"),
    "sync_failed": _simple(
        ERROR,
        "failed to sync remote state: {error}",
        "agent.anti_entropy",
        "failed to sync remote state",
        pairs={"error": "error"},
    ),
    "deregistered_service": _simple(
        INFO, "Deregistered service '{id}'", "agent", "Deregistered service", pairs={"service": "id"}
    ),
    "deregistered_check": _simple(
        INFO, "Deregistered check '{id}'", "agent", "Deregistered check", pairs={"check": "id"}
    ),
    "signal": _simple(
        INFO, None, "agent", "Caught", pairs={"signal": "name"}, console=(Console("==> Caught signal: {name}"),)
    ),
    "graceful_shutdown": _simple(
        INFO,
        None,
        "agent",
        "Gracefully shutting down agent...",
        console=(Console("==> Gracefully shutting down agent..."),),
    ),
    "graceful_disabled": _simple(INFO, None, "agent", "Graceful shutdown disabled. Exiting"),
    "graceful_done": _simple(INFO, None, "agent", "Graceful exit completed"),
    "exit_code": _simple(INFO, None, "agent", "Exit code", pairs={"code": "code"}),
    "leave_start": _leave_start,
    "shutdown_requested": _simple(INFO, "requesting shutdown", "agent", "Requesting shutdown"),
    "server_shutdown": _simple(INFO, "shutting down {role}", "agent.{role}", "shutting down {role}"),
    "shutdown_complete": _shutdown_complete,
    "shutdown_without_leave": _simple(
        WARN, "Shutdown without a Leave", "agent.{role}.serf.lan", "serf: Shutdown without a Leave"
    ),
    "suspect": _suspect,
    "marked_failed": _marked_failed,
    "ipc_client": _simple(
        INFO, "Accepted client: {address}", "agent.rpc", "Accepted client", pairs={"client": "address"}
    ),
}
