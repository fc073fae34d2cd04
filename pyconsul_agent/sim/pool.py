"""A gossip pool as bare cores: hundreds of `Swim` and `Serf` values on one heap of events, no event loop, no sockets.

For what only time or numbers show: a day of thirty members, a pool of a thousand. Does to the cores what
`runtime.gossip` does, in the same order; a whole agent under faults is `sim.cluster`. Everything follows from the seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.consul import AgentTags, LanRules, client_tags
from pyconsul_agent.serf.core import Serf
from pyconsul_agent.serf.effects import AppendSnapshot, Reconnect, ReplaceSnapshot, SendUser, SerfEffect
from pyconsul_agent.serf.intents import SerfState
from pyconsul_agent.structs.member import MemberEvent, MemberStatus
from pyconsul_agent.swim.config import LAN, SwimConfig
from pyconsul_agent.swim.core import Swim
from pyconsul_agent.swim.effects import BroadcastFinished, JoinFinished, LogLine, OpenStream, SendPacket
from pyconsul_agent.wire.gossip import Address, PushPull, StreamMessage
from pyconsul_agent.wire.gossip_stream import decode_stream
from pyconsul_agent.wire.serf_snapshot import replay

SOCKET_PACKETS_MAX = 2048
"""What the operating system keeps for a process that does not read."""
REJOIN_INTERVAL_S = 30.0
REJOIN_STAGGER_S = 1.0
DATACENTER = "dc1"

Joined = Callable[[str | None], None]


@dataclass(slots=True, eq=False)
class PoolAgent:
    """One member. `lives` counts its starts; `lag` is what a wake-up tells its core."""

    name: str
    node_id: str
    address: Address
    rng: random.Random
    swim: Swim
    serf: Serf
    running: bool = True
    vanished: bool = False
    stalled: bool = False
    armed: float = 0.0
    lives: int = 1
    awake_since: float = 0.0
    """When it last started or came out of a stall."""
    socket: list[tuple[bytes, Address]] = field(default_factory=list)
    held: list[Callable[[], None]] = field(default_factory=list)
    joins: dict[int, Joined] = field(default_factory=dict)
    snapshot: list[str] = field(default_factory=list)

    def statuses(self) -> dict[str, str]:
        """What it shows as `consul members`."""
        return {member.name: member.status.word for member in self.serf.members()}

    @property
    def present(self) -> bool:
        """Whether it runs and neither leaves nor has left."""
        return self.running and self.serf.state is SerfState.ALIVE


class PoolWorld:
    """The agents, the network between them, and time."""

    def __init__(
        self,
        seed: int,
        *,
        swim: SwimConfig = LAN,
        serf: SerfConfig | None = None,
        loss: float = 0.0,
        latency_s: float = 0.002,
        snapshots: bool = True,
    ) -> None:
        self.seed = seed
        self.now = 1000.0
        self.loss = loss
        self.duplicates = 0.0
        self.latency_s = latency_s
        self.rng = random.Random(f"pool {seed}")  # noqa: S311 - a simulation
        self.agents: dict[str, PoolAgent] = {}
        self.by_address: dict[Address, PoolAgent] = {}
        self.island: dict[str, int] = {}
        """Who is on which side of a cut; who is not in it is on side 0."""
        self.one_way: set[tuple[str, str]] = set()
        """(from, to) by name: nothing gets through."""
        self.on_event: Callable[[PoolAgent, MemberEvent], None] | None = None
        self.on_log: Callable[[PoolAgent, LogLine], None] | None = None
        self.packets = 0
        self.events = 0
        self._swim_config = swim
        self._serf_config = serf or SerfConfig()
        self._snapshots = snapshots
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._addresses = 0

    # --- time -----------------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` at `when`; equal times in the order of the calls."""
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, action, arguments))

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """As `at`, from now."""
        self.at(self.now + seconds, action, *arguments)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end, heap, pop = self.now + seconds, self._heap, heapq.heappop
        while heap and heap[0][0] <= end:
            self.now, _, action, arguments = pop(heap)
            self.events += 1
            action(*arguments)
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_s: float, step_s: float = 0.05) -> float | None:
        """Seconds until `condition`, or None if it did not come within `limit_s`."""
        start = self.now
        while not condition():
            if self.now - start >= limit_s:
                return None
            self.run(step_s)
        return self.now - start

    # --- agents -----------------------------------------------------------------------------------------------------

    def fresh_address(self) -> Address:
        """An address that nobody had yet."""
        self._addresses += 1
        number = self._addresses
        return (f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 8301)

    def add(self, name: str) -> PoolAgent:
        """A new agent that knows nobody."""
        rng = random.Random(f"{self.seed} {name}")  # noqa: S311 - a simulation
        node_id = f"{rng.getrandbits(128):032x}"
        address = self.fresh_address()
        swim, serf = self._cores(name, node_id, address, rng, None)
        agent = PoolAgent(name, node_id, address, rng, swim, serf)
        self.agents[name] = self.by_address[address] = agent
        self._start(agent)
        return agent

    def _cores(
        self, name: str, node_id: str, address: Address, rng: random.Random, snapshot: list[str] | None
    ) -> tuple[Swim, Serf]:
        tags = client_tags(AgentTags(datacenter=DATACENTER, node_id=node_id, build="1.10.11:3e0b3b0f"))
        state = replay("".join(snapshot or ()), rejoin_after_leave=False) if self._snapshots else None
        veto = LanRules(name, node_id, DATACENTER)
        serf = Serf(self._serf_config, name=name, tags=tags, rng=rng, veto=veto, snapshot=state)
        swim = Swim(self._swim_config, name=name, advertise=address, delegate=serf, rng=rng)
        return swim, serf

    def _start(self, agent: PoolAgent) -> None:
        agent.awake_since = self.now
        agent.serf.start(self.now)
        agent.swim.start(self.now)
        self.settle(agent)

    def kill(self, agent: PoolAgent, *, vanish: bool = False) -> None:
        """As kill -9: the host lives on and refuses connections; `vanish`: the host is gone too and says nothing."""
        agent.running = False
        agent.vanished = vanish
        agent.stalled = False
        agent.socket.clear()
        agent.held.clear()
        agent.joins.clear()

    def restart(self, agent: PoolAgent, *, move: bool = False) -> None:
        """A new process from its snapshot, `move`: with another address and the same ID. It rejoins by itself."""
        if move:
            del self.by_address[agent.address]
            agent.address = self.fresh_address()
            self.by_address[agent.address] = agent
        known = dict(replay("".join(agent.snapshot), rejoin_after_leave=False).alive)
        agent.swim, agent.serf = self._cores(agent.name, agent.node_id, agent.address, agent.rng, agent.snapshot)
        agent.running, agent.vanished, agent.stalled, agent.armed = True, False, False, 0.0
        agent.lives += 1
        self._start(agent)
        self._rejoin(agent, agent.lives, [_address(text) for name, text in known.items() if name != agent.name])

    def swap_addresses(self, one: PoolAgent, other: PoolAgent) -> None:
        """Two that are down have each other's address from now on."""
        assert not one.running and not other.running
        one.address, other.address = other.address, one.address
        self.by_address[one.address], self.by_address[other.address] = one, other

    def _rejoin(self, agent: PoolAgent, life: int, known: Sequence[Address]) -> None:
        """In random order, one a second, until one answers; all again later."""
        order = list(known)
        agent.rng.shuffle(order)
        answered = False

        def finished(error: str | None) -> None:
            nonlocal answered
            answered = answered or error is None

        def attempt() -> None:
            if agent.lives != life or not agent.running or answered:
                return
            if order:
                self._push_pull(agent, order.pop(), finished)
                self.after(REJOIN_STAGGER_S, attempt)
            elif len(agent.serf.members()) == 1:
                self.after(REJOIN_INTERVAL_S, self._rejoin, agent, life, known)

        attempt()

    def join(self, agent: PoolAgent, contacts: Sequence[PoolAgent]) -> None:
        """As `consul join`."""
        left = len(contacts)
        joined = 0
        agent.serf.begin_join()

        def finished(error: str | None) -> None:
            nonlocal left, joined
            left, joined = left - 1, joined + (error is None)
            if not left:
                agent.serf.finish_join(joined, self.now)

        for contact in contacts:
            self._push_pull(agent, contact.address, finished)

    def _push_pull(self, agent: PoolAgent, to: Address, joined: Joined) -> None:
        (number,) = agent.swim.join([("", to)], self.now)
        agent.joins[number] = joined
        self.settle(agent)

    def leave(self, agent: PoolAgent) -> None:
        """As `consul leave`: the intent, then memberlist's word, then the end of the process."""
        agent.serf.begin_leave(self.now)
        self.settle(agent)
        life = agent.lives

        def second() -> None:
            if agent.lives == life and agent.running:
                agent.swim.leave(self.now, self._serf_config.broadcast_timeout_s)
                self.settle(agent)
                self.after(self._serf_config.leave_propagate_delay_s + 1.0, third)

        def third() -> None:
            if agent.lives == life and agent.running:
                agent.serf.finish_leave()
                self.settle(agent)
                self.kill(agent)

        self.after(2.0, second)

    def form(self, names: Sequence[str], *, at_rest: bool = True) -> list[PoolAgent]:
        """Agents that all know each other, as after a long time: one push/pull each with all records."""
        agents = [self.add(name) for name in names]
        states = tuple(state for agent in agents for state in _own_state(agent))
        for agent in agents:
            agent.swim.stream_requested(PushPull(False, states, b""), agent.address, self.now)
            if at_rest:
                agent.swim.forget_broadcasts()
            self.settle(agent)
        return agents

    def living(self) -> Iterator[PoolAgent]:
        """Agents that run and have not left."""
        return (agent for agent in self.agents.values() if agent.present)

    # --- stalls -----------------------------------------------------------------------------------------------------

    def stall(self, agent: PoolAgent, seconds: float) -> None:
        """Its process does nothing for so long: what comes waits in the socket, its timers run late."""
        if agent.running and not agent.stalled:
            agent.stalled = True
            self.after(seconds, self._wake, agent, agent.lives)

    def _wake(self, agent: PoolAgent, life: int) -> None:
        if agent.lives != life or not agent.running or not agent.stalled:
            return
        agent.stalled = False
        agent.awake_since = self.now
        if agent.armed and agent.armed < self.now:
            agent.swim.note_lag(self.now - agent.armed, self.now)
        packets, agent.socket = agent.socket, []
        held, agent.held = agent.held, []
        agent.swim.receive(packets, self.now)
        self.settle(agent)
        for action in held:
            action()
        self._tick_now(agent)

    # --- what the driver does -----------------------------------------------------------------------------------------

    def settle(self, agent: PoolAgent) -> None:
        """Carry out the effects of an input, and what they cause; then set the timer."""
        swim, serf = agent.swim, agent.serf
        while True:
            effects, told = swim.take(), serf.take()
            if not effects and not told:
                break
            for serf_effect in told:
                self._do_serf(agent, serf_effect)
            for effect in effects:
                kind = type(effect)
                if kind is SendPacket:
                    self._send(agent, effect.data, effect.to)  # type: ignore[union-attr]
                elif kind is OpenStream:
                    self._dial(agent, effect)  # type: ignore[arg-type]
                elif kind is JoinFinished:
                    joined = agent.joins.pop(effect.id, None)  # type: ignore[union-attr]
                    if joined is not None:
                        joined(effect.error)  # type: ignore[union-attr]
                elif kind is LogLine:
                    if self.on_log is not None:
                        self.on_log(agent, effect)  # type: ignore[arg-type]
                elif kind is not BroadcastFinished:
                    serf.handle(effect, self.now)
                    for serf_effect in serf.take():
                        self._do_serf(agent, serf_effect)
        self._arm(agent)

    def _do_serf(self, agent: PoolAgent, effect: SerfEffect) -> None:
        match effect:
            case MemberEvent():
                if self.on_event is not None:
                    self.on_event(agent, effect)
            case SendUser(to, data):
                agent.swim.send_user(to, data)
            case Reconnect():
                (number,) = agent.swim.join([(effect.name, effect.to)], self.now)
                agent.joins[number] = _nothing
            case AppendSnapshot(text):
                agent.snapshot.append(text)
            case ReplaceSnapshot(text):
                agent.snapshot[:] = [text]
            case LogLine():
                if self.on_log is not None:
                    self.on_log(agent, effect)

    def _arm(self, agent: PoolAgent) -> None:
        first, second = agent.swim.next_deadline(), agent.serf.next_deadline()
        due = first if second is None or (first is not None and first <= second) else second
        if due is not None and due != agent.armed:
            agent.armed = due
            self.at(max(due, self.now), self._tick, agent, agent.lives, due)

    def _tick(self, agent: PoolAgent, life: int, due: float) -> None:
        if agent.running and agent.lives == life and agent.armed == due and not agent.stalled:
            self._tick_now(agent)

    def _tick_now(self, agent: PoolAgent) -> None:
        agent.armed = 0.0
        agent.swim.tick(self.now)
        agent.serf.tick(self.now)
        self.settle(agent)

    # --- the network ------------------------------------------------------------------------------------------------

    def _passable(self, a: PoolAgent, b: PoolAgent) -> bool:
        if self.island and self.island.get(a.name, 0) != self.island.get(b.name, 0):
            return False
        return (a.name, b.name) not in self.one_way

    def _delay(self) -> float:
        return self.latency_s * (0.25 + 1.5 * self.rng.random())

    def _send(self, agent: PoolAgent, data: bytes, to: Address) -> None:
        self.packets += 1
        if self.loss and self.rng.random() < self.loss:
            return
        target = self.by_address.get(to)
        if target is not None and self._passable(agent, target):
            if self.duplicates and self.rng.random() < self.duplicates:
                self.after(3 * self._delay(), self._arrive, target, target.lives, data, agent.address)
            self.after(self._delay(), self._arrive, target, target.lives, data, agent.address)

    def _arrive(self, agent: PoolAgent, life: int, data: bytes, source: Address) -> None:
        if not agent.running or agent.lives != life:
            return
        if agent.stalled:
            if len(agent.socket) < SOCKET_PACKETS_MAX:
                agent.socket.append((data, source))
            return
        agent.swim.receive(((data, source),), self.now)
        self.settle(agent)

    def _dial(self, agent: PoolAgent, order: OpenStream) -> None:
        """TCP: one round trip to connect, one for the exchange; lost packets are sent again after a while."""
        delay = 3 * self._delay()
        if self.loss and self.rng.random() < 3 * self.loss:
            delay += 0.2 + self.rng.random()
        self.after(delay, self._connect, agent, agent.lives, order)

    def _connect(self, agent: PoolAgent, life: int, order: OpenStream) -> None:
        target = self.by_address.get(order.to)
        if target is None or target.vanished or not self._passable(agent, target) or not self._passable(target, agent):
            self.at(max(order.deadline, self.now), self._finish, agent, life, order, "i/o timeout")
        elif not target.running:
            self._finish(agent, life, order, "connection refused")
        elif target.stalled:
            target.held.append(lambda: self._connect(agent, life, order))
            self.at(max(order.deadline, self.now), self._finish, agent, life, order, "i/o timeout")
        else:
            answer = target.swim.stream_requested(decode_stream(order.request), agent.address, self.now)
            self.settle(target)
            result = "EOF" if answer is None else decode_stream(answer)
            self.after(self._delay(), self._finish, agent, life, order, result)

    def _finish(self, agent: PoolAgent, life: int, order: OpenStream, result: StreamMessage | str) -> None:
        if not agent.running or agent.lives != life:
            return
        if agent.stalled:
            agent.held.append(lambda: self._finish(agent, life, order, result))
            return
        if isinstance(result, str) or order.deadline < self.now:
            text = result if isinstance(result, str) else "i/o timeout"
            agent.swim.stream_failed(order.id, text, self.now, refused=text == "connection refused")
        else:
            agent.swim.stream_answered(order.id, result, self.now)
        self.settle(agent)

    # --- judging ----------------------------------------------------------------------------------------------------

    def disagreements(self) -> list[str]:
        """Where agents that run are wrong about each other (I15): all must be alive for all, where they are."""
        living = list(self.living())
        found = []
        for agent in living:
            for other in living:
                member = agent.serf.member(other.name)
                if member is None or member.status is not MemberStatus.ALIVE:
                    found.append(f"{agent.name} holds {other.name} for {member.status.word if member else 'unknown'}")
                elif (member.address, member.port) != other.address:
                    found.append(f"{agent.name} thinks {other.name} is at {member.address}")
        return found

    def is_split(self) -> bool:
        """Whether the living fall into parts of which none knows where any of another is, so that none can find it."""
        living = {agent.address: agent for agent in self.living()}
        side = {address: address for address in living}

        def root(address: Address) -> Address:
            while side[address] != address:
                address = side[address]
            return address

        for address, agent in living.items():
            for known in agent.serf.known_addresses():
                if known in side:
                    side[root(address)] = root(known)
        return len({root(address) for address in side}) > 1

    def zombies(self) -> list[str]:
        """Where agents that run still hold for alive who does not run."""
        return [
            f"{agent.name} holds {name} for {member.status.word}"
            for agent in self.living()
            for name, gone in self.agents.items()
            if not gone.running
            for member in (agent.serf.member(name),)
            if member is not None and member.status in (MemberStatus.ALIVE, MemberStatus.LEAVING)
        ]


def _own_state(agent: PoolAgent) -> Iterator[Any]:
    message = agent.swim.local_state()
    return (state for state in message.states if state.name == agent.name)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port))


def _nothing(error: str | None) -> None:
    """A reconnect reports to nobody."""


def lan_without_compression() -> SwimConfig:
    """LAN's numbers; the simulator need not compress what nobody measures."""
    return replace(LAN, compression=False)
