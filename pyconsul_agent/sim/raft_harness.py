"""The raft core among simulated disks and a lossy network, with its promises checked after every step.

No asyncio, no real time: a heap of (time, number, action). A run is a pure function of its seed. The invariants are
I1 to I8 of docs/reliability.md (one leader a term, log matching, leader completeness, equal state machines, nothing
goes back, votes and terms survive crashes, no promise before it is durable, one membership change at a time) and the
read promises: a valid lease or a proved `verify` never serves a state older than an acknowledged write.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from pyconsul_agent.errors import NotLeader, RestoredWhileCommitting
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.types import (
    Answer,
    Change,
    Done,
    Outgoing,
    Reply,
    Request,
    Role,
)
from pyconsul_agent.sim.raft_judge import Judge, Machine, Node, require
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    Configuration,
    EntryType,
    RaftResponse,
    Server,
    SnapshotMeta,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How bad a run is. Probabilities per message or per second of virtual time."""

    loss: float = 0.02
    latency_s: float = 0.01
    sync_s: float = 0.01
    ordered: bool = True
    crashes: float = 0.4
    partitions: float = 0.4
    changes: float = 0.4
    transfers: float = 0.3
    snapshots: float = 0.5
    restores: float = 0.0
    suspicions: float = 0.5
    """Evidence of death, also wrong one."""
    reads: float = 3.0
    writes: float = 20.0


CALM_LATENCY_S = CALM_SYNC_S = 0.02
"""At most, once a run is healed: far below the 150 ms in which a leader must hear from its quorum."""


class Simulation:
    """A cluster of `size` servers, of which the first `voters` are bootstrapped; the rest may be added."""

    CALL_TIMEOUT_S = 0.3

    def __init__(
        self,
        seed: int,
        *,
        size: int = 4,
        voters: int = 3,
        weather: Weather = Weather(),
        config: RaftConfig | None = None,
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311
        self.now = 100.0
        self.weather = weather
        self.config = config or RaftConfig(
            heartbeat_timeout_s=0.3,
            election_timeout_s=0.3,
            leader_lease_timeout_s=0.15,
            trailing_logs=10,
            memory_entries_max=12,
            append_entries_max=8,
            inflight_requests_max=4,
        )
        self.judge = Judge()
        self.nodes = [Node(Server(id=f"n{i}", address=f"10.0.0.{i}:8300")) for i in range(1, size + 1)]
        self.by_id = {node.id: node for node in self.nodes}
        self.cut: set[frozenset[str]] = set()
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.counter = 0
        self.steps = 0
        self.acknowledged_writes = 0
        self.restores = 0
        self.arrivals: dict[tuple[str, str, bool], float] = {}
        self.calm = False
        configuration = Configuration(servers=tuple(node.server for node in self.nodes[:voters]))
        for node in self.nodes:
            node.start(self.config, random.Random(self.rng.random()), self.now)  # noqa: S311
            self.wake(node)
        for node in self.nodes[:voters]:
            self.at(self.rng.random() * 0.05, self._bootstrapper(node, configuration))

    # -- time ---------------------------------------------------------------------------------------------------
    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Do it `delay` seconds from now."""
        self.counter += 1
        heapq.heappush(self.heap, (self.now + delay, self.counter, action))

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.now + seconds
        while self.heap and self.heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self.heap)
            action()
            self.steps += 1
        self.now = end

    def wake(self, node: Node) -> None:
        """Arm the node's timer."""
        raft = node.raft
        if raft is None or raft.deadline is None or node.armed <= raft.deadline:
            return
        life, node.armed = node.life, raft.deadline

        def fire() -> None:
            if node.life != life or raft.deadline is None:
                return
            node.armed = float("inf")
            if raft.deadline <= self.now:
                raft.tick(self.now)
                self.pump(node)
            self.wake(node)

        self.at(max(0.0, node.armed - self.now) + 1e-6, fire)

    # -- one server ---------------------------------------------------------------------------------------------
    def pump(self, node: Node) -> None:
        """Perform all that is ready."""
        raft = node.raft
        assert raft is not None
        while (ready := raft.ready(self.now)) is not None:
            require(node.storing is None or not (ready.must_sync or ready.after_sync), "second Ready while storing")
            for effect in ready.before_sync:
                self.leave(node, effect)
            for entry in ready.committed:
                require(entry.index == node.machine.index + 1, "apply order", node.id, entry.index, node.machine.index)
                require(node.disk.holds(entry.index, entry.term), "applied before durable", node.id, entry.index)
                node.machine.apply(entry)
                self.judge.applied(node, entry)
            for answer in ready.answers:
                self.answered(node, answer)
            if ready.must_sync:
                node.storing = ready
                self.at(self.rng.random() * self.weather.sync_s, self._syncer(node, node.life))
        self.judge.looked(node, self.now)
        self.wake(node)

    def _syncer(self, node: Node, life: int) -> Callable[[], None]:
        def done() -> None:
            if node.life == life and node.raft is not None:
                self.synced(node)

        return done

    def synced(self, node: Node) -> None:
        """The transaction under way is durable."""
        ready, raft = node.storing, node.raft
        assert ready is not None and raft is not None
        node.storing = None
        done = Done(stable_index=ready.entries[-1].index if ready.entries else 0)
        received = node.streams.pop(ready.install.token) if ready.install else None
        restored = node.disk.snapshot, node.disk.state
        node.disk.store(ready, received)
        if ready.settle and restored[0] is not None:
            self.judge.settled(node, restored[0], restored[1])
        if ready.revert:
            node.machine, node.seen = node.disk.state.copy(), (0, 0)
            done = Done(reverted=node.disk.initial())
        self.judge.stored(ready.entries)
        if received is not None:
            require(received.index > node.machine.index, "state machine goes back", node.id, received.index)
            node.machine = received.copy()
            done = Done(installed=True, snapshot_id=f"s{received.index}")
        for effect in ready.after_sync:
            self.leave(node, effect)
        raft.advance(replace(done, stable_index=max(done.stable_index, node.disk.last)), self.now)
        self.pump(node)

    def answered(self, node: Node, answer: Answer) -> None:
        """A ticket ended."""
        what, floor = node.asked.pop(answer.ticket, ("", 0))
        if answer.error is not None:
            return
        if what == "write":
            self.acknowledged_writes += 1
            require(answer.index <= node.machine.index, "acknowledged before applied", node.id, answer.index)
            self.judge.acknowledged = max(self.judge.acknowledged, answer.index)
            for other in self.nodes:
                self.judge.leased(other, self.now)
        elif what == "read":
            require(answer.index >= floor, "P2 stale verified read", node.id, answer.index, floor)

    # -- network ------------------------------------------------------------------------------------------------
    def leave(self, node: Node, effect: Outgoing) -> None:
        """Put a message on the wire."""
        self.judge.left(node, effect)
        if isinstance(effect, Reply):
            asker, life, sequence, request = node.tokens.pop(effect.token)
            node.streams.pop(effect.token, None)
            answer: RaftResponse | str | None = effect.error or effect.message
            heartbeat = isinstance(request, AppendEntriesRequest) and not request.prev_log_entry
            self._travel(node, asker, heartbeat, self._replier(asker, life, sequence, answer))
            return
        target = self.by_id[effect.to.id]
        stream = node.disk.state.copy() if effect.snapshot_id else None
        life, sequence = node.life, effect.sequence
        if not self._travel(node, target, effect.heartbeat, self._deliverer(node, life, target, effect, stream)):
            self.at(self.CALL_TIMEOUT_S, self._replier(node, life, sequence, None))

    def _travel(self, source: Node, target: Node, heartbeat: bool, action: Callable[[], None]) -> bool:
        broken = frozenset((source.id, target.id)) in self.cut
        if broken or (not self.calm and self.rng.random() < self.weather.loss):
            return False
        arrival = self.now + self.rng.random() * self.weather.latency_s
        if self.weather.ordered:
            key = (source.id, target.id, heartbeat)
            arrival = self.arrivals[key] = max(arrival, self.arrivals.get(key, 0.0) + 1e-7)
        self.at(arrival - self.now, action)
        return True

    def _deliverer(
        self, source: Node, life: int, target: Node, request: Request, stream: Machine | None
    ) -> Callable[[], None]:
        def deliver() -> None:
            if target.raft is None:
                self._replier(source, life, request.sequence, None)()
                return
            self.counter += 1
            token = self.counter
            target.tokens[token] = (source, life, request.sequence, request.message)
            if stream is not None:
                target.streams[token] = stream
            target_life = target.life
            target.raft.receive(token, request.message, self.now)

            def lost() -> None:
                if target.life != target_life or token in target.tokens:
                    self._replier(source, life, request.sequence, None)()

            # A reply that is lost on its way is a lost call too; late replies after that are ignored.
            self.at(self.CALL_TIMEOUT_S, lambda: self._replier(source, life, request.sequence, None)())
            self.pump(target)

        return deliver

    def _replier(self, node: Node, life: int, sequence: int, answer: RaftResponse | str | None) -> Callable[[], None]:
        def deliver() -> None:
            if node.raft is not None and node.life == life:
                node.raft.received_reply(sequence, answer, self.now)
                self.pump(node)

        return deliver

    def _bootstrapper(self, node: Node, configuration: Configuration) -> Callable[[], None]:
        def boot() -> None:
            if node.raft is not None and node.raft.term == 0 and node.raft.last_index == 0:
                node.raft.bootstrap(configuration, self.now)
                self.pump(node)

        return boot

    # -- fate ---------------------------------------------------------------------------------------------------
    def crash(self, node: Node) -> None:
        """Stop it now; the transaction under way may or may not have reached the disk."""
        if node.raft is None:
            return
        if node.storing is not None and self.rng.random() < 0.5:
            ready = node.storing
            received = node.streams.get(ready.install.token) if ready.install else None
            node.disk.store(ready, received)
            self.judge.stored(ready.entries)
        node.raft, node.storing = None, None
        node.life += 1
        for other in self.nodes:
            self.at(self.rng.random() * 0.05, self._suspecter(other, node.id))

    def restart(self, node: Node) -> None:
        """Boot it from its disk."""
        if node.raft is None:
            node.start(self.config, random.Random(self.rng.random()), self.now)  # noqa: S311
            self.wake(node)

    def _suspecter(self, node: Node, suspect: str) -> Callable[[], None]:
        def suspicion() -> None:
            if node.raft is not None:
                node.raft.peer_refused(suspect, self.now)
                self.pump(node)

        return suspicion

    def chaos(self, seconds: float) -> None:
        """Run with everything going wrong at the weather's rates."""
        end, step = self.now + seconds, 0.02
        while self.now < end:
            self.run(step)
            for fate, rate in (
                (self._fate_crash, self.weather.crashes),
                (self._fate_partition, self.weather.partitions),
                (self._fate_change, self.weather.changes),
                (self._fate_transfer, self.weather.transfers),
                (self._fate_snapshot, self.weather.snapshots),
                (self._fate_suspicion, self.weather.suspicions),
                (self._fate_read, self.weather.reads),
                (self._fate_write, self.weather.writes),
            ):
                if self.rng.random() < rate * step:
                    fate()
            if self.weather.restores and self.rng.random() < self.weather.restores * step:
                self._fate_restore()

    def running(self) -> list[Node]:
        """Servers that are up."""
        return [node for node in self.nodes if node.raft is not None]

    def leader(self) -> Node | None:
        """The leader of the highest term, if one is up."""
        leading = [node for node in self.nodes if node.raft is not None and node.raft.role is Role.LEADER]
        return max(leading, key=lambda node: node.raft.term if node.raft else 0, default=None)

    def _fate_crash(self) -> None:
        down = [node for node in self.nodes if node.raft is None]
        if down and self.rng.random() < 0.6:
            self.restart(self.rng.choice(down))
        else:
            self.crash(self.rng.choice(self.nodes))

    def _fate_partition(self) -> None:
        self.cut.clear()
        if self.rng.random() < 0.6:
            side = {node.id for node in self.nodes if self.rng.random() < 0.5}
            for one in self.nodes:
                for other in self.nodes:
                    if one.id in side and other.id not in side:
                        self.cut.add(frozenset((one.id, other.id)))

    def _fate_change(self) -> None:
        leading = self.leader()
        if leading is None or leading.raft is None:
            return
        kind = self.rng.choice(["add_voter", "add_voter", "add_nonvoter", "demote_voter", "remove_server"])
        leading.raft.change(Change(kind, self.rng.choice(self.nodes).server), self.now)
        self.pump(leading)

    def _fate_transfer(self) -> None:
        leading = self.leader()
        if leading is not None and leading.raft is not None:
            leading.raft.transfer(self.now)
            self.pump(leading)

    def _fate_snapshot(self) -> None:
        node = self.rng.choice(self.nodes)
        raft = node.raft
        if raft is None or raft.unproven or node.storing is not None or node.machine.index == 0:
            return
        index, configuration = raft.committed_configuration
        term = raft.term_at(node.machine.index)
        if index > node.machine.index or term is None:
            return
        name = f"s{node.machine.index}"
        meta = SnapshotMeta(
            id=name,
            index=node.machine.index,
            term=term,
            configuration=configuration,
            configuration_index=index,
        )
        node.disk.snapshot, node.disk.state = meta, node.machine.copy()
        raft.snapshot_taken(meta, self.now)
        self.pump(node)

    def _fate_restore(self) -> None:
        """A user restores something; its leader may crash at any step of it."""
        node = self.leader()
        if node is None or node.raft is None or node.storing is not None:
            return
        try:
            place = node.raft.begin_restore(self.now)
        except (NotLeader, RestoredWhileCommitting):
            return
        self.counter += 1
        index = place.index + self.rng.choice([0, 0, 0, 7])
        meta, state = replace(place, index=index, id=f"s{index}"), Machine(index, self.counter)
        step = self.rng.randrange(8)
        if step == 0:
            self.crash(node)
            return
        node.disk.restored(meta, state.copy())
        if step == 1:
            self.crash(node)
            return
        require(node.raft.restored(meta, self.now), "restore refused", node.id)
        node.machine = state
        node.raft.propose(EntryType.NOOP, None, self.now)
        self.pump(node)
        self.restores += 1
        if step < 5:
            life = node.life
            self.at(self.rng.random() * 0.3, lambda: self.crash(node) if node.life == life and not self.calm else None)

    def _fate_suspicion(self) -> None:
        node, suspect = self.rng.choice(self.nodes), self.rng.choice(self.nodes)
        self._suspecter(node, suspect.id)()

    def _fate_read(self) -> None:
        for node in self.running():
            if node.raft is not None and node.raft.role is Role.LEADER:
                node.asked[node.raft.verify(self.now)] = ("read", self.judge.acknowledged)
                self.pump(node)

    def _fate_write(self) -> None:
        for node in self.running():
            if node.raft is not None and node.raft.role is Role.LEADER:
                for _ in range(self.rng.randrange(1, 4)):
                    self.write(node)
                self.pump(node)

    def write(self, node: Node) -> None:
        """Propose something unique on `node`."""
        assert node.raft is not None
        self.counter += 1
        node.asked[node.raft.propose(EntryType.COMMAND, b"w%d" % self.counter, self.now)] = ("write", 0)

    def settle(self, seconds: float) -> None:
        """Heal everything and let it come to rest; then a write must succeed and all members must agree.

        Slowness is healed too: a leader whose heartbeats take longer than its lease to come back must step down,
        so liveness is promised only where messages and disks are much faster than the timeouts.
        """
        self.calm = True
        self.weather = replace(
            self.weather,
            latency_s=min(self.weather.latency_s, CALM_LATENCY_S),
            sync_s=min(self.weather.sync_s, CALM_SYNC_S),
        )
        self.cut.clear()
        for node in self.nodes:
            self.restart(node)
        for _ in range(4):  # elections are a matter of luck
            self.run(seconds / 2)
            if self.leader() is not None:
                break
        self.run(seconds / 2)
        leading = self.leader()
        require(leading is not None, "no leader after healing")
        assert leading is not None and leading.raft is not None
        before = self.acknowledged_writes
        self.write(leading)
        self.pump(leading)
        self.run(0.5)
        require(self.acknowledged_writes > before, "no progress after healing", leading.id)
        members = {server.id for server in leading.raft.configuration.servers or ()}
        for node in self.nodes:
            if node.id in members:
                require(node.machine == leading.machine, "not caught up", node.id, node.machine, leading.machine)


def weather_of(seed: int) -> Weather:
    """A different kind of trouble for each seed."""
    rng = random.Random(f"weather {seed}")  # noqa: S311
    return Weather(
        loss=rng.choice([0.0, 0.01, 0.05, 0.15]),
        latency_s=rng.choice([0.002, 0.02, 0.08]),
        sync_s=rng.choice([0.001, 0.02, 0.1]),
        ordered=rng.random() < 0.7,
        crashes=rng.choice([0.0, 0.5, 2.0]),
        partitions=rng.choice([0.0, 0.5, 1.5]),
        changes=rng.choice([0.0, 0.5, 2.0]),
        transfers=rng.choice([0.0, 0.3, 1.0]),
        snapshots=rng.choice([0.0, 1.0, 3.0]),
        suspicions=rng.choice([0.0, 2.0]),
    )


def run_seed(
    seed: int, seconds: float = 2.0, *, weather: Weather | None = None, config: RaftConfig | None = None
) -> Simulation:
    """One whole run: trouble for `seconds`, then healing. Raises InvariantBroken."""
    simulation = Simulation(seed, weather=weather or weather_of(seed), config=config)
    simulation.chaos(seconds)
    simulation.settle(2.5)
    return simulation
