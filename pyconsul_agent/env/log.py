"""What a component needs of the log. Implemented by `telemetry.logging`; tests pass a recorder.

User-visible events are logged by name, once, and the log knows both of their texts (classic and modern). Names::

    bootstrap_warning expect_warning(count) agent_running join_start(pool, addresses) join_done(pool, count)
    join_failed(pool, error) member_event(pool, kind, name, address) server_added(pool, name, address, datacenter)
    server_removed(pool, name, address, datacenter) raft_follower(address, leader) raft_candidate(address, term)
    raft_leader(address) raft_lease_lost raft_no_peers raft_bootstrap(peers) raft_election_start(last_leader)
    raft_election_again raft_election_won(tally) raft_vote_refused(candidate, leader) raft_duplicate_vote(term)
    leadership_acquired leadership_lost leader_elected(node) raft_pipelining(peer_id, address)
    raft_pipeline_aborted(peer_id, address) raft_peer_removed(peer_id, address, last_index)
    raft_restore_undone(index, last_index)
    member_alive(name) member_failed(name) member_left(name) member_reaped(name)
    synced_service(id) synced_check(id) synced_node sync_failed(error) deregistered_service(id) deregistered_check(id)
    signal(name) graceful_shutdown graceful_disabled graceful_done exit_code(code)
    leave_start(mode) shutdown_requested server_shutdown shutdown_complete shutdown_without_leave
    suspect(name) marked_failed(name, confirmations) ipc_client(address)
    rejoin_attempt(pool, name, address) rejoined(pool, name, address)
"""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """A named logger. Messages are constant text; what varies goes into pairs."""

    def event(self, name: str, /, **fields: object) -> None:
        """Log a user-visible event of the table above."""

    def trace(self, message: str, /, **pairs: object) -> None: ...
    def debug(self, message: str, /, **pairs: object) -> None: ...
    def info(self, message: str, /, **pairs: object) -> None: ...
    def warn(self, message: str, /, **pairs: object) -> None: ...
    def error(self, message: str, /, **pairs: object) -> None: ...

    def named(self, name: str) -> Log:
        """A child logger, `parent.name`."""
