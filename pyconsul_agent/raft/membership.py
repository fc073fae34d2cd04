"""Who belongs to the cluster: one change at a time, in effect when appended (docs/protocol/raft.md section 5).

A change waits in a queue until the leader's own Noop and every earlier configuration are committed (Ongaro's fix to
single-server changes).
"""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.errors import LeadershipTransferInProgress, NotLeader, RaftError, RestoredWhileCommitting
from pyconsul_agent.raft import lease, replication
from pyconsul_agent.raft.quorum import is_voter, servers_of, voters
from pyconsul_agent.raft.roles import become_follower
from pyconsul_agent.raft.state import CHANGES_QUEUED_MAX, State, Ticket
from pyconsul_agent.raft.types import Change, Role
from pyconsul_agent.structs.raft import Configuration, EntryType, LogEntry, Server, Suffrage
from pyconsul_agent.wire import msgpack


# -- configurations follow the log ------------------------------------------------------------------------------
def took_effect(s: State, index: int, configuration: Configuration) -> None:
    """A configuration entry was appended."""
    assert index > s.latest_index, (index, s.latest_index)
    s.configurations.append((index, configuration))
    s.no_peers_told = False


def truncated(s: State, index: int) -> None:
    """Entries from `index` on are gone: fall back to the configuration before."""
    while s.configurations and s.configurations[-1][0] >= index:
        s.configurations.pop()


def committed(s: State) -> None:
    """The commit index moved: forget the configurations that it has replaced."""
    while len(s.configurations) > 1 and s.configurations[1][0] <= s.commit_index:
        s.configurations.pop(0)


def committed_configuration(s: State) -> tuple[int, Configuration]:
    """(index, configuration) of the newest committed one; (0, empty) if none is."""
    known = [pair for pair in s.configurations if pair[0] <= s.commit_index]
    return known[-1] if known else (0, Configuration())


def validate(configuration: Configuration) -> None:
    """RaftError for a configuration that cannot work."""
    ids: set[str] = set()
    addresses: set[str] = set()
    for server in servers_of(configuration):
        if not server.id:
            raise RaftError("empty ID in configuration")
        if not server.address:
            raise RaftError(f"empty address in configuration: {server.id}")
        if server.id in ids:
            raise RaftError(f"found duplicate ID in configuration: {server.id}")
        if server.address in addresses:
            raise RaftError(f"found duplicate address in configuration: {server.address}")
        ids.add(server.id)
        addresses.add(server.address)
    if not voters(configuration):
        raise RaftError("need at least one voter in configuration")


# -- bootstrap --------------------------------------------------------------------------------------------------
def bootstrap(s: State, configuration: Configuration, now: float) -> None:
    """Entry 1 of term 1 on a virgin server."""
    if s.term or s.log.last or s.configurations or s.snapshot:
        raise ValueError("bootstrap only works on new clusters")
    try:
        validate(configuration)
    except RaftError as error:
        raise ValueError(str(error)) from error
    s.term = 1
    s.hard_dirty = True
    s.log.append(LogEntry(index=1, term=1, type=EntryType.CONFIGURATION, data=msgpack.encode(configuration)))
    took_effect(s, 1, configuration)
    s.event("raft_bootstrap", peers=[server.address for server in servers_of(configuration)])


# -- changes ----------------------------------------------------------------------------------------------------
def change(s: State, wanted: Change) -> int:
    """Queue a change."""
    ticket = s.new_ticket()
    if s.role is not Role.LEADER:
        s.answer(ticket, 0, NotLeader())
    elif s.transfer is not None:
        s.answer(ticket, 0, LeadershipTransferInProgress())
    elif len(s.changes) >= CHANGES_QUEUED_MAX:
        s.answer(ticket, 0, RaftError("too many configuration changes are waiting"))
    else:
        s.changes.append((ticket, wanted))
    return ticket


def step(s: State, now: float) -> None:
    """Start the next change once the one before is committed."""
    while s.changes and _may_start(s):
        ticket, wanted = s.changes.popleft()
        try:
            configuration = next_configuration(s.latest, s.latest_index, wanted)
        except RaftError as error:
            s.answer(ticket, 0, error)
            continue
        data = msgpack.encode(configuration)
        entry = replication.append(s, EntryType.CONFIGURATION, data)
        took_effect(s, entry.index, configuration)
        replication.sync_peers(s, now, entry.index)
        s.tickets.append(Ticket(entry.index, ticket, len(data)))
        s.tickets_bytes += len(data)


def _may_start(s: State) -> bool:
    settled = s.latest_index <= s.commit_index
    return settled and lease.own_entry_committed(s) and s.transfer is None and not s.restoring


def leave_if_removed(s: State, now: float) -> None:
    """A leader that is no voter of the committed configuration has led to its own end."""
    if s.latest_index <= s.commit_index and not is_voter(s.latest, s.me.id):
        become_follower(s, now)


def next_configuration(current: Configuration, current_index: int, wanted: Change) -> Configuration:
    """`current` with one change made (order kept). Raises RaftError when it is outdated or cannot work."""
    if wanted.previous_index and wanted.previous_index != current_index:
        raise RaftError(f"configuration changed since {wanted.previous_index} (latest is {current_index})")
    servers = list(servers_of(current))
    place = next((i for i, server in enumerate(servers) if server.id == wanted.server.id), None)
    if wanted.kind == "add_voter":
        _put(servers, place, wanted.server, Suffrage.VOTER, keep=(Suffrage.VOTER,))
    elif wanted.kind == "add_nonvoter":
        _put(servers, place, wanted.server, Suffrage.NONVOTER, keep=(Suffrage.VOTER, Suffrage.STAGING))
    elif wanted.kind == "demote_voter":
        if place is not None:
            servers[place] = replace(servers[place], suffrage=int(Suffrage.NONVOTER))
    elif wanted.kind == "remove_server":
        if place is not None:
            del servers[place]
    else:
        raise RaftError(f"unknown configuration change {wanted.kind!r}")
    result = Configuration(servers=tuple(servers))
    validate(result)
    return result


def _put(
    servers: list[Server], place: int | None, server: Server, suffrage: Suffrage, *, keep: tuple[Suffrage, ...]
) -> None:
    """Add a server; one that already has a suffrage in `keep` only changes its address."""
    if place is None:
        servers.append(replace(server, suffrage=int(suffrage)))
    elif servers[place].suffrage in keep:
        servers[place] = replace(servers[place], address=server.address)
    else:
        servers[place] = replace(server, suffrage=int(suffrage))


def restart_allowed(s: State) -> None:
    """RestoredWhileCommitting unless the configuration is settled (a user restore needs that)."""
    if s.latest_index > s.commit_index:
        raise RestoredWhileCommitting(
            f"cannot restore snapshot now, wait until the configuration entry at {s.latest_index} has been applied"
        )
