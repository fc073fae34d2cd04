"""The gossip vectors against serf: its messages, its rules step by step, coordinates and the snapshot file."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from conformance.case import Case, Mismatch, Skip, holds, load, same
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.coordinate import CoordinateClient, CoordinateError, distance_ns
from pyconsul_agent.serf.core import Serf
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.structs.member import MemberEvent, UserEvent
from pyconsul_agent.swim.effects import Deliver, MergeRemoteState, Node, NotifyJoin, NotifyLeave
from pyconsul_agent.wire import serf
from pyconsul_agent.wire.gossip import NodeState, PushPull, UserMessage, decode_message
from pyconsul_agent.wire.gossip_packet import open_packet_body
from pyconsul_agent.wire.gossip_stream import decode_stream
from pyconsul_agent.wire.msgpack import plain
from pyconsul_agent.wire.serf_snapshot import replay

Vector = dict[str, Any]

LATER_DENIAL = "leave-intent-about-self-is-refuted"
"""Deliberate: our denial of a leave is one later than the original's, see Serf._deny_leave."""

WORDS = {"Join": "join", "Leave": "leave", "Failed": "failed", "Update": "update", "Reap": "reap"}


def shown(value: Any) -> Any:
    """Plain wire values the way the vectors show them."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {k: shown(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [shown(v) for v in value]
    return value


def fields_of(message: Any) -> dict[str, Any]:
    """A message's fields the way the vectors show them."""
    return {k: v for k, v in shown(plain(message)).items() if k}


# --- messages -------------------------------------------------------------------------------------------------


def message(vector: Vector) -> None:
    """A serf message, both ways."""
    data, wanted = bytes.fromhex(vector["hex"]), dict(vector["decoded"])
    same(data[0], wanted.pop("type"), "type")
    if wanted.get("nil"):
        same(serf.decode_conflict(data), None, "decoded")
        same(serf.encode_conflict(None), data, "encoded")
        return
    ours: Any = serf.decode(data)
    inner = wanted.pop("inner", None)
    same(fields_of(ours), wanted, "decoded")
    if inner is not None:
        same(ours.inner.hex(), inner, "inside")
    same(serf.encode(ours), data, "encoded")


def query_filter(vector: Vector) -> None:
    """A filter of a query, both ways."""
    data = bytes.fromhex(vector["hex"])
    item = serf.decode_filter(data)
    same(fields_of(item), {k: v for k, v in vector["decoded"].items() if k != "filter"}, "decoded")
    same(serf.encode_filter(item), data, "encoded")


def tags(vector: Vector) -> None:
    """A node's meta, both ways."""
    data = bytes.fromhex(vector["hex"])
    same(serf.decode_tags(data), vector["decoded"]["tags"], "decoded")
    same(serf.encode_tags(vector["decoded"]["tags"]), data, "encoded")


def consul_event(vector: Vector) -> None:
    """The payload of Consul's own user events, both ways."""
    data = bytes.fromhex(vector["hex"])
    event = serf.decode_consul_event(data)
    same(fields_of(event), vector["decoded"], "decoded")
    same(serf.encode_consul_event(event), data, "encoded")


LAYERS: dict[str, Callable[[Vector], None]] = {
    "serf": message,
    "filter": query_filter,
    "meta": tags,
    "consul-event": consul_event,
}


# --- captured -------------------------------------------------------------------------------------------------


def parts_of(vector: Vector) -> Iterator[tuple[Any, Vector]]:
    """(our message, what was recorded of it) of each part of a captured packet."""
    parts = [decode_message(part) for part in open_packet_body(bytes.fromhex(vector["hex"])).messages]
    yield from zip(parts, vector["decoded"]["messages"], strict=True)


def captured_packet(vector: Vector) -> None:
    """Serf messages, tags and coordinates in a captured packet."""
    for part, wanted in parts_of(vector):
        if "serf" in wanted:
            captured_message(part, wanted["serf"])
        if "tags" in wanted:
            same(serf.decode_tags(part.meta), wanted["tags"], "tags")
            same(serf.decode_tags(serf.encode_tags(wanted["tags"])), wanted["tags"], "our tags")
        if "coordinate" in wanted:
            coordinate = serf.decode_coordinate(part.payload)
            same({"version": 1, **fields_of(coordinate)}, wanted["coordinate"], "coordinate")
            same(serf.encode_coordinate(coordinate), part.payload, "our coordinate")


def captured_message(part: Any, wanted: Vector) -> None:
    """One serf message inside a captured packet, both ways."""
    holds(isinstance(part, UserMessage), "no user message")
    ours: Any = serf.decode(part.data)
    same(ours.TYPE, wanted["serf_type"], "type")
    if isinstance(ours, serf.Relay):
        same(fields_of(ours), wanted["header"], "header")
        same(fields_of(serf.decode(ours.inner)), wanted["inner"]["fields"], "inside")
    elif isinstance(ours, serf.QueryResponse) and ours.payload and "payload" in wanted:
        same({"hex": ours.payload.hex()}, wanted["fields"]["Payload"], "payload")
    else:
        same(fields_of(ours), wanted["fields"], "fields")
    same(serf.encode(ours), part.data, "encoded")


def user_state(vector: Vector) -> None:
    """The serf part of a captured push/pull."""
    stream = decode_stream(bytes.fromhex(vector["hex"]))
    assert isinstance(stream, PushPull)
    state = serf.decode_as(serf.PushPullState, stream.user_state)
    got = fields_of(state)
    slots = got.pop("Events")
    wanted = dict(vector["decoded"]["user"]["fields"])
    events = wanted.pop("Events")
    same(got, wanted, "fields")
    same(len(slots), events["len"], "number of event slots")
    same({str(i): slot for i, slot in enumerate(slots) if slot}, events["set"], "events")
    same(serf.decode(serf.encode(state)), state, "round trip")


def captured(folder: Path) -> Iterator[Case]:
    """Every captured vector with something of serf in it, where no key is needed."""
    for vector in load(folder, "captured_serf")["vectors"] + load(folder, "captured_consul")["vectors"]:
        found = {key for m in vector["decoded"].get("messages", []) for key in m}
        if vector["layer"] == "packet" and found & {"serf", "tags", "coordinate"}:
            yield Case(f"serf in {vector['name']}", partial(captured_packet, vector))
        if vector["decoded"].get("user"):
            yield Case(f"serf state in {vector['name']}", partial(user_state, vector))


# --- rules ----------------------------------------------------------------------------------------------------


def node(name: str, number: int = 2, **tags: str) -> Node:
    """A living member as the failure detector shows it."""
    return Node(
        name=name,
        address=f"10.0.0.{number}",
        port=8301,
        meta=serf.encode_tags(tags),
        versions=bytes((1, 5, 2, 2, 5, 4)),
        incarnation=1,
        state=NodeState.ALIVE,
    )


def new_serf(name: str = "me", **more: Any) -> Serf:
    """A serf with itself as its only member."""
    core = Serf(SerfConfig(), name=name, tags={"role": "node"}, rng=random.Random(7), **more)
    core.start(0.0)
    core.handle(NotifyJoin(node(name, 1)), 0.0)
    core.take()
    return core


def said(effects: list[Any]) -> list[str]:
    """Events among effects, in the words of the vectors."""
    texts = []
    for effect in effects:
        if isinstance(effect, MemberEvent):
            texts.append(f"member-{WORDS[effect.kind.value]} {effect.member.name}")
        elif isinstance(effect, UserEvent):
            texts.append(f"user-event: {effect.name} {effect.payload.decode()}")
    return texts


def apply(core: Serf, step: Vector) -> None:
    """One step of a scenario."""
    match step["op"]:
        case "memberlist_join":
            core.handle(NotifyJoin(node(step["node"])), 0.0)
        case "memberlist_leave":
            core.handle(NotifyLeave(node(step["node"])), 0.0)
        case "msg":
            core.handle(Deliver(bytes.fromhex(step["hex"]), ("10.0.0.9", 8301)), 0.0)
        case "pushpull_user_state":
            if step["join_ignores_old_events"]:
                core.begin_join()
            core.handle(MergeRemoteState(bytes.fromhex(step["hex"]), step["is_join"]), 0.0)
            if step["join_ignores_old_events"]:
                core.finish_join(0, 0.0)
        case "set_event_min_time":
            core._events.min_time = step["value"]
        case other:
            raise Mismatch(f"unknown step {other}")


def scenario(vector: Vector) -> None:
    """What the original did, step by step."""
    core = new_serf(vector["local"])
    for number, step in enumerate(vector["steps"]):
        where = f"step {number} ({step['op']}), "
        before = core.stats()
        apply(core, step)
        after: Any = core.stats()
        same(said(core.take()), step["events"], where + "events")
        queued = {k: after[f"{k}_queue"] - before[f"{k}_queue"] for k in ("intent", "event", "query")}
        same(queued, step["rebroadcast"], where + "rebroadcast")
        clocks = {k: after[f"{k}_time"] for k in ("member", "event", "query")}
        table = core._table
        members = {n: {"Status": r.status.word, "LTime": r.status_ltime} for n, r in table.records.items()}
        if vector["name"] == LATER_DENIAL:
            clocks["member"] -= 1
            members["me"]["LTime"] -= 1
        same(clocks, step["clocks"], where + "clocks")
        same(members, step["members"], where + "members")
        intents = {n: {"ltime": i.ltime, "type": i.kind.value} for n, i in table.intents.items()}
        same(intents, step["intents"], where + "intents")
        same((after["failed"], after["left"]), (step["failed"], step["left"]), where + "failed, left")


def query_timeout(row: Vector) -> None:
    """The default time-out of a query."""
    config = SerfConfig(gossip_interval_s=row["gossip_interval_ns"] / 1e9, query_timeout_mult=row["mult"])
    core = Serf(config, name="me", tags={}, rng=random.Random(1))
    same(round(core.query_timeout_s(row["num_alive"]) * 1e9), row["timeout_ns"])


def snapshot(vector: Vector) -> None:
    """The members and clocks that a snapshot file brings back."""
    state = replay(vector["file"], rejoin_after_leave=vector["rejoin_after_leave"])
    ours = {
        "alive": state.alive,
        "clock": state.clock,
        "event_clock": state.event_clock,
        "query_clock": state.query_clock,
    }
    same(ours, vector["decoded"])


# --- coordinates ----------------------------------------------------------------------------------------------


def coordinate(fields: Vector) -> VivaldiCoordinate:
    """A coordinate of vivaldi.json."""
    return VivaldiCoordinate(
        vec=tuple(float(x) for x in fields["Vec"]),
        error=float(fields["Error"]),
        adjustment=float(fields["Adjustment"]),
        height=float(fields["Height"]),
    )


def close(got: VivaldiCoordinate, wanted: VivaldiCoordinate) -> bool:
    """Equal but for the last bits of floats."""
    pairs = [*zip(got.vec or (), wanted.vec or (), strict=True)]
    pairs += [(got.error, wanted.error), (got.adjustment, wanted.adjustment), (got.height, wanted.height)]
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15) for a, b in pairs)


def vivaldi(vector: Vector) -> None:
    """A sequence of updates."""
    client = CoordinateClient(random.Random(1), start=coordinate(vector["start"]))
    for number, step in enumerate(vector["steps"]):
        other, error = coordinate(step["other"]), step.get("error", "")
        if not error:
            distance = distance_ns(client.coordinate, other)
            holds(abs(distance - step["distance_before_ns"]) <= 1, f"step {number}: distance {distance}")
        try:
            client.observe(step["node"], other, step["rtt_ns"] / 1e9)
        except CoordinateError as refusal:
            holds(error and error in str(refusal), f"step {number}: refused with {refusal}, recorded is {error!r}")
        else:
            holds(not error, f"step {number}: taken, recorded is {error!r}")
        if "result" in step:
            holds(close(client.coordinate, coordinate(step["result"])), f"step {number}: {client.coordinate}")
    same(client.resets, vector["resets"], "resets")


def distance(vector: Vector) -> None:
    """The distance of two coordinates, to the nanosecond."""
    ours = distance_ns(coordinate(vector["a"]), coordinate(vector["b"]))
    holds(abs(ours - vector["distance_ns"]) <= 1, f"{ours} is not {vector['distance_ns']}")


def cases(folder: Path) -> Iterator[Case | Skip]:
    """Every vector of serf."""
    for vector in load(folder, "messages")["vectors"]:
        if vector["layer"] in LAYERS:
            yield Case(vector["name"], partial(LAYERS[vector["layer"]], vector))
        elif vector["layer"] not in ("packet", "stream"):
            yield Skip(vector["name"], vector["layer"])
    yield from captured(folder)
    for vector in load(folder, "serf_state")["scenarios"]:
        yield Case(f"serf_state {vector['name']}", partial(scenario, vector))
    for row in load(folder, "timing")["query_timeout"]:
        yield Case(f"query_timeout {row['num_alive']}", partial(query_timeout, row))
    for vector in load(folder, "snapshot")["vectors"]:
        yield Case(f"snapshot {vector['name']}", partial(snapshot, vector))
    document = load(folder, "vivaldi")
    for vector in document["sequences"]:
        yield Case(f"vivaldi {vector['name']}", partial(vivaldi, vector))
    for number, vector in enumerate(document["distances"]):
        yield Case(f"vivaldi distance {number}", partial(distance, vector))
