"""Single rules of the raft core, one server at a time."""

import random
import time
from dataclasses import replace

import pytest

from pyconsul_agent.errors import EnqueueTimeout, LeadershipLost, LeadershipTransferInProgress, NotLeader, RaftError
from pyconsul_agent.raft import replication
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.core import Raft
from pyconsul_agent.raft.membership import next_configuration
from pyconsul_agent.raft.quorum import quorum_size, quorum_value
from pyconsul_agent.raft.types import Change, Done, HardState, InitialState, Refusal, Reply, Request, Role
from pyconsul_agent.sim.raft_judge import Disk, Machine
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Configuration,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    LogEntry,
    RequestPreVoteRequest,
    RequestVoteRequest,
    RequestVoteResponse,
    Server,
    SnapshotMeta,
    TimeoutNowRequest,
)
from pyconsul_agent.wire import msgpack

SERVERS = tuple(Server(id=f"n{i}", address=f"10.0.0.{i}:8300") for i in (1, 2, 3))
CONFIGURATION = Configuration(servers=SERVERS)
CONFIG = RaftConfig(fast_bootstrap=False)
L = b"10.0.0.2:8300"


class One:
    """Server n1 with an instant disk; `sent` holds what left."""

    def __init__(self, configuration=CONFIGURATION, config=CONFIG, disk=None):
        self.disk = disk or Disk()
        self.now = 50.0
        self.raft = Raft(config, SERVERS[0], self.disk.initial(), self.disk, random.Random(1), self.now)
        self.sent, self.answers, self.applied, self.events, self.readies = [], {}, [], [], []
        if configuration is not None and not disk:
            self.raft.bootstrap(configuration, self.now)
        self.pump()
        self.sent.clear()

    def pump(self, installed=True):
        while (ready := self.raft.ready(self.now)) is not None:
            self.readies.append(ready)
            self.sent += ready.before_sync
            self.applied += ready.committed
            self.answers.update({answer.ticket: answer for answer in ready.answers})
            self.events += [event.name for event in ready.events]
            if ready.must_sync:
                done = Done(
                    installed=installed if ready.install else None, install_error="failed to restore snapshot x"
                )
                if not ready.install or installed:
                    self.disk.store(ready, Machine(9))
                self.sent += ready.after_sync
                reverted = self.disk.initial() if ready.revert else None
                done = Done(self.disk.last, done.installed, done.install_error, "snap", reverted)
                self.raft.advance(done, self.now)

    def ask(self, request, **more):
        self.raft.receive(7, request, self.now)
        self.pump(**more)
        replies = [effect for effect in self.sent if isinstance(effect, Reply)]
        self.sent.clear()
        assert len(replies) == 1
        return replies[0].message if not replies[0].error else replies[0]

    def lead(self):
        self.raft.expire(self.now)
        self.raft.tick(self.now)
        self.pump()
        request = next(effect for effect in self.sent if isinstance(effect.message, RequestVoteRequest))
        self.raft.received_reply(request.sequence, RequestVoteResponse(term=self.raft.term, granted=True), self.now)
        self.pump()
        return self

    def lead_alone(self):
        """Let the timer run out; nobody else votes."""
        self.now = self.raft.deadline
        self.raft.tick(self.now)
        self.pump()
        assert self.raft.role is Role.LEADER
        return self

    def follow_up(self):
        """n2 accepts all that it was sent, until nothing is left."""
        while requests := [e for e in self.sent if isinstance(e, Request) and e.to.id == "n2"]:
            self.sent.clear()
            for effect in requests:
                snapshot = isinstance(effect.message, InstallSnapshotRequest)
                form = InstallSnapshotResponse if snapshot else AppendEntriesResponse
                answer = form(term=self.raft.term, success=True)
                self.raft.received_reply(effect.sequence, answer, self.now)
            self.pump()
        return self


def vote(term, index=1, last_term=1, candidate=L, **more):
    return RequestVoteRequest(
        protocol_version=3, term=term, candidate=candidate, last_log_index=index, last_log_term=last_term, **more
    )


def append(term, previous=(0, 0), entries=(), commit=0, leader=L, **more):
    return AppendEntriesRequest(
        protocol_version=3,
        term=term,
        leader=leader,
        prev_log_entry=previous[0],
        prev_log_term=previous[1],
        entries=tuple(LogEntry(index=i, term=t, data=b"x") for i, t in entries),
        leader_commit_index=commit,
        **more,
    )


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_quorum_is_a_majority(count, size):
    assert quorum_size(count) == size


def test_quorum_value_is_what_a_majority_reached():
    assert [quorum_value(v) for v in ([5], [5, 3], [5, 3, 1], [5, 4, 3, 1])] == [5, 3, 3, 3]


def test_vote_is_granted_once_per_term():
    one = One()
    assert one.ask(vote(2)).granted
    assert one.ask(vote(2)).granted  # the same candidate asks again
    assert not one.ask(vote(2, candidate=b"10.0.0.3:8300")).granted
    assert one.disk.hard == HardState(2, 2, L)


def test_nobody_gets_no_vote():
    one = One()
    assert not one.ask(vote(2, candidate=b"")).granted
    assert one.ask(vote(2)).granted


@pytest.mark.parametrize(("index", "term", "granted"), [(3, 2, True), (2, 2, False), (9, 1, False), (1, 3, True)])
def test_vote_needs_a_log_as_new_as_ours(index, term, granted):
    one = One()
    one.ask(append(2, (1, 1), [(2, 2), (3, 2)]))
    one.now += 5
    assert one.ask(vote(9, index, term)).granted is granted


def test_known_leader_refuses_others_for_one_heartbeat_timeout_without_touching_the_term():
    one = One()
    one.ask(append(2))
    one.now += 0.99
    answer = one.ask(vote(8, 9, 9, b"10.0.0.3:8300"))
    assert (answer.granted, answer.term, one.raft.term) == (False, 2, 2)
    assert one.ask(vote(8, 9, 9, b"10.0.0.3:8300", leadership_transfer=True)).granted


def test_known_leader_protects_no_longer_than_a_heartbeat_timeout():
    one = One()
    one.ask(append(2))
    one.now += 1.01
    assert one.ask(vote(3, 9, 9, b"10.0.0.3:8300")).granted


def test_candidate_outside_the_configuration_is_refused_when_it_tells_its_id():
    assert not One().ask(vote(2, id=b"stranger", addr=b"10.0.0.9:8300", candidate=b"10.0.0.9:8300")).granted


def test_pre_vote_changes_nothing():
    one = One()
    request = RequestPreVoteRequest(protocol_version=3, id=b"n2", addr=L, term=5, last_log_index=1, last_log_term=1)
    before = (one.raft.term, one.disk.hard, one.raft.deadline)
    answer = one.ask(request)
    assert (answer.granted, answer.term) == (True, 5)
    assert (one.raft.term, one.disk.hard, one.raft.deadline) == before


def test_pre_vote_is_refused_in_a_leaders_name_or_for_an_older_log():
    one = One()
    assert not one.ask(RequestPreVoteRequest(protocol_version=3, id=b"n3", term=5)).granted
    one.ask(append(2))
    ask = RequestPreVoteRequest(protocol_version=3, id=b"n3", addr=b"x", term=5, last_log_index=9, last_log_term=9)
    assert not one.ask(ask).granted


def test_append_answers_the_last_index_from_before():
    one = One(configuration=None)
    answer = one.ask(append(1, entries=[(1, 1), (2, 1), (3, 1)]))
    assert (answer.success, answer.last_log, one.raft.last_index) == (True, 0, 3)


def test_append_with_unknown_previous_entry_is_refused_without_back_off():
    answer = One().ask(append(2, (5, 2), [(6, 2)]))
    assert (answer.success, answer.no_retry_backoff, answer.last_log) == (False, True, 1)


def test_append_of_an_older_term_is_refused():
    one = One()
    one.ask(append(5))
    answer = one.ask(append(4, (1, 1), [(2, 4)]))
    assert (answer.success, answer.term, one.raft.last_index) == (False, 5, 1)


def test_append_truncates_only_on_conflict():
    one = One()
    one.ask(append(2, (1, 1), [(2, 2), (3, 2), (4, 2)]))
    one.ask(append(2, (1, 1), [(2, 2)]))
    assert one.raft.last_index == 4
    one.ask(append(3, (1, 1), [(2, 2), (3, 3)], leader=b"10.0.0.3:8300"))
    assert (one.raft.last_index, one.raft.last_term, sorted(one.disk.log)) == (3, 3, [1, 2, 3])


def test_commit_index_stops_at_what_the_request_vouches_for():
    one = One()
    one.ask(append(2, (1, 1), [(2, 2), (3, 2)]))
    one.ask(append(3, (2, 2), commit=9))
    assert one.raft.commit_index == 2


def test_conflict_with_a_committed_entry_is_refused_loudly():
    one = One()
    one.ask(append(2, (1, 1), [(2, 2)], commit=2))
    answer = one.ask(append(3, (1, 1), [(2, 3)]))
    assert isinstance(answer, Reply) and "committed" in answer.error
    assert one.raft.term_at(2) == 2


@pytest.mark.parametrize("entries", [[(3, 2)], [(2, 2), (4, 2)], [(2, 9)], [(2, 0)]])
def test_entries_that_do_not_follow_are_refused(entries):
    assert isinstance(One().ask(append(2, (1, 1), entries)), Reply)


def test_undecodable_configuration_is_refused():
    request = append(2, (1, 1))
    bad = LogEntry(index=2, term=2, type=5, data=b"\xc1")
    one = One()
    answer = one.ask(AppendEntriesRequest(**{**{k: getattr(request, k) for k in request.__slots__}, "entries": (bad,)}))
    assert isinstance(answer, Reply) and one.raft.last_index == 1


@pytest.mark.parametrize("version", [0, 1, 4])
def test_unsupported_protocol_version_is_refused_without_an_object(version):
    one = One()
    one.raft.receive(7, AppendEntriesRequest(protocol_version=version, term=9, leader=L), one.now)
    one.pump()
    assert one.sent == [Reply(7, None, "operation not supported with current protocol version")]


def test_heartbeat_is_answered_while_the_disk_works():
    one = One()
    one.ask(append(2))
    one.raft.receive(1, append(2, (1, 1), [(2, 2)]), one.now)
    storing = one.raft.ready(one.now)
    assert storing.must_sync and not storing.before_sync
    one.raft.receive(2, append(2), one.now)
    meanwhile = one.raft.ready(one.now)
    assert [reply.token for reply in meanwhile.before_sync] == [2] and not meanwhile.must_sync
    assert [reply.token for reply in storing.after_sync] == [1]


def test_follower_without_configuration_never_stands():
    one = One(configuration=None)
    one.now += 10
    one.raft.tick(one.now)
    one.pump()
    assert (one.raft.role, one.raft.term, one.events.count("raft_no_peers")) == (Role.FOLLOWER, 0, 1)


def test_votes_split_after_a_silent_leader_cost_fractions_of_a_second():
    one = One(config=RaftConfig.scaled(5))
    one.ask(append(2))
    while one.raft.role is Role.FOLLOWER:  # the leader is silent: stand
        one.now = one.raft.deadline
        one.raft.tick(one.now)
        one.pump()
    begun, term = one.now, one.raft.term
    for again in range(1, 11):
        one.now = one.raft.deadline  # nobody grants: stand again
        one.raft.tick(one.now)
        one.pump()
        assert one.raft.term == term + again
    assert 2.0 <= one.now - begun <= 4.0
    assert one.raft.deadline - one.now >= 5.0  # enough of that


def test_timeout_now_makes_a_candidate_with_the_transfer_flag():
    one = One()
    one.ask(append(2))
    one.raft.receive(7, TimeoutNowRequest(protocol_version=3), one.now)
    one.pump()
    asked = [effect.message for effect in one.sent if isinstance(effect.message, RequestVoteRequest)]
    assert len(asked) == 2 and all(message.leadership_transfer and message.term == 3 for message in asked)


def test_delayed_timeout_now_of_an_earlier_leader_is_not_obeyed():
    one = One()
    one.ask(append(2))
    one.ask(TimeoutNowRequest(protocol_version=3, id=b"n3", addr=b"10.0.0.3:8300"))
    assert one.raft.role is Role.FOLLOWER


def test_bootstrap_needs_a_virgin():
    with pytest.raises(ValueError, match="bootstrap only works on new clusters"):
        One().raft.bootstrap(CONFIGURATION, 60.0)


@pytest.mark.parametrize(("ids", "due"), [(("n1", "n2"), 0.0), (("n0", "n1"), 0.3)])
def test_fresh_bootstrap_lets_the_lowest_id_stand_at_once(ids, due):
    raft = Raft(RaftConfig.scaled(5), SERVERS[0], InitialState(), Disk(), random.Random(1), 50.0)
    raft.bootstrap(Configuration(servers=tuple(Server(id=i, address=i) for i in ids)), 50.0)
    assert due <= raft.deadline - 50.0 <= 2 * due


def test_single_server_commits_only_what_its_disk_has():
    one = One(Configuration(servers=SERVERS[:1]))
    one.raft.expire(one.now)
    one.raft.tick(one.now)
    one.pump()
    ticket = one.raft.propose(0, b"x", one.now)
    ready = one.raft.ready(one.now)
    assert ready.must_sync and not ready.committed
    assert one.raft.ready(one.now) is None
    one.disk.store(ready, None)
    one.raft.advance(Done(one.disk.last), one.now)
    one.pump()
    assert (one.answers[ticket].index, one.answers[ticket].error) == (3, None)


def test_proposals_of_one_turn_are_one_transaction_and_one_request():
    one = One().lead().follow_up()
    one.readies.clear()
    for _ in range(64):
        one.raft.propose(0, b"x", one.now)
    one.pump()
    assert [len(ready.entries) for ready in one.readies if ready.entries] == [64]
    assert [len(effect.message.entries) for effect in one.sent if effect.to.id == "n2"] == [64]


def test_pipeline_is_bounded():
    config = RaftConfig(fast_bootstrap=False, inflight_requests_max=3)
    one = One(config=config).lead().follow_up()
    for _ in range(9):
        one.raft.propose(0, b"x", one.now)
        one.pump()
    assert len([effect for effect in one.sent if effect.to.id == "n2" and not effect.heartbeat]) == 3


def test_proposals_are_bounded():
    one = One(config=RaftConfig(fast_bootstrap=False, proposals_max=2)).lead()
    tickets = [one.raft.propose(0, b"x", one.now) for _ in range(3)]
    one.pump()
    assert isinstance(one.answers[tickets[2]].error, EnqueueTimeout)


def test_follower_takes_no_proposals():
    one = One()
    tickets = [one.raft.propose(0, b"x", one.now), one.raft.verify(one.now), one.raft.transfer(one.now)]
    one.pump()
    assert all(isinstance(one.answers[ticket].error, NotLeader) for ticket in tickets)


def test_deposed_leader_fails_what_is_in_flight():
    one = One().lead().follow_up()
    ticket = one.raft.propose(0, b"x", one.now)
    one.pump()
    one.sent.clear()
    one.ask(append(9))
    assert isinstance(one.answers[ticket].error, LeadershipLost)


def test_leader_without_quorum_steps_down_after_its_lease_timeout():
    one = One().lead().follow_up()
    one.now += 0.49
    one.raft.tick(one.now)
    assert one.raft.role is Role.LEADER
    one.now += 0.02
    one.raft.tick(one.now)
    assert (one.raft.role, one.raft.leader_address) == (Role.FOLLOWER, "")


def test_tick_at_the_deadline_of_a_leader_without_quorum_always_deposes_it():
    """`contact + timeout` and `now - contact` round differently where a power of two lies between."""
    rng = random.Random(3)
    for _ in range(50):
        one = One()
        one.now = 1024 - rng.random() * 0.1
        one.lead().follow_up()
        one.raft.tick(one.now)
        for peer in one.raft._s.peers.values():  # nothing else is to come before the lease ends
            peer.heartbeat_at = peer.retry_at = one.now + 10
            peer.commit_at = None
            peer.contact = one.now - rng.random() * 0.3
        due = max(peer.contact for peer in one.raft._s.peers.values()) + CONFIG.leader_lease_timeout_s
        one.raft.tick(due)
        assert one.raft.role is Role.FOLLOWER


def test_read_lease_counts_from_the_send_of_the_heartbeat():
    one = One().lead().follow_up()
    one.now += 0.1
    one.pump()
    heartbeat = next(effect for effect in one.sent if effect.heartbeat and effect.to.id == "n2")
    one.now += 0.1  # the answer takes 100 ms
    one.raft.received_reply(heartbeat.sequence, AppendEntriesResponse(term=2, success=True), one.now)
    one.now += 0.04
    assert one.raft.lease_valid(one.now)
    one.now += 0.02
    assert not one.raft.lease_valid(one.now)


def test_verifies_of_one_turn_share_one_round():
    one = One().lead().follow_up()
    tickets = [one.raft.verify(one.now) for _ in range(50)]
    one.pump()
    assert len([effect for effect in one.sent if effect.heartbeat and effect.to.id == "n2"]) == 1
    assert not set(tickets) & set(one.answers)
    one.follow_up()
    assert all(one.answers[ticket].error is None for ticket in tickets)


def test_transfer_refuses_proposals_and_ends_the_lease():
    one = One().lead().follow_up()
    one.raft.transfer(one.now, "n2")
    ticket = one.raft.propose(0, b"x", one.now)
    one.pump()
    assert isinstance(one.answers[ticket].error, LeadershipTransferInProgress)
    assert any(isinstance(effect.message, TimeoutNowRequest) for effect in one.sent)
    assert not one.raft.lease_valid(one.now)


@pytest.mark.parametrize(
    ("kind", "server", "expected"),
    [
        ("add_voter", Server(id="n4", address="d"), "n1:0:a n2:1:b n4:0:d"),
        ("add_voter", Server(id="n2", address="z"), "n1:0:a n2:0:z"),
        ("add_nonvoter", Server(id="n1", address="z"), "n1:0:z n2:1:b"),
        ("add_nonvoter", Server(id="n4", address="d"), "n1:0:a n2:1:b n4:1:d"),
        ("remove_server", Server(id="n2"), "n1:0:a"),
        ("demote_voter", Server(id="n2"), "n1:0:a n2:1:b"),
    ],
)
def test_next_configuration(kind, server, expected):
    current = Configuration(servers=(Server(id="n1", address="a"), Server(suffrage=1, id="n2", address="b")))
    changed = next_configuration(current, 4, Change(kind, server))
    assert " ".join(f"{one.id}:{one.suffrage}:{one.address}" for one in changed.servers) == expected


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Change("add_voter", Server(id="n9", address="a")), "duplicate address"),
        (Change("remove_server", Server(id="n1")), "at least one voter"),
        (Change("add_voter", Server(id="n9", address="x"), 3), r"configuration changed since 3 \(latest is 4\)"),
    ],
)
def test_impossible_changes_are_refused(change, text):
    with pytest.raises(RaftError, match=text):
        next_configuration(Configuration(servers=(Server(id="n1", address="a"),)), 4, change)


def snapshot(index, term=2, version=1, sender=3, unproven=False):
    return InstallSnapshotRequest(
        protocol_version=3,
        snapshot_version=version,
        term=sender,
        unproven=unproven,
        leader=L,
        last_log_index=index,
        last_log_term=term,
        configuration=msgpack.encode(CONFIGURATION),
        configuration_index=1,
    )


def test_snapshot_replaces_a_log_that_is_behind():
    one = One()
    assert one.ask(snapshot(9)).success
    assert (one.raft.commit_index, one.raft.last_index, one.raft.term_at(9), one.disk.log) == (9, 9, 2, {})
    assert one.ask(append(3, (9, 2), [(10, 3)])).success


def test_snapshot_of_what_we_have_is_acknowledged_but_not_installed():
    one = One()
    one.ask(append(2, (1, 1), [(2, 2), (3, 2)], commit=3))
    assert one.ask(snapshot(2)).success
    assert not any(ready.install for ready in one.readies)
    assert (one.raft.last_index, one.raft.commit_index) == (3, 3)


def test_failed_install_changes_nothing():
    one = One()
    answer = one.ask(snapshot(9), installed=False)
    assert (answer.error, answer.message.success) == ("failed to restore snapshot x", False)
    assert (one.raft.last_index, one.raft.commit_index) == (1, 0)


def test_snapshot_version_is_checked():
    answer = One().ask(snapshot(9, version=2))
    assert answer.error == "unsupported snapshot version 2"


@pytest.mark.parametrize("jump", [0, 7])
def test_user_restore_leaves_a_hole_that_followers_need_a_snapshot_for(jump):
    one = One().lead().follow_up()
    waiting = one.raft.propose(0, b"x", one.now)
    place = one.raft.begin_restore(one.now)
    meta = SnapshotMeta(
        id="r",
        index=place.index + jump,
        term=place.term,
        configuration=place.configuration,
        configuration_index=place.configuration_index,
    )
    one.disk.restored(meta, Machine(meta.index))
    assert one.raft.restored(meta, one.now)
    one.raft.propose(4, None, one.now)
    one.pump()
    assert str(one.answers[waiting].error).startswith("snapshot restored")
    assert one.raft.last_index == meta.index + 1
    assert sorted(one.disk.log) == [meta.index + 1]
    offered = [(e.to.id, e.snapshot_id) for e in one.sent if isinstance(e.message, InstallSnapshotRequest)]
    assert offered == [("n2", "r")]  # n3 has not answered anything yet


@pytest.mark.parametrize("jump", [0, 100])
def test_deposed_leader_whose_restored_snapshot_nobody_has_accepts_no_entries_in_its_place(jump):
    one = One().lead().follow_up()
    last, place = one.raft.last_index, one.raft.begin_restore(one.now)
    meta = SnapshotMeta(
        id="r", index=place.index + jump, term=place.term, configuration=CONFIGURATION, configuration_index=1
    )
    one.disk.restored(meta, Machine(meta.index))
    assert one.raft.restored(meta, one.now)
    one.pump()
    one.sent.clear()
    refused = one.ask(append(place.term + 1, (last, place.term), [(last + 1, place.term + 1)], last + 1))
    assert not refused.success
    assert one.raft.last_index == last  # back to what was before the restore
    assert one.ask(append(place.term + 1, (last, place.term), [(last + 1, place.term + 1)], last + 1)).success
    assert [entry.index for entry in one.applied][-1] == last + 1


@pytest.mark.parametrize("restarted", [False, True])
def test_deposed_leader_whose_restored_snapshot_its_successor_has_keeps_it(restarted):
    one = One().lead().follow_up()
    place = one.raft.begin_restore(one.now)
    meta = replace(place, id="r")
    one.disk.restored(meta, Machine(meta.index))
    assert one.raft.restored(meta, one.now)
    one.pump()
    if restarted:
        one = One(disk=one.disk)
    assert (one.raft.unproven, one.raft.last_index) == (meta.index, meta.index)
    one.sent.clear()
    after, entries = (meta.index, place.term), [(meta.index + 1, place.term + 2)]
    assert one.ask(append(place.term + 2, after, entries)).success
    assert one.raft.unproven == meta.index  # its successor has it, but may yet fail to spread it
    assert one.disk.kept is not None
    assert one.ask(append(place.term + 2, after, entries, meta.index + 1)).success
    assert (one.raft.unproven, one.disk.kept) == (0, None)


def test_restored_snapshot_survives_a_restart_as_one_that_may_be_taken_back():
    one = One().lead().follow_up()
    last, place = one.raft.last_index, one.raft.begin_restore(one.now)
    meta = replace(place, id="r")
    one.disk.restored(meta, Machine(meta.index))
    again = One(disk=one.disk)  # crashed before the core knew
    assert (again.raft.unproven, again.raft.last_index, again.raft.last_term) == (meta.index, meta.index, meta.term)
    assert not again.ask(vote(meta.term + 1, index=last, last_term=meta.term)).granted
    assert not again.ask(append(meta.term + 2, (last, meta.term), [(meta.index, meta.term + 2)])).success
    assert (again.raft.unproven, again.raft.last_index, again.disk.kept) == (0, last, None)
    assert again.events[-1] == "raft_restore_undone"


def test_leader_says_that_a_restored_snapshot_is_unproven_and_commits_nothing_in_its_name():
    one = One().lead().follow_up()
    place = one.raft.begin_restore(one.now)
    meta = replace(place, id="r")
    one.disk.restored(meta, Machine(meta.index))
    assert one.raft.restored(meta, one.now)
    ticket = one.raft.verify(one.now)
    one.raft.propose(1, None, one.now)
    one.sent.clear()
    one.pump()
    sent = [effect.message for effect in one.sent if isinstance(effect, Request)]
    assert {m.unproven for m in sent if isinstance(m, InstallSnapshotRequest)} == {True}
    assert all(m.leader_commit_index < meta.index for m in sent if isinstance(m, AppendEntriesRequest))
    one.follow_up()
    assert (one.raft.unproven, one.disk.kept, one.raft.commit_index) == (0, None, meta.index + 1)
    assert one.answers[ticket].error is None


def test_second_restore_waits_until_the_first_is_committed():
    one = One().lead().follow_up()
    meta = replace(one.raft.begin_restore(one.now), id="r")
    one.disk.restored(meta, Machine(meta.index))
    assert one.raft.restored(meta, one.now)
    assert not one.raft.lease_valid(one.now)
    with pytest.raises(NotLeader):
        one.raft.begin_restore(one.now)


@pytest.mark.parametrize("flagged", [False, True])
def test_follower_keeps_what_an_unproven_snapshot_replaces(flagged):
    one = One()
    one.ask(append(2, (1, 1), [(2, 2), (3, 2)], commit=2))
    assert one.ask(snapshot(9, unproven=flagged)).success
    assert (one.disk.kept is not None) is flagged
    later = one.ask(append(5, (3, 2), [(4, 5)]))
    if flagged:
        assert not later.success and one.raft.last_index == 3  # taken back
        assert one.ask(append(5, (3, 2), [(4, 5)], 4)).success
    else:
        assert one.raft.last_index == 9


def test_request_that_does_not_tell_whether_its_leader_has_the_restored_snapshot_takes_nothing_back():
    one = One()
    one.ask(append(2, (1, 1), [(2, 2), (3, 2)], commit=2))
    assert one.ask(snapshot(9, unproven=True)).success
    refused = one.ask(append(5, (2, 2), [(3, 2), (4, 2)]))  # perhaps it has (9, 2) behind it
    assert refused.error == "a restored snapshot here was never replicated"
    assert not refused.message.success
    assert (one.raft.unproven, one.raft.last_index) == (9, 9)


def test_restored_snapshot_is_not_called_committed_before_a_quorum_has_it():
    five = (*SERVERS, *(Server(id=f"n{i}", address=f"10.0.0.{i}:8300") for i in (4, 5)))
    one = One(Configuration(servers=five))
    one.raft.expire(one.now)
    one.raft.tick(one.now)
    one.pump()

    def answer(*names, form=None):
        requests = [e for e in one.sent if isinstance(e, Request) and e.to.id in names]
        one.sent.clear()
        for effect in requests:
            snapshot = isinstance(effect.message, InstallSnapshotRequest)
            reply = form or (InstallSnapshotResponse if snapshot else AppendEntriesResponse)
            good = {"granted": True} if form else {"success": True}
            one.raft.received_reply(effect.sequence, reply(term=one.raft.term, **good), one.now)
            one.pump()
        return requests

    answer("n2", "n3", form=RequestVoteResponse)
    while answer("n2", "n3"):
        pass
    meta = replace(one.raft.begin_restore(one.now), id="r")
    one.disk.restored(meta, Machine(meta.index))
    assert one.raft.restored(meta, one.now)
    one.raft.propose(1, None, one.now)
    one.pump()
    told = []
    for _ in range(4):
        one.now += 0.06
        one.raft.tick(one.now)
        one.pump()
        told += [e.message.leader_commit_index for e in answer("n2") if isinstance(e.message, AppendEntriesRequest)]
    assert one.raft.unproven == meta.index  # two of five
    assert told and max(told) < meta.index


def test_snapshot_of_a_leader_without_the_restored_one_takes_it_back():
    one = One()
    one.ask(append(2, (1, 1), [(2, 2), (3, 2)], commit=2))
    assert one.ask(snapshot(9, unproven=True)).success
    assert one.ask(snapshot(6, term=4, sender=4)).error == "a restored snapshot here was never replicated"
    assert one.raft.last_index == 3
    assert one.ask(snapshot(6, term=4, sender=4)).success


def test_user_restore_of_a_deposed_leader_is_thrown_away():
    one = One().lead().follow_up()
    place = one.raft.begin_restore(one.now)
    one.sent.clear()
    one.ask(append(9))
    assert not one.raft.restored(place, one.now)
    assert one.raft.last_index == 2


def test_restart_continues_from_the_disk():
    one = One()
    one.ask(append(2, (1, 1), [(2, 2), (3, 2)], commit=3))
    again = One(disk=one.disk)
    assert (again.raft.term, again.raft.last_index, again.raft.configuration) == (2, 3, CONFIGURATION)
    assert again.raft.commit_index == 0


def test_term_is_never_older_than_the_snapshot_that_was_published_before_a_crash():
    meta = SnapshotMeta(id="s", index=9, term=5, configuration=CONFIGURATION, configuration_index=1)
    disk = Disk()
    raft = Raft(CONFIG, SERVERS[0], InitialState(HardState(3, 3, L), meta), disk, random.Random(1), 50.0)
    assert (raft.term, raft.last_term) == (5, 5)


def test_log_with_a_hole_after_the_snapshot_is_refused_at_start():
    meta = SnapshotMeta(index=5, term=1, configuration=CONFIGURATION)
    with pytest.raises(ValueError, match="log starts at 9, snapshot ends at 5"):
        Raft(CONFIG, SERVERS[0], InitialState(HardState(1), meta, 9, 9, 1), Disk(), random.Random(1), 0.0)


def test_batch_of_64_proposals_takes_little_time():
    one = One().lead().follow_up()
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(64):
            one.raft.propose(0, b"x" * 100, one.now)
        ready = one.raft.ready(one.now)
        best = min(best, time.perf_counter() - start)
        assert len(ready.entries) == 64
        one.disk.store(ready, None)
        one.raft.advance(Done(one.disk.last), one.now)
        one.follow_up()
    assert best < 0.005  # measured 0.2 ms; the bound is for busy machines


def test_refused_votes_are_remembered_until_a_leader_is_heard():
    one = One()
    one.raft.expire(one.now)
    one.raft.tick(one.now)
    one.pump()
    asked = {e.to.id: e.sequence for e in one.sent if isinstance(e.message, RequestVoteRequest)}
    term = one.raft.term
    one.raft.received_reply(asked["n2"], RequestVoteResponse(term=term, granted=False), one.now)
    assert one.raft.refusals == {"n2": Refusal(term, term)}
    one.raft.received_reply(asked["n3"], RequestVoteResponse(term=term + 4, granted=False), one.now)
    assert one.raft.refusals == {"n2": Refusal(term, term), "n3": Refusal(term, term + 4)}
    one.ask(append(term + 4, previous=(1, 1)))
    assert one.raft.refusals == {}


# --- faults that scripts/mutants found unnoticed ------------------------------------------------------------------


def candidate_of(count):
    servers = tuple(Server(id=f"n{i}", address=f"10.0.0.{i}:8300") for i in range(1, count + 1))
    one = One(Configuration(servers=servers))
    one.raft.expire(one.now)
    one.raft.tick(one.now)
    one.pump()
    return one


def asked_votes(one):
    asked = {e.to.id: e.sequence for e in one.sent if isinstance(e.message, RequestVoteRequest)}
    one.sent.clear()
    return asked


def test_votes_of_an_earlier_term_do_not_count_in_the_next():
    one = candidate_of(5)
    first = asked_votes(one)
    one.raft.received_reply(first["n2"], RequestVoteResponse(term=one.raft.term, granted=True), one.now)
    one.now = one.raft.deadline
    one.raft.tick(one.now)
    one.pump()
    second, term = asked_votes(one), one.raft.term
    one.raft.received_reply(second["n3"], RequestVoteResponse(term=term, granted=True), one.now)
    one.pump()
    assert one.raft.role is Role.CANDIDATE
    one.raft.received_reply(second["n2"], RequestVoteResponse(term=term, granted=True), one.now)
    one.pump()
    assert one.raft.role is Role.LEADER


def test_vote_that_names_an_older_term_does_not_count():
    one = candidate_of(3)
    term = one.raft.term
    one.raft.received_reply(asked_votes(one)["n2"], RequestVoteResponse(term=term - 1, granted=True), one.now)
    one.pump()
    assert one.raft.role is Role.CANDIDATE


def test_own_vote_waits_for_its_own_store_not_for_an_earlier_one():
    one = One(Configuration(servers=SERVERS[:1]))
    one.ask(append(5, (1, 1), [(2, 5)]))
    one.raft.receive(8, append(5, (2, 5), [(3, 5)]), one.now)
    storing = one.raft.ready(one.now)
    assert storing.entries
    one.raft.expire(one.now)
    one.raft.tick(one.now)
    assert one.raft.role is Role.CANDIDATE
    one.disk.store(storing, None)
    one.raft.advance(Done(3), one.now)
    assert one.raft.role is Role.CANDIDATE  # term and vote are not on disk yet
    one.pump()
    assert one.raft.role is Role.LEADER


def test_restarted_server_still_keeps_its_lease_promise():
    disk = Disk()
    disk.hard = HardState(term=4, vote_term=4, voted_for=L)
    one = One(CONFIGURATION, disk=disk)
    other = b"10.0.0.3:8300"
    assert not one.ask(vote(9, index=5, last_term=5, candidate=other)).granted
    one.now += CONFIG.read_lease_s
    assert one.ask(vote(10, index=5, last_term=5, candidate=other)).granted


@pytest.mark.parametrize("failures", [1, 2, 5, 12, 1000])
def test_back_off_never_outlasts_half_a_heartbeat_timeout(failures):
    for multiplier in (1, 5):
        raft = Raft(RaftConfig.scaled(multiplier), SERVERS[0], InitialState(), Disk(), random.Random(1), 50.0)
        limit = RaftConfig.scaled(multiplier).heartbeat_timeout_s / 2
        assert 0 < replication.backoff(raft._s, failures) <= limit


def test_snapshot_older_than_a_compacted_log_is_acknowledged_but_not_installed():
    one = One(config=replace(CONFIG, trailing_logs=0))
    one.ask(append(2, (1, 1), [(index, 2) for index in range(2, 9)], commit=8))
    meta = SnapshotMeta(id="s", index=8, term=2, configuration=CONFIGURATION, configuration_index=1)
    one.raft.snapshot_taken(meta, one.now)
    one.pump()
    assert one.raft.term_at(4) is None
    assert one.ask(snapshot(4)).success
    assert not any(ready.install for ready in one.readies)
    assert (one.raft.last_index, one.raft.commit_index) == (8, 8)


def test_restarted_only_voter_stands_as_soon_as_no_lease_can_rest_on_it():
    alone = Configuration(servers=SERVERS[:1])
    config = replace(CONFIG, fast_bootstrap=True)
    one = One(alone, config).lead_alone()
    again = One(disk=one.disk, config=config)
    assert again.raft.role is Role.FOLLOWER
    assert again.raft.deadline == pytest.approx(again.now + config.read_lease_s)
    again.lead_alone()
    three = One(disk=One(config=config).disk, config=config)
    assert three.raft.deadline >= three.now + config.heartbeat_timeout_s
