"""The executable scenarios recorded from memberlist 0.3.1, replayed."""

import random
from dataclasses import replace

import pytest

from pyconsul_agent.swim.awareness import Awareness
from pyconsul_agent.swim.broadcast import QUEUE_MAX, TransmitLimitedQueue
from pyconsul_agent.swim.config import LAN, LOCAL, WAN
from pyconsul_agent.swim.delegate import NoDelegate
from pyconsul_agent.swim.effects import LogLine, NotifyConflict, NotifyJoin, NotifyLeave, NotifyUpdate
from pyconsul_agent.swim.members import Membership
from pyconsul_agent.swim.streams import verify_protocol
from pyconsul_agent.swim.suspicion import Suspicion
from pyconsul_agent.swim.timing import (
    NANOSECONDS,
    push_pull_interval_ns,
    retransmit_limit,
    suspicion_span_ns,
    suspicion_timeout_ns,
)
from pyconsul_agent.wire.gossip import Alive, Dead, PushNodeState, Suspect, address_bytes
from tests.unit.gossip_vectors import load

SWIM, TIMING = load("swim"), load("timing")


# --- scenarios ------------------------------------------------------------------------------------------------


class Replay:
    def __init__(self, scenario):
        self.effects, self.now = [], 1000.0
        config = replace(LAN, dead_node_reclaim_s=float(scenario["dead_node_reclaim_s"]))
        self.queue, self.awareness = TransmitLimitedQueue(config.retransmit_mult), Awareness(8)
        self.members = Membership(
            config,
            name="me",
            advertise=("10.0.0.1", 8301),
            delegate=NoDelegate(),
            rng=random.Random(1),
            queue=self.queue,
            awareness=self.awareness,
            emit=self.effects.append,
        )
        self.members.announce(b"", self.now)
        self.collect()

    def collect(self):
        """(broadcasts, events) since the last call; the queue is emptied as the recorder did."""
        broadcasts = [message.hex() for message in self.queue.messages()]
        self.queue.prune(0)
        events = [self.event(e) for e in self.effects if not isinstance(e, LogLine)]
        self.effects.clear()
        return broadcasts, events

    @staticmethod
    def event(effect):
        match effect:
            case NotifyJoin(node):
                return f"join {node.name}"
            case NotifyLeave(node):
                return f"leave {node.name}"
            case NotifyUpdate(node):
                return f"update {node.name}"
            case NotifyConflict(mine, other):
                return f"conflict {mine.name} {mine.address}:{mine.port} {other.address}:{other.port}"

    def nodes(self):
        rows = []
        for name, node in sorted(self.members.nodes.items()):
            suspicion = self.members.suspicions.get(name)
            rows.append(
                {
                    "Name": name,
                    "Addr": node.address,
                    "Port": node.port,
                    "Incarnation": node.incarnation,
                    "State": int(node.state),
                    "Meta": (node.meta or b"").hex(),
                    "Vsn": list(node.versions),
                    "Timer": suspicion is not None,
                    "Conf": suspicion.confirmations if suspicion else 0,
                }
            )
        return rows

    def do(self, step):
        members, now = self.members, self.now
        name, incarnation = step.get("Node", ""), step.get("Incarnation", 0)
        match step["op"]:
            case "alive":
                address, meta = address_bytes(step["Addr"]), bytes.fromhex(step["Meta_hex"])
                members.alive(Alive(incarnation, name, address, step["Port"], meta, bytes(step["Vsn"])), now)
            case "suspect":
                members.suspect(Suspect(incarnation, name, step["From"]), now)
            case "dead":
                members.dead(Dead(incarnation, name, step["From"]), now)
            case "merge_state":
                address, vsn = address_bytes(step["Addr"]), bytes(step["Vsn"])
                members.merge([PushNodeState(name, address, step["Port"], None, incarnation, step["State"], vsn)], now)
            case "suspicion_timer_expires":
                members.expire(name, now)
            case "age_state_change":
                node = members.nodes[name]
                members.nodes[name] = replace(node, changed_at=node.changed_at - step["seconds"])
            case "reset_nodes":
                members.forget_the_dead(now)
            case "mark_local_leaving":
                members.leaving = True
            case other:
                raise AssertionError(other)


@pytest.mark.parametrize("scenario", SWIM["scenarios"], ids=lambda s: s["name"])
def test_memberlist_scenarios_give_the_same_broadcasts_events_records_and_health(scenario):
    replay = Replay(scenario)
    for number, step in enumerate(scenario["steps"]):
        replay.do(step)
        broadcasts, events = replay.collect()
        where = f"step {number} ({step['op']})"
        assert broadcasts == step["broadcasts"], where
        assert events == step["events"], where
        assert replay.nodes() == step["nodes"], where
        assert replay.awareness.score == step["health"], where


@pytest.mark.parametrize("case", SWIM["suspicion_timer"], ids=lambda c: str(c["nodes_known_including_self"]))
def test_a_new_suspicion_needs_and_lasts_as_recorded(case):
    scenario = SWIM["scenarios"][0]
    replay = Replay(scenario)
    for number in range(case["nodes_known_including_self"] - 1):
        replay.members.alive(Alive(1, f"n{number}", bytes((10, 0, 1, number)), 1, None, LAN.versions), replay.now)
    assert len(replay.members) == case["nodes_known_including_self"]
    replay.members.suspect(Suspect(1, "n0", "first"), replay.now)
    suspicion = replay.members.suspicions["n0"]
    longest = case["max_ns"] if case["k"] else case["min_ns"]
    assert suspicion.deadline == pytest.approx(replay.now + longest / NANOSECONDS)
    news = [suspicion.confirm(f"other{number}") for number in range(6)]
    assert sum(news) == case["k"]
    assert suspicion.deadline == pytest.approx(replay.now + case["min_ns"] / NANOSECONDS)


@pytest.mark.parametrize("case", SWIM["verify_protocol"], ids=lambda c: c["error"] or str(c["remote_vsn"]))
def test_protocol_versions_are_verified_with_the_same_words(case):
    local = [PushNodeState("me", bytes(4), 1, None, 1, 0, bytes(case["local_vsn"]))]
    remote = [PushNodeState("b", bytes(4), 1, None, 1, case["remote_state"], bytes(case["remote_vsn"] or ()))]
    assert (verify_protocol(local, remote) or "") == case["error"]


# --- queue ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", load("queue")["scenarios"], ids=lambda s: s["name"])
def test_the_broadcast_queue_gives_the_same_messages_in_the_same_order(scenario):
    queue = TransmitLimitedQueue(scenario["retransmit_mult"])
    assert retransmit_limit(scenario["retransmit_mult"], scenario["num_nodes"]) == scenario["limit"]
    for number, step in enumerate(scenario["steps"]):
        match step["op"]:
            case "queue":
                queue.queue(step["message"].encode(), name=step["name"])
            case "get":
                got = queue.get(step["overhead"], step["limit"], scenario["num_nodes"])
                assert [message.decode() for message in got] == step["result"], number
            case "prune":
                queue.prune(step.get("max", step.get("max_retain", step.get("limit"))))
            case other:
                raise AssertionError(other)
        assert len(queue) == step["queued"], number


def test_tickets_end_when_sent_out_replaced_or_pruned():
    queue = TransmitLimitedQueue(1)
    queue.queue(b"sent", ticket=1)
    queue.get(2, 100, 1)
    queue.queue(b"first", name="a", ticket=2)
    queue.queue(b"second", name="a", ticket=3)
    assert queue.take_finished() == [1, 2]
    queue.prune(0)
    assert queue.take_finished() == [3]
    assert queue.take_finished() == []


def test_the_queue_is_bounded():
    queue = TransmitLimitedQueue(4)
    for number in range(QUEUE_MAX + 5):
        queue.queue(number.to_bytes(4, "big"))
    assert len(queue) == QUEUE_MAX


# --- formulas -------------------------------------------------------------------------------------------------


def test_retransmit_limits():
    for case in TIMING["retransmit_limit"]:
        assert retransmit_limit(case["mult"], case["n"]) == case["limit"], case


def test_suspicion_timeouts():
    for case in TIMING["suspicion_timeout"]:
        assert suspicion_timeout_ns(case["mult"], case["n"], case["interval_ns"]) == case["timeout_ns"], case


def test_remaining_suspicion():
    for case in TIMING["remaining_suspicion"]:
        span = suspicion_span_ns(case["n"], case["k"], case["min_ns"], case["max_ns"])
        assert span - case["elapsed_ns"] == case["remaining_ns"], case


def test_push_pull_scale():
    for case in TIMING["push_pull_scale"]:
        assert push_pull_interval_ns(case["interval_ns"], case["n"]) == case["scaled_ns"], case


def test_a_confirmation_counts_once_per_suspector():
    suspicion = Suspicion("a", 2, NANOSECONDS, 6 * NANOSECONDS, 0.0)
    assert not suspicion.confirm("a")
    assert suspicion.confirm("b")
    assert not suspicion.confirm("b")
    assert suspicion.confirm("c")
    assert not suspicion.confirm("d")


def test_profiles_hold_the_numbers_of_the_protocol_page():
    rows = [
        ("stream_timeout_s", 10, 30, 1), ("indirect_checks", 3, 3, 1), ("retransmit_mult", 4, 4, 2),
        ("suspicion_mult", 4, 6, 3), ("suspicion_max_timeout_mult", 6, 6, 6), ("push_pull_interval_s", 30, 60, 15),
        ("probe_timeout_s", 0.5, 3, 0.2), ("probe_interval_s", 1, 5, 1), ("awareness_max_multiplier", 8, 8, 8),
        ("gossip_nodes", 3, 3, 3), ("gossip_interval_s", 0.2, 0.5, 0.1), ("gossip_to_the_dead_s", 30, 60, 15),
        ("packet_bytes_max", 1400, 1400, 1400), ("dead_node_reclaim_s", 30, 30, 30),
    ]  # fmt: skip
    for field, lan, wan, local in rows:
        assert (getattr(LAN, field), getattr(WAN, field), getattr(LOCAL, field)) == (lan, wan, local), field
    assert LAN.versions == bytes((1, 5, 2, 2, 5, 4))
