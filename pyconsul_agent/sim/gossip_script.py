"""Scenario files for the gossip cores, in the style of etcd's data-driven tests.

A file is a list of blocks `verb arguments`, `----`, output, empty line. `node` makes a member that is real: both cores.
`peers` makes it know others that exist only as names: they answer its pings at once, unless they are `silent`, and what
is sent to them is shown. Time stands still but for `tick`; what real members send each other arrives at once, unless
they are cut. Everything is shown that a member sends or tells, but for pings that are answered and their answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.core import Serf
from pyconsul_agent.serf.effects import QueryReceived, Reconnect, SendUser, SerfEffect
from pyconsul_agent.sim.script import play
from pyconsul_agent.structs.member import MemberEvent, UserEvent
from pyconsul_agent.swim.config import LAN, SwimConfig
from pyconsul_agent.swim.core import Swim
from pyconsul_agent.swim.effects import Deliver, Effect, LogLine, OpenStream, PingComplete, SendPacket
from pyconsul_agent.wire import serf as wire_serf
from pyconsul_agent.wire.gossip import (
    Ack,
    Address,
    Alive,
    Dead,
    IndirectPing,
    Nack,
    NodeState,
    PacketMessage,
    Ping,
    PushNodeState,
    PushPull,
    Suspect,
    UserMessage,
    address_bytes,
    address_text,
    decode_message,
    encode_message,
)
from pyconsul_agent.wire.gossip_packet import open_packet_body
from pyconsul_agent.wire.gossip_stream import decode_stream

START_S = 1000.0
TERSE = replace(LAN, introduction_steps=0)
"""What a node is without options: introductions would fill every trace, so the files about them ask for them."""
STREAM_FAILURES = {"refuse": "connection refused", "hang": "i/o timeout"}
ROUNDS_MAX = 1000


@dataclass(slots=True)
class _Member:
    name: str
    address: Address
    swim: Swim
    serf: Serf
    lag_from: float | None = None
    dials: list[OpenStream] = field(default_factory=list)


class GossipScript:
    """Runs the blocks of one file."""

    def __init__(self) -> None:
        self.now = START_S
        self.lines: list[str] = []
        self.members: dict[str, _Member] = {}
        self.peers: dict[str, Address] = {}
        self.silent: set[str] = set()
        self.cuts: set[frozenset[str]] = set()

    def run(self, text: str) -> str:
        """Perform a whole file; gives it with the outputs that came."""
        return play(self, text)

    def perform(self, words: list[str]) -> None:
        """One verb. Words with `=` are options."""
        verbs: dict[str, Callable[..., None]] = {
            "node": self.node, "peers": self.add_peers, "silent": self.silence, "speaks": self.speak, "cut": self.cut,
            "heal": self.heal, "tick": self.tick, "stall": self.stall, "alive": self.alive, "suspect": self.suspect,
            "dead": self.dead, "ack": self.ack, "nack": self.nack, "ping": self.ping, "indirect": self.indirect,
            "push-pull": self.push_pull, "join": self.join, "leave": self.leave, "refused": self.refused,
            "join-intent": self.join_intent, "leave-intent": self.leave_intent, "event": self.event,
            "query": self.query, "response": self.response, "user-event": self.user_event, "ask": self.ask,
            "respond": self.respond, "force-leave": self.force_leave, "tags": self.tags, "state": self.state,
            "dials": self.dials, "status": self.status, "members": self.show_members, "local-state": self.local_state,
        }  # fmt: skip
        options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        verbs[words[0]](*(word for word in words[1:] if "=" not in word), **options)

    # --- who there is ----------------------------------------------------------------------------------------------

    def node(self, name: str, **options: str) -> None:
        """A real member. Options: numbers of its configuration, `id` for its tags, `addr`."""
        address = (options.pop("addr", f"10.0.0.{len(self.members) + 1}"), 8301)
        tags = {"id": options.pop("id")} if "id" in options else {}
        swim, serf = _changed(TERSE, options), _changed(SerfConfig(), options)
        rng = random.Random(f"script {name}")  # noqa: S311 - a simulation
        upper = Serf(serf, name=name, tags=tags, rng=rng)
        lower = Swim(swim, name=name, advertise=address, delegate=upper, rng=rng)
        member = self.members[name] = _Member(name, address, lower, upper)
        upper.start(self.now)
        lower.start(self.now)
        self._settle(member)

    def add_peers(self, name: str, *peers: str, **options: str) -> None:
        """Peers that `name` hears of; they exist for everybody after that."""
        for peer in peers:
            if peer not in self.peers:
                self.peers[peer] = (f"10.0.1.{len(self.peers) + 1}", 8301)
            self.alive(name, peer, **options)
        self.members[name].swim.forget_broadcasts()

    def silence(self, *peers: str) -> None:
        """These do not answer any more, nor does anybody at their address."""
        self.silent.update(peers)

    def speak(self, *peers: str) -> None:
        """These answer again."""
        self.silent.difference_update(peers)

    def cut(self, one: str, other: str) -> None:
        """Nothing gets from one real member to the other, in both directions."""
        self.cuts.add(frozenset((one, other)))

    def heal(self) -> None:
        """All cuts are gone."""
        self.cuts.clear()

    # --- time ------------------------------------------------------------------------------------------------------

    def tick(self, seconds: str) -> None:
        """Let time pass; each deadline is met exactly."""
        end = round(self.now + float(seconds), 6)
        while True:
            due = [(self._deadline(member), member.name) for member in self.members.values()]
            when, name = min(due, default=(end + 1, ""))
            if when > end:
                break
            self.now = max(self.now, when)
            member = self.members[name]
            member.swim.tick(self.now)
            member.serf.tick(self.now)
            self._settle(member)
        self.now = end

    def _deadline(self, member: _Member) -> float:
        times = (member.swim.next_deadline(), member.serf.next_deadline())
        return min(time for time in times if time is not None)

    def stall(self, name: str, seconds: str) -> None:
        """The event loop of `name` stands still; nobody else does anything meanwhile."""
        member = self.members[name]
        due = self._deadline(member)
        self.now = round(self.now + float(seconds), 6)
        member.swim.note_lag(self.now - due, self.now)
        member.swim.tick(self.now)
        member.serf.tick(self.now)
        self._settle(member)

    # --- messages of others ------------------------------------------------------------------------------------------

    def _give(self, name: str, message: PacketMessage, source: str = "") -> None:
        """Let a message arrive from a peer (of no name: from nobody known)."""
        member = self.members[name]
        member.swim.receive([(encode_message(message), self._where(source, ("10.9.9.9", 8301)))], self.now)
        self._settle(member)

    def _where(self, name: str, default: Address) -> Address:
        member = self.members.get(name)
        return member.address if member is not None else self.peers.get(name, default)

    def alive(self, name: str, about: str, **options: str) -> None:
        """`about` is alive: inc, addr, port, meta or id, vsn, by."""
        host, port = self._where(about, ("10.0.9.9", 8301))
        meta = wire_serf.encode_tags({"id": options["id"]}) if "id" in options else options.get("meta", "").encode()
        message = Alive(
            int(options.get("inc", "1")),
            about,
            address_bytes(options.get("addr", host)),
            int(options.get("port", str(port))),
            meta or None,
            bytes.fromhex(options.get("vsn", LAN.versions.hex())),
        )
        self._give(name, message, options.get("by", ""))

    def suspect(self, name: str, about: str, by: str, inc: str = "1", source: str = "") -> None:
        """`by` suspects `about`."""
        self._give(name, Suspect(int(inc), about, by), source)

    def dead(self, name: str, about: str, by: str, inc: str = "1") -> None:
        """`by` says that `about` is dead, or about itself that it leaves."""
        self._give(name, Dead(int(inc), about, by))

    def ack(self, name: str, seq: str, by: str = "") -> None:
        """An answer to a ping."""
        self._give(name, Ack(int(seq), b""), by)

    def nack(self, name: str, seq: str, by: str) -> None:
        """A peer got no answer either."""
        self._give(name, Nack(int(seq)), by)

    def ping(self, name: str, to: str = "", by: str = "", named: str = "") -> None:
        """A ping for the node `to`; `named`: it says who sends it."""
        self._give(name, Ping(77, to, source_node=named), by)

    def indirect(self, name: str, about: str, by: str, nack: str = "1") -> None:
        """`by` wants `about` pinged."""
        host, port = self._where(about, ("10.0.9.9", 8301))
        self._give(name, IndirectPing(78, address_bytes(host), port, about, nack == "1"), by)

    def push_pull(self, name: str, *records: str, by: str = "", join: str = "0") -> None:
        """`by` brings records `name:state:incarnation`."""
        states = []
        for record in records:
            about, state, incarnation = record.split(":")
            host, port = self._where(about, ("10.0.9.9", 8301))
            number = NodeState[state.upper()].value
            states.append(PushNodeState(about, address_bytes(host), port, None, int(incarnation), number, LAN.versions))
        member = self.members[name]
        message = PushPull(join == "1", tuple(states), b"")
        member.swim.stream_requested(message, self._where(by, ("10.9.9.9", 8301)), self.now)
        self._settle(member)

    def _give_serf(self, name: str, message: wire_serf.Message) -> None:
        self._give(name, UserMessage(wire_serf.encode(message)))

    def join_intent(self, name: str, about: str, ltime: str) -> None:
        """serf: `about` is here."""
        self._give_serf(name, wire_serf.JoinIntent(ltime=int(ltime), node=about))

    def leave_intent(self, name: str, about: str, ltime: str, prune: str = "0") -> None:
        """serf: `about` leaves."""
        self._give_serf(name, wire_serf.LeaveIntent(ltime=int(ltime), node=about, prune=prune == "1"))

    def event(self, name: str, event: str, ltime: str, payload: str = "", cc: str = "0") -> None:
        """serf: a user event."""
        message = wire_serf.UserEventMessage(
            ltime=int(ltime), name=event, payload=payload.encode() or None, coalesce=cc == "1"
        )
        self._give_serf(name, message)

    def query(self, name: str, query: str, ltime: str, by: str, **options: str) -> None:
        """serf: a query: id, flags, relay, timeout, payload, node or tag (a filter `name` or `tag:expression`)."""
        filters: list[bytes] = []
        if "node" in options:
            filters.append(wire_serf.encode_filter(wire_serf.NodeFilter(names=(options["node"],))))
        if "tag" in options:
            tag, _, expression = options["tag"].partition(":")
            filters.append(wire_serf.encode_filter(wire_serf.TagFilter(tag=tag, expression=expression)))
        host, port = self._where(by, ("10.9.9.9", 8301))
        message = wire_serf.Query(
            ltime=int(ltime), id=int(options.get("id", "1")), address=address_bytes(host), port=port, source_node=by,
            filters=tuple(filters) or None, flags=int(options.get("flags", "0")),
            relay_factor=int(options.get("relay", "0")), timeout=round(float(options.get("timeout", "5")) * 1e9),
            name=query, payload=options.get("payload", "").encode(),
        )  # fmt: skip
        self._give_serf(name, message)

    def response(self, name: str, by: str, id: str, ltime: str, payload: str = "", **options: str) -> None:
        """serf: an answer to a query of ours; `ack=1`: only that it came; `owner=address`: who owns our name."""
        data = payload.encode()
        if "owner" in options:
            owner = wire_serf.ConflictResponse(name=name, address=address_bytes(options["owner"]), port=8301)
            data = wire_serf.encode_conflict(owner)
        flags = int(options.get("ack", "0"))
        message = wire_serf.QueryResponse(ltime=int(ltime), id=int(id), from_=by, flags=flags, payload=data or None)
        self._give_serf(name, message)

    # --- what a member is asked to do ---------------------------------------------------------------------------------

    def join(self, name: str, *others: str) -> None:
        """Push/pull with these real members."""
        member = self.members[name]
        member.serf.begin_join()
        member.swim.join([("", self._where(other, ("10.0.9.9", 8301))) for other in others], self.now)
        self._settle(member)
        member.serf.finish_join(len(others), self.now)
        self._settle(member)

    def leave(self, name: str) -> None:
        """The intent, and memberlist's word."""
        member = self.members[name]
        member.serf.begin_leave(self.now)
        member.swim.leave(self.now, 5.0)
        self._settle(member)

    def force_leave(self, name: str, about: str, prune: str = "0") -> None:
        """`consul force-leave`."""
        member = self.members[name]
        member.serf.force_leave(about, self.now, prune=prune == "1")
        self._settle(member)

    def user_event(self, name: str, event: str, payload: str = "") -> None:
        """`consul event`."""
        member = self.members[name]
        member.serf.user_event(event, payload.encode())
        self._settle(member)

    def ask(self, name: str, query: str, payload: str = "", timeout: str = "5", ack: str = "0") -> None:
        """A query of its own; its id is shown."""
        member = self.members[name]
        number = member.serf.ask(query, payload.encode(), self.now, timeout_s=float(timeout), ack=ack == "1")
        self._say(f"{name} = query id={number}")
        self._settle(member)

    def respond(self, name: str, ltime: str, id: str, payload: str) -> None:
        """The application's answer."""
        member = self.members[name]
        done = member.serf.respond(int(ltime), int(id), payload.encode(), self.now)
        self._say(f"{name} = {'answered' if done else 'too late'}")
        self._settle(member)

    def tags(self, name: str, **tags: str) -> None:
        """New tags."""
        member = self.members[name]
        member.serf.set_tags(tags)
        member.swim.update_meta(self.now, 5.0)
        self._settle(member)

    def refused(self, name: str, about: str) -> None:
        """The host of `about` refuses a connection of `name`."""
        member = self.members[name]
        member.swim.note_refused(self._where(about, ("10.0.9.9", 8301)), self.now)
        self._settle(member)

    def dials(self, name: str, how: str) -> None:
        """End the connections that `name` tries: refuse, hang."""
        member = self.members[name]
        waiting, member.dials = member.dials, []
        for order in waiting:
            text = STREAM_FAILURES[how]
            member.swim.stream_failed(order.id, text, self.now, refused=how == "refuse")
        self._settle(member)

    # --- looking ------------------------------------------------------------------------------------------------------

    def status(self, name: str) -> None:
        """Memberlist's records."""
        member = self.members[name]
        self._say(f"{name}: health {member.swim.health_score}, {member.swim.queued_broadcasts()} queued")
        for node in member.swim.nodes():
            ends = member.swim.suspicion_ends_at(node.name)
            more = f" until +{ends - self.now:.3f}" if ends is not None else ""
            self._say(f"  {node.name} {node.state.name.lower()} inc={node.incarnation} {node.address}{more}")

    def show_members(self, name: str) -> None:
        """Serf's members and clocks."""
        serf = self.members[name].serf
        stats = serf.stats()
        clocks = " ".join(f"{kind}={stats[f'{kind}_time']}" for kind in ("member", "event", "query"))
        self._say(f"{name}: {clocks}")
        for item in serf.members():
            self._say(f"  {item.name} {item.status.word} {item.address}")

    def local_state(self, name: str) -> None:
        """What it would tell in a push/pull."""
        message = self.members[name].swim.local_state()
        for state in message.states:
            self._say(f"  {state.name} {NodeState(state.state).name.lower()} inc={state.incarnation}")
        told = wire_serf.decode_as(wire_serf.PushPullState, message.user_state)
        events = sum(slot is not None for slot in told.events or ())
        self._say(f"  times={dict(told.status_ltimes or {})} left={list(told.left_members or ())} events={events}")

    def state(self, name: str) -> None:
        """Its place in its life."""
        self._say(f"{name} = {self.members[name].serf.state.value}")

    # --- machinery ----------------------------------------------------------------------------------------------------

    def _say(self, line: str) -> None:
        self.lines.append(line)

    def _settle(self, member: _Member) -> None:
        for _ in range(ROUNDS_MAX):
            effects, told = member.swim.take(), member.serf.take()
            if not effects and not told:
                return
            for serf_effect in told:
                self._do_serf(member, serf_effect)
            for effect in effects:
                self._do(member, effect)
        raise AssertionError("effects do not end")

    def _do(self, member: _Member, effect: Effect) -> None:
        match effect:
            case SendPacket(to, data):
                self._send(member, to, data)
            case OpenStream():
                self._open(member, effect)
            case LogLine():
                self._say(f"{member.name} # {effect.event or effect.message}{_pairs(effect.pairs)}")
            case PingComplete() | Deliver():
                member.serf.handle(effect, self.now)
            case _:
                self._say(f"{member.name} * {_short(effect)}")
                member.serf.handle(effect, self.now)

    def _do_serf(self, member: _Member, effect: SerfEffect) -> None:
        match effect:
            case SendUser(to, data):
                member.swim.send_user(to, data)
            case MemberEvent(kind, about):
                self._say(f"{member.name} ! {kind.value} {about.name} ({about.status.word})")
            case UserEvent(ltime, name, payload):
                self._say(f"{member.name} ! event {name} ltime={ltime} {payload.decode()}".rstrip())
            case QueryReceived(ltime, number, name, payload):
                self._say(f"{member.name} ! query {name} ltime={ltime} id={number} {payload.decode()}".rstrip())
            case LogLine():
                self._say(f"{member.name} # {effect.event or effect.message}{_pairs(effect.pairs)}")
            case _:
                self._say(f"{member.name} ! {_short(effect)}")
                if isinstance(effect, Reconnect):
                    member.swim.join([(effect.name, effect.to)], self.now)

    def _send(self, member: _Member, to: Address, data: bytes) -> None:
        messages = [decode_message(part) for part in open_packet_body(data).messages]
        name = self._name_at(to)
        peer = self.members.get(name)
        hidden = (Ping,) if peer is None else (Ping, Ack)
        shown = [message for message in messages if not isinstance(message, hidden)]
        answered = peer is not None or name not in self.silent
        if shown or not answered:
            self._say(f"{member.name} > {name} {' + '.join(map(_text, messages if not answered else shown))}")
        if peer is not None:
            if frozenset((member.name, name)) not in self.cuts:
                peer.swim.receive([(data, member.address)], self.now)
                self._settle(peer)
        elif answered:
            for message in messages:
                if isinstance(message, Ping) and message.source_node == member.name:
                    member.swim.receive([(encode_message(Ack(message.sequence_number)), to)], self.now)

    def _open(self, member: _Member, order: OpenStream) -> None:
        name = self._name_at(order.to)
        peer = self.members.get(name)
        self._say(f"{member.name} ~ {order.purpose.value} to {name}")
        if peer is None or frozenset((member.name, name)) in self.cuts:
            member.dials.append(order)
            return
        answer = peer.swim.stream_requested(decode_stream(order.request), member.address, self.now)
        self._settle(peer)
        if answer is None:
            member.swim.stream_failed(order.id, "EOF", self.now)
        else:
            member.swim.stream_answered(order.id, decode_stream(answer), self.now)

    def _name_at(self, address: Address) -> str:
        for member in self.members.values():
            if member.address == address:
                return member.name
        for name, where in self.peers.items():
            if where == address:
                return name
        return address[0]


def _changed(config: Any, options: dict[str, str]) -> Any:
    kinds = {item.name: type(getattr(config, item.name)) for item in fields(config)}
    given = {name: text for name, text in options.items() if name in kinds}
    assert isinstance(config, SwimConfig | SerfConfig)
    return replace(config, **{name: kinds[name](float(text)) for name, text in given.items()})


def _pairs(pairs: Iterable[tuple[str, object]]) -> str:
    return "".join(f" {key}={value}" for key, value in pairs)


def _short(effect: object) -> str:
    """An effect without the parts that say nothing."""
    names = [name for name in getattr(effect, "__slots__", ()) if name not in ("source", "data")]
    values = []
    for name in names:
        value = getattr(effect, name)
        values.append(
            f"{name}={getattr(value, 'name', value)}" if not isinstance(value, bytes) else f"{name}={value!r}"
        )
    return " ".join([type(effect).__name__, *values])


def _text(message: PacketMessage) -> str:
    """A message in a line."""
    match message:
        case Ping(number, node):
            return f"Ping {number} {node}"
        case IndirectPing(number, _, _, node, nack):
            return f"IndirectPing {number} {node} nack={int(nack)}"
        case Ack(number) | Nack(number):
            return f"{type(message).__name__} {number}"
        case Alive():
            return f"Alive {message.node} inc={message.incarnation} {address_text(message.address)}"
        case Suspect() | Dead():
            return f"{type(message).__name__} {message.node} inc={message.incarnation} from={message.sender}"
        case UserMessage(data):
            return _serf_text(wire_serf.decode(data))
    return type(message).__name__


def _serf_text(message: wire_serf.Message) -> str:
    match message:
        case wire_serf.JoinIntent() | wire_serf.LeaveIntent():
            prune = " prune" if getattr(message, "prune", False) else ""
            return f"{type(message).__name__} {message.node} ltime={message.ltime}{prune}"
        case wire_serf.UserEventMessage():
            return f"Event {message.name} ltime={message.ltime}"
        case wire_serf.Query():
            return f"Query {message.name} ltime={message.ltime} id={message.id}"
        case wire_serf.QueryResponse():
            kind = "QueryAck" if message.flags & 1 else "QueryResponse"
            return f"{kind} from={message.from_} id={message.id} {message.payload or b''!r}"
        case wire_serf.Relay():
            return f"Relay({_serf_text(wire_serf.decode(message.inner))}) to={message.destination_name}"
    return type(message).__name__
