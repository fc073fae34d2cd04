"""The gossip vectors against the failure detector: scenarios of memberlist 0.3.1, its queue and its formulas."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from conformance.case import Case, Mismatch, Skip, holds, load, same
from pyconsul_agent.swim.awareness import Awareness
from pyconsul_agent.swim.broadcast import TransmitLimitedQueue
from pyconsul_agent.swim.config import LAN
from pyconsul_agent.swim.delegate import NoDelegate
from pyconsul_agent.swim.effects import LogLine, NotifyConflict, NotifyJoin, NotifyLeave, NotifyUpdate
from pyconsul_agent.swim.members import Membership
from pyconsul_agent.swim.streams import verify_protocol
from pyconsul_agent.swim.timing import (
    NANOSECONDS,
    push_pull_interval_ns,
    retransmit_limit,
    suspicion_span_ns,
    suspicion_timeout_ns,
)
from pyconsul_agent.wire.gossip import Alive, Dead, PushNodeState, Suspect, address_bytes

Vector = dict[str, Any]


class Replay:
    """A node "me" that follows a scenario."""

    def __init__(self, scenario: Vector) -> None:
        self.effects: list[Any] = []
        self.now = 1000.0
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

    def collect(self) -> tuple[list[str], list[str]]:
        """(broadcasts, events) since the last call; the queue is emptied as the recorder did."""
        broadcasts = [message.hex() for message in self.queue.messages()]
        self.queue.prune(0)
        events = [self.event(e) for e in self.effects if not isinstance(e, LogLine)]
        self.effects.clear()
        return broadcasts, events

    @staticmethod
    def event(effect: Any) -> str:
        """An effect in the words of the vectors."""
        match effect:
            case NotifyJoin(node):
                return f"join {node.name}"
            case NotifyLeave(node):
                return f"leave {node.name}"
            case NotifyUpdate(node):
                return f"update {node.name}"
            case NotifyConflict(mine, other):
                return f"conflict {mine.name} {mine.address}:{mine.port} {other.address}:{other.port}"
        raise Mismatch(f"unexpected {effect}")

    def nodes(self) -> list[Vector]:
        """All records the way the vectors show them."""
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

    def do(self, step: Vector) -> None:
        """One step."""
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
                raise Mismatch(f"unknown step {other}")


def scenario(vector: Vector) -> None:
    """Broadcasts, events, records and health after every step."""
    replay = Replay(vector)
    for number, step in enumerate(vector["steps"]):
        replay.do(step)
        broadcasts, events = replay.collect()
        where = f"step {number} ({step['op']}), "
        same(broadcasts, step["broadcasts"], where + "broadcasts")
        same(events, step["events"], where + "events")
        same(replay.nodes(), step["nodes"], where + "nodes")
        same(replay.awareness.score, step["health"], where + "health")


def suspicion_timer(case: Vector, start: Vector) -> None:
    """How many confirmations a new suspicion needs and how long it lasts."""
    replay = Replay(start)
    for number in range(case["nodes_known_including_self"] - 1):
        replay.members.alive(Alive(1, f"n{number}", bytes((10, 0, 1, number)), 1, None, LAN.versions), replay.now)
    same(len(replay.members), case["nodes_known_including_self"], "nodes")
    replay.members.suspect(Suspect(1, "n0", "first"), replay.now)
    suspicion = replay.members.suspicions["n0"]
    longest = case["max_ns"] if case["k"] else case["min_ns"]
    holds(math.isclose(suspicion.deadline, replay.now + longest / NANOSECONDS), f"deadline {suspicion.deadline}")
    news = [suspicion.confirm(f"other{number}") for number in range(6)]
    same(sum(news), case["k"], "confirmations taken")
    holds(math.isclose(suspicion.deadline, replay.now + case["min_ns"] / NANOSECONDS), f"end {suspicion.deadline}")


def protocol_check(case: Vector) -> None:
    """The words for versions that do not fit."""
    local = [PushNodeState("me", bytes(4), 1, None, 1, 0, bytes(case["local_vsn"]))]
    remote = [PushNodeState("b", bytes(4), 1, None, 1, case["remote_state"], bytes(case["remote_vsn"] or ()))]
    same(verify_protocol(local, remote) or "", case["error"], "error")


def queue(vector: Vector) -> None:
    """The broadcast queue, step by step."""
    ours = TransmitLimitedQueue(vector["retransmit_mult"])
    same(retransmit_limit(vector["retransmit_mult"], vector["num_nodes"]), vector["limit"], "limit")
    for number, step in enumerate(vector["steps"]):
        match step["op"]:
            case "queue":
                ours.queue(step["message"].encode(), name=step["name"])
            case "get":
                got = ours.get(step["overhead"], step["limit"], vector["num_nodes"])
                same([message.decode() for message in got], step["result"], f"step {number}, messages")
            case "prune":
                ours.prune(step.get("max", step.get("max_retain", step.get("limit"))))
            case other:
                raise Mismatch(f"unknown step {other}")
        same(len(ours), step["queued"], f"step {number}, queued")


FORMULAS: dict[str, tuple[Callable[[Vector], object], str]] = {
    "retransmit_limit": (lambda c: retransmit_limit(c["mult"], c["n"]), "limit"),
    "suspicion_timeout": (lambda c: suspicion_timeout_ns(c["mult"], c["n"], c["interval_ns"]), "timeout_ns"),
    "remaining_suspicion": (
        lambda c: suspicion_span_ns(c["n"], c["k"], c["min_ns"], c["max_ns"]) - c["elapsed_ns"],
        "remaining_ns",
    ),
    "push_pull_scale": (lambda c: push_pull_interval_ns(c["interval_ns"], c["n"]), "scaled_ns"),
}


def formula(name: str, row: Vector) -> None:
    """Exact nanoseconds."""
    compute, result = FORMULAS[name]
    same(compute(row), row[result], f"{name} of {row}")


def cases(folder: Path) -> Iterator[Case | Skip]:
    """Every vector of the failure detector."""
    document = load(folder, "swim")
    for vector in document["scenarios"]:
        yield Case(f"swim {vector['name']}", partial(scenario, vector))
    for row in document["suspicion_timer"]:
        name = f"suspicion timer of {row['nodes_known_including_self']}"
        yield Case(name, partial(suspicion_timer, row, document["scenarios"][0]))
    for number, row in enumerate(document["verify_protocol"]):
        yield Case(f"verify_protocol {number}", partial(protocol_check, row))
    for vector in load(folder, "queue")["scenarios"]:
        yield Case(f"queue {vector['name']}", partial(queue, vector))
    timing = load(folder, "timing")
    for name in FORMULAS:
        for number, row in enumerate(timing[name]):
            yield Case(f"{name} {number}", partial(formula, name, row))
