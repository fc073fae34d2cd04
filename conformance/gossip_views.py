"""What agents of either make say of their pools, and the small steps that gossip scenarios share."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence

from conformance.agents import OURS, Agent, Checks, leader_known, member_status, until

Program = tuple[str, ...]
Member = tuple[str, str, tuple[tuple[str, str], ...]]

FAST = "-hcl=performance { raft_multiplier = 1 }"
WORDS = {1: "alive", 2: "leaving", 3: "left", 4: "failed"}
SPREAD_S, FAILURE_S = 40.0, 40.0
START_S = 120.0
"""Dozens of agents start at once, each with a second of work for a processor that is perhaps not theirs alone."""
EVENT_S = 70.0
"""An event is sent four times by each who hears it, to whomever chance picks; who is missed gets it by push/pull, up to
a minute later. About one run in thirty needs that.
"""
_RTT = re.compile(r"rtt: ([0-9.]+) ms")


ARRIVAL_S, MISSED_MAX = 5.0, 3
"""Of some dozens of events fired in a row, so many may wait for that push/pull."""


class NamedChecks(Checks):
    """Checks of one of several scenarios that run side by side: each line says whose it is."""

    def __init__(self, scenario: str) -> None:
        super().__init__()
        self.scenario = scenario

    def note(self, step: str, good: object, detail: object = "") -> bool:
        """As `Checks.note`, with the scenario's name before the step."""
        return super().note(f"{self.scenario}: {step}", good, detail)

    def say(self, text: str) -> None:
        """A line that is no check."""
        print(f"...  {self.scenario}: {text}", flush=True)


def pool(agent: Agent, *, wan: bool = False) -> dict[str, Member]:
    """Name -> (status, address, tags) as an agent sees its LAN or WAN pool; empty when it does not answer."""
    rows = agent.get("/v1/agent/members?wan=1" if wan else "/v1/agent/members") or ()
    return {
        row["Name"]: (
            WORDS.get(row["Status"], "?"),
            f"{row['Addr']}:{row['Port']}",
            tuple(sorted(row["Tags"].items())),
        )
        for row in rows
    }


def statuses(agent: Agent, *, wan: bool = False) -> dict[str, str]:
    """Name -> status."""
    return {name: member[0] for name, member in pool(agent, wan=wan).items()}


def all_see(checks: Checks, agents: Sequence[Agent], name: str, status: str, timeout_s: float = START_S) -> bool:
    """Count whether a LAN member gets that status everywhere."""

    def look() -> bool:
        return all(member_status(agent, name) == status for agent in agents)

    def seen() -> str:
        return ", ".join(f"{agent.name}: {member_status(agent, name)}" for agent in agents)

    return bool(checks.until(f"{name} is {status} for {names(agents)}", look, timeout_s, seen))


def one_view(checks: Checks, agents: Sequence[Agent], wanted: Sequence[str], *, wan: bool = False) -> None:
    """Count whether all agree on the members, who are all alive, their addresses and tags."""

    def look() -> bool:
        views = [pool(agent, wan=wan) for agent in agents]
        return all(view == views[0] and sorted(view) == sorted(wanted) for view in views) and all(
            member[0] == "alive" for member in views[0].values()
        )

    where = "WAN" if wan else "LAN"
    checks.until(
        f"{names(agents)} agree on {len(wanted)} {where} members, their addresses and tags",
        look,
        START_S,
        lambda: "\n".join(f"{agent.name}: {pool(agent, wan=wan)}" for agent in agents),
    )


def have_leader(checks: Checks, agents: Sequence[Agent]) -> None:
    """Count whether all know a leader."""
    checks.until(f"{names(agents)} have a leader", lambda: all(leader_known(agent) for agent in agents), START_S)


def names(agents: Sequence[Agent]) -> str:
    """For the text of a step."""
    return ", ".join(agent.name for agent in agents)


# --- events -----------------------------------------------------------------------------------------------------------


def event_names(agent: Agent) -> set[str]:
    """The user events that an agent remembers."""
    return {row["Name"] for row in agent.get("/v1/event/list") or ()}


def events_reach_all(checks: Checks, agents: Sequence[Agent]) -> None:
    """Each fires one event with a payload; all hear all."""
    fired = set()
    for agent in agents:
        answer = agent.request("PUT", f"/v1/event/fire/from-{agent.name}", b"payload of " + agent.name.encode())
        if checks.note(f"{agent.name} fires an event", answer.status == 200, answer.body):
            fired.add(f"from-{agent.name}")
    for agent in agents:
        checks.until(
            f"{agent.name} hears the events of all",
            lambda a=agent: event_names(a) >= fired,
            EVENT_S,
            lambda a=agent: fired - event_names(a),
        )


class Traffic:
    """Events fired in turn through several agents, until the end of the block."""

    PERIOD_S = 0.25

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.agents = agents
        self.fired: set[str] = set()
        self.errors: list[object] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._over.wait(self.PERIOD_S):
            name, agent = f"traffic-{number}", self.agents[number % len(self.agents)]
            number += 1
            try:
                answer = agent.request("PUT", f"/v1/event/fire/{name}", b"x")
            except OSError as error:
                self.errors.append(error)
                continue
            if answer.status == 200:
                self.fired.add(name)
            else:
                self.errors.append(answer.body)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def arrived(self, checks: Checks, agents: Sequence[Agent]) -> None:
        """Count whether each event that was taken is everywhere (agents remember the last 256)."""
        checks.equal("every event was taken while keys changed", self.errors, [])
        recent = set(sorted(self.fired, key=lambda name: int(name.partition("-")[2]))[-200:])
        for agent in agents:
            until(lambda a=agent: event_names(a) >= recent, ARRIVAL_S)
            few_missed(checks, agent.name, recent, event_names(agent))


def few_missed(checks: Checks, name: str, fired: set[str], heard: set[str]) -> None:
    """Count whether nearly all of many events came at once; who cannot read a key misses them in a row."""
    missed = sorted(fired - heard)
    checks.note(f"{name} has the {len(fired)} events fired meanwhile, or nearly", len(missed) <= MISSED_MAX, missed)


def never_failed(checks: Checks, agents: Sequence[Agent], when: str, besides: Sequence[str] = ()) -> None:
    """Count whether nobody has taken anybody, `besides` apart, for failed until now."""
    lines = [f"{a.name}: {line}" for a in agents for line in a.log_lines() if "EventMemberFailed" in line]
    lines = [line for line in lines if not any(f"EventMemberFailed: {name} " in line for name in besides)]
    checks.equal(f"nobody was taken for failed {when}", lines, [])


# --- keys -------------------------------------------------------------------------------------------------------------


KEY_ATTEMPTS = 3
"""A query too can miss a member (see EVENT_S); then the operation says so, and an operator repeats it."""


def keys_of(agent: Agent, local_only: bool = False) -> dict[str, dict[str, int]]:
    """Pool ("LAN dc1", "WAN dc1") -> key -> number of members that have it; asked again if a member was missed."""
    rows = None
    for _ in range(KEY_ATTEMPTS):
        rows = rows or agent.get("/v1/operator/keyring" + ("?local-only=1" if local_only else ""))
    rows = rows or ()
    return {
        f"{'WAN' if row['WAN'] else 'LAN'} {row['Datacenter']}": row["Keys"] | {"members": row["NumNodes"]}
        for row in rows
    }


KeyChange = Callable[[str, str], tuple[bool, object]]


def key_by_http(agent: Agent) -> KeyChange:
    """Key operations over an agent's HTTP API."""
    verbs = {"install": "POST", "use": "PUT", "remove": "DELETE"}

    def change(operation: str, key: str) -> tuple[bool, object]:
        answer = agent.request(verbs[operation], "/v1/operator/keyring", {"Key": key})
        return answer.status == 200, answer.body

    return change


def key_by_command(agent: Agent, program: Program) -> KeyChange:
    """Key operations by a make's command line against an agent."""

    def change(operation: str, key: str) -> tuple[bool, object]:
        code, output = agent.command(program, "keyring", f"-{operation}={key}")
        return code == 0, output

    return change


def rotate(checks: Checks, old: str, new: str, ways: dict[str, KeyChange]) -> None:
    """Install, use and remove, each by its way."""
    for operation, key in (("install", new), ("use", new), ("remove", old)):
        good, detail = False, None
        for _ in range(KEY_ATTEMPTS):
            good, detail = ways[operation](operation, key)
            if good or "nodes reported success" not in str(detail):
                break
            checks.say(f"{operation} is repeated: {detail}")
        by = ways[operation].__qualname__.partition(".")[0].removeprefix("key_by_")
        checks.note(f"{operation} of a key by {by}", good, detail)


# --- distances --------------------------------------------------------------------------------------------------------


def near_each_other(checks: Checks, agent: Agent, program: Program, a: str, b: str, *, wan: bool = False) -> None:
    """`rtt` of two nodes on one machine is known and small."""
    words = ["rtt", *(["-wan"] if wan else []), a, b]
    last = until(lambda: _RTT.search(agent.command(program, *words)[1]), 60)
    made = "ours" if program == OURS else "the real one's"
    checks.note(
        f"rtt of {a} and {b} at {agent.name} by {made} command is 0 to 100 ms",
        last and 0 < float(last[1]) < 100,
        last or agent.command(program, *words),
    )
