"""Three agents of ours and three real ones in one LAN pool, from the first join to force-leave.

Servers ours1 and real1, clients ours2, ours3, real2, real3. With a key: the same under encryption, with keys changed
from both sides while events flow.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Sequence

from conformance.agents import OURS, Agent, cluster, member_status, until
from conformance.gossip_views import (
    EVENT_S,
    FAILURE_S,
    FAST,
    KEY_ATTEMPTS,
    START_S,
    NamedChecks,
    Program,
    Traffic,
    all_see,
    events_reach_all,
    have_leader,
    key_by_command,
    key_by_http,
    keys_of,
    names,
    near_each_other,
    never_failed,
    one_view,
    pool,
    rotate,
    statuses,
)

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(range(100, 116))).decode()
PRUNED_S = 6.0
STRANGER_S = 4.0
"""How long strangers with a taken name may go on once their claims are heard."""

Start = Callable[..., Agent]


def lan(checks: NamedChecks, real: Program, net: str, key: str = "") -> None:
    """All of it; `net` is the /24 that the agents live in ("127.0.40")."""
    secret = [f"-encrypt={key}"] if key else []
    joins = [f"-retry-join={net}.1", f"-retry-join={net}.11", "-retry-interval=1s", FAST]
    with cluster(checks) as start:
        makes = {"ours": (OURS, 0), "real": (real, 10)}

        def agent(name: str, *more: str) -> Agent:
            program, offset = makes[name[:4]]
            return start(program, name, f"{net}.{offset + int(name[4:])}", *secret, *joins, *more)

        expect = ("-server", "-bootstrap-expect=2")
        ours = [agent("ours1", *expect), agent("ours2"), agent("ours3")]
        theirs = [agent("real1", *expect), agent("real2"), agent("real3")]
        everybody = [*ours, *theirs]
        one_view(checks, everybody, [a.name for a in everybody])
        have_leader(checks, everybody)
        events_reach_all(checks, everybody)
        strangers(checks, start, real, net, everybody, [*secret, *joins])
        if key:
            change_keys(checks, real, ours, theirs)
        never_failed(checks, everybody, "while all were well")
        distances(checks, real, ours, theirs)
        servers = [ours[0], theirs[0]]
        crash(checks, [*servers, ours[2], theirs[2]], [ours[1], theirs[1]])
        again = come_back(checks, start, real, [ours[1], theirs[1]], servers, bool(key))
        crash(checks, [*servers, *again], [ours[2], theirs[2]])
        force_leave(checks, real, *servers, ours[2], theirs[2])
        leave(checks, servers, again)


def strangers(
    checks: NamedChecks, start: Start, real: Program, net: str, everybody: Sequence[Agent], options: list[str]
) -> None:
    """Agents that come with a name that another living one has change nothing, whichever make they are."""
    before = pool(everybody[0])
    mine = start(OURS, "stranger-ours", f"{net}.21", *options, "-node=real3")
    other = start(real, "stranger-real", f"{net}.22", *options, "-node=ours3")

    def told(agent: Agent, name: str) -> bool:
        words = ("onflicting address for", "conflict")
        return any(name in line and any(word in line for word in words) for line in agent.log_lines())

    for agent in (everybody[0], everybody[3]):
        for name in ("ours3", "real3"):
            checks.until(f"{agent.name} tells of the conflict over {name}", lambda a=agent, n=name: told(a, n), START_S)
    time.sleep(STRANGER_S)
    for agent in everybody:
        checks.equal(f"a stranger with a taken name changes nothing for {agent.name}", pool(agent), before)
    for stranger in (mine, other):
        stranger.kill()


def change_keys(checks: NamedChecks, real: Program, ours: list[Agent], theirs: list[Agent]) -> None:
    """There and back, from our side and from theirs, with events all the while."""
    everybody, us, them = [*ours, *theirs], ours[0], theirs[0]
    with Traffic(everybody) as traffic:
        rotate(checks, KEY, OTHER_KEY, {
            "install": key_by_http(us), "use": key_by_command(them, real), "remove": key_by_command(us, OURS),
        })  # fmt: skip
        for server in (us, them):
            checks.equal(
                f"{server.name} lists the new key of all", keys_of(server).get("LAN dc1"), {OTHER_KEY: 6, "members": 6}
            )
        rotate(checks, OTHER_KEY, KEY, {
            "install": key_by_command(us, real), "use": key_by_http(us), "remove": key_by_http(them),
        })  # fmt: skip
        for server in (us, them):
            checks.equal(
                f"{server.name} lists the old key again", keys_of(server).get("LAN dc1"), {KEY: 6, "members": 6}
            )
    traffic.arrived(checks, everybody)
    never_failed(checks, everybody, "while keys changed")
    for server in (us, them):
        good, detail = key_by_http(server)("remove", KEY)
        checks.note(f"{server.name} refuses to remove the key in use", not good, detail)


def distances(checks: NamedChecks, real: Program, ours: list[Agent], theirs: list[Agent]) -> None:
    """Network coordinates of both makes can be compared, at both makes and by both commands."""
    for server in (ours[0], theirs[0]):
        near_each_other(checks, server, real, "ours2", "real2")
        near_each_other(checks, server, real, "ours2", "ours3")
        near_each_other(checks, server, real, "ours1", "real1")


def leave(checks: NamedChecks, watchers: Sequence[Agent], leavers: Sequence[Agent]) -> None:
    """Two leave at once and are left for all."""
    codes: dict[str, int | None] = {}
    took: dict[str, float] = {}

    def one(agent: Agent) -> None:
        began = time.monotonic()
        codes[agent.name] = agent.interrupt()
        took[agent.name] = time.monotonic() - began

    threads = [threading.Thread(target=one, args=(agent,)) for agent in leavers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    checks.equal(f"{names(leavers)} leave with exit code 0", set(codes.values()), {0})
    checks.say("leave took " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items()))
    for agent in leavers:
        all_see(checks, watchers, agent.name, "left", EVENT_S)


def crash(checks: NamedChecks, watchers: Sequence[Agent], victims: Sequence[Agent]) -> None:
    """Killed with -9; failed for all."""
    began = time.monotonic()
    for agent in victims:
        agent.kill()
    for agent in victims:
        all_see(checks, watchers, agent.name, "failed", FAILURE_S)
    checks.say(f"{names(victims)} were failed for {names(watchers)} after {time.monotonic() - began:.1f} s")


def come_back(
    checks: NamedChecks,
    start: Start,
    real: Program,
    gone: Sequence[Agent],
    watchers: Sequence[Agent],
    encrypted: bool,
) -> list[Agent]:
    """Started without an address to join, and without the key, which is in their keyring files."""
    mine, other = gone
    again = []
    # Theirs first: it looks for one member only, which should know of its death.
    for program, old in ((real, other), (OURS, mine)):
        agent = start(program, old.name, old.address, FAST)
        again.append(agent)
        all_see(checks, [*watchers, agent], agent.name, "alive")
        checks.until(
            f"{agent.name} found {names(watchers)} by its snapshot",
            lambda a=agent: all(member_status(a, watcher.name) == "alive" for watcher in watchers),
            FAILURE_S,
        )
        checks.note(f"{agent.name} re-joined by its snapshot", _said(agent, "Re-joined to previously known node"))
    # 1.8.7 looks only at its configuration for this line, later versions ask the pool.
    banners = [line for line in again[1].log_lines() if " Encrypt: Gossip:" in line]
    word = f"Gossip: {'true' if encrypted else 'false'},"
    checks.note(f"the screen of {mine.name} says '{word}'", word in banners[-1], banners)
    return again


def force_leave(checks: NamedChecks, real: Program, us: Agent, them: Agent, mine: Agent, other: Agent) -> None:
    """Of failed members of either make, from either side, with and without -prune."""
    code, output = us.command(OURS, "force-leave", other.name)
    checks.note(f"our force-leave of {other.name}", code == 0, output)
    all_see(checks, [us, them], other.name, "left", EVENT_S)
    prune(checks, mine.name, {them: real, us: OURS})
    prune(checks, other.name, {us: OURS, them: real})


def prune(checks: NamedChecks, name: str, at: dict[Agent, Program]) -> None:
    """Asked of the first, and again where it is still listed: who misses the word is told by nobody else."""

    def listed() -> list[Agent]:
        return [agent for agent in at if name in (statuses(agent) or (name,))]

    for _ in range(KEY_ATTEMPTS):
        for agent in listed()[:1]:
            code, output = agent.command(at[agent], "force-leave", "-prune", name)
            checks.note(f"force-leave -prune of {name} at {agent.name}", code == 0, output)
        if until(lambda: not listed(), PRUNED_S):
            break
    checks.equal(f"nobody lists {name} any more", [agent.name for agent in listed()], [])


def _said(agent: Agent, text: str) -> bool:
    return any(text in line for line in agent.log_lines())
