"""A small pool under mixed faults drawn from a seed, and invariant I15: after calm all alive agree, none is failed.

Faults: kill, restart, restart at another address with the same ID, host gone, leave and return, cut in two, cut in one
direction, loss, duplicates, stalls. Then calm: what runs is left alone, what is down partly stays down.
`run_faults(seed)` repeats a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyconsul_agent.sim.pool import PoolAgent, PoolWorld, lan_without_compression
from pyconsul_agent.structs.member import MemberEvent, MemberEventKind
from pyconsul_agent.wire.gossip import NodeState

FAULTS_S = (60.0, 150.0)
PAUSE_S = (0.5, 10.0)
CALM_LIMIT_S = 90.0
"""From the end of the faults to agreement, at most. The last stall may last for 25 s of it."""
QUIET_S = 60.0
"""How long nobody may be called failed after all agreed."""
RETRY_JOIN_S = 10.0
WEIGHTS = {
    "kill": 4, "vanish": 2, "restart": 5, "move": 4, "leave": 1, "cut": 2, "heal": 3, "one_way": 1, "loss": 2,
    "stall": 4, "swap": 1,
}  # fmt: skip


@dataclass(slots=True)
class FaultsOutcome:
    """How one seed went; `failure` is "" if the invariant held."""

    seed: int
    failure: str = ""
    is_split: bool = False
    """It ended in parts of which none knew where any member of another was: nothing can heal that."""
    calm_s: float = 0.0
    virtual_s: float = 0.0
    done: list[str] = field(default_factory=list)


class PoolFaults:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.world = PoolWorld(seed, swim=lan_without_compression())
        self.outcome = FaultsOutcome(seed)
        self._rng = self.world.rng
        count = self._rng.randrange(4, 10)
        self._agents = self.world.form([f"n{number}" for number in range(count)])
        self._late: list[str] = []

    def run(self) -> FaultsOutcome:
        """Faults, then calm, then quiet."""
        world, outcome, rng = self.world, self.outcome, self._rng
        start = world.now
        world.loss, world.duplicates = rng.choice((0.0, 0.02, 0.05, 0.1)), rng.choice((0.0, 0.02))
        world.run(rng.uniform(0.0, 10.0))
        end = world.now + rng.uniform(*FAULTS_S)
        while world.now < end:
            (kind,) = rng.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))
            self._do(kind)
            world.run(rng.uniform(*PAUSE_S))
        self._calm()
        took = world.run_until(self._agreed, CALM_LIMIT_S, 0.25)
        if took is None:
            outcome.is_split = world.is_split()
        if outcome.is_split:
            outcome.done.append(f"{world.now:.1f} split")
        elif took is None:
            outcome.failure = "; ".join((world.disagreements() + world.zombies())[:5])
        else:
            outcome.calm_s = took
            world.on_event = self._on_event
            world.run(QUIET_S)
            outcome.failure = "; ".join((self._late + world.disagreements() + world.zombies())[:5])
        outcome.virtual_s = world.now - start
        return outcome

    def _agreed(self) -> bool:
        world = self.world
        if (
            world.disagreements()
            or world.zombies()
            or any(agent.running and not agent.present for agent in self._agents)
        ):
            return False
        living = list(world.living())
        return not any(
            agent.stalled or node.state is NodeState.SUSPECT for agent in living for node in agent.swim.nodes()
        )

    def _on_event(self, observer: PoolAgent, event: MemberEvent) -> None:
        if event.kind is MemberEventKind.FAILED:
            self._late.append(f"{observer.name} failed {event.member.name} at {self.world.now:.1f}")

    # --- faults -----------------------------------------------------------------------------------------------------

    def _do(self, kind: str) -> None:
        world, rng = self.world, self._rng
        up = [agent for agent in self._agents if agent.present]
        down = [agent for agent in self._agents if not agent.running]
        who = ""
        match kind:
            case "kill" | "vanish" if len(up) > 1:
                agent = rng.choice(up)
                world.kill(agent, vanish=kind == "vanish")
                who = agent.name
            case "restart" | "move" if down:
                agent = rng.choice(down)
                self._start(agent, move=kind == "move")
                who = agent.name
            case "move":
                agent = rng.choice(up)
                world.kill(agent)
                self._start(agent, move=True)
                who = agent.name
            case "swap" if len(down) > 1:
                who = self._swap(*rng.sample(down, 2))
            case "leave" if len(up) > 2:
                agent = rng.choice(up)
                world.leave(agent)
                who = agent.name
            case "cut":
                part = rng.sample(self._agents, rng.randrange(1, len(self._agents)))
                world.island = {agent.name: 1 for agent in part}
                who = " ".join(sorted(world.island))
            case "one_way":
                one, other = rng.sample(self._agents, 2)
                world.one_way.add((one.name, other.name))
                who = f"{one.name}>{other.name}"
            case "heal":
                world.island, world.one_way = {}, set()
            case "loss":
                world.loss = rng.choice((0.0, 0.05, 0.2, 0.4))
                who = f"{world.loss}"
            case "stall" if up:
                agent, span = rng.choice(up), rng.uniform(0.3, 25.0)
                world.stall(agent, span)
                who = f"{agent.name} {span:.1f}"
        self.outcome.done.append(f"{world.now:.1f} {kind} {who}".rstrip())

    def _start(self, agent: PoolAgent, *, move: bool = False) -> None:
        self.world.restart(agent, move=move)
        self._retry_join(agent, agent.lives)

    def _swap(self, one: PoolAgent, other: PoolAgent) -> str:
        """Two that are down come back with each other's address."""
        self.world.swap_addresses(one, other)
        self._start(one)
        self._start(other)
        return f"{one.name} {other.name}"

    def _retry_join(self, agent: PoolAgent, life: int) -> None:
        """As `retry_join` with names: others, wherever they are now, until one has answered."""
        world = self.world
        if agent.lives != life or not agent.present or len(agent.serf.members()) > 1:
            return
        world.join(agent, [other for other in self._agents if other is not agent])
        world.after(RETRY_JOIN_S, self._retry_join, agent, life)

    def _calm(self) -> None:
        """No more faults. Who is down stays down or returns."""
        world = self.world
        world.island, world.one_way, world.loss, world.duplicates = {}, set(), min(world.loss, 0.05), 0.0
        for agent in self._agents:
            if not agent.running and self._rng.random() < 0.5:
                self._start(agent, move=self._rng.random() < 0.3)
        self.outcome.done.append(f"{world.now:.1f} calm")


def run_faults(seed: int) -> FaultsOutcome:
    """One seed."""
    return PoolFaults(seed).run()
