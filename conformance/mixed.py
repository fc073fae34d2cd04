"""The matrix of mixed clusters: any real Consul and ours, in every part that either can play.

Run as `python -m conformance.mixed [--consul PATH] [--minutes N] [PART...]`; without `--consul` the one that
`scripts/real-consul` finds. Each step prints its result; then a table, a line per part, and 'N passed, N failed'.

`--minutes N` keeps a real client busy on our servers so long (10 is the full form); the default is once through. That
part runs beside the others, which run one after the other. `--net` chooses the first three parts of the addresses; when
somebody else has that net, the next free one is taken.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from conformance import consul_peer, mixed_client
from conformance.agents import OURS, Agent, Checks, claimed_net, cluster, leader_known, serf_health, until
from conformance.consul_peer import Program, is_voter, leader_of, raft_ids, servers, settle
from conformance.real_consul import Missing, real_consul, report_missing
from conformance.scenarios import guarded
from conformance.wan import alive, of

QUICK = '-hcl=performance { raft_multiplier = 1 } autopilot { server_stabilization_time = "2s" }'
"""Elections and promotions without the long waits of the defaults; both makes take it."""
NET = "127.0.5"
BESIDE = "a-real-client"
"""The part that takes long and little of the processors."""
WRITE_PAUSE_S = 0.02
TURNS_MAX = 4
NEWER_FIELDS = ("Interval", "Timeout", "ExposedPort")


# --- each as leader -----------------------------------------------------------------------------------------------


def leaders(checks: Checks, real: Program, net: str, ours_count: int) -> None:
    """A quorum of both makes, in which each leads in turn; what each has afterwards is equal."""
    programs = [OURS] * ours_count + [real] * (3 - ours_count)
    places = [(program, f"{'ours' if program == OURS else 'real'}{n}", f"{net}.{19 + n}") for n, program in
              enumerate(programs, 1)]  # fmt: skip

    def begin(start: Any, place: tuple[Program, str, str]) -> Agent:
        joins = [f"-retry-join={address}" for _, _, address in places if address != place[2]]
        more = ("-server", "-bootstrap-expect=3", "-retry-interval=1s", QUICK, *joins)
        agent: Agent = start(*place, *more)
        return agent

    with cluster(checks) as start:
        agents = {place[1]: begin(start, place) for place in places}
        settle(checks, list(agents.values()))
        keys = 0
        for target in places:
            led = lead(checks, start, begin, places, agents, target[1])
            if not led:
                continue
            for agent in agents.values():
                keys += 1
                checks.until(f"{agent.name} writes under {target[1]}", partial(put, agent, f"k{keys}"), 20)
            checks.until("all have the same", lambda: same_state(list(agents.values())), 20)
            checks.until(
                f"{target[1]} has every serfHealth passing",
                lambda leader=agents[target[1]]: all(serf_health(leader, name) == "passing" for name in agents), 40,
            )  # fmt: skip


def lead(checks: Checks, start: Any, begin: Any, places: Any, agents: dict[str, Agent], target: str) -> bool:
    """Make `target` the leader: both others start anew, and it stands for election first."""
    for _ in range(TURNS_MAX):
        if until(lambda: led_by(agents, target), 3):
            break
        for place in places:
            if place[1] != target:
                agents[place[1]].kill()
        time.sleep(1.5)
        for place in places:
            if place[1] != target:
                agents[place[1]] = begin(start, place)
        until(lambda: all(leader_known(agent) for agent in agents.values()), 30)
    return bool(checks.until(f"{target} leads", lambda: led_by(agents, target), 5))


def led_by(agents: dict[str, Agent], name: str) -> bool:
    """Whether all say that `name` leads."""
    said = {str(leader_known(agent)) for agent in agents.values()}
    return said == {f"{agents[name].address}:8300"}


def put(agent: Agent, key: str) -> bool:
    """Whether a write was acknowledged."""
    try:
        return agent.put(f"/v1/kv/{key}", key.encode()) is True
    except OSError:
        return False


def same_state(agents: list[Agent]) -> bool:
    """Whether all hold the same keys and nodes, indexes included."""
    paths = ("/v1/kv/?recurse&stale", "/v1/catalog/nodes?stale", "/v1/health/state/any?stale")
    held = [[shared(agent.get(path)) for path in paths] for agent in agents]
    return all(each[0] and each == held[0] for each in held)


def shared(value: Any) -> Any:
    """An answer without what only versions from 1.9 on show of it."""
    if isinstance(value, dict):
        return {key: shared(each) for key, each in value.items() if key not in NEWER_FIELDS}
    return [shared(each) for each in value] if isinstance(value, list) else value


# --- rolling replacement ------------------------------------------------------------------------------------------


class Writer:
    """Writes key after key through whoever is there, and remembers what was acknowledged."""

    def __init__(self, agents: Callable[[], list[Agent]]) -> None:
        self._agents = agents
        self._told = threading.Event()
        self.acknowledged: list[str] = []
        self.refused = 0
        self.longest_s = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        last = time.monotonic()
        for number in itertools.count():
            if self._told.wait(WRITE_PAUSE_S):
                return
            agents = self._agents()
            if put(agents[number % len(agents)], f"load/{number}"):
                self.acknowledged.append(f"load/{number}")
                now = time.monotonic()
                self.longest_s, last = max(self.longest_s, now - last), now
            else:
                self.refused += 1

    def stop(self) -> None:
        """End the load. Idempotent."""
        self._told.set()
        self._thread.join()


def rolling(checks: Checks, real: Program, net: str) -> None:
    """Three real servers become ours and real ones again, one by one, while somebody writes."""
    with cluster(checks) as start:
        live = servers(start, real, [f"{net}.{number}" for number in (30, 31, 32)], "real", QUICK)
        settle(checks, live)
        writer = Writer(lambda: list(live))
        try:
            for number, program in enumerate((OURS, OURS, OURS, real, real, real), 33):
                replaced(checks, start, live, program, f"{net}.{number}", writer)
        finally:
            writer.stop()
        have = set(live[0].get("/v1/kv/load?keys&consistent") or ())
        lost = [key for key in writer.acknowledged if key not in have]
        checks.equal("no acknowledged write is lost", lost[:5], [])
        checks.note("there was a load", len(writer.acknowledged) > 200, len(writer.acknowledged))
        checks.until("all have the same", lambda: same_state(live), 20)
        told = f"{len(writer.acknowledged)} acknowledged, {writer.refused} refused"
        print(f"...  {told}, longest pause {writer.longest_s:.1f} s", flush=True)


def replaced(checks: Checks, start: Any, live: list[Agent], program: Program, place: str, writer: Writer) -> None:
    """A new server joins and votes; then the oldest one leaves."""
    make = "ours" if program == OURS else "real"
    number = place.rpartition(".")[2]
    new = start(program, f"{make}{number}", place, "-server", f"-retry-join={live[-1].address}",
                "-retry-interval=1s", QUICK)  # fmt: skip
    checks.until(f"{new.name} votes", lambda: is_voter(live[-1], new.name), 60)
    checks.until(f"{new.name} serves", lambda: new.get("/v1/kv/load?keys&stale"), 20)
    old = live.pop(0)
    live.append(new)
    old.put("/v1/agent/leave")
    checks.equal(f"{old.name} leaves", old.wait(), 0)
    checks.until(f"{old.name} is no peer", lambda: set(raft_ids(new)) == {agent.name for agent in live}, 30)
    before = len(writer.acknowledged)
    checks.until("writes go on", lambda: len(writer.acknowledged) > before + 5, 30)
    print(f"...  the leader is {leader_of(live).name}", flush=True)


# --- federation ---------------------------------------------------------------------------------------------------


def federation(checks: Checks, real: Program, net: str) -> None:
    """Our datacenter and a real one: calls, and members, both ways; each is the primary once."""
    for primary in ("dc1", "dc2"):
        with cluster(checks) as start:
            shared_flags = ("-server", "-bootstrap-expect=1", QUICK, f'-hcl=primary_datacenter = "{primary}"')
            mine = start(OURS, "ours", f"{net}.40", "-datacenter=dc1", *shared_flags)
            theirs = start(real, "real", f"{net}.41", "-datacenter=dc2", f"-retry-join-wan={net}.40",
                           "-retry-interval-wan=1s", *shared_flags)  # fmt: skip
            federated(checks, mine, theirs)


def federated(checks: Checks, mine: Agent, theirs: Agent) -> None:
    """What crosses between two servers, which are datacenters of their own."""
    settle(checks, [mine, theirs])
    for agent in (mine, theirs):
        checks.until(f"{agent.name} sees both", lambda a=agent: alive(a) == {"ours.dc1", "real.dc2"}, 30)
    for near, far, name in ((mine, theirs, "dc2"), (theirs, mine, "dc1")):
        checks.until(f"{near.name} writes to {name}", partial(put, near, of("across", name)), 20)
        for path in ("/v1/kv/across", "/v1/catalog/nodes", "/v1/health/state/any", "/v1/status/leader"):
            checks.until(f"{near.name} reads {path} of {name}", partial(reads_alike, near, far, path, name))
        both = near.get("/v1/catalog/datacenters")
        checks.equal(f"{near.name} lists datacenters", sorted(both or ()), ["dc1", "dc2"])
        checks.until(f"{near.name} has the federation states of both", partial(knows_states, near), 60)


def knows_states(agent: Agent) -> bool:
    """Whether both leaders' federation states have come to this datacenter."""
    rows = agent.get("/v1/internal/federation-states") or ()
    return sorted(row["Datacenter"] for row in rows) == ["dc1", "dc2"]


def reads_alike(near: Agent, far: Agent, path: str, name: str) -> bool:
    """Whether a question across has the answer that is given there."""
    there = far.get(path)
    return bool(there) and shared(near.get(of(path, name))) == shared(there)


# --- the program --------------------------------------------------------------------------------------------------


Part = Callable[[Checks, Program, str], None]
"""Takes where to count, the command of the real Consul, and the net of its addresses."""


def parts(minutes: float) -> dict[str, Part]:
    """The matrix by name. Their addresses differ where they run beside each other."""
    return {
        BESIDE: lambda checks, real, net: mixed_client.busy(checks, real, minutes, net),
        "b-our-client": consul_peer.our_client,
        "c-crash-1-of-ours": consul_peer.our_peer,
        "c-crash-2-of-ours": consul_peer.real_peer,
        "c-leaders-1-of-ours": partial(leaders, ours_count=1),
        "c-leaders-2-of-ours": partial(leaders, ours_count=2),
        "d-rolling": rolling,
        "e-federation": federation,
    }


def run_part(name: str, part: Part, real: Program, net: str) -> tuple[str, Checks, float]:
    """One part; what it counted and how long it took. An exception is a failure."""
    print(f"=== {name}\n", end="", flush=True)
    checks, began = Checks(), time.monotonic()
    guarded(checks, lambda: part(checks, real, net))
    return name, checks, time.monotonic() - began


def run_all(chosen: Sequence[str], matrix: dict[str, Part], real: Program, net: str) -> Checks:
    """The chosen parts, and their table."""
    with ThreadPoolExecutor(1) as lane:
        long = [lane.submit(run_part, name, matrix[name], real, net) for name in chosen if name == BESIDE]
        rows = [run_part(name, matrix[name], real, net) for name in chosen if name != BESIDE]
    rows = [*(each.result() for each in long), *rows]
    print(f"{'part':<24}{'passed':>8}{'failed':>8}{'seconds':>9}")
    total = Checks()
    for name, checks, seconds in rows:
        print(f"{name:<24}{checks.passed:>8}{checks.failed:>8}{seconds:>9.0f}")
        total.passed, total.failed = total.passed + checks.passed, total.failed + checks.failed
    return total


def main(arguments: list[str]) -> int:
    """Exit code of the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--consul", help="path of a real Consul")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--net", default=NET, help="first three parts of the addresses")
    parser.add_argument("part", nargs="*")
    options = parser.parse_args(arguments)
    matrix = parts(options.minutes)
    if unknown := [name for name in options.part if name not in matrix]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(matrix)}")
    try:
        real = (options.consul or real_consul(),)
    except Missing as reason:
        return report_missing("mixed", reason)
    for name in [key for key in os.environ if key.startswith("CONSUL_")]:
        del os.environ[name]
    with claimed_net(options.net) as net:
        return run_all(options.part or list(matrix), matrix, real, net).close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
