"""One seed: draw the options, run the cluster under load and faults, heal, require life, judge the history.

Safety first (the watching checkers speak at once), then liveness: all faults are healed, and within fixed times there
must be a leader, writes must pass, all servers must hold the same state and all agents must see each other alive.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pyconsul_agent.runtime.tasks import together
from pyconsul_agent.sim.checkers import (
    agreement,
    blocking,
    leftovers,
    linearizable,
    locks,
    monotone_index,
    no_lost_write,
    same_state,
)
from pyconsul_agent.sim.checkers.one_leader import OneLeader
from pyconsul_agent.sim.checkers.same_sequence import SameSequence
from pyconsul_agent.sim.cluster import Cluster, Node, Unmet
from pyconsul_agent.sim.faults import Fault, FaultDriver, FaultOptions, schedule
from pyconsul_agent.sim.history import History, Truth, Violation
from pyconsul_agent.sim.loop import START_S, SimError
from pyconsul_agent.sim.net import LinkOptions
from pyconsul_agent.sim.workload import SESSION_TTL_S, Workload, WorkloadOptions
from pyconsul_agent.sim.world import World
from pyconsul_agent.structs.raft import LogEntry, Suffrage

LEADER_WITHIN_ELECTIONS = 10
ELECTION_S = 1.0
"""Times raft_multiplier."""
WRITES = 20
WRITE_WITHIN_S = 20.0
AGREE_WITHIN_S = 120.0
VOTE_WITHIN_S = 90.0
EQUAL_WITHIN_S = 30.0
PATIENT_EVERY = 4
"""Every so many seeds waits for anti-entropy, which takes minutes."""
CATALOG_WITHIN_S = 250.0
STEPS_MAX = 3_000_000
TIME_MAX_S = 3600.0


@dataclass(frozen=True, slots=True)
class Profile:
    """How long and how hard."""

    name: str
    servers: tuple[int, ...]
    span_s: tuple[float, float]
    multipliers: tuple[int, ...]


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", (3,), (6.0, 12.0), (1,)),
        Profile("article", (3,), (15.0, 40.0), (1, 1, 2, 5)),
    )
}


@dataclass(slots=True)
class Drawn:
    """Everything that the seed decided beforehand."""

    seed: int
    profile: str
    servers: int
    raft_multiplier: int
    snapshot_threshold: int
    trailing_logs: int
    link: LinkOptions
    load: WorkloadOptions
    faults: FaultOptions
    only: tuple[int, ...] | None = None
    """Positions of the faults to perform; None: all that were drawn."""
    plan: list[Fault] = field(default_factory=list)

    def text(self) -> str:
        """For the operator's eyes."""
        head = (
            f"seed {self.seed} profile={self.profile} servers={self.servers} raft_multiplier={self.raft_multiplier}"
            f" snapshot_threshold={self.snapshot_threshold} trailing_logs={self.trailing_logs}\n"
            f"  link   {self.link}\n  load   {self.load}\n  faults {self.faults}"
        )
        return "\n".join([head, *(f"  {fault}" for fault in self.plan)])


@dataclass(slots=True)
class Outcome:
    """How a seed ended."""

    seed: int
    failure: str
    digest: str
    virtual_s: float
    real_s: float
    history: History
    drawn: Drawn

    def line(self) -> str:
        """One line, or more for a failure."""
        counts = " ".join(f"{name}={self.history.count(name)}" for name in ("ok", "fail", "info"))
        if not self.failure:
            return f"seed {self.seed}: ok digest={self.digest[:16]} t={self.virtual_s:.1f}s {counts}"
        only = self.drawn.only
        chosen = "" if only is None else f" --faults {','.join(map(str, only))}"
        return (
            f"seed {self.seed}: FAILED t={self.virtual_s:.1f}s {counts}\n{self.failure}\n"
            f"replay: python -m pyconsul_agent.simulate --seed {self.seed} --profile {self.drawn.profile}{chosen} -v"
        )


def processor_s() -> float:
    """Processor time of this process so far: speeds are told in it, because others may use the machine too."""
    return time.process_time()


def draw(seed: int, profile: Profile) -> Drawn:
    """The options of a seed. The plan of faults is drawn when the cluster is known."""
    rng = random.Random(f"{seed}/options")  # noqa: S311 - a simulation
    return Drawn(
        seed=seed,
        profile=profile.name,
        servers=rng.choice(profile.servers),
        raft_multiplier=rng.choice(profile.multipliers),
        snapshot_threshold=rng.choice((16384, 16384, 20, 60)),
        trailing_logs=rng.choice((10240, 5, 20)),
        link=LinkOptions(
            latency_s=rng.choice((0.0003, 0.001, 0.01)),
            latency_sigma=rng.choice((0.1, 0.5, 1.0)),
            loss=rng.choice((0.0, 0.0, 0.01, 0.05)),
        ),
        load=WorkloadOptions.draw(rng),
        faults=FaultOptions.draw(rng, span_s=profile.span_s),
    )


def run_seed(
    seed: int, profile: Profile, *, say: Callable[[str], None] | None = None, only: tuple[int, ...] | None = None
) -> Outcome:
    """Run one seed to its end, with `only` these of its faults. Never raises for what the cluster does wrong."""
    drawn = draw(seed, profile)
    drawn.only = only
    began = time.perf_counter()
    with World(seed, link=drawn.link, steps_max=STEPS_MAX, time_max_s=TIME_MAX_S) as world:
        run = SeedRun(world, drawn, say)
        failure = ""
        try:
            world.run(run.scenario())
            run.judge()
        except (Violation, Unmet, SimError) as error:
            failure = f"{type(error).__name__}: {error}\n{run.cluster.describe()}"
        except ExceptionGroup as error:
            failure = f"{error!r}"
        return Outcome(
            seed, failure, world.digest(), world.loop.time() - START_S, time.perf_counter() - began,
            run.history, drawn,
        )  # fmt: skip


class SeedRun:
    """The scenario of a seed."""

    def __init__(self, world: World, drawn: Drawn, say: Callable[[str], None] | None) -> None:
        self.world = world
        self.drawn = drawn
        self._say = say
        self.cluster = Cluster(world, verbose=say)
        self.cluster.article(
            servers=drawn.servers,
            performance={"raft_multiplier": drawn.raft_multiplier},
            raft_snapshot_threshold=drawn.snapshot_threshold,
            raft_snapshot_interval="5s",
            raft_trailing_logs=drawn.trailing_logs,
        )
        self.truth = Truth()
        self.leaders = OneLeader()
        self.sequence = SameSequence()
        self.cluster.probes.elected.append(self._elected)
        self.cluster.probes.applied.append(self._applied)
        self.violations: list[Violation] = []
        self.load = Workload(self.cluster, self.truth, drawn.load, world.draw("workload"))
        self.history = self.load.history
        plan = schedule(drawn.faults, self.cluster, world.draw("faults"))
        drawn.plan = plan if drawn.only is None else [plan[position] for position in drawn.only]
        self.driver = FaultDriver(self.cluster, drawn.plan)
        if say is not None:
            say(drawn.text() + "\n")

    # --- watching ---------------------------------------------------------------------------------------------------

    def _elected(self, node: Node, term: int) -> None:
        self._note(lambda: self.leaders.elected(node.name, term))

    def _applied(self, node: Node, entry: LogEntry, result: object) -> None:
        self._note(lambda: self.sequence.applied(node.name, node.process.lives, entry, result))
        self.truth.add(entry, result, self.world.loop.time())

    def _note(self, look: Callable[[], None]) -> None:
        """The agent must not see what a checker raises; the scenario does, soon."""
        try:
            look()
        except Violation as error:
            self.violations.append(error)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self._raise_found()

    def _raise_found(self) -> None:
        if self.violations:
            raise self.violations[0]
        for node in self.cluster.nodes.values():
            if any(node.exit_codes) and node.name not in self.driver.may_exit:
                raise Violation(f"an agent ended by itself: {node.name}, exit codes {node.exit_codes}")
        if self.cluster.complaints and not self.driver.may_exit:
            raise Violation("an agent logged a defect: " + self.cluster.complaints[0])

    # --- the scenario -----------------------------------------------------------------------------------------------

    async def scenario(self) -> None:
        """All of it; raises Violation, Unmet or SimError."""
        await together(self._watch(), self._all())

    async def _all(self) -> None:
        self.cluster.start()
        await self.cluster.ready()
        await self.cluster.until("the client", lambda: self.cluster.nodes["client1"].running, 10.0)
        await self._faults()
        await self._alive()
        await self.load.close()
        await self.cluster.stop()
        await asyncio.sleep(5.0)  # what the network still carries arrives nowhere
        self._raise_found()

    async def _faults(self) -> None:
        work = asyncio.get_running_loop().create_task(self.load.run())
        await self.driver.run()
        self._mark("faults are over")
        self.load.stop()
        await work
        self.cluster.heal()

    def _mark(self, text: str) -> None:
        if self._say is not None:
            self._say(f"{self.world.loop.time():10.4f} ===== {text}\n")

    async def _alive(self) -> None:
        within = LEADER_WITHIN_ELECTIONS * ELECTION_S * self.drawn.raft_multiplier + 10.0
        await self.cluster.ready(within)
        self._mark("ready")
        for number in range(WRITES):
            await self._write_one(number)
        self._mark("written")
        # A server that was taken for dead is a raft peer again once gossip has found it (push/pulls: 30 s).
        await self.cluster.until("all alive in all views", lambda: not self._disagreements(), AGREE_WITHIN_S)
        self._mark("alive")
        await self.cluster.until("all servers vote", self._all_vote, VOTE_WITHIN_S)
        await self.cluster.until("equal applied indexes", self._equal, EQUAL_WITHIN_S)
        same_state.check(self._states())
        if self.drawn.seed % PATIENT_EVERY == 0:
            await self._catalog_agrees()

    async def _write_one(self, number: int) -> None:
        loop, nodes = self.world.loop, self.load.nodes
        deadline, attempt = loop.time() + WRITE_WITHIN_S, 0
        while loop.time() < deadline:
            node, attempt = nodes[(number + attempt) % len(nodes)], attempt + 1
            value = f"live.{number}.{attempt}"
            done = await self.load.inside(lambda: self.load.put(-1, node, "key/live", value))  # noqa: B023
            if done.outcome == "ok":
                return
            await asyncio.sleep(0.2)
        raise Unmet(f"write {number} of the liveness phase: {done}\n{self.cluster.describe()}")

    async def _catalog_agrees(self) -> None:
        """Anti-entropy repairs within two of its rounds what the faults kept from the catalog."""
        deadline = self.world.loop.time() + CATALOG_WITHIN_S
        for node in self.cluster.nodes.values():
            while True:
                catalog = await self.load.services(self.load.nodes[0], node.name)
                agent = node.agent
                assert agent is not None
                local = [(service.id, tuple(service.tags or ())) for service in agent.state.live_services().values()]
                if catalog is not None and sorted(local) == catalog:
                    break
                if self.world.loop.time() >= deadline:
                    agreement.check_catalog(node.name, local, catalog or ())
                await asyncio.sleep(2.0)

    def _all_vote(self) -> bool:
        leader = self.cluster.leader
        if leader is None:
            return False
        voters = [
            server for server in leader.raft.configuration()[0].servers or () if server.suffrage == Suffrage.VOTER
        ]
        return len(voters) == len(self.cluster.servers)

    def _equal(self) -> bool:
        servers = self.cluster.servers
        return (
            all(node.running for node in servers)
            and len({(node.raft.applied_index, node.raft.last_index) for node in servers}) == 1
        )

    def _states(self) -> dict[str, tuple[int, bytes]]:
        return {
            node.name: (node.raft.applied_index, node.server.machine.state_digest()) for node in self.cluster.servers
        }

    def _disagreements(self) -> list[str]:
        if not all(node.running for node in self.cluster.nodes.values()):
            return ["somebody is down"]
        return agreement.disagreements({name: node.statuses() for name, node in self.cluster.nodes.items()})

    def judge(self) -> None:
        """The checkers of whole histories. Raises Violation."""
        leftovers.check(self.world)
        no_lost_write.check(self.history, self.truth)
        linearizable.check(self.history, self.truth)
        monotone_index.check(self.history)
        blocking.check(self.history, self.cluster.restored)
        locks.check(self.history, self.truth)
        locks.check_sessions(self.history, self.truth, ttl_s=SESSION_TTL_S)


def run_profile(name: str, seeds: range) -> list[Outcome]:
    """Some seeds one after the other."""
    return [run_seed(seed, PROFILES[name]) for seed in seeds]
