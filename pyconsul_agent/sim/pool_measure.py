"""What a large pool costs and how fast it is: how soon all know of a join and of a death, processor time, memory.

Each function gives a small report; the targets are in `docs/reliability.md`, `scripts/pool` prints both.
"""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.consul import AgentTags, LanRules, client_tags
from pyconsul_agent.serf.core import Serf
from pyconsul_agent.sim.pool import DATACENTER, PoolAgent, PoolWorld, lan_without_compression
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.structs.member import MemberEvent, MemberEventKind
from pyconsul_agent.swim.config import LAN
from pyconsul_agent.swim.core import Swim
from pyconsul_agent.swim.effects import PingComplete
from pyconsul_agent.swim.timing import NANOSECONDS, suspicion_timeout_ns
from pyconsul_agent.wire.gossip import Address, Alive, NodeState, Suspect, address_bytes, decode_message, encode_message
from pyconsul_agent.wire.gossip_packet import add_crc, open_packet_body, pack_compounds
from pyconsul_agent.wire.serf import JoinIntent, encode, encode_coordinate, encode_tags
from pyconsul_agent.wire.serf_snapshot import SnapshotState

GOSSIP_ROUND_S = LAN.gossip_interval_s
JOIN_ROUNDS_MAX = 6
CPU_PERCENT_MAX = 2.0
MEMBER_BYTES_MAX = 2048
PACKET_US_MAX = 60.0
SAMPLES = 3
"""Pings of each member that were measured, as after some rounds of the ring."""


@dataclass(frozen=True, slots=True)
class Convergence:
    """Of one pool. Times in virtual seconds."""

    agents: int
    join_s: float
    first_failed_s: float
    last_failed_s: float
    false_failures: int

    @property
    def join_rounds(self) -> float:
        """Gossip rounds until all knew the newcomer."""
        return self.join_s / GOSSIP_ROUND_S

    @property
    def failure_bound_s(self) -> float:
        """Memberlist's own: the suspicion with all confirmations, up to its longest without any, after one probe."""
        least = suspicion_timeout_ns(LAN.suspicion_mult, self.agents, round(LAN.probe_interval_s * NANOSECONDS))
        return LAN.probe_interval_s + LAN.suspicion_max_timeout_mult * least / NANOSECONDS

    @property
    def failure_least_s(self) -> float:
        """The suspicion with all confirmations."""
        least = suspicion_timeout_ns(LAN.suspicion_mult, self.agents, round(LAN.probe_interval_s * NANOSECONDS))
        return least / NANOSECONDS


def convergence(seed: int, agents: int, *, loss: float = 0.0) -> Convergence:
    """One joins a pool at rest, then the host of one vanishes."""
    world = PoolWorld(seed, swim=lan_without_compression(), loss=loss, snapshots=False)
    members = world.form([f"n{number}" for number in range(agents)])
    world.run(3.0)
    newcomer = world.add("newcomer")
    world.join(newcomer, [members[0]])

    def all_know() -> bool:
        return all(_knows_alive(agent, newcomer) for agent in members)

    join_s = world.run_until(all_know, 60.0, 0.01)
    assert join_s is not None, "a join was not known by all within a minute"
    failures: dict[str, list[float]] = {}

    def on_event(observer: PoolAgent, event: MemberEvent) -> None:
        if event.kind is MemberEventKind.FAILED:
            failures.setdefault(event.member.name, []).append(world.now)

    world.on_event = on_event
    victim = members[agents // 2]
    died_at = world.now
    world.kill(victim, vanish=True)
    took = world.run_until(lambda: len(failures.get(victim.name, ())) >= agents, 120.0, 0.1)
    assert took is not None, "a death was not known by all within two minutes"
    times = failures.pop(victim.name)
    return Convergence(agents, join_s, times[0] - died_at, times[-1] - died_at, sum(map(len, failures.values())))


def _knows_alive(agent: PoolAgent, other: PoolAgent) -> bool:
    node = agent.swim.node(other.name)
    return node is not None and node.state is NodeState.ALIVE


def cpu_percent_at_rest(seed: int, agents: int, seconds: float) -> float:
    """Part of one core that an agent's cores and codecs take in a pool where nothing happens."""
    world = PoolWorld(seed, swim=lan_without_compression(), snapshots=False)
    world.form([f"n{number}" for number in range(agents)])
    world.run(2.0)
    started = time.process_time()
    world.run(seconds)
    return (time.process_time() - started) / agents / seconds * 100.0


def packet_us() -> tuple[float, float]:
    """(encoding, decoding) of a packet full of suspicions, in microseconds of the processor: the best of many tries."""
    suspects = [Suspect(7, f"node-{number:04}", f"node-{number + 1:04}") for number in range(29)]

    def write() -> bytes:
        return add_crc(pack_compounds([encode_message(suspect) for suspect in suspects])[0])

    data = write()
    assert len(data) <= LAN.packet_bytes_max
    return _best_us(write), _best_us(lambda: [decode_message(part) for part in open_packet_body(data).messages])


def _best_us(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(60):
        started = time.process_time_ns()
        for _ in range(20):
            work()
        best = min(best, (time.process_time_ns() - started) / 20_000)
    return best


def bytes_per_member(count: int) -> float:
    """What one more client costs an agent that has pinged it, snapshot and coordinate included."""
    rng = random.Random(1)  # noqa: S311 - a simulation
    serf = Serf(
        SerfConfig(), name="me", tags=_tags(rng), rng=rng, veto=LanRules("me", "mine", DATACENTER),
        snapshot=SnapshotState({}, 0, 0, 0),
    )  # fmt: skip
    swim = Swim(LAN, name="me", advertise=("10.255.0.1", 8301), delegate=serf, rng=rng)
    serf.start(0.0)
    swim.start(0.0)
    _settle(swim, serf)
    source: Address = ("10.255.0.2", 8301)
    packets, payloads = [], []
    for number in range(count):
        address = address_bytes(f"10.0.{number >> 8}.{number & 255}")
        alive = Alive(1, f"node-{number:05}", address, 8301, encode_tags(_tags(rng)), LAN.versions)
        intent = b"\x08" + encode(JoinIntent(ltime=number + 5, node=alive.node))
        packets.append((encode_message(alive), intent))
        vec = tuple(rng.random() for _ in range(8))
        payloads.append(encode_coordinate(VivaldiCoordinate(vec=vec, error=0.5, adjustment=0.1, height=0.2)))
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number, (pair, payload) in enumerate(zip(packets, payloads, strict=True)):
            for packet in pair:
                swim.receive([(packet, source)], 1.0)
                _settle(swim, serf)
            node = swim.node(f"node-{number:05}")
            assert node is not None
            for _ in range(SAMPLES):
                serf.handle(PingComplete(node, 0.01, payload), 1.0)
            swim.forget_broadcasts()
            serf.forget_broadcasts()
        _settle(swim, serf)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(serf.members()) == count + 1
    return (after - before) / count


def _tags(rng: random.Random) -> dict[str, str]:
    number = f"{rng.getrandbits(128):032x}"
    node_id = "-".join((number[:8], number[8:12], number[12:16], number[16:20], number[20:]))
    return client_tags(AgentTags(datacenter=DATACENTER, node_id=node_id, build="1.10.11:3e0b3b0f"))


def _settle(swim: Swim, serf: Serf) -> None:
    while True:
        effects, told = swim.take(), serf.take()
        if not effects and not told:
            return
        for effect in effects:
            serf.handle(effect, 1.0)
