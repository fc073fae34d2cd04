"""Scenario files for the raft core: a line per verb, every message, write and event of it as the expected output.

A file is a list of blocks `verb arguments`, `----`, output, empty line. Nodes are numbers; time stands still but for
`tick`, messages wait in one queue until they are delivered, disks are instant unless `hold`::

    add-nodes 3 [trailing_logs=0 ...]      bootstrap 1 2 3 (on each of them)     campaign 1     tick 0.5
    propose 1 text     change 1 add_voter 4     transfer 1 [2]     verify 1     lease 1     snapshot 1
    deliver [n] [1>2]  (oldest first)      deliver-newest [1>2]      duplicate [1>2]      drop [1>2]      stabilize
    partition 1 | 2 3     heal     hold 1     sync 1     crash 1     restart 1     refused 2 1     status     queue
    forget 2 3 (their leader's name wears off)     foreign (two clusters: no judge)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.types import Answer, Change, Done, HardState, Outgoing, Ready, Reply, Request
from pyconsul_agent.sim.raft_judge import Judge, Machine, Node
from pyconsul_agent.sim.script import play
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    Configuration,
    EntryType,
    LogEntry,
    RaftRequest,
    RaftResponse,
    RequestVoteRequest,
    Server,
    SnapshotMeta,
    Suffrage,
)

ROUNDS_MAX = 1000


@dataclass(slots=True)
class Parcel:
    """A message under way. `request` or `answer`; replies carry the asker's sequence."""

    source: Node
    target: Node
    life: int
    sequence: int
    request: RaftRequest | None = None
    answer: RaftResponse | str | None = None
    stream: Machine | None = None

    @property
    def way(self) -> str:
        """`1>2`."""
        return f"{self.source.id[1:]}>{self.target.id[1:]}"


class Script:
    """The cluster of one scenario file."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.config = RaftConfig()
        self.nodes: list[Node] = []
        self.queue: list[Parcel] = []
        self.lines: list[str] = []
        self.judge: Judge | None = Judge()
        self.held: set[str] = set()
        self.cut: set[frozenset[str]] = set()
        self.counter = 0

    def run(self, text: str) -> str:
        """Perform a whole file; gives it with the outputs that came."""
        return play(self, text)

    def perform(self, words: list[str]) -> None:
        """One verb."""
        verbs: dict[str, Callable[..., None]] = {
            "add-nodes": self.add_nodes, "bootstrap": self.bootstrap, "campaign": self.campaign, "tick": self.tick,
            "forget": self.forget, "foreign": self.foreign,
            "propose": self.propose, "change": self.change, "transfer": self.transfer, "verify": self.verify,
            "lease": self.lease, "snapshot": self.snapshot, "deliver": self.deliver, "stabilize": self.stabilize,
            "deliver-newest": self.deliver_newest, "duplicate": self.duplicate, "drop": self.drop, "heal": self.heal,
            "partition": self.partition, "hold": self.hold, "sync": self.sync, "crash": self.crash,
            "restart": self.restart, "refused": self.refused, "status": self.status, "queue": self.show_queue,
        }  # fmt: skip
        verbs[words[0]](*words[1:])

    # -- verbs --------------------------------------------------------------------------------------------------
    def add_nodes(self, count: str, *options: str) -> None:
        """More servers, without a configuration."""
        kinds = {item.name: type(getattr(self.config, item.name)) for item in fields(RaftConfig)}
        pairs = (option.split("=") for option in options)
        self.config = replace(self.config, **{name: kinds[name](float(value)) for name, value in pairs})
        for number in range(len(self.nodes) + 1, len(self.nodes) + int(count) + 1):
            self.nodes.append(Node(Server(id=f"n{number}", address=f"10.0.0.{number}:8300")))
            self.restart(str(number))

    def node(self, number: str) -> Node:
        """By its number."""
        return self.nodes[int(number) - 1]

    def bootstrap(self, *numbers: str) -> None:
        """The same first configuration on each of these servers."""
        configuration = Configuration(servers=tuple(self.node(number).server for number in numbers))
        for number in numbers:
            raft = self.node(number).raft
            assert raft is not None
            raft.bootstrap(configuration, self.now)
            self.pump(self.node(number))

    def campaign(self, number: str) -> None:
        """Its timer fires as if it had not heard of a leader."""
        node = self.node(number)
        assert node.raft is not None
        node.raft.expire(self.now)
        node.raft.tick(self.now)
        self.pump(node)

    def forget(self, *numbers: str) -> None:
        """Followers on whom the leader's name has worn off; they do not stand themselves."""
        for number in numbers:
            raft = self.node(number).raft
            assert raft is not None
            raft.expire(self.now + 1000.0)

    def foreign(self) -> None:
        """From here on the servers need not be of one cluster: nobody judges."""
        self.judge = None

    def tick(self, seconds: str) -> None:
        """Time passes for all at once."""
        self.now += float(seconds)
        for node in self.nodes:
            if node.raft is not None:
                node.raft.tick(self.now)
                self.pump(node)

    def propose(self, number: str, *texts: str) -> None:
        """One entry for each text, in one Ready."""
        node = self.node(number)
        assert node.raft is not None
        for text in texts:
            node.raft.propose(EntryType.COMMAND, text.encode(), self.now)
        self.pump(node)

    def change(self, number: str, kind: str, target: str) -> None:
        """A membership change."""
        node = self.node(number)
        assert node.raft is not None
        node.raft.change(Change(kind, self.node(target).server), self.now)
        self.pump(node)

    def transfer(self, number: str, target: str = "") -> None:
        """Hand leadership over."""
        node = self.node(number)
        assert node.raft is not None
        node.raft.transfer(self.now, f"n{target}" if target else "")
        self.pump(node)

    def verify(self, number: str) -> None:
        """A round that proves leadership."""
        node = self.node(number)
        assert node.raft is not None
        node.raft.verify(self.now)
        self.pump(node)

    def lease(self, number: str) -> None:
        """Whether a default read would be answered."""
        node = self.node(number)
        assert node.raft is not None
        self.say(node, f"lease {'valid' if node.raft.lease_valid(self.now) else 'not valid'}")

    def snapshot(self, number: str) -> None:
        """Store a snapshot of what is applied."""
        node = self.node(number)
        raft = node.raft
        assert raft is not None
        index, configuration = raft.committed_configuration
        meta = SnapshotMeta(
            id=f"s{node.machine.index}",
            index=node.machine.index,
            term=raft.term_at(node.machine.index) or 0,
            configuration=configuration,
            configuration_index=index,
        )
        node.disk.snapshot, node.disk.state = meta, node.machine.copy()
        raft.snapshot_taken(meta, self.now)
        self.pump(node)

    def deliver(self, *words: str) -> None:
        """The oldest messages: `deliver`, `deliver 3`, `deliver 1>2`, `deliver 2 1>2`."""
        count = int(words[0]) if words and words[0].isdigit() else 1
        way = next((word for word in words if ">" in word), "")
        for parcel in self._pick(way)[:count]:
            self.queue.remove(parcel)
            self.hand_over(parcel)

    def deliver_newest(self, way: str = "") -> None:
        """The newest message overtakes the others."""
        parcel = self._pick(way)[-1]
        self.queue.remove(parcel)
        self.hand_over(parcel)

    def duplicate(self, way: str = "") -> None:
        """The oldest message is on the wire twice."""
        self.queue.append(replace(self._pick(way)[0]))

    def drop(self, way: str = "") -> None:
        """Messages get lost; whoever asked learns that."""
        for parcel in self._pick(way):
            self.queue.remove(parcel)
            self.lose(parcel)

    def stabilize(self) -> None:
        """Deliver until nothing is under way."""
        for _ in range(ROUNDS_MAX):
            if not self.queue:
                return
            self.hand_over(self.queue.pop(0))
        raise AssertionError("the cluster does not come to rest")

    def partition(self, *words: str) -> None:
        """Cut the servers left of `|` from those right of it."""
        bar = words.index("|")
        self.cut = {frozenset((f"n{a}", f"n{b}")) for a in words[:bar] for b in words[bar + 1 :]}

    def heal(self) -> None:
        """Undo the partition."""
        self.cut.clear()

    def hold(self, number: str) -> None:
        """Its disk does not finish until `sync`."""
        self.held.add(self.node(number).id)

    def sync(self, number: str) -> None:
        """Its disk works again."""
        node = self.node(number)
        self.held.discard(node.id)
        self.pump(node)

    def crash(self, number: str) -> None:
        """It stops; what its disk had not finished is gone."""
        node = self.node(number)
        node.raft, node.storing = None, None
        node.life += 1
        self.held.discard(node.id)

    def restart(self, number: str) -> None:
        """It boots from its disk."""
        node = self.node(number)
        node.start(self.config, random.Random(number), self.now)  # noqa: S311
        self.pump(node)

    def refused(self, number: str, suspect: str) -> None:
        """Evidence for `number` that the process of `suspect` is gone."""
        node = self.node(number)
        assert node.raft is not None
        node.raft.peer_refused(f"n{suspect}", self.now)
        self.pump(node)

    def status(self, *numbers: str) -> None:
        """What everybody thinks."""
        for node in [self.node(number) for number in numbers] or self.nodes:
            raft = node.raft
            if raft is None:
                self.say(node, "down")
                continue
            self.say(
                node,
                f"{raft.role.value} term={raft.term} leader={raft.leader_id or '-'} commit={raft.commit_index} "
                f"last={raft.last_index}/{raft.last_term} applied={node.machine.index} "
                f"config={raft.configuration_index}:{names(raft.configuration)}",
            )

    def show_queue(self) -> None:
        """What is under way."""
        for parcel in self.queue:
            self.lines.append(f"{parcel.way} {text_of(parcel.request or parcel.answer)}")

    # -- machinery ----------------------------------------------------------------------------------------------
    def _pick(self, way: str) -> list[Parcel]:
        return [parcel for parcel in self.queue if way in ("", parcel.way)]

    def say(self, node: Node, text: str) -> None:
        """A line of output."""
        self.lines.append(f"n{node.id[1:]} {text}")

    def hand_over(self, parcel: Parcel) -> None:
        """Deliver a message, or lose it where it cannot arrive."""
        source, target = parcel.source, parcel.target
        if target.raft is None or frozenset((source.id, target.id)) in self.cut:
            self.lose(parcel)
            return
        if parcel.request is None:
            if target.life == parcel.life:
                target.raft.received_reply(parcel.sequence, parcel.answer, self.now)
                self.pump(target)
            return
        self.counter += 1
        target.tokens[self.counter] = (source, parcel.life, parcel.sequence, parcel.request)
        if parcel.stream is not None:
            target.streams[self.counter] = parcel.stream
        target.raft.receive(self.counter, parcel.request, self.now)
        self.pump(target)

    def lose(self, parcel: Parcel) -> None:
        """A message is gone: its asker gets no answer."""
        asker = parcel.source if parcel.request is not None else parcel.target
        if asker.raft is not None and asker.life == parcel.life:
            self.lines.append(f"{parcel.way} lost: {text_of(parcel.request or parcel.answer)}")
            asker.raft.received_reply(parcel.sequence, None, self.now)
            self.pump(asker)

    def pump(self, node: Node) -> None:
        """Perform all that is ready and tell it."""
        raft = node.raft
        if raft is None:
            return
        while True:
            if node.storing is not None and node.id not in self.held:
                self._store(node)
            ready = raft.ready(self.now)
            if ready is None:
                break
            self._tell(node, ready)
            for effect in ready.before_sync:
                self._leave(node, effect)
            for entry in ready.committed:
                node.machine.apply(entry)
                if self.judge is not None:
                    self.judge.applied(node, entry)
                self.say(node, f"= {entry_text(entry)}")
            for answer in ready.answers:
                self.say(node, answer_text(answer))
            if ready.must_sync:
                node.storing = ready
        if self.judge is not None:
            self.judge.looked(node, self.now)

    def _store(self, node: Node) -> None:
        ready, raft = node.storing, node.raft
        assert ready is not None and raft is not None
        node.storing = None
        received = node.streams.pop(ready.install.token) if ready.install else None
        node.disk.store(ready, received)
        if self.judge is not None:
            self.judge.stored(ready.entries)
        self.say(node, f"# {storage_text(ready)}")
        done = Done(stable_index=node.disk.last)
        if received is not None:
            node.machine = received.copy()
            done = Done(installed=True, snapshot_id=f"s{received.index}")
        for effect in ready.after_sync:
            self._leave(node, effect)
        raft.advance(done, self.now)

    def _tell(self, node: Node, ready: Ready) -> None:
        for event in ready.events:
            told = "".join(f" {name}={value}" for name, value in event.fields if value not in ("", node.server.address))
            self.say(node, f"* {event.name}{told}")

    def _leave(self, node: Node, effect: Outgoing) -> None:
        if self.judge is not None:
            self.judge.left(node, effect)
        if isinstance(effect, Reply):
            asker, life, sequence, _ = node.tokens.pop(effect.token)
            node.streams.pop(effect.token, None)
            answer = effect.error or effect.message
            self.say(node, f"> n{asker.id[1:]} {text_of(answer)}")
            self.queue.append(Parcel(node, asker, life, sequence, answer=answer))
            return
        assert isinstance(effect, Request)
        target = next(other for other in self.nodes if other.id == effect.to.id)
        self.say(node, f"> n{target.id[1:]} {text_of(effect.message)}")
        stream = node.disk.state.copy() if effect.snapshot_id else None
        self.queue.append(Parcel(node, target, node.life, effect.sequence, effect.message, None, stream))


# -- texts ------------------------------------------------------------------------------------------------------
def names(configuration: Configuration) -> str:
    """`n1,n2,(n3)`: non-voters in parentheses."""
    servers = configuration.servers or ()
    return ",".join(one.id if one.suffrage == Suffrage.VOTER else f"({one.id})" for one in servers) or "-"


def entry_text(entry: LogEntry) -> str:
    """`index/term Kind data`."""
    data = f" {(entry.data or b'').decode()}" if entry.type == EntryType.COMMAND else ""
    return f"{entry.index}/{entry.term} {EntryType(entry.type).name.lower()}{data}"


def answer_text(answer: Answer) -> str:
    """`! ticket 1 ok at 5` or its error."""
    return f"! ticket {answer.ticket} " + (
        f"ok at {answer.index}" if answer.error is None else f"error: {answer.error}"
    )


def storage_text(ready: Ready) -> str:
    """What one transaction holds."""
    parts = []
    if ready.hard_state is not None:
        hard: HardState = ready.hard_state
        parts.append(f"term={hard.term} vote={hard.voted_for.decode() or '-'}@{hard.vote_term}")
    if ready.truncate_from is not None:
        parts.append(f"truncate from {ready.truncate_from}")
    if ready.entries:
        parts.append("entries " + ", ".join(entry_text(entry) for entry in ready.entries))
    if ready.install is not None:
        parts.append(f"install {ready.install.meta.index}/{ready.install.meta.term}")
    if ready.compact_to is not None:
        parts.append(f"compact to {ready.compact_to}")
    return "; ".join(parts)


def text_of(message: RaftRequest | RaftResponse | str | None) -> str:
    """A message in one line."""
    if message is None or isinstance(message, str):
        return f"error {message}"
    if isinstance(message, RequestVoteRequest):
        flag = " transfer" if message.leadership_transfer else ""
        return f"RequestVote term={message.term} last={message.last_log_index}/{message.last_log_term}{flag}"
    if isinstance(message, AppendEntriesRequest):
        if not message.prev_log_entry and not message.entries and not message.leader_commit_index:
            return f"Heartbeat term={message.term}"
        span = ",".join(f"{entry.index}/{entry.term}" for entry in message.entries or ())
        return (
            f"Append term={message.term} prev={message.prev_log_entry}/{message.prev_log_term} "
            f"commit={message.leader_commit_index} [{span}]"
        )
    shown = ("term", "granted", "success", "last_log", "no_retry_backoff", "last_log_index", "last_log_term")
    told = " ".join(f"{key}={getattr(message, key)}" for key in shown if hasattr(message, key))
    kind = type(message).__name__
    name = f"re {kind.removesuffix('Response')}" if kind.endswith("Response") else kind.removesuffix("Request")
    return f"{name} {told}".strip()
