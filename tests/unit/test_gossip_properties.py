"""What holds of the gossip cores for any sequence of inputs."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.serf.coalesce import Coalescer
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.core import Serf
from pyconsul_agent.structs.member import Member, MemberEvent, MemberEventKind, MemberStatus, UserEvent
from pyconsul_agent.swim.broadcast import TransmitLimitedQueue
from pyconsul_agent.swim.config import LAN
from pyconsul_agent.swim.core import Swim
from pyconsul_agent.swim.suspicion import Suspicion
from pyconsul_agent.swim.timing import NANOSECONDS, retransmit_limit
from pyconsul_agent.wire.gossip import Alive, Dead, NodeState, Ping, Suspect, UserMessage, encode_message
from pyconsul_agent.wire.serf import JoinIntent, LeaveIntent, Query, UserEventMessage, decode, encode

NAMES = st.sampled_from(["me", "a", "b", "c"])
NUMBERS = st.integers(0, 5) | st.just(2**32 - 1)
ADDRESSES = st.sampled_from([bytes((10, 0, 1, 1)), bytes((10, 0, 1, 2)), bytes((10, 0, 0, 1))])
LTIMES = st.integers(0, 8) | st.just(2**64 - 1)
MESSAGES = (
    st.builds(lambda i, n, a: Alive(i, n, a, 8301, None, LAN.versions), NUMBERS, NAMES, ADDRESSES)
    | st.builds(Suspect, NUMBERS, NAMES, NAMES)
    | st.builds(Dead, NUMBERS, NAMES, NAMES)
    | st.builds(lambda n: Ping(1, n), NAMES)
    | st.builds(lambda t, n: UserMessage(encode(JoinIntent(ltime=t, node=n))), LTIMES, NAMES)
    | st.builds(
        lambda t, n, p: UserMessage(encode(LeaveIntent(ltime=t, node=n, prune=p))), LTIMES, NAMES, st.booleans()
    )
)
STEPS = st.lists(MESSAGES | st.sampled_from([0.2, 1.0, 4.0, 35.0]), max_size=40)


class Watched:
    """A member, and what must hold of it after every input."""

    def __init__(self):
        rng = random.Random(1)
        self.now = 100.0
        self.serf = Serf(SerfConfig(), name="me", tags={}, rng=rng)
        self.swim = Swim(LAN, name="me", advertise=("10.0.0.1", 8301), delegate=self.serf, rng=rng)
        self.serf.start(self.now)
        self.swim.start(self.now)
        self.known = {}
        self.settle()

    def settle(self):
        while True:
            effects, told = self.swim.take(), self.serf.take()
            if not effects and not told:
                return self.check()
            for effect in effects:
                self.serf.handle(effect, self.now)

    def step(self, step):
        if isinstance(step, float):
            end = self.now + step
            while (due := min(self.swim.next_deadline(), self.serf.next_deadline())) <= end:
                self.now = max(self.now, due)
                self.swim.tick(self.now)
                self.serf.tick(self.now)
                self.settle()
            self.now = end
        else:
            self.swim.receive([(encode_message(step), ("10.0.1.9", 8301))], self.now)
            self.settle()

    def check(self):
        members, nodes = self.swim._members, {node.name: node for node in self.swim.nodes()}
        assert nodes["me"].state == NodeState.ALIVE  # we live, whatever others say
        assert self.serf.member("me").status is MemberStatus.ALIVE
        assert sorted(members.ring) == sorted(nodes)
        assert members.suspicions.keys() == {name for name, node in nodes.items() if node.state == NodeState.SUSPECT}
        for name, node in nodes.items():
            before = self.known.get(name)
            if before is not None and before.endpoint == node.endpoint:
                assert node.incarnation >= before.incarnation
            member = self.serf.member(name)
            if not node.is_gone and node.incarnation:
                assert member is not None
                assert member.status in (MemberStatus.ALIVE, MemberStatus.LEAVING)
                assert member.address == node.address
        assert set(members.gone.values()) <= {name for name, node in nodes.items() if node.is_gone}
        self.known = nodes


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_no_sequence_of_messages_breaks_what_a_member_knows(steps):
    member = Watched()
    for step in steps:
        member.step(step)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=60), st.sampled_from(["", "a", "b"])), max_size=20),
    st.integers(1, 4),
    st.integers(0, 200),
    st.integers(10, 200),
)
def test_every_message_that_fits_is_sent_so_often_and_no_packet_is_too_long(messages, mult, nodes, limit):
    queue = TransmitLimitedQueue(mult)
    for data, name in messages:
        queue.queue(data, name=name)
    waiting = queue.messages()
    sent = {}
    for _ in range(2000):
        packet = queue.get(2, limit, nodes)
        if not packet:
            break
        assert sum(2 + len(data) for data in packet) <= limit
        for data in packet:
            sent[data] = sent.get(data, 0) + 1
    often = max(1, retransmit_limit(mult, nodes))
    for data in set(waiting):
        fits = len(data) + 2 <= limit
        assert sent.get(data, 0) == (often * waiting.count(data) if fits else 0)


@given(
    st.integers(0, 6),
    st.lists(st.sampled_from("abcdefgh"), max_size=12),
    st.floats(0, 50),
)
def test_a_suspicion_lasts_between_its_bounds_and_only_shrinks_by_confirmations(needed, suspectors, started):
    least, most = 4 * NANOSECONDS, 24 * NANOSECONDS
    suspicion = Suspicion("a", needed, least, most, started)
    before = suspicion.deadline
    for name in suspectors:
        news = suspicion.confirm(name)
        assert suspicion.deadline <= before + 1e-9
        assert news or suspicion.deadline == before
        before = suspicion.deadline
        assert 4.0 - 1e-6 <= before - started <= 24.0 + 1e-6
    assert suspicion.confirmations == min(needed, len(set(suspectors) - {"a"}))
    suspicion.hasten(least)
    assert abs(suspicion.deadline - started - 4.0) < 1e-6


MEMBER_EVENTS = st.builds(
    lambda kind, name: MemberEvent(kind, Member(name=name, address="10.0.0.1", port=1)),
    st.sampled_from(MemberEventKind), st.sampled_from("abc"),
)  # fmt: skip
USER_EVENTS = st.builds(UserEvent, st.integers(1, 4), st.sampled_from("xy"), st.just(b""), st.booleans())


@given(st.lists(st.tuples(MEMBER_EVENTS | USER_EVENTS, st.sampled_from([0.0, 0.4, 1.5])), max_size=30))
def test_gathered_events_end_as_the_single_ones_do(steps):
    now, told, every = 0.0, [], []
    coalescer = Coalescer(3.0, 1.0, 3.0, 1.0)
    for event, pause in steps:
        every.append(event)
        told += coalescer.apply([event], now)
        due = coalescer.next_deadline()
        assert due is None or now <= due <= now + 1.0
        now += pause
    told += coalescer.flush(now + 10.0)
    assert coalescer.next_deadline() is None
    for name in "abc":
        last = [event for event in every if isinstance(event, MemberEvent) and event.member.name == name][-1:]
        heard = [event for event in told if isinstance(event, MemberEvent) and event.member.name == name]
        if last and last[0].kind is not MemberEventKind.REAP:
            assert heard[-1].kind is last[0].kind
        assert len(heard) <= len([e for e in every if isinstance(e, MemberEvent) and e.member.name == name])
    single = [event for event in every if isinstance(event, UserEvent) and not event.coalesce]
    assert [event for event in told if isinstance(event, UserEvent) and not event.coalesce] == single
    for name in "xy":
        times = [event.lamport_time for event in every if isinstance(event, UserEvent) and event.name == name]
        heard = [event.lamport_time for event in told if isinstance(event, UserEvent) and event.name == name]
        assert max(times, default=0) == max(heard, default=0)


@given(st.lists(st.tuples(st.integers(0, 700), st.sampled_from("xyz")), max_size=60))
def test_a_user_event_is_delivered_at_most_once(events):
    serf = Serf(SerfConfig(), name="me", tags={}, rng=random.Random(1))
    told = []
    for ltime, name in events:
        serf.receive(encode(UserEventMessage(ltime=ltime, name=name)), 1.0)
        told += [(event.lamport_time, event.name) for event in serf.take() if isinstance(event, UserEvent)]
    assert len(told) == len(set(told))


def test_a_query_carries_its_filters():
    from pyconsul_agent.wire.serf import NodeFilter, TagFilter, decode_filter

    member = Watched()
    filters = (NodeFilter(names=("a", "b")), TagFilter(tag="role", expression="^web"))
    member.serf.ask("up", b"", member.now, timeout_s=5.0, filters=filters)
    (data,) = member.serf.get_broadcasts(3, 1400)
    query = decode(data)
    assert isinstance(query, Query)
    assert tuple(map(decode_filter, query.filters)) == filters
    member.settle()
    assert not any(type(effect).__name__ == "QueryReceived" for effect in member.serf.take())
