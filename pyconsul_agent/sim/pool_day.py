"""A long time in the life of a pool: packets get lost, one member is sick, members die and return, the net is cut.

Proves what `docs/reliability.md` promises of gossip: a healthy member is never `failed`, a dead one is soon, and after
a cut all agree again. `PoolDay.run` gives a `DayReport`; a promise that is broken is a line in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyconsul_agent.sim.pool import PoolAgent, PoolWorld, lan_without_compression
from pyconsul_agent.structs.member import MemberEvent, MemberEventKind, MemberStatus

AFTER_STALL_S = 10.0
"""Who comes out of a stall counts as healthy again after so long: the word of its death may still be on its way."""
AFTER_CUT_S = 15.0
FAILURE_EVERY_S = 600.0
CUT_EVERY_S = 3600.0
CUT_S = 45.0
DOWN_S = 90.0
DETECTION_S_MAX = 8.0
AGREEMENT_S_MAX = 10.0
FAULTS_KEPT = 20


@dataclass(slots=True)
class DayReport:
    """What was seen. Spans in virtual seconds."""

    false_failures: list[str] = field(default_factory=list)
    undetected: list[str] = field(default_factory=list)
    detection_s: list[float] = field(default_factory=list)
    known_by_all_s: list[float] = field(default_factory=list)
    return_s: list[float] = field(default_factory=list)
    heal_s: list[float] = field(default_factory=list)
    stalls: int = 0
    stalled_failed: int = 0
    packets: int = 0
    virtual_s: float = 0.0

    def broken(self, *, detection: bool = True) -> list[str]:
        """The promises that were not kept; without `detection` that of detecting the dead in time is not asked for."""
        found = [*self.false_failures, *self.undetected]
        if detection:
            found += [f"a death seen after {span:.2f} s" for span in self.detection_s if span > DETECTION_S_MAX]
        found += [f"a return known by all after {span:.2f} s" for span in self.return_s if span > AGREEMENT_S_MAX]
        found += [f"agreement {span:.2f} s after a cut" for span in self.heal_s if span > AGREEMENT_S_MAX]
        return found

    def text(self) -> str:
        """All of it, one line a kind."""
        return "\n".join(
            [
                f"{self.virtual_s / 3600:.2f} h, {self.packets} packets, {self.stalls} stalls"
                f" ({self.stalled_failed} times the stalled one was taken for failed)",
                f"healthy members failed: {len(self.false_failures)} {self.false_failures[:FAULTS_KEPT]}",
                f"dead members not seen: {len(self.undetected)} {self.undetected[:FAULTS_KEPT]}",
                f"detection: {_spread(self.detection_s)}",
                f"detection known by all: {_spread(self.known_by_all_s)}",
                f"return known by all: {_spread(self.return_s)}",
                f"agreement after a cut: {_spread(self.heal_s)}",
            ]
        )


def _spread(values: list[float]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)
    pick = [ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.95, 0.99)]
    return f"n={len(ordered)} median {pick[0]:.2f} p95 {pick[1]:.2f} p99 {pick[2]:.2f} max {ordered[-1]:.2f} s"


class PoolDay:
    """One run. The last agent is the sick one: it stalls `stall_s` of every `stall_every_s`."""

    def __init__(
        self,
        seed: int,
        *,
        agents: int = 30,
        loss: float = 0.05,
        stall_s: float = 20.0,
        stall_every_s: float = 60.0,
        vanish: bool = False,
    ) -> None:
        """`vanish`: who dies takes its host along, so nothing refuses a connection."""
        self.world = PoolWorld(seed, swim=lan_without_compression(), loss=loss, snapshots=False)
        self.report = DayReport()
        self._vanish = vanish
        self._stall_s, self._stall_every_s = stall_s, stall_every_s
        self._agents = self.world.form([f"n{number}" for number in range(agents)])
        self._sick = self._agents[-1]
        self._cut_until = 0.0
        self._failures: dict[str, list[float]] = {}
        self.world.on_event = self._on_event

    def run(self, hours: float) -> DayReport:
        """The report after so long."""
        world, report = self.world, self.report
        end = world.now + hours * 3600.0
        if self._stall_s:
            world.after(self._stall_every_s - self._stall_s, self._stall)
        next_cut = world.now + CUT_EVERY_S / 2
        start = world.now
        while world.now < end:
            world.run(FAILURE_EVERY_S / 2 * (0.5 + world.rng.random()))
            if world.now >= next_cut:
                next_cut += CUT_EVERY_S
                self._cut()
            else:
                self._fail_one()
        report.packets, report.virtual_s = world.packets, world.now - start
        return report

    # --- faults -----------------------------------------------------------------------------------------------------

    def _stall(self) -> None:
        self.world.stall(self._sick, self._stall_s)
        self.report.stalls += 1
        self.world.after(self._stall_every_s, self._stall)

    def _fail_one(self) -> None:
        """Kill a healthy member, wait until all know, start it again."""
        world, report = self.world, self.report
        victim = world.rng.choice(self._agents[:-1])
        others = [agent for agent in self._agents if agent is not victim and agent is not self._sick]
        killed_at = world.now
        self._failures.pop(victim.name, None)
        world.kill(victim, vanish=self._vanish)
        took = world.run_until(lambda: _all_hold(others, victim, MemberStatus.FAILED), DOWN_S, 0.1)
        seen = self._failures.get(victim.name)
        if took is None or not seen:
            report.undetected.append(f"{victim.name} at {killed_at:.0f}")
        else:
            report.detection_s.append(seen[0] - killed_at)
            report.known_by_all_s.append(took)
        world.run(DOWN_S * world.rng.random())
        world.restart(victim)
        contacts = world.rng.sample(others, 3)
        world.join(victim, contacts)
        back = world.run_until(lambda: _all_hold(others, victim, MemberStatus.ALIVE), DOWN_S, 0.1)
        if back is None:
            report.undetected.append(f"return of {victim.name} at {killed_at:.0f}")
        else:
            report.return_s.append(back)

    def _cut(self) -> None:
        """Cut the net into two parts for a while, then see how long all take to agree."""
        world = self.world
        size = world.rng.randrange(1, len(self._agents) // 2 + 1)
        part = world.rng.sample(self._agents, size)
        world.island = {agent.name: 1 for agent in part}
        self._cut_until = float("inf")
        world.run(CUT_S)
        world.island = {}
        healthy = [agent for agent in self._agents if agent is not self._sick]

        def agreed() -> bool:
            return all(_all_hold(healthy, agent, MemberStatus.ALIVE) for agent in healthy)

        took = world.run_until(agreed, 300.0, 0.1)
        if took is None:
            self.report.undetected.append(f"no agreement after the cut at {world.now:.0f}")
        else:
            self.report.heal_s.append(took)
        self._cut_until = world.now + AFTER_CUT_S

    # --- judging ----------------------------------------------------------------------------------------------------

    def _on_event(self, observer: PoolAgent, event: MemberEvent) -> None:
        if event.kind is not MemberEventKind.FAILED:
            return
        world, name = self.world, event.member.name
        about = world.agents[name]
        self._failures.setdefault(name, []).append(world.now)
        if about is self._sick:
            self.report.stalled_failed += 1
        if not about.running or about.stalled or world.now < self._cut_until:
            return
        if world.now - about.awake_since < AFTER_STALL_S and (about is self._sick or about.lives > 1):
            return
        if observer is self._sick and about.lives > 1 and about.awake_since > observer.awake_since - self._stall_s:
            return  # it slept while that member came back: what it tells now is the truth about the life before
        self.report.false_failures.append(f"{observer.name} failed {name} at {world.now:.1f}")


def _all_hold(observers: list[PoolAgent], about: PoolAgent, status: MemberStatus) -> bool:
    for observer in observers:
        member = observer.serf.member(about.name)
        if member is None or member.status is not status:
            return False
    return True
