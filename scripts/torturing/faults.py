"""What goes wrong and when: drawn from the seed. Each fault begins, lasts, ends, and is over when all have caught up.

Kinds are dealt from a shuffled deck, so that a short run has them all. What is drawn is a function of the seed; what
the machine makes of it is not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.torturing.ask import NoAnswer
from scripts.torturing.damage import WAYS
from scripts.torturing.disks import Disks
from scripts.torturing.net import Net, Slowness
from scripts.torturing.record import Calm, Recorder
from scripts.torturing.server import Server

DECK = (
    "kill", "kill", "kill", "pause", "pause", "isolate", "isolate", "deaf", "mute", "pair", "slow", "slow", "slow_all",
    "disk_full", "damage", "damage", "clock", "kill_two", "kill_all",
)  # fmt: skip
MINE_ONLY = ("disk_full", "damage", "clock")
"""Not done to a real Consul: a full disk, a BoltDB with flipped bits and its clock are its own affair."""
LASTS_S = (0.5, 11.0)
GAP_S = (1.5, 5.0)
LONG_GAP_S = 16.0
LONG_GAP_SHARE = 0.15
CLOCK_JUMPS_S = (-86_400.0, -3_600.0, -30.0, 30.0, 3_600.0, 86_400.0)
RECOVER_S = 120.0
"""Until all have caught up after a fault: safety is what is judged here, how fast it goes is measured elsewhere."""
FIRST_WRITE_S = 120.0


@dataclass(frozen=True, slots=True)
class Fault:
    """`at_leader` instead of server `number`; `jump_s` is a clock's, `way` a damage's."""

    kind: str
    number: int
    at_leader: bool
    lasts_s: float
    gap_s: float
    """Before it."""
    slowness: Slowness
    jump_s: float
    way: str
    beside: str
    """A clock or slow links that go on at the same time, or ""."""


def draw(rng: random.Random, kinds: Sequence[str], count: int) -> list[Fault]:
    """The first `count` faults of this seed."""
    found: list[Fault] = []
    while len(found) < count:
        deck = list(kinds)
        rng.shuffle(deck)
        found += [_drawn(rng, kind) for kind in deck]
    return found[:count]


def _drawn(rng: random.Random, kind: str) -> Fault:
    return Fault(
        kind=kind,
        number=rng.randint(1, 3),
        at_leader=rng.random() < 0.5,
        lasts_s=round(rng.uniform(*LASTS_S), 2),
        gap_s=LONG_GAP_S if rng.random() < LONG_GAP_SHARE else round(rng.uniform(*GAP_S), 2),
        slowness=Slowness(
            rng.choice((0.02, 0.1, 0.4)),
            rng.choice((0.0, 0.01, 0.08)),
            rng.choice((0.0, 0.02, 0.2)),
            rng.choice((0.0, 0.1, 0.5)),
        ),
        jump_s=rng.choice(CLOCK_JUMPS_S),
        way=rng.choice(WAYS),
        beside=rng.choice(("", "", "clock", "slow_all")),
    )


class FaultDriver:
    """Performs faults until time is up."""

    def __init__(self, servers: Sequence[Server], net: Net, recorder: Recorder, rng: random.Random) -> None:
        self._servers, self._net, self._recorder, self._random = servers, net, recorder, rng
        self._disks = Disks(servers, rng, recorder.event)
        self.calm: Calm = []
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        """Broken promises that no client sees."""
        self.slowest_s = 0.0

    @property
    def replaced(self) -> int:
        """Servers that were thrown away because their disk was damaged and they said so."""
        return self._disks.replaced

    def _found(self, wrong: list[str]) -> None:
        for each in wrong:
            print(f"WRONG {each}", flush=True)
            self._recorder.event("wrong", text=each)
        self.wrong += wrong

    async def run(self, faults: Sequence[Fault], until: float) -> None:
        """Until that monotonic time or the end of the list; every fault is over when it returns."""
        for fault in faults:
            calm_since = time.monotonic()
            await asyncio.sleep(min(fault.gap_s, max(0.0, until - calm_since)))
            self.calm.append((calm_since, time.monotonic()))
            del self.calm[:-50]
            if time.monotonic() >= until:
                return
            await self._one(fault)
            await self.recover(fault.kind)

    async def _one(self, fault: Fault) -> None:
        victim = await self._victim(fault)
        if victim.real and fault.kind in MINE_ONLY:
            victim = self._disks.small if fault.kind == "disk_full" else self._mine()
        text = f"{fault.kind} {victim.name} for {fault.lasts_s} s"
        text += f", {fault.slowness}" if "slow" in fault.kind + fault.beside else ""
        text += f", {fault.way}" if fault.kind == "damage" else ""
        text += f", beside it {fault.beside}" if fault.beside else ""
        text += f", jump {fault.jump_s:+.0f} s" if "clock" in (fault.kind, fault.beside) else ""
        print(f"{time.monotonic() - self._servers[0].starts[0]:8.1f} {text}", flush=True)
        self._recorder.event(text)
        self.done[fault.kind] += 1
        if fault.beside and fault.beside != fault.kind:
            self.done[fault.beside] += 1
            await getattr(self, f"_begin_{fault.beside}")(fault, self._mine())
        await getattr(self, f"_begin_{fault.kind}")(fault, victim)
        await asyncio.sleep(fault.lasts_s)
        await getattr(self, f"_end_{fault.kind}", self._end)(fault, victim)
        await self._heal()

    async def _victim(self, fault: Fault) -> Server:
        if fault.kind == "disk_full":
            return self._disks.small
        leader = await self.leader() if fault.at_leader else None
        return leader or self._servers[fault.number - 1]

    def _mine(self) -> Server:
        return self._random.choice([server for server in self._servers if not server.real])

    async def leader(self) -> Server | None:
        """Whom the first that answers takes for the leader."""
        for server in self._servers:
            try:
                address = await server.get("/v1/status/leader", timeout_s=2)
            except NoAnswer:
                continue
            for other in self._servers:
                if address == f"{other.ip}:8300":
                    return other
        return None

    # --- their beginnings and ends ----------------------------------------------------------------------------------

    async def _end(self, fault: Fault, victim: Server) -> None:
        """Nothing but what `_heal` does for all."""

    async def _heal(self) -> None:
        for server in self._servers:
            self._net.heal(server.number)
            server.go_on()
            if not server.real:
                server.set_clock(0.0)

    async def _begin_kill(self, fault: Fault, victim: Server) -> None:
        victim.kill()

    async def _end_kill(self, fault: Fault, victim: Server) -> None:
        victim.start()

    async def _begin_kill_two(self, fault: Fault, victim: Server) -> None:
        for server in self._servers:
            if server is not victim:
                server.kill()

    async def _end_kill_two(self, fault: Fault, victim: Server) -> None:
        for server in self._servers:
            if server is not victim:
                server.start()

    async def _begin_kill_all(self, fault: Fault, victim: Server) -> None:
        for server in self._servers:
            server.kill()

    async def _end_kill_all(self, fault: Fault, victim: Server) -> None:
        for server in self._servers:
            server.start()

    async def _begin_pause(self, fault: Fault, victim: Server) -> None:
        victim.pause()

    async def _begin_isolate(self, fault: Fault, victim: Server) -> None:
        self._net.cut(victim.number, self._others(victim), incoming=True, outgoing=True)

    async def _begin_deaf(self, fault: Fault, victim: Server) -> None:
        self._net.cut(victim.number, self._others(victim), incoming=True, outgoing=False)

    async def _begin_mute(self, fault: Fault, victim: Server) -> None:
        self._net.cut(victim.number, self._others(victim), incoming=False, outgoing=True)

    async def _begin_pair(self, fault: Fault, victim: Server) -> None:
        self._net.cut(victim.number, self._others(victim)[:1], incoming=True, outgoing=True)

    async def _begin_slow(self, fault: Fault, victim: Server) -> None:
        self._net.slow(victim.number, fault.slowness)

    async def _begin_slow_all(self, fault: Fault, victim: Server) -> None:
        for server in self._servers:
            self._net.slow(server.number, fault.slowness)

    async def _begin_clock(self, fault: Fault, victim: Server) -> None:
        victim.set_clock(fault.jump_s)

    async def _begin_disk_full(self, fault: Fault, victim: Server) -> None:
        victim.fill()

    async def _end_disk_full(self, fault: Fault, victim: Server) -> None:
        self._found(await self._disks.freed(victim))

    async def _begin_damage(self, fault: Fault, victim: Server) -> None:
        victim.kill()

    async def _end_damage(self, fault: Fault, victim: Server) -> None:
        await self._heal()  # an operator replaces a server when the others are well
        self._found(await self._disks.damaged(victim, fault.way))

    def _others(self, victim: Server) -> list[int]:
        return [server.number for server in self._servers if server is not victim]

    # --- and after ----------------------------------------------------------------------------------------------------

    async def recover(self, after: str) -> None:
        """Until a new write is seen at every server; what does not come back is wrong."""
        begin = time.monotonic()
        value = str(time.monotonic_ns()).encode()
        waiting = {server.name for server in self._servers}
        written = False
        while time.monotonic() < begin + RECOVER_S:
            for server in self._servers:
                if not server.lives:
                    self._found(await self._disks.ended(server))
            try:
                written = written or await self._write(value)
                if written:
                    waiting -= await self._caught_up(value)
                if not waiting:
                    self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
                    return
            except NoAnswer:
                pass
            await asyncio.sleep(0.1)
        self._found([f"after {after}: {', '.join(sorted(waiting))} not back within {RECOVER_S:.0f} s"])

    async def _write(self, value: bytes) -> bool:
        for server in self._servers:
            try:
                answer = await server.ask("PUT", "/v1/kv/barrier", value, timeout_s=10)
            except NoAnswer:
                continue
            if answer.status == 200 and answer.body.strip() == b"true":
                return True
        return False

    async def _caught_up(self, value: bytes) -> set[str]:
        found = set()
        for server in self._servers:
            try:
                answer = await server.ask("GET", "/v1/kv/barrier?raw&stale", timeout_s=5)
            except NoAnswer:
                continue
            if answer.body == value:
                found.add(server.name)
        return found
