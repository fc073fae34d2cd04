"""One member, hand-fed: probing step by step, answers, streams, limits, keys."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.swim import streams
from pyconsul_agent.swim.awareness import Awareness
from pyconsul_agent.swim.config import HANDOFF_QUEUE_MAX, LAN, PENDING_ACKS_MAX
from pyconsul_agent.swim.core import COMPLAINTS_MAX, Swim
from pyconsul_agent.swim.effects import (
    Deliver,
    JoinFinished,
    LogLine,
    MergeRemoteState,
    NotifyConflict,
    NotifyJoin,
    OpenStream,
    PingComplete,
    SendPacket,
    StreamPurpose,
)
from pyconsul_agent.swim.keyring import KEYS_MAX, Keyring, KeyringError
from pyconsul_agent.wire.gossip import (
    Ack,
    Alive,
    Dead,
    ErrorReply,
    IndirectPing,
    MessageType,
    Nack,
    NodeState,
    Ping,
    PushNodeState,
    PushPull,
    Suspect,
    UserMessage,
    address_bytes,
    decode_message,
    encode_message,
)
from pyconsul_agent.wire.gossip_packet import open_packet_body, pack_compounds
from pyconsul_agent.wire.gossip_stream import decode_stream
from tests.unit.swim_world import Upper

ME = ("10.0.0.1", 8301)
STRANGER = ("10.9.9.9", 999)


PLAIN = replace(LAN, extra_pings_max=0, introduction_steps=0)
"""What memberlist does; the extra pings and introductions have tests of their own."""


class Rig:
    """A member with its effects sorted."""

    def __init__(self, others=0, config=PLAIN, vsn=LAN.versions):
        self.now = 50.0
        self.upper = Upper()
        self.swim = Swim(config, name="me", advertise=ME, delegate=self.upper, rng=random.Random(5))
        self.swim.start(self.now)
        for number in range(others):
            self.tell(Alive(1, f"n{number}", bytes((10, 0, 1, number)), 8301, None, vsn))
        self.drop_broadcasts()

    def drop_broadcasts(self):
        self.swim._queue.prune(0)
        self.swim.take()

    def tell(self, *messages, source=STRANGER):
        self.swim.receive([(encode_message(message), source) for message in messages], self.now)

    def sent(self):
        """[(to, message)] of the packets, other effects dropped."""
        return [
            (effect.to, decode_message(body))
            for effect in self.swim.take()
            if isinstance(effect, SendPacket)
            for body in open_packet_body(effect.data).messages
        ]

    def until(self, kind):
        """Tick on until something of `kind` is sent; what was sent then."""
        for _ in range(1000):
            self.now = self.swim.next_deadline()
            self.swim.tick(self.now)
            effects = self.swim.take()
            packets = [
                (effect.to, decode_message(body))
                for effect in effects
                if isinstance(effect, SendPacket)
                for body in open_packet_body(effect.data).messages
            ]
            found = [effect for effect in effects if isinstance(effect, kind)]
            found += [(to, message) for to, message in packets if isinstance(message, kind)]
            if found:
                return found, effects
        raise AssertionError(f"no {kind.__name__}")

    def lines(self):
        return [effect.message for effect in self.swim.take() if isinstance(effect, LogLine)]


# --- the probe ------------------------------------------------------------------------------------------------


def test_a_ping_names_its_target_and_says_where_to_answer():
    rig = Rig(others=1)
    [(to, ping)], _ = rig.until(Ping)
    assert to == ("10.0.1.0", 8301)
    assert (ping.node, ping.source_node) == ("n0", "me")
    assert (ping.source_address, ping.source_port) == (address_bytes(ME[0]), ME[1])


def test_an_ack_in_time_gives_the_round_trip_and_better_health():
    rig = Rig(others=1)
    rig.swim.note_lag(1.0, rig.now)
    assert rig.swim.health_score == 1
    [(_, ping)], _ = rig.until(Ping)
    rig.now += 0.125
    rig.tell(Ack(ping.sequence_number, b"\x01coordinate"))
    complete = [effect for effect in rig.swim.take() if isinstance(effect, PingComplete)]
    assert [(c.node.name, c.payload) for c in complete] == [("n0", b"\x01coordinate")]
    assert complete[0].rtt_s == pytest.approx(0.125)
    assert rig.swim.health_score == 0


def test_without_an_ack_others_are_asked_and_tcp_is_tried_and_then_the_target_is_suspect():
    rig = Rig(others=6)
    [(_, ping)], _ = rig.until(Ping)
    started = rig.now
    asked, effects = rig.until(IndirectPing)
    assert rig.now - started == pytest.approx(LAN.probe_timeout_s)
    assert len({to for to, _ in asked}) == 3
    target = rig.swim.node(ping.node)
    for to, request in asked:
        assert to != target.endpoint
        assert (request.sequence_number, request.node, request.nack) == (ping.sequence_number, ping.node, True)
        assert (request.target, request.port) == (address_bytes(target.address), target.port)
    (stream,) = [effect for effect in effects if isinstance(effect, OpenStream)]
    assert (stream.purpose, stream.to, stream.deadline) == (
        StreamPurpose.PING,
        target.endpoint,
        pytest.approx(started + 1),
    )
    assert decode_stream(stream.request).node == ping.node
    rig.now = started + 1.0
    rig.swim.tick(rig.now)
    assert rig.swim.node(ping.node).state == NodeState.SUSPECT


@pytest.mark.parametrize(("nacks", "health"), [(0, 3), (1, 2), (3, 0)])
def test_health_worsens_by_the_nacks_that_did_not_come(nacks, health):
    rig = Rig(others=6)
    [(_, ping)], _ = rig.until(Ping)
    asked, _ = rig.until(IndirectPing)
    for to, _ in asked[:nacks]:
        rig.tell(Nack(ping.sequence_number), Nack(ping.sequence_number), source=to)
    rig.now += 0.6
    rig.swim.tick(rig.now)
    assert rig.swim.node(ping.node).state == NodeState.SUSPECT
    assert rig.swim.health_score == health


def test_health_worsens_by_one_when_nobody_could_send_nacks():
    rig = Rig(others=3, vsn=bytes((1, 2, 2, 2, 5, 4)))
    rig.until(Ping)
    asked, effects = rig.until(IndirectPing)
    assert not any(request.nack for _, request in asked)
    assert not [effect for effect in effects if isinstance(effect, OpenStream)]  # too old for TCP pings
    rig.now += 0.6
    rig.swim.tick(rig.now)
    assert rig.swim.health_score == 1


def test_a_late_ack_counts_but_measures_nothing():
    rig = Rig(others=6)
    [(_, ping)], _ = rig.until(Ping)
    rig.until(IndirectPing)
    rig.now += 0.3
    rig.tell(Ack(ping.sequence_number))
    assert not [effect for effect in rig.swim.take() if isinstance(effect, PingComplete)]
    rig.now += 0.3
    rig.swim.tick(rig.now)
    assert rig.swim.node(ping.node).state == NodeState.ALIVE


def test_a_suspect_is_told_with_the_ping_behind_a_crc():
    rig = Rig(others=1)
    rig.tell(Suspect(1, "n0", "x"))
    found, effects = rig.until(Ping)
    packets = [e.data for e in effects if isinstance(e, SendPacket) and e.data[0] == MessageType.HAS_CRC]
    bodies = [[decode_message(body) for body in open_packet_body(data).messages] for data in packets]
    assert [found[0][1], Suspect(1, "n0", "me")] in bodies


def test_a_bounced_ping_asks_the_others_at_once():
    rig = Rig(others=4)
    [(to, _)], _ = rig.until(Ping)
    rig.swim.note_refused(to, rig.now)
    assert [message for _, message in rig.sent() if isinstance(message, IndirectPing)]


def test_sick_members_probe_slower():
    awareness = Awareness(8)
    awareness.change(20)
    assert awareness.score == 7
    assert awareness.scaled(1.0) == 8.0
    awareness.change(-30)
    assert awareness.score == 0


# --- answering ------------------------------------------------------------------------------------------------


def test_pings_are_answered_where_they_ask_with_the_payload_of_the_layer_above():
    rig = Rig()
    rig.upper.ack_payload = lambda: b"\x01c"
    rig.tell(Ping(7, "me", address_bytes("10.3.3.3"), 77, "x"), Ping(8, ""), Ping(9, "other"))
    assert rig.sent() == [(("10.3.3.3", 77), Ack(7, b"\x01c")), (STRANGER, Ack(8, b"\x01c"))]


def test_acks_carry_broadcasts_behind_them():
    rig = Rig()
    rig.upper.messages = [b"\x03news"]
    rig.tell(Ping(7, "me"))
    assert [message for _, message in rig.sent()] == [Ack(7, b""), UserMessage(b"\x03news")]


def test_an_indirect_ping_is_passed_on_and_its_ack_back():
    rig = Rig()
    rig.tell(IndirectPing(40, address_bytes("10.5.5.5"), 55, "far", True, address_bytes("10.3.3.3"), 77, "asker"))
    [(to, ping)] = rig.sent()
    assert to == ("10.5.5.5", 55)
    assert (ping.node, ping.source_node) == ("far", "me")
    rig.tell(Ack(ping.sequence_number, b"payload"))
    assert rig.sent() == [(("10.3.3.3", 77), Ack(40))]
    rig.tell(Ack(ping.sequence_number, b"payload"))
    assert rig.sent() == []


@pytest.mark.parametrize("wanted", [True, False])
def test_an_indirect_ping_without_answer_is_nacked_if_wanted(wanted):
    rig = Rig()
    rig.tell(IndirectPing(40, address_bytes("10.5.5.5"), 55, "far", wanted))
    rig.sent()
    rig.now += LAN.probe_timeout_s
    rig.swim.tick(rig.now)
    assert rig.sent() == ([(STRANGER, Nack(40))] if wanted else [])


def test_the_book_of_relayed_pings_is_bounded():
    rig = Rig()
    for number in range(PENDING_ACKS_MAX + 3):
        rig.tell(IndirectPing(number, address_bytes("10.5.5.5"), 55, "far"))
    assert len(rig.sent()) == PENDING_ACKS_MAX


# --- bursts and garbage ---------------------------------------------------------------------------------------


def test_a_burst_is_handled_newest_first_and_alive_before_all():
    rig = Rig()
    (packet,) = pack_compounds([b"\x08one", b"\x08two", encode_message(Alive(1, "n", bytes(4), 1, None, LAN.versions))])
    rig.swim.receive([(packet, STRANGER), (b"\x08three", STRANGER)], rig.now)
    effects = [effect for effect in rig.swim.take() if isinstance(effect, (NotifyJoin, Deliver))]
    assert isinstance(effects[0], NotifyJoin)
    assert [effect.data for effect in effects[1:]] == [b"three", b"two", b"one"]


def test_a_burst_beyond_the_queue_is_dropped_with_a_warning():
    rig = Rig()
    rig.swim.receive([(b"\x08x", STRANGER)] * (HANDOFF_QUEUE_MAX + 5), rig.now)
    effects = rig.swim.take()
    assert sum(isinstance(effect, Deliver) for effect in effects) == HANDOFF_QUEUE_MAX
    assert any(isinstance(e, LogLine) and "queue full" in e.message for e in effects)


def test_garbage_fills_the_log_only_so_fast_and_the_rest_is_counted():
    rig = Rig()
    rig.swim.receive([(b"\xff", STRANGER)] * 500, rig.now)
    assert len(rig.lines()) == COMPLAINTS_MAX
    rig.swim.receive([(b"\xff", STRANGER)], rig.now + 1)
    (line,) = rig.swim.take()
    assert ("withheld_before", 500 - COMPLAINTS_MAX) in line.pairs


numbers, names = st.integers(0, 2**32 - 1), st.sampled_from(["", "me", "n0", "n1", "new"])
addresses, ports = st.sampled_from([b"", b"\1", bytes(4), bytes((10, 0, 1, 0)), bytes(16)]), st.integers(0, 65535)
metas, vsns = (
    st.none() | st.binary(max_size=600),
    st.sampled_from([b"", LAN.versions, bytes(6), b"\5\1\0\0\0\0", bytes(9)]),
)
packet_messages = st.one_of(
    st.builds(Ping, numbers, names, addresses, ports, names),
    st.builds(IndirectPing, numbers, addresses, ports, names, st.booleans(), addresses, ports, names),
    st.builds(Ack, st.integers(0, 5), st.binary(max_size=5)),
    st.builds(Nack, st.integers(0, 5)),
    st.builds(Suspect, numbers, names, names),
    st.builds(Dead, numbers, names, names),
    st.builds(Alive, numbers, names, addresses, ports, metas, vsns),
    st.builds(ErrorReply, names),
    st.builds(UserMessage, st.binary(max_size=9)),
)
states = st.builds(PushNodeState, names, addresses, ports, metas, numbers, st.integers(-3, 9), vsns)
stream_messages = st.one_of(
    st.builds(PushPull, st.booleans(), st.lists(states, max_size=4).map(tuple), st.binary(max_size=5)),
    st.builds(Ping, numbers, names),
    st.builds(Ack, numbers),
    st.builds(ErrorReply, names),
    st.builds(UserMessage, st.binary(max_size=9)),
)


@given(st.lists(packet_messages | stream_messages | st.binary(max_size=30), max_size=12))
@settings(max_examples=150, deadline=None)
def test_no_message_of_a_stranger_breaks_a_member(inputs):
    rig = Rig(others=2)
    for turn, item in enumerate(inputs):
        rig.now += 0.7
        if isinstance(item, bytes):
            rig.swim.receive([(item, STRANGER)], rig.now)
        elif isinstance(item, PushPull) or turn % 2:
            try:
                rig.swim.stream_requested(item, STRANGER, rig.now)
            finally:
                (number,) = rig.swim.join([("", STRANGER)], rig.now)
                rig.swim.stream_answered(number, item, rig.now)
        else:
            rig.tell(item)
        rig.swim.tick(rig.now)
    for effect in rig.swim.take():
        if isinstance(effect, SendPacket):
            assert len(effect.data) <= LAN.packet_bytes_max
            for body in open_packet_body(effect.data).messages:
                decode_message(body)
    me = rig.swim.local
    assert (me.state, me.endpoint) == (NodeState.ALIVE, ME)
    assert decode_stream(rig.swim.stream_requested(PushPull(False, (), b""), STRANGER, rig.now)).states


# --- streams --------------------------------------------------------------------------------------------------


def state(name, number=9, **changes):
    return replace(PushNodeState(name, bytes((10, 0, 2, number)), 8301, None, 1, 0, LAN.versions), **changes)


def test_a_push_pull_is_answered_with_what_was_known_before_and_then_merged():
    rig = Rig(others=1)
    rig.upper.state = b"\x02ours"
    answer = decode_stream(rig.swim.stream_requested(PushPull(True, (state("new"),), b"\x02theirs"), STRANGER, rig.now))
    assert answer.join
    assert sorted(entry.name for entry in answer.states) == ["me", "n0"]
    assert answer.user_state == b"\x02ours"
    effects = [effect for effect in rig.swim.take() if isinstance(effect, (NotifyJoin, MergeRemoteState))]
    assert effects == [NotifyJoin(rig.swim.node("new")), MergeRemoteState(b"\x02theirs", join=True)]


def test_a_refused_join_is_answered_all_the_same_but_nothing_is_merged():
    rig = Rig()
    rig.upper.veto = "Member 'new' part of wrong datacenter 'x'"
    assert rig.swim.stream_requested(PushPull(True, (state("new"),), b"u"), STRANGER, rig.now) is not None
    assert rig.swim.node("new") is None
    assert "Failed push/pull merge" in rig.lines()
    assert rig.swim.stream_requested(PushPull(False, (state("new"),), b""), STRANGER, rig.now) is not None
    assert rig.swim.node("new") is not None  # the veto on the whole list is for joins only


@pytest.mark.parametrize("bad", [{"meta": bytes(513)}, {"address": b"\1\2"}, {"state": 7}, {"versions": b""}])
def test_one_impossible_entry_refuses_a_whole_join(bad):
    rig = Rig()
    rig.swim.stream_requested(PushPull(True, (state("good"), state("bad", **bad)), b""), STRANGER, rig.now)
    assert [node.name for node in rig.swim.nodes()] == ["me"]


def test_the_joiner_judges_the_answer_itself():
    rig = Rig()
    first, second, third = rig.swim.join([("", STRANGER), ("n", STRANGER), ("", STRANGER)], rig.now)
    rig.swim.stream_answered(first, PushPull(True, (state("a"),), b""), rig.now)
    rig.upper.veto = "no"
    rig.swim.stream_answered(second, PushPull(True, (state("b"),), b""), rig.now)
    rig.swim.stream_answered(third, ErrorReply("Encryption is configured but remote state is not encrypted"), rig.now)
    results = {e.id: e.error for e in rig.swim.take() if isinstance(e, JoinFinished)}
    assert results[first] is None
    assert results[second] == "no"
    assert results[third].endswith("remote state is not encrypted")
    assert [node.name for node in rig.swim.nodes()] == ["a", "me"]


def test_a_stream_the_driver_forgot_is_given_up():
    rig = Rig()
    (number,) = rig.swim.join([("", STRANGER)], rig.now)
    rig.swim.take()
    rig.swim.tick(rig.now + LAN.stream_timeout_s + streams.DRIVER_GRACE_S)
    assert JoinFinished(number, STRANGER, "no answer") in rig.swim.take()
    rig.swim.stream_answered(number, PushPull(True, (state("late"),), b""), rig.now)
    assert rig.swim.node("late") is None


def test_tcp_pings_are_answered_for_my_name_only_and_user_messages_delivered():
    rig = Rig()
    assert decode_stream(rig.swim.stream_requested(Ping(5, "me"), STRANGER, rig.now)) == Ack(5)
    assert rig.swim.stream_requested(Ping(5, "other"), STRANGER, rig.now) is None
    rig.swim.take()
    assert rig.swim.stream_requested(UserMessage(b"\x01m"), STRANGER, rig.now) is None
    assert rig.swim.take() == [Deliver(b"\x01m", STRANGER)]


# --- members --------------------------------------------------------------------------------------------------


def test_an_address_that_is_not_allowed_is_not_known():
    rig = Rig()
    rig.upper.address_allowed = lambda address: address.startswith("10.")
    rig.tell(Alive(1, "out", bytes((192, 168, 0, 1)), 1, None, LAN.versions))
    assert rig.swim.node("out") is None
    assert "Rejected node" in rig.lines()


@pytest.mark.parametrize("flag", [True, False])
def test_a_move_with_the_same_id_waits_for_a_sign_that_the_old_address_is_dead(flag):
    rig = Rig(config=replace(LAN, members_keep_id_when_moving=flag))
    old, new = Alive(5, "n", bytes((10, 0, 0, 8)), 1, b"id:", LAN.versions), ("10.0.0.9", 1)
    rig.tell(old)
    moved = replace(old, address=address_bytes(new[0]), incarnation=1)
    rig.tell(moved)
    assert rig.swim.node("n").address == "10.0.0.8"
    assert [effect for effect in rig.swim.take() if isinstance(effect, NotifyConflict)]
    rig.swim.note_refused(("10.0.0.8", 1), rig.now)
    assert (rig.swim.node("n").endpoint == new) is flag
    assert (rig.swim.node("n").incarnation == 1) is flag


def test_port_zero_means_our_own_port_and_the_last_incarnation_is_not_passed():
    rig = Rig()
    rig.tell(Alive(1, "n", bytes(4), 0, None, LAN.versions))
    assert rig.swim.node("n").port == ME[1]
    rig.tell(Suspect(2**32 - 1, "me", "x"))
    assert rig.swim.local.incarnation == 2**32 - 1
    assert rig.swim.stream_requested(PushPull(False, (), b""), STRANGER, rig.now)


def test_a_left_member_still_tells_of_itself():
    rig = Rig(others=1)
    rig.swim.leave(rig.now, 5.0)
    rig.now += 100
    rig.swim.tick(rig.now)
    assert rig.swim.local.state == NodeState.LEFT
    rig.tell(Ping(3, "me"))
    assert any(isinstance(message, Ack) for _, message in rig.sent())


# --- keys -----------------------------------------------------------------------------------------------------

A, B, C = bytes(16), bytes([1]) * 24, bytes([2]) * 32


def test_keys_are_added_used_and_removed_by_memberlists_rules():
    ring = Keyring((A,)).add(B).add(C).add(B)
    assert ring.keys == (A, B, C)
    assert ring.use(C).keys == (C, A, B)
    assert ring.use(C).primary == C
    assert ring.remove(B).keys == (A, C)
    assert ring.remove(bytes([9]) * 16) == ring


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda ring: ring.add(b"short"), "key size must be 16, 24 or 32 bytes"),
        (lambda ring: ring.use(B), "Requested key is not in the keyring"),
        (lambda ring: ring.remove(A), "Removing the primary key is not allowed"),
        (lambda ring: Keyring(()), "Empty primary key not allowed"),
        (lambda ring: Keyring(tuple(n.to_bytes(16, "big") for n in range(KEYS_MAX))).add(C), "at most 256 keys"),
    ],
)
def test_key_operations_are_refused_with_the_words_operators_know(act, text):
    with pytest.raises(KeyringError, match=text):
        act(Keyring((A,)))


def test_claims_to_a_name_cannot_keep_us_from_probing_the_others():
    rig = Rig(others=2)
    rig.tell(Alive(1, "n", bytes((10, 0, 0, 8)), 1, b"id:", LAN.versions))
    probed = []
    for _ in range(12):
        rig.tell(Alive(9, "n", bytes((10, 0, 0, 9)), 1, b"id:", LAN.versions))
        [(_, ping)], _ = rig.until(Ping)
        probed.append(ping.node)
        rig.tell(Ack(ping.sequence_number))
        rig.drop_broadcasts()
    assert probed.count("n") >= 6
    assert set(probed) == {"n", "n0", "n1"}


def test_an_answer_from_the_old_address_voids_the_claim_of_the_new_one():
    rig = Rig()
    rig.tell(Alive(1, "n", bytes((10, 0, 0, 8)), 1, b"id:", LAN.versions))
    rig.tell(Alive(9, "n", bytes((10, 0, 0, 9)), 1, b"id:", LAN.versions))
    [(to, ping)], _ = rig.until(Ping)
    assert to == ("10.0.0.8", 1)
    rig.tell(Ack(ping.sequence_number))
    rig.tell(Suspect(1, "n", "x"))
    assert rig.swim.node("n").address == "10.0.0.8"
