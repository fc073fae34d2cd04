"""Serf's rules: the replay of what the original did, and what the vectors leave open."""

import random

import pytest

from conformance.vectors_serf import new_serf, node, said
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.core import Serf
from pyconsul_agent.serf.effects import (
    AppendSnapshot,
    IntentSent,
    QueryAnswered,
    QueryFinished,
    QueryReceived,
    Reconnect,
    SendUser,
)
from pyconsul_agent.serf.events import UserEventTooLong
from pyconsul_agent.structs.member import MemberStatus, UserEvent
from pyconsul_agent.swim.effects import Deliver, MergeRemoteState, NotifyConflict, NotifyJoin, NotifyLeave, NotifyUpdate
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.wire.serf import (
    JoinIntent,
    KeyRequest,
    LeaveIntent,
    NodeFilter,
    PushPullState,
    Query,
    QueryResponse,
    Relay,
    RelayAddress,
    TagFilter,
    UserEventMessage,
    decode,
    decode_conflict,
    encode,
    encode_filter,
)
from pyconsul_agent.wire.serf_snapshot import SnapshotState, replay


def with_members(*names, **more):
    serf = new_serf(**more)
    for number, name in enumerate(names, 2):
        serf.handle(NotifyJoin(node(name, number)), 0.0)
    serf.take()
    return serf


def tell(serf, message, now=0.0):
    serf.handle(Deliver(encode(message), ("10.0.0.9", 8301)), now)
    return serf.take()


def sent(serf, limit=100_000):
    return [decode(data) for data in serf.get_broadcasts(3, limit)]


# --- replay -----------------------------------------------------------------------------------------------------


# --- members ----------------------------------------------------------------------------------------------------


def test_update_brings_new_tags_and_keeps_the_status():
    serf = with_members("b")
    serf.handle(NotifyUpdate(node("b", color="blue")), 0.0)
    assert said(serf.take()) == ["member-update b"]
    assert serf.member("b").tags == {"color": "blue"}
    assert serf.member("b").status is MemberStatus.ALIVE


def test_failed_members_are_reaped_after_the_reconnect_timeout_and_left_ones_after_the_tombstone_timeout():
    serf = with_members("b", "c")
    tell(serf, LeaveIntent(ltime=5, node="c"))
    serf.handle(NotifyLeave(node("b")), 100.0)
    serf.handle(NotifyLeave(node("c")), 100.0)
    serf.take()
    serf.tick(100.0 + 24 * 3600)
    assert said(serf.take()) == []
    serf.tick(115.1 + 24 * 3600)
    assert said(serf.take()) == ["member-reap c"]
    serf.tick(131.0 + 72 * 3600)
    assert said(serf.take()) == ["member-reap b"]


def test_the_members_own_tag_shortens_both_timeouts():
    serf = new_serf()
    serf.handle(NotifyJoin(node("b", rc_tm="30m")), 0.0)
    serf.handle(NotifyLeave(node("b")), 0.0)
    serf.take()
    serf.tick(1799.0)
    assert said(serf.take()) == []
    serf.tick(1815.0)
    assert "member-reap b" in said(serf.take())


def test_reconnect_is_tried_while_most_of_the_pool_failed():
    serf = with_members("b")
    serf.handle(NotifyLeave(node("b")), 0.0)
    serf.tick(30.0)
    assert Reconnect("b", ("10.0.0.2", 8301)) in serf.take()


@pytest.mark.parametrize(("size", "per_round"), [(2, 1.0), (40, 1.0), (200, 0.32), (400, 0.16)])
def test_after_half_of_a_pool_failed_a_member_tries_the_less_often_the_larger_the_pool_is(size, per_round):
    names = [f"n{number}" for number in range(size - 1)]
    serf = with_members(*names)
    for name in names[: size // 2]:
        serf.handle(NotifyLeave(node(name)), 0.0)
    serf.take()
    rounds = 250
    for number in range(1, rounds + 1):
        serf.tick(2.0 * number)
    slow_rounds = 500 // 30
    tried = sum(isinstance(effect, Reconnect) for effect in serf.take()) - slow_rounds
    assert per_round * rounds * 0.7 <= tried <= per_round * rounds * 1.3


def test_members_that_failed_long_ago_are_tried_every_30_s_only():
    serf = with_members("b")
    serf.handle(NotifyLeave(node("b")), 0.0)
    tried = []
    for second in range(1, 901):
        serf.tick(float(second))
        tried += [second for effect in serf.take() if isinstance(effect, Reconnect)]
    assert len([second for second in tried if second <= 600]) == 300 + 20
    assert [second for second in tried if second > 600] == list(range(630, 901, 30))


def test_intents_of_names_that_never_joined_are_forgotten():
    serf = new_serf()
    tell(serf, JoinIntent(ltime=5, node="ghost"))
    assert "ghost" in serf._table.intents
    serf.tick(301.0)
    assert not serf._table.intents


def test_pruning_a_living_member_waits_and_spares_the_one_that_denies():
    serf = with_members("b", "c")
    tell(serf, LeaveIntent(ltime=5, node="b", prune=True))
    tell(serf, LeaveIntent(ltime=6, node="c", prune=True))
    serf.tick(7.0)
    assert serf.next_deadline() == 8.0
    tell(serf, JoinIntent(ltime=9, node="c"), 1.0)
    serf.tick(8.0)
    assert said(serf.take()) == ["member-reap b"]
    assert serf.member("c").status is MemberStatus.ALIVE


def test_leave_is_announced_and_reported_when_sent_often_enough():
    serf = with_members("b")
    ticket = serf.begin_leave(0.0)
    assert serf.member("me").status is MemberStatus.LEAVING
    assert [type(m) for m in sent(serf)] == [LeaveIntent]
    for _ in range(3):
        assert not any(isinstance(e, IntentSent) for e in serf.take())
        sent(serf)
    assert IntentSent(ticket, timed_out=False) in serf.take()


def test_leave_alone_needs_no_announcement():
    serf = new_serf()
    ticket = serf.begin_leave(0.0)
    assert IntentSent(ticket, timed_out=False) in serf.take()
    assert sent(serf) == []


def test_announcement_that_nobody_fetches_times_out():
    serf = with_members("b", "c")
    ticket = serf.force_leave("b", 0.0)
    serf.tick(5.0)
    assert IntentSent(ticket, timed_out=True) in serf.take()


def test_force_leave_of_a_failed_member_makes_it_left():
    serf = with_members("b", "c")
    serf.handle(NotifyLeave(node("b")), 0.0)
    serf.take()
    serf.force_leave("b", 1.0)
    assert said(serf.take()) == ["member-leave b"]
    serf.force_leave("b", 2.0, prune=True)
    assert said(serf.take()) == ["member-reap b"]


def test_join_is_announced_with_the_current_clock():
    serf = with_members("b")
    serf.begin_join()
    serf.finish_join(1, 0.0)
    assert sent(serf) == [JoinIntent(ltime=1, node="me")]
    assert serf.stats()["member_time"] == 2


# --- user events --------------------------------------------------------------------------------------------------


def test_own_user_event_is_delivered_here_and_broadcast():
    serf = with_members("b")
    serf.user_event("deploy", b"v1")
    assert UserEvent(1, "deploy", b"v1", False) in serf.take()
    assert sent(serf) == [UserEventMessage(ltime=1, name="deploy", payload=b"v1")]
    assert serf.stats()["event_time"] == 2


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"x" * 512, "user event exceeds configured limit of 512 bytes before encoding"),
        (b"x" * 500, "encoded user event exceeds configured limit of 512 bytes after encoding"),
    ],
)
def test_too_long_user_events_are_refused_in_the_originals_words(payload, text):
    serf = new_serf()
    with pytest.raises(UserEventTooLong) as error:
        serf.user_event("n", payload)
    assert str(error.value) == text
    assert serf.stats()["event_time"] == 1


def test_our_state_carries_events_to_a_newcomer():
    old, young = with_members("b"), new_serf("b")
    old.user_event("deploy", b"v1")
    young.handle(MergeRemoteState(old.local_state(True), True), 0.0)
    assert UserEvent(1, "deploy", b"v1", False) in young.take()


def test_a_joining_node_takes_old_events_for_history():
    old, young = with_members("b"), new_serf("b")
    old.user_event("deploy", b"v1")
    young.begin_join()
    young.handle(MergeRemoteState(old.local_state(True), True), 0.0)
    assert said(young.take()) == []


def test_intents_fill_a_packet_before_queries_and_events():
    serf = with_members("b")
    serf.user_event("deploy", b"v1")
    tell(serf, query())
    tell(serf, JoinIntent(ltime=9, node="b"))
    assert [type(m) for m in sent(serf)] == [JoinIntent, Query, UserEventMessage]
    assert len(serf.get_broadcasts(3, 40)) == 1


# --- queries --------------------------------------------------------------------------------------------------------


def query(**changes):
    fields = {
        "ltime": 5, "id": 17, "address": bytes((10, 0, 0, 9)), "port": 8301, "source_node": "asker", "flags": 1,
        "timeout": 1_000_000_000, "name": "load",
    }  # fmt: skip
    return Query(**(fields | changes))


ASKER = ("10.0.0.9", 8301)


def test_query_is_acknowledged_handed_up_and_answered_once():
    serf = with_members("b")
    effects = tell(serf, query(payload=b"p"))
    assert [decode(e.data) for e in effects if isinstance(e, SendUser)] == [
        QueryResponse(ltime=5, id=17, from_="me", flags=1)
    ]
    assert QueryReceived(5, 17, "load", b"p", "asker") in effects
    assert serf.respond(5, 17, b"0.1", 0.5)
    assert serf.take() == [SendUser(ASKER, encode(QueryResponse(ltime=5, id=17, from_="me", payload=b"0.1")))]
    assert not serf.respond(5, 17, b"0.1", 0.5)


def test_query_seen_twice_is_silent():
    serf = new_serf()
    tell(serf, query())
    assert tell(serf, query()) == []


def test_answer_after_the_deadline_is_not_sent():
    serf = new_serf()
    tell(serf, query())
    assert not serf.respond(5, 17, b"late", 1.5)


@pytest.mark.parametrize(
    ("filters", "asked"),
    [
        ([NodeFilter(names=("me", "b"))], True),
        ([NodeFilter(names=("b",))], False),
        ([TagFilter(tag="role", expression="^no")], True),
        ([TagFilter(tag="missing", expression="^$")], True),
        ([TagFilter(tag="role", expression="web")], False),
        ([NodeFilter(names=("me",)), TagFilter(tag="role", expression="web")], False),
        ([TagFilter(tag="role", expression="(")], False),
        ([TagFilter(tag="role", expression="(n+)+$")], False),
    ],
)
def test_filters_decide_who_is_asked_but_all_spread(filters, asked):
    serf = with_members("b")
    effects = tell(serf, query(filters=tuple(encode_filter(f) for f in filters)))
    assert any(isinstance(e, QueryReceived) for e in effects) is asked
    assert any(isinstance(e, SendUser) for e in effects) is asked
    assert len(sent(serf)) == 1


def test_query_that_shall_not_spread_is_not_queued():
    serf = with_members("b")
    tell(serf, query(flags=2))
    assert sent(serf) == []


def test_conflict_query_is_answered_with_what_is_known():
    serf = with_members("b")
    (effect,) = tell(serf, query(name="_serf_conflict", payload=b"b", flags=0))
    assert decode_conflict(decode(effect.data).payload).address == bytes((10, 0, 0, 2))
    (effect,) = tell(serf, query(id=18, name="_serf_conflict", payload=b"nobody", flags=0))
    assert decode_conflict(decode(effect.data).payload) is None


def test_the_owner_of_a_name_is_silent_about_it():
    assert tell(new_serf(), query(name="_serf_conflict", payload=b"me", flags=0)) == []


def test_unknown_internal_query_is_not_handed_up():
    effects = tell(new_serf(), query(name="_serf_future", flags=0))
    assert not any(isinstance(e, (QueryReceived, SendUser)) for e in effects)


def test_answers_are_relayed_through_other_members():
    serf = with_members("b", "c")
    effects = [e for e in tell(serf, query(relay_factor=2)) if isinstance(e, SendUser)]
    relays = [e for e in effects if e.to != ASKER]
    assert sorted(e.to for e in relays) == [("10.0.0.2", 8301), ("10.0.0.3", 8301)]
    other = new_serf("b")
    assert tell(other, decode(relays[0].data)) == [SendUser(ASKER, effects[0].data)]


def test_relay_forwards_nothing_but_answers():
    relay = Relay(destination=RelayAddress(ip=bytes((10, 0, 0, 9)), port=53), inner=b"anything")
    assert not any(isinstance(e, SendUser) for e in tell(new_serf(), relay))


def test_own_query_counts_each_node_once_and_ends_in_time():
    serf = with_members("b")
    number = serf.ask("load", b"", 0.0, timeout_s=2.0, ack=True)
    (asked,) = sent(serf)
    assert (asked.id, asked.source_node, asked.port) == (number, "me", 8301)
    serf.take()
    for flags, payload in ((1, None), (0, b"x"), (0, b"again")):
        tell_response = QueryResponse(ltime=asked.ltime, id=number, from_="b", flags=flags, payload=payload)
        serf.receive(encode(tell_response), 1.0)
    serf.receive(encode(QueryResponse(ltime=asked.ltime + 1, id=number, from_="c", payload=b"x")), 1.0)
    answers = [e for e in serf.take() if isinstance(e, QueryAnswered)]
    assert answers == [QueryAnswered(number, "b", None), QueryAnswered(number, "b", b"x")]
    assert serf.next_deadline() == 2.0
    serf.tick(2.0)
    assert QueryFinished(number) in serf.take()


def test_too_long_a_query_is_refused():
    with pytest.raises(ValueError, match="query exceeds limit of 1024 bytes"):
        new_serf().ask("load", bytes(1024), 0.0, timeout_s=1.0)


def test_long_key_lists_are_cut_to_fit_an_answer():
    ring = Keyring(tuple(bytes((n,)) * 32 for n in range(30)))
    serf = new_serf()
    serf.set_keyring(ring)
    (effect,) = tell(serf, query(name="_serf_list-keys", payload=encode(KeyRequest(key=b"")), flags=0))
    assert len(effect.data) <= 1024
    response = decode(decode(effect.data).payload)
    assert response.result
    assert response.message == f"truncated key list response, showing first {len(response.keys)} of 30 keys"
    assert 15 < len(response.keys) < 30


@pytest.mark.parametrize("payload", [b"", b"\x07\xc1", b"garbage"])
def test_malformed_key_requests_change_nothing(payload):
    serf = new_serf()
    serf.set_keyring(Keyring((bytes(16),)))
    (effect,) = tell(serf, query(name="_serf_install-key", payload=payload, flags=0))
    assert not decode(decode(effect.data).payload).result


# --- snapshot -------------------------------------------------------------------------------------------------------


def written(effects):
    return "".join(e.text for e in effects if isinstance(e, AppendSnapshot))


def test_snapshot_lets_a_restarted_node_find_its_peers_and_its_clocks():
    serf = with_members("b", "c", snapshot=SnapshotState())
    tell(serf, JoinIntent(ltime=40, node="b"))
    serf.user_event("x", b"")
    tell(serf, LeaveIntent(ltime=30, node="c"))
    serf.handle(NotifyLeave(node("c")), 0.1)
    serf.take()
    serf.tick(0.5)
    state = replay(written(serf.take()), rejoin_after_leave=False)
    assert state.alive == {"me": "10.0.0.1:8301", "b": "10.0.0.2:8301"}
    assert (state.clock, state.event_clock) == (40, 1)
    again = with_members(snapshot=state)
    assert again.stats()["member_time"] == 41
    assert said(tell(again, UserEventMessage(ltime=1, name="x"))) == []


def test_snapshot_keeps_failed_members_until_they_are_reaped():
    serf = with_members("b", "c", snapshot=SnapshotState())
    serf.handle(NotifyLeave(node("b")), 0.1)
    serf.handle(NotifyLeave(node("c")), 0.1)
    serf.force_leave("c", 0.2)
    serf.tick(0.5)
    text = written(serf.take())
    assert replay(text, rejoin_after_leave=False).alive.keys() == {"me", "b"}
    serf.tick(73 * 3600.0)
    text += written(serf.take())
    serf.tick(73 * 3600.0 + 1)
    text += written(serf.take())
    assert replay(text, rejoin_after_leave=False).alive.keys() == {"me"}


def test_snapshot_is_synced_when_there_is_a_new_address_and_only_then():
    serf = with_members("b", snapshot=SnapshotState())
    serf.tick(0.5)
    seen = tell(serf, JoinIntent(ltime=40, node="b"))
    serf.tick(1.0)
    serf.handle(NotifyJoin(node("b")), 1.1)
    serf.tick(1.5)
    serf.handle(NotifyJoin(node("c", 3)), 1.6)
    serf.tick(2.0)
    effects = [effect for effect in [*seen, *serf.take()] if isinstance(effect, AppendSnapshot)]
    assert [effect.sync for effect in effects] == [True, False, False, True]


def test_leave_is_the_last_line_of_the_snapshot():
    serf = with_members("b", snapshot=SnapshotState())
    serf.begin_leave(0.0)
    serf.handle(NotifyLeave(node("me", 1)), 0.0)
    serf.finish_leave()
    effects = serf.take()
    assert written(effects).endswith("\nleave\n")
    assert [e.sync for e in effects if isinstance(e, AppendSnapshot)] == [True]


def test_long_snapshot_is_compacted():
    serf = with_members("b", snapshot=SnapshotState(), snapshot_bytes=200_000)
    serf.tick(0.5)
    (effect,) = [e for e in serf.take() if "Snapshot" in type(e).__name__]
    assert replay(effect.text, rejoin_after_leave=False).alive.keys() == {"me", "b"}


# --- hostile input --------------------------------------------------------------------------------------------------


def test_garbage_changes_nothing():
    serf = with_members("b")
    before = serf.stats()
    for data in (b"", b"\xff", b"\x00\xc1", b"\x09\x80", b"\x03\x81\xa5LTime\xff", bytes(20_000)):
        serf.handle(Deliver(data, ASKER), 0.0)
        serf.handle(MergeRemoteState(data, True), 0.0)
    assert serf.stats() == before


def test_clocks_stay_within_64_bits():
    serf = with_members("b")
    tell(serf, JoinIntent(ltime=(1 << 64) - 1, node="b"))
    serf._intents.announce_join(0.0)
    assert decode(serf.local_state(False)).ltime == (1 << 64) - 1


def test_state_of_a_push_pull_has_all_slots():
    assert len(decode(new_serf().local_state(False)).events) == 512
    assert isinstance(decode(new_serf().local_state(False)), PushPullState)


def test_tags_beyond_512_bytes_are_refused():
    with pytest.raises(ValueError, match="512"):
        new_serf().set_tags({"a": "x" * 600})


def test_addresses_outside_the_allowed_networks_are_refused():
    config = SerfConfig(allowed_networks=("10.0.0.0/8",))
    serf = Serf(config, name="me", tags={}, rng=random.Random(1))
    assert serf.address_allowed("10.1.2.3")
    assert not serf.address_allowed("192.168.0.1")
    assert not serf.address_allowed("fd00::1")


# --- a leave of ours that somebody else announced -----------------------------------------------------------------


def announced(ltime):
    """A node that has said at `ltime` that it is here."""
    serf = with_members("other")
    serf._table.clock.witness(ltime - 1)
    serf._intents.announce_join(0.0)
    sent(serf)
    return serf


def joins_of(serf):
    return [message.ltime for message in sent(serf) if isinstance(message, JoinIntent) and message.node == "me"]


def test_a_leave_of_the_same_time_as_our_join_is_denied_with_a_newer_join():
    serf = announced(7)
    tell(serf, LeaveIntent(ltime=7, node="me"))
    assert max(joins_of(serf)) > 7
    tell(serf, LeaveIntent(ltime=7, node="me"))
    assert len(joins_of(serf)) <= 2  # the old one may still be queued; no third is made


def test_a_newer_state_of_ours_than_we_announced_is_denied_too():
    serf = announced(7)
    state = PushPullState(ltime=9, status_ltimes={"me": 8, "other": 1})
    serf.handle(MergeRemoteState(encode(state), False), 0.0)
    assert max(joins_of(serf)) > 8
    before = serf.stats()["intent_queue"]
    serf.handle(MergeRemoteState(encode(state), False), 0.0)
    assert serf.stats()["intent_queue"] == before


def test_a_denial_is_newer_than_the_leave_that_push_pulls_make_of_the_one_denied():
    serf, witness = announced(3), new_serf("witness")
    witness.handle(NotifyJoin(node("me", 1)), 0.0)
    tell(serf, LeaveIntent(ltime=7, node="me"))
    state = PushPullState(ltime=9, status_ltimes={"me": 7}, left_members=("me",))
    witness.handle(MergeRemoteState(encode(state), False), 0.0)
    assert witness.member("me").status is MemberStatus.LEAVING
    for message in sent(serf):
        tell(witness, message)
    assert witness.member("me").status is MemberStatus.ALIVE


def test_a_leaving_node_does_not_deny_its_leave():
    serf = announced(7)
    serf.begin_leave(0.0)
    state = PushPullState(ltime=20, status_ltimes={"me": 19})
    before = serf.stats()["intent_queue"]
    serf.handle(MergeRemoteState(encode(state), False), 0.0)
    assert serf.stats()["intent_queue"] == before


def address_of(serf, name):
    member = serf.member(name)
    return member.address, member.port


def test_who_missed_the_denial_of_a_leave_repeats_the_leave_until_it_is_denied():
    witness = with_members("b")
    witness.start(0.0)
    tell(witness, LeaveIntent(ltime=7, node="b"))
    sent(witness)
    while witness.get_broadcasts(3, 100_000):
        continue
    witness.tick(30.0)
    direct = [effect for effect in witness.take() if isinstance(effect, SendUser)]
    assert direct == [SendUser(address_of(witness, "b"), encode(LeaveIntent(ltime=7, node="b")))]
    leaves = [message for message in sent(witness) if isinstance(message, LeaveIntent)]
    assert [(leave.node, leave.ltime) for leave in leaves] == [("b", 7)]
    tell(witness, JoinIntent(ltime=8, node="b"))
    while witness.get_broadcasts(3, 100_000):
        continue
    witness.tick(60.0)
    assert sent(witness) == []


# --- one name, two nodes ----------------------------------------------------------------------------------------


def conflict(serf, other_id):
    serf.handle(NotifyConflict(node("me", 1, id="aaaa"), node("me", 9, id=other_id)), 0.0)
    return serf.name_taken_by


def test_another_node_with_our_name_is_told_until_the_next_join():
    serf = new_serf()
    assert conflict(serf, "bbbb") == "10.0.0.9:8301"
    serf.begin_join()
    assert serf.name_taken_by is None


def test_we_ourselves_at_an_address_that_we_have_left_are_no_other_node():
    assert conflict(new_serf(), "aaaa") is None
