"""Faults that others have shipped, put into our code one at a time: the tests must notice every one.

Each mutant replaces one piece of text that occurs once in its file. `scripts/mutants` runs the tests named by its
suite against a copy of the package and wants them to fail; a mutant that survives is a hole in the tests.
"""

# ruff: noqa: E501 -- a mutant is a row of a table

from __future__ import annotations

from dataclasses import dataclass

SUITES = {
    "core": ("test_raft_scenarios", "test_raft_core", "test_raft_simulation"),
    "driver": ("test_runtime_raft", "test_runtime_raft_peers", "test_runtime_raft_storage", "test_runtime_raft_real"),
    "peers": ("test_runtime_raft_peers", "test_runtime_raft"),
    "restart": ("test_raft_restart",),
    "wire": ("test_wire_raft",),
    "state": ("test_state_rules", "test_conformance_vectors", "test_fsm_snapshot"),
    "server": (
        "test_server_dispatch",
        "test_server_leader",
        "test_server_blocking",
        "test_server_autopilot",
        "test_server_lock_delay",
    ),
    "mark": ("test_runtime_raft_mark",),
    "gossip": (
        "test_swim_core",
        "test_swim_vectors",
        "test_swim_cluster",
        "test_serf_core",
        "test_conformance_vectors",
    ),
}
"""Suite -> files of tests/unit."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` becomes `new` in `pyconsul_agent/<file>`; `suite` must fail then."""

    name: str
    file: str
    old: str
    new: str
    suite: str = "core"


MUTANTS = (
    # --- elections ----------------------------------------------------------------------------------------------
    Mutant("vote_before_fsync", "raft/state.py", "(self.after if wait or self.hard_dirty or self.hard_storing else self.before)", "(self.before if 'VoteResponse' in type(effect.message).__name__ else self.after if wait or self.hard_dirty or self.hard_storing else self.before)"),
    Mutant("term_told_before_fsync", "raft/state.py", "if wait or self.hard_dirty or self.hard_storing else", "if wait else"),
    Mutant("vote_not_persisted", "raft/election.py", "s.vote_term, s.voted_for = s.term, candidate\n    s.hard_dirty = True", "s.vote_term, s.voted_for = s.term, candidate"),
    Mutant("term_not_persisted", "raft/roles.py", "s.term = term\n    s.hard_dirty = True", "s.term = term"),
    Mutant("two_votes_in_a_term", "raft/election.py", "if s.vote_term == s.term and s.voted_for:", "if s.vote_term == s.term and s.voted_for == candidate:"),
    Mutant("late_vote_reply_counted", "raft/election.py", "or not reply.granted or reply.term != s.term", "or not reply.granted"),
    Mutant("vote_reply_of_an_earlier_election_counted", "raft/election.py", "    s.votes.clear()\n    s.vote_requests.clear()\n    if not is_voter", "    if not is_voter"),
    Mutant("refusal_counted_as_vote", "raft/election.py", "s.role is not Role.CANDIDATE or not reply.granted", "s.role is not Role.CANDIDATE"),
    Mutant("half_is_a_quorum", "raft/quorum.py", "return count // 2 + 1", "return (count + 1) // 2"),
    Mutant("shorter_log_wins", "raft/election.py", "return (term, index) >= (s.log.last_term, s.log.last)", "return term >= s.log.last_term"),
    Mutant("longer_log_of_an_older_term_wins", "raft/election.py", "return (term, index) >= (s.log.last_term, s.log.last)", "return index >= s.log.last"),
    Mutant("nonvoter_campaigns", "raft/election.py", "return (is_voter(s.latest, s.me.id) or _leaves_undecided(s)) and", "return"),
    Mutant("removed_server_disrupts", "raft/election.py", "if not request.leadership_transfer and (protected(s, address, now) or bound(s, address, now)):", "if False:"),
    Mutant("lease_promise_forgotten_at_restart", "raft/core.py", "        if s.term:\n            s.bound_until = now + config.read_lease_s  # whom we followed before the restart is forgotten\n", ""),
    Mutant("own_vote_counted_before_fsync", "raft/election.py", "if s.role is Role.CANDIDATE and not s.hard_dirty and", "if s.role is Role.CANDIDATE and"),
    Mutant("evidence_against_a_valid_lease", "raft/election.py", "safe = max(now, s.bound_until)", "safe = now"),
    Mutant("old_transfer_deposes_the_new_leader", "raft/election.py", "and may_stand(s) and not outdated:", "and may_stand(s):"),
    # --- replication --------------------------------------------------------------------------------------------
    Mutant("older_term_committed_by_counting", "raft/replication.py", "if index <= s.commit_index or index < s.term_start:\n        return False\n    assert s.log.term(index) == s.term, (index, s.term)", "if index <= s.commit_index:\n        return False"),
    Mutant("leader_counts_what_it_has_not_stored", "raft/replication.py", "s.log.stable if server.id == s.me.id", "s.log.last if server.id == s.me.id"),
    Mutant("follower_acknowledges_before_fsync", "raft/follower.py", "wait=min(vouched, s.log.last) > s.log.stable)", "wait=False)"),
    Mutant("previous_entry_not_compared", "raft/follower.py", "    return s.log.term(index) == term\n\n\ndef _shares_restored", "    return index <= s.log.last\n\n\ndef _shares_restored"),
    Mutant("old_append_truncates_what_matches", "raft/follower.py", "if entry.index < s.log.first or s.log.term(entry.index) == entry.term:", "if entry.index < s.log.first:"),
    Mutant("conflict_not_truncated", "raft/follower.py", "            s.log.truncate(entry.index)\n            membership.truncated(s, entry.index)\n", "            continue\n"),
    Mutant("commit_index_beyond_what_was_vouched_for", "raft/follower.py", "commit = min(request.leader_commit_index, vouched, s.log.last)", "commit = min(request.leader_commit_index, s.log.last)"),
    Mutant("commit_index_goes_back", "raft/follower.py", "    if commit > s.commit_index:\n        s.commit_index = commit", "    if commit != s.commit_index:\n        s.commit_index = commit"),
    Mutant("older_leader_obeyed", "raft/follower.py", "if term < s.term or (term == s.term and s.role is Role.LEADER):", "if term == s.term and s.role is Role.LEADER:"),
    Mutant("lost_append_counts_as_stored", "raft/replication.py", "    if reply is None or isinstance(reply, str):\n        if reply is not None:\n            peer.contact = now\n        _failed(s, peer, sent, now)\n        return\n    if isinstance(reply, AppendEntriesResponse | InstallSnapshotResponse)", "    if reply is None or isinstance(reply, str):\n        _accepted(s, peer, sequence, sent, now)\n        return\n    if isinstance(reply, AppendEntriesResponse | InstallSnapshotResponse)"),
    Mutant("back_off_keeps_a_returned_peer_dark", "raft/replication.py", "return float(min(BACKOFF_BASE_S * 2**exponent, s.config.heartbeat_timeout_s / 2))", "return float(BACKOFF_BASE_S * 2**exponent)"),
    Mutant("leader_without_quorum_stays", "raft/replication.py", "    if now >= quorum_contact(s, now) + s.config.leader_lease_timeout_s:\n        s.event(\"raft_lease_lost\")\n        become_follower(s, now)", "    return"),
    Mutant("committed_entry_handed_out_before_fsync", "raft/core.py", "low, high = s.handed + 1, min(s.commit_index, s.log.stable)", "low, high = s.handed + 1, s.commit_index"),
    # --- snapshots and membership -------------------------------------------------------------------------------
    Mutant("snapshot_takes_the_state_machine_back", "raft/follower.py", "if index <= s.commit_index or s.log.term(index) == term:", "if s.log.term(index) == term:"),
    Mutant("log_kept_after_an_installed_snapshot", "raft/follower.py", "    s.log.reset(meta.index, meta.term)\n    s.configurations = [", "    s.configurations = ["),
    Mutant("compacts_what_is_not_in_the_snapshot", "raft/snapshotting.py", "s.log.compact(min(meta.index, s.log.last - s.config.trailing_logs, s.log.stable))", "s.log.compact(s.log.stable)"),
    Mutant("two_configuration_changes_at_once", "raft/membership.py", "settled = s.latest_index <= s.commit_index", "settled = True"),
    Mutant("configuration_changed_before_an_own_entry", "raft/membership.py", "return settled and lease.own_entry_committed(s) and", "return settled and"),
    Mutant("removed_leader_leads_on", "raft/membership.py", "    if s.latest_index <= s.commit_index and not is_voter(s.latest, s.me.id):\n        become_follower(s, now)", "    return"),
    Mutant("restore_forgotten_to_be_uncommitted_by_a_crash", "raft/snapshotting.py", "s.unproven = snapshot.index if initial.unproven else 0", "s.unproven = 0"),
    Mutant("restored_snapshot_counted_as_committed", "raft/state.py", "return min(self.commit_index, self.unproven - 1) if self.unproven else self.commit_index", "return self.commit_index"),
    Mutant("restore_taken_back_on_no_evidence", "raft/follower.py", "    if shared is False:\n", "    if shared is not True:\n"),
    Mutant("bootstrap_over_an_existing_log", "raft/membership.py", '    if s.term or s.log.last or s.configurations or s.snapshot:\n        raise ValueError("bootstrap only works on new clusters")\n', ""),
    # --- reads --------------------------------------------------------------------------------------------------
    Mutant("lease_counts_from_the_answer", "raft/replication.py", "lease.acknowledged(peer, sequence, at)", "lease.acknowledged(peer, sequence, now)"),
    Mutant("lease_before_an_own_entry", "raft/lease.py", "if not own_entry_committed(s) or s.lease_void", "if s.lease_void"),
    Mutant("lease_survives_a_transfer", "raft/lease.py", "or s.lease_void or s.transfer is not None or", "or"),
    Mutant("verified_by_heartbeats_of_before", "raft/lease.py", "(s.verifies[0][1] < proved or _alone(s))", "(proved > 0 or _alone(s))"),
    Mutant("reads_before_the_barrier", "server/dispatch.py", "        if not request.allow_stale and not self._consistent_ready():\n            raise _CannotVouch\n        try:", "        try:", "server"),
    Mutant("lease_not_asked_after_the_answer", "server/dispatch.py", "return self._consistent_ready() and self._leadership.lease_valid", "return self._consistent_ready()", "server"),
    Mutant("barrier_not_asked_after_the_answer", "server/dispatch.py", "return self._consistent_ready() and self._leadership.lease_valid", "return self._leadership.lease_valid", "server"),
    Mutant("own_reads_not_vouched_for", "server/dispatch.py", "                if not self._vouches:\n                    await self._vouch()\n", "", "server"),
    Mutant("writes_repeated_by_the_forwarder", "server/dispatch.py", "is_read=_is_read(endpoint, request)", "is_read=True", "server"),
    # --- the driver and the disk --------------------------------------------------------------------------------
    Mutant("acknowledged_before_the_commit_returned", "runtime/raft.py", "            done = await self._disk.store(", "            self._send(ready.after_sync)\n            done = await self._disk.store(", "driver"),
    Mutant("failed_fsync_survived", "runtime/raft.py", "        except Exception as error:\n            self.stop_for(error)\n", "        except Exception as error:\n            if self._unstored:\n                return await self._store_all()\n            self.stop_for(error)\n", "driver"),
    Mutant("log_without_fsync", "runtime/raft_log_file.py", "synchronous = FULL", "synchronous = OFF", "driver"),
    Mutant("commit_after_a_failed_one", "runtime/raft_storage.py", "                self._failure = str(error)\n", "", "driver"),
    Mutant("truncation_not_stored", "runtime/raft_storage.py", 'writer.execute("DELETE FROM log WHERE idx >= ?", (truncate_from,))', "pass", "driver"),
    Mutant("hole_in_the_log_not_seen", "runtime/raft_storage.py", "if last - first + 1 != count:", "if False:", "driver"),
    Mutant("state_shown_before_it_is_restored", "runtime/raft.py", "return self._disk.restored.is_set() and not (self.running", "return not (self.running", "restart"),
    Mutant("leads_without_its_state", "runtime/raft.py", "self._raft.role is Role.LEADER and self._disk.restored.is_set()", "self._raft.role is Role.LEADER", "restart"),
    Mutant("installed_while_another_is_restored", "runtime/raft_disk.py", "        await self.restored.wait()\n        await applier.drained(position)\n        sink =", "        await applier.drained(position)\n        sink =", "restart"),
    Mutant("heartbeats_wait_for_the_state_machine", "runtime/raft.py", "            self._kicked.clear()\n            ready =", "            while not self._applier.room():\n                await asyncio.sleep(0.01)\n            self._kicked.clear()\n            ready =", "restart"),
    Mutant("stale_batch_sent_to_a_peer", "wire/raft.py", " and known[1] is last", "", "wire"),
    Mutant("reply_given_to_the_wrong_request", "runtime/raft_peers.py", "item = self._in_flight.popleft()\n                self._answered", "item = self._in_flight.pop()\n                self._answered", "peers"),
    Mutant("entries_for_a_copy_of_the_data_directory", "server/directory.py", "(info for info in found if address_of(info) == server.address), found[0])", "iter(found))", "server"),
    Mutant("place_for_a_copy_of_the_data_directory", "server/leader/reconcile.py", "        if holder != member.name:\n            raise ConsulError", "        if False:\n            raise ConsulError", "server"),
    # --- the state machine and its sessions ---------------------------------------------------------------------
    Mutant("defect_of_a_command_stops_all_servers", "fsm/apply.py", "    except DEFECTS as error:", "    except () as error:", "state"),
    Mutant("digest_goes_on_after_a_blank", "fsm/machine.py", '            self._base, self._rolled = (0, b""), (0, b"")\n', "", "state"),
    Mutant("cas_ignores_its_index", "state/kv.py", "return existing is not None and existing.modify_index == index", "return existing is not None", "state"),
    Mutant("lock_taken_from_its_holder", "state/kv.py", "    else:\n        return None\n    return put(txn, replace(entry, lock_index=count)", "    else:\n        count = existing.lock_index + 1\n    return put(txn, replace(entry, lock_index=count)", "state"),
    Mutant("fencing_token_stands_still", "state/kv.py", "count = existing.lock_index + 1", "count = existing.lock_index", "state"),
    Mutant("no_tombstones", "state/kv.py", "    txn.put(txn.tables.tombstones, key, Tombstone(key, txn.index))\n", "", "state"),
    Mutant("locks_outlive_their_session", "state/session.py", 'kv.put(txn, replace(held, session=""), keep_session=False)', "pass", "state"),
    Mutant("no_lock_delay", "state/session.py", "        txn.delay_lock(held.key, session.lock_delay)\n", "", "state"),
    Mutant("session_on_a_critical_check", "state/session.py", 'if check.status == "critical":', "if False:", "state"),
    Mutant("lock_delay_ignored", "server/endpoints/kvs.py", 'if self._store.lock_delays.remaining_s(entry.key, self._now()) > 0:', "if False:", "server"),
    Mutant("lock_delay_asked_too_early", "server/endpoints/kvs.py", "if not self._ready() or held_by_another(self._store, entry):", "if not self._ready():", "server"),
    Mutant("lost_tail_taken_for_the_end", "runtime/raft_storage.py", "if not here.covers(mark.reached):", "if False:", "mark"),
    Mutant("log_cut_before_the_mark_falls", "runtime/raft_storage.py", "mark.fall(0 if clear_log or truncate_from is None else truncate_from - 1)", "pass", "mark"),
    Mutant("session_ends_after_one_ttl", "server/leader/session_ttl.py", "TTL_FACTOR = 2", "TTL_FACTOR = 1", "server"),
    Mutant("renewal_of_an_ending_session", "server/endpoints/session.py", " or row.id in self._timers.ending", "", "server"),
    Mutant("timers_of_the_old_leader_go_on", "server/leader/session_ttl.py", "self._timers.restart(self._store.tables.sessions.scan(), self._now())", "pass", "server"),
    Mutant("autopilot_removes_the_majority", "server/leader/standing.py", "allowed = (voters - 1) // 2", "allowed = voters", "server"),
)  # fmt: skip
