"""A follower's answer to AppendEntries and InstallSnapshot. Implements docs/protocol/raft.md 4.5 and 4.8.

Ours, beside the reference: the commit index never passes the last entry that this very request vouches for (the
reference takes the follower's last index, which may be a leftover of another leader).
"""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.errors import DecodeError, LeadershipLost
from pyconsul_agent.raft import membership, messages
from pyconsul_agent.raft.roles import become_follower, heard_leader, set_leader
from pyconsul_agent.raft.state import Installing, State
from pyconsul_agent.raft.types import Done, InstallSnapshot, Role
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Configuration,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    LogEntry,
    SnapshotMeta,
)
from pyconsul_agent.wire import msgpack

SNAPSHOT_VERSION_MAX = 1
UNPROVEN = "a restored snapshot here was never replicated"


def append_entries(s: State, token: int, request: AppendEntriesRequest, now: float) -> None:
    """Section 4.5, in its order."""
    last = s.log.last  # as it was when the request came in
    if not _follow(s, request.term, request.addr or request.leader or b"", request.id or b"", now):
        s.reply(token, _response(s, last, success=False))
        return
    if _is_heartbeat(request):
        heard_leader(s, now)
        s.reply(token, _response(s, last, success=True))
        return
    if s.installing is not None or s.reverting:
        s.reply(token, _response(s, last, success=False))  # our log is about to be replaced: come again
        return
    entries = request.entries or ()
    problem, configurations = _check(s, request, entries)
    if problem:
        s.reply(token, _response(s, last, success=False), problem)
        return
    shared = _shares_restored(s, request, entries) if s.unproven else True
    if shared is False:
        _revert(s, now)
        s.reply(token, _response(s, last, success=False, no_retry_backoff=True))
        return
    if not _has(s, request.prev_log_entry, request.prev_log_term):
        s.reply(token, _response(s, last, success=False, no_retry_backoff=True))
        return
    if shared is None:
        # What we hold below the snapshot may differ from the leader's: to say yes would count entries we do not have.
        s.reply(token, _response(s, last, success=False), UNPROVEN)
        return
    if not _store(s, entries, configurations):
        s.reply(token, _response(s, last, success=False), "entry conflicts with a committed one")
        return
    vouched = request.prev_log_entry + len(entries)
    commit = min(request.leader_commit_index, vouched, s.log.last)
    if s.unproven and commit >= s.unproven:
        s.unproven, s.settle = 0, True
    if commit > s.commit_index:
        s.commit_index = commit
        membership.committed(s)
    heard_leader(s, now)
    s.reply(token, _response(s, last, success=True), wait=min(vouched, s.log.last) > s.log.stable)


def _follow(s: State, term: int, address: bytes, server_id: bytes, now: float) -> bool:
    """Accept the sender as leader of `term` if it can be that."""
    if term < s.term or (term == s.term and s.role is Role.LEADER):
        return False
    if term > s.term or (s.role is not Role.FOLLOWER and not s.from_transfer):
        become_follower(s, now, term)
    set_leader(s, address, server_id)
    return True


def _is_heartbeat(request: AppendEntriesRequest) -> bool:
    return not (request.prev_log_entry or request.prev_log_term or request.entries or request.leader_commit_index)


def _check(
    s: State, request: AppendEntriesRequest, entries: tuple[LogEntry, ...]
) -> tuple[str, dict[int, Configuration]]:
    """What is wrong with the entries ("" if nothing), and the configurations among them."""
    configurations: dict[int, Configuration] = {}
    index, term = request.prev_log_entry, request.prev_log_term
    for entry in entries:
        index += 1
        if entry.index != index or not term <= entry.term <= request.term:
            return "entries do not follow each other", configurations
        term = entry.term
        try:
            configuration = messages.configuration_in(entry)
        except DecodeError as error:
            return f"failed to decode configuration: {error}", configurations
        if configuration is not None:
            configurations[index] = configuration
    return "", configurations


def _has(s: State, index: int, term: int) -> bool:
    """Whether our log agrees with the sender's up to `index`."""
    if index == 0:
        return True
    if index < s.log.first and index <= s.log.snapshot_index and index != s.log.snapshot_index:
        return True  # compacted, so committed, so equal in every leader's log
    return s.log.term(index) == term


def _shares_restored(s: State, request: AppendEntriesRequest, entries: tuple[LogEntry, ...]) -> bool | None:
    """Whether the leader's log has the end of our restored snapshot; None when this request does not tell.

    Terms in a log never sink: one above the snapshot's, at or before its index, means that it is not there.
    """
    index, term = s.unproven, s.log.snapshot_term
    if request.prev_log_entry > index:
        return True if _has(s, request.prev_log_entry, request.prev_log_term) else None
    if request.prev_log_entry == index:
        return request.prev_log_term == term
    if request.prev_log_term > term:
        return False
    for entry in entries:
        if entry.index == index:
            return entry.term == term
        if entry.term > term:
            return False
    return None


def _revert(s: State, now: float) -> None:
    """Take back a restored snapshot that was never committed: this leader was elected without it."""
    s.reverting = True
    heard_leader(s, now)


def _store(s: State, entries: tuple[LogEntry, ...], configurations: dict[int, Configuration]) -> bool:
    """Append what is new; truncate only on a conflict. False when that would take back a committed entry."""
    for position, entry in enumerate(entries):
        if entry.index <= s.log.last:
            if entry.index < s.log.first or s.log.term(entry.index) == entry.term:
                continue
            if entry.index <= s.commit_index:
                return False
            s.log.truncate(entry.index)
            membership.truncated(s, entry.index)
        for new in entries[position:]:
            s.log.append(new)
            if new.index in configurations:
                membership.took_effect(s, new.index, configurations[new.index])
        return True
    return True


def _response(s: State, last_log: int, *, success: bool, no_retry_backoff: bool = False) -> AppendEntriesResponse:
    return AppendEntriesResponse(
        **messages.header(s),
        term=s.term,
        last_log=last_log,
        success=success,
        no_retry_backoff=no_retry_backoff,
    )


# -- snapshots --------------------------------------------------------------------------------------------------
def install_snapshot(s: State, token: int, request: InstallSnapshotRequest, now: float) -> None:
    """Section 4.8. A snapshot of what we have anyway is acknowledged and dropped: the state machine never goes back."""
    if not 0 <= request.snapshot_version <= SNAPSHOT_VERSION_MAX:
        refuse_snapshot(s, token, f"unsupported snapshot version {request.snapshot_version}")
        return
    if not _follow(s, request.term, request.addr or request.leader or b"", request.id or b"", now):
        refuse_snapshot(s, token)
        return
    try:
        configuration, configuration_index = _configuration_of(request)
    except DecodeError as error:
        refuse_snapshot(s, token, f"failed to decode configuration: {error}")
        return
    index, term = request.last_log_index, request.last_log_term
    if s.installing is not None or s.reverting or index == 0 or term > request.term:
        refuse_snapshot(s, token)
        return
    heard_leader(s, now)
    if s.unproven and (index < s.unproven or (index == s.unproven and term != s.log.snapshot_term)):
        if request.term > s.log.snapshot_term:
            _revert(s, now)  # a leader that had ours would send it, or a later one
        refuse_snapshot(s, token, UNPROVEN)
        return
    if index <= s.commit_index or s.log.term(index) == term:
        # By log matching we hold all of it; that it is in a snapshot says that it is committed.
        if index > s.commit_index:
            s.commit_index = index
            membership.committed(s)
        s.reply(token, _installed(s, success=True), wait=index > s.log.stable)
        return
    meta = SnapshotMeta(
        index=index,
        term=term,
        configuration=configuration,
        configuration_index=configuration_index,
        size=request.size,
    )
    s.installing = Installing(InstallSnapshot(token, meta, request.unproven), request)


def _configuration_of(request: InstallSnapshotRequest) -> tuple[Configuration, int]:
    if request.snapshot_version == 0:
        return messages.old_peers(request.peers or b""), request.last_log_index
    return msgpack.decode(Configuration, request.configuration or b""), request.configuration_index


def installed(s: State, done: Done, now: float) -> None:
    """The driver replaced log and state machine, or could not."""
    assert s.installing is not None
    token, meta, unproven = s.installing.effect.token, s.installing.effect.meta, s.installing.effect.unproven
    s.installing = None
    if not done.installed:
        refuse_snapshot(s, token, done.install_error or f"failed to restore snapshot {done.snapshot_id}")
        return
    assert meta.index > s.handed and meta.index > s.commit_index, (meta.index, s.handed, s.commit_index)
    s.snapshot = replace(meta, id=done.snapshot_id)
    s.log.reset(meta.index, meta.term)
    s.configurations = [(meta.configuration_index, meta.configuration)]
    s.commit_index = s.handed = meta.index
    s.unproven, s.settle = meta.index if unproven else 0, False
    for waiting in s.tickets:
        s.answer(waiting.ticket, waiting.index, LeadershipLost())
    s.tickets.clear()
    s.tickets_bytes = 0
    s.reply(token, _installed(s, success=True))


def refuse_snapshot(s: State, token: int, error: str = "") -> None:
    """Nothing changes; the driver drops the stream it holds under `token`."""
    s.reply(token, _installed(s, success=False), error)


def _installed(s: State, *, success: bool) -> InstallSnapshotResponse:
    return InstallSnapshotResponse(
        **messages.header(s),
        term=s.term,
        success=success,
    )
