"""What goes wrong, when and for how long: drawn from the seed before anything happens, so that it can be printed."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.sim.cluster import Cluster, Node
from pyconsul_agent.sim.raft_storage import RaftDisk

WALL_JUMPS_S = (-86_400.0, -3_600.0, 3_600.0, 86_400.0)


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """`kind` befalls `nodes` at `at` seconds after the faults' beginning, for `lasts_s`."""

    at: float
    kind: str
    nodes: tuple[str, ...]
    lasts_s: float
    strength: float = 0.0

    def __str__(self) -> str:
        strength = f" {self.strength:g}" if self.strength else ""
        return f"{self.at:6.2f} {self.kind}{strength} {','.join(self.nodes)} for {self.lasts_s:.2f} s"


KINDS: dict[str, int] = {
    "kill": 5,
    "power": 3,
    "stop": 2,
    "pause": 4,
    "isolate": 4,
    "halves": 3,
    "one_way": 4,
    "loss": 3,
    "slow": 2,
    "bytewise": 1,
    "power_all": 1,
    "bad_disk": 1,
    "wall": 1,
    "leave": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOptions:
    """How many and how long. `kinds` maps a fault to its weight."""

    span_s: float = 30.0
    count: int = 6
    longest_s: float = 12.0
    kinds: tuple[tuple[str, int], ...] = tuple(KINDS.items())

    @classmethod
    def draw(cls, rng: random.Random, *, span_s: tuple[float, float]) -> FaultOptions:
        """Another severity for another seed: some seeds know only a few kinds."""
        names = sorted(rng.sample(sorted(KINDS), rng.randint(3, len(KINDS))))
        span = round(rng.uniform(*span_s), 1)
        return cls(
            span_s=span,
            count=max(1, round(span / rng.choice((3, 5, 8)))),
            longest_s=rng.choice((3.0, 8.0, 15.0)),
            kinds=tuple((name, KINDS[name]) for name in names),
        )


def schedule(options: FaultOptions, cluster: Cluster, rng: random.Random) -> list[Fault]:
    """The faults in their order."""
    kinds, weights = [name for name, _ in options.kinds], [weight for _, weight in options.kinds]
    servers = [node.name for node in cluster.servers]
    everyone = list(cluster.nodes)
    found = []
    for _ in range(options.count):
        kind = rng.choices(kinds, weights)[0]
        at, lasts = rng.uniform(0, options.span_s), rng.uniform(0.05, options.longest_s)
        strength = 0.0
        if kind in ("halves", "one_way"):
            nodes = rng.sample(everyone, 2)
        elif kind in ("loss", "slow", "bytewise", "power_all"):
            nodes = []
            strength = round(rng.uniform(0.05, 0.4), 2) if kind == "loss" else round(rng.uniform(0.01, 0.1), 2)
        elif kind == "bad_disk":
            nodes, strength = [rng.choice(servers)], rng.randrange(20)
        elif kind == "wall":
            nodes, strength = [rng.choice(everyone)], rng.choice(WALL_JUMPS_S)
        elif kind == "leave":
            nodes = [rng.choice([name for name in everyone if name != "server1"])]
        else:
            nodes = [rng.choice((*servers, *everyone))]
        found.append(Fault(round(at, 3), kind, tuple(nodes), round(lasts, 3), strength))
    return sorted(found)


class FaultDriver:
    """Performs a schedule."""

    def __init__(self, cluster: Cluster, faults: list[Fault]) -> None:
        self._cluster = cluster
        self._faults = faults
        self._network = cluster.world.network
        self.may_exit: set[str] = set()
        """Nodes that a fault gave a reason to end by themselves."""

    async def run(self) -> None:
        """All of it; returns when the last fault is over."""
        async with asyncio.TaskGroup() as group:
            for fault in self._faults:
                group.create_task(self._one(fault))

    async def _one(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        nodes = [self._cluster.nodes[name] for name in fault.nodes]
        await getattr(self, f"_{fault.kind}")(fault, *nodes)

    async def _kill(self, fault: Fault, node: Node) -> None:
        node.kill()
        await self._start_again(node, fault.lasts_s)

    async def _power(self, fault: Fault, node: Node) -> None:
        node.kill(power_loss=True)
        await self._start_again(node, fault.lasts_s)

    async def _power_all(self, fault: Fault) -> None:
        for node in self._cluster.nodes.values():
            node.kill(power_loss=True)
        await asyncio.sleep(fault.lasts_s)
        for node in self._cluster.nodes.values():
            if not node.process.running:
                node.start()

    async def _stop(self, fault: Fault, node: Node) -> None:
        if node.running:
            await node.stop()
        await self._start_again(node, fault.lasts_s)

    async def _leave(self, fault: Fault, node: Node) -> None:
        if node.running:
            await node.leave()
        await self._start_again(node, fault.lasts_s)

    async def _start_again(self, node: Node, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if not node.process.running:
            node.start()

    async def _pause(self, fault: Fault, node: Node) -> None:
        if node.process.running:
            node.process.pause()
            await asyncio.sleep(fault.lasts_s)
            node.process.resume()

    async def _isolate(self, fault: Fault, node: Node) -> None:
        self._cluster.isolate(node)
        await asyncio.sleep(fault.lasts_s)
        for other in self._cluster.nodes.values():
            if other is not node:
                self._network.uncut(node.host, other.host)

    async def _halves(self, fault: Fault, one: Node, other: Node) -> None:
        rest = [node.host for node in self._cluster.nodes.values() if node not in (one, other)]
        self._network.partition([[one.host, other.host], rest])
        await asyncio.sleep(fault.lasts_s)
        self._network.partition([])

    async def _one_way(self, fault: Fault, one: Node, other: Node) -> None:
        self._network.cut(one.host, other.host, one_way=True)
        await asyncio.sleep(fault.lasts_s)
        self._network.uncut(one.host, other.host)

    async def _loss(self, fault: Fault) -> None:
        await self._all_links(fault.lasts_s, {"loss": fault.strength, "duplicate": 0.05, "reorder": 0.1})

    async def _slow(self, fault: Fault) -> None:
        await self._all_links(fault.lasts_s, {"spike": fault.strength, "spike_s_max": 1.0})

    async def _bytewise(self, fault: Fault) -> None:
        await self._all_links(min(fault.lasts_s, 1.0), {"segment_bytes_max": 7})

    async def _all_links(self, lasts_s: float, changes: dict[str, Any]) -> None:
        normal = {name: getattr(self._network.link, name) for name in changes}
        hosts = [node.host for node in self._cluster.nodes.values()]
        pairs = [(a, b) for number, a in enumerate(hosts) for b in hosts[number + 1 :]]
        for a, b in pairs:
            self._network.set_link(a, b, **changes)
        await asyncio.sleep(lasts_s)
        for a, b in pairs:
            self._network.set_link(a, b, **normal)

    async def _bad_disk(self, fault: Fault, node: Node) -> None:
        disk = node.host.disk.store.get("raft")
        if not isinstance(disk, RaftDisk):
            return
        self.may_exit.add(node.name)
        disk.fail_in = int(fault.strength)
        await asyncio.sleep(fault.lasts_s)
        disk.repair()
        await self._start_again(node, 0.5)

    async def _wall(self, fault: Fault, node: Node) -> None:
        node.host.wall_offset_s = fault.strength
        await asyncio.sleep(fault.lasts_s)
        node.host.wall_offset_s = 0.0
