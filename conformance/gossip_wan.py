"""Two datacenters: three servers of ours in dc1, three real ones in dc2, one pool of all in the WAN.

Only one server of dc1 is told of one of dc2; flooding brings in the rest. With a key: the same under encryption, with
keys changed in all pools from both sides.
"""

from __future__ import annotations

import asyncio
import base64
import time
from concurrent.futures import ThreadPoolExecutor

from conformance.agents import OURS, Agent, cluster
from conformance.gossip_lan import KEY, OTHER_KEY, Start
from conformance.gossip_views import (
    FAILURE_S,
    FAST,
    START_S,
    NamedChecks,
    Program,
    Traffic,
    have_leader,
    key_by_command,
    key_by_http,
    keys_of,
    names,
    never_failed,
    one_view,
    pool,
    rotate,
    statuses,
)
from pyconsul_agent.env.real import real_env
from pyconsul_agent.runtime.gossip import GossipOptions, GossipPool
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.consul import AgentTags, client_tags
from pyconsul_agent.swim.config import WAN
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.telemetry.logging import LogStream

WAN_PORT = 8302
QUICK_WAN = '-hcl=gossip_wan { probe_interval = "1s" probe_timeout = "500ms" }'
"""A failure in the WAN takes half a minute and more by default."""
MISSED_S = 130.0
"""Who missed the word of a leave hears of it by push/pull, each minute and in the first two."""
REFUSED_S = 4.0
"""How long those go on who may not come in, once they were heard."""


def wan(checks: NamedChecks, real: Program, net: str, key: str = "") -> None:
    """All of it; `net` is the /24 that the agents live in."""
    options = [*([f"-encrypt={key}"] if key else []), "-retry-interval=1s", "-retry-interval-wan=1s", FAST, QUICK_WAN]
    with cluster(checks) as start:

        def server(program: Program, name: str, number: int, datacenter: str, *more: str) -> Agent:
            return start(program, name, f"{net}.{number}", "-server", f"-datacenter={datacenter}", *options, *more)

        three = ("-bootstrap-expect=3",)
        ours = [
            server(OURS, "ours1", 1, "dc1", *three, f"-retry-join-wan={net}.11"),
            server(OURS, "ours2", 2, "dc1", *three, f"-retry-join={net}.1"),
            server(OURS, "ours3", 3, "dc1", *three, f"-retry-join={net}.1"),
        ]
        theirs = [
            server(real, "real1", 11, "dc2", *three),
            server(real, "real2", 12, "dc2", *three, f"-retry-join={net}.11"),
            server(real, "real3", 13, "dc2", *three, f"-retry-join={net}.11"),
        ]
        everybody = [*ours, *theirs]
        one_view(checks, everybody, [wan_name(agent) for agent in everybody], wan=True)
        have_leader(checks, everybody)
        tags(checks, ours[1])
        between_datacenters(checks, real, ours, theirs)
        if key:
            change_keys(checks, real, ours, theirs)
        refused(checks, start, real, net, everybody, options, key)
        guests = [
            server(OURS, "ours4", 4, "dc3", "-bootstrap-expect=1", f"-join-wan={net}.12"),
            server(real, "real4", 14, "dc4", "-bootstrap-expect=1", f"-join-wan={net}.2"),
        ]
        leave(checks, [*guests, ours[2], theirs[2]], [ours[0], theirs[0]])
        crash_and_return(checks, start, real, options, [ours[0], theirs[0]], ours[1], theirs[1])


def wan_name(agent: Agent) -> str:
    """Of an agent of these scenarios."""
    return f"{agent.name}.dc{ {'ours4': 3, 'real4': 4}.get(agent.name, 1 if agent.name.startswith('ours') else 2) }"


def all_see(checks: NamedChecks, watchers: list[Agent], name: str, status: str, timeout_s: float = FAILURE_S) -> None:
    """Count whether a WAN member gets that status everywhere."""
    checks.until(
        f"{name} is {status} in the WAN of {names(watchers)}",
        lambda: all(statuses(agent, wan=True).get(name) == status for agent in watchers),
        timeout_s,
        lambda: [statuses(agent, wan=True) for agent in watchers],
    )


def tags(checks: NamedChecks, agent: Agent) -> None:
    """Of our servers in the WAN pool: those of the LAN, but for the port of the WAN."""
    _, address, found = pool(agent, wan=True)[wan_name(agent)]
    lan_tags = dict(pool(agent)[agent.name][2])
    checks.equal(f"{agent.name} is in the WAN at its WAN port", address, f"{agent.address}:{WAN_PORT}")
    checks.equal("its LAN tags name the WAN port", lan_tags.pop("wan_join_port", ""), str(WAN_PORT))
    checks.equal("its WAN tags are the others", dict(found), lan_tags)


def between_datacenters(checks: NamedChecks, real: Program, ours: list[Agent], theirs: list[Agent]) -> None:
    """Catalog, keys and commands reach the other datacenter from each server."""
    for agent in (*ours, *theirs):
        checks.until(
            f"{agent.name} knows both datacenters",
            lambda a=agent: sorted(a.get("/v1/catalog/datacenters") or ()) == ["dc1", "dc2"],
        )
    checks.until("a write from dc1 to dc2", lambda: ours[1].put("/v1/kv/from/dc1?dc=dc2", b"x") is True)
    checks.until("is read there", lambda: theirs[2].get("/v1/kv/from/dc1"))
    checks.until("a write from dc2 to dc1", lambda: theirs[1].put("/v1/kv/from/dc2?dc=dc1", b"x") is True)
    checks.until("is read here", lambda: ours[2].get("/v1/kv/from/dc2"))
    for agent, program in ((ours[0], real), (theirs[0], OURS)):
        code, output = agent.command(program, "members", "-wan")
        found = all(wan_name(each) in output for each in (*ours, *theirs))
        checks.note(f"members -wan at {agent.name} by the other make's command", code == 0 and found, output)


def change_keys(checks: NamedChecks, real: Program, ours: list[Agent], theirs: list[Agent]) -> None:
    """One operation changes LAN, WAN and the other datacenter's LAN, asked here or there."""
    us, them, everybody = ours[0], theirs[0], [*ours, *theirs]

    def listed(agent: Agent, datacenter: str, key: str) -> None:
        wanted = {
            "LAN dc1": {key: 3, "members": 3}, "LAN dc2": {key: 3, "members": 3},
            f"WAN {datacenter}": {key: 6, "members": 6},
        }  # fmt: skip
        checks.equal(f"{agent.name} lists the key of every pool", keys_of(agent), wanted)

    with Traffic([*ours]):
        rotate(checks, KEY, OTHER_KEY, {
            "install": key_by_command(us, OURS), "use": key_by_command(them, real), "remove": key_by_http(us),
        })  # fmt: skip
        listed(us, "dc1", OTHER_KEY)
        listed(them, "dc2", OTHER_KEY)
        rotate(checks, OTHER_KEY, KEY, {
            "install": key_by_http(them), "use": key_by_command(us, real), "remove": key_by_command(them, OURS),
        })  # fmt: skip
        listed(us, "dc1", KEY)
        listed(them, "dc2", KEY)
    checks.equal("local-only lists one pool", list(keys_of(us, local_only=True)), ["LAN dc1"])
    never_failed(checks, everybody, "while keys changed")


def refused(
    checks: NamedChecks, start: Start, real: Program, net: str, everybody: list[Agent], options: list[str], key: str
) -> None:
    """Servers of another datacenter in the LAN, and a client in the WAN, are kept out by both makes."""
    before = [(pool(agent), pool(agent, wan=True)) for agent in everybody]
    lan_only = ("-server", "-bootstrap-expect=3", "-serf-wan-port=-1", *options, "-datacenter=dc9")
    intruders = [
        start(OURS, "intruder-ours", f"{net}.21", *lan_only, f"-retry-join={net}.11"),
        start(real, "intruder-real", f"{net}.22", *lan_only, f"-retry-join={net}.1"),
    ]
    secret = Keyring((base64.b64decode(key),)) if key else None
    joined = asyncio.run(client_in_wan(f"{net}.23", [f"{net}.2:{WAN_PORT}", f"{net}.12:{WAN_PORT}"], secret))
    checks.equal("a client's exchange with the WAN pool looks successful, as in Consul", joined, 2)
    for agent, text in (
        (everybody[0], "Member 'intruder-real' part of wrong datacenter 'dc9'"),
        (everybody[3], "Member 'intruder-ours' part of wrong datacenter 'dc9'"),
        (everybody[1], "Member 'client.dc1' is not a server"),
        (everybody[4], "Member 'client.dc1' is not a server"),
    ):
        checks.until(
            f"{agent.name} says: {text}", lambda a=agent, t=text: any(t in line for line in a.log_lines()), START_S
        )
    time.sleep(REFUSED_S)
    for agent, (lan_before, wan_before) in zip(everybody, before, strict=True):
        checks.equal(f"nobody came into the LAN of {agent.name}", sorted(pool(agent)), sorted(lan_before))
        checks.equal(f"nobody came into the WAN of {agent.name}", sorted(pool(agent, wan=True)), sorted(wan_before))
    for agent in intruders:
        checks.until(f"{agent.name} is alone", lambda a=agent: list(statuses(a)) == [a.name], START_S)
        agent.kill()


async def client_in_wan(host: str, addresses: list[str], keyring: Keyring | None) -> int:
    """A pool that comes to the WAN with a client's tags and checks nothing itself; how many answered."""
    env = real_env()
    tags = client_tags(AgentTags(datacenter="dc1", node_id="9f3b1c9e-0000-4000-8000-000000000001", build="1.10.11:"))
    options = GossipOptions(
        name="client.dc1", tags=tags, bind_host=host, bind_port=WAN_PORT, swim=WAN, serf=SerfConfig(pool="wan"),
        keyring=keyring,
    )  # fmt: skip
    quiet = LogStream(
        write=lambda text: None, write_warning=lambda text: None, wall_ns=env.clock.wall_ns, format="modern",
        level=100, role="client",
    )  # fmt: skip
    stranger = GossipPool(env, quiet.logger(), options)
    await stranger.start()
    try:
        joined = await stranger.join(addresses)
        await asyncio.sleep(2)
        return joined
    finally:
        await stranger.stop()
        await env.blocking.close()


def leave(checks: NamedChecks, leavers: list[Agent], watchers: list[Agent]) -> None:
    """Servers that leave are left in the WAN too, for both makes; two of them came by -join-wan."""
    for guest in leavers[:2]:
        all_see(checks, watchers, wan_name(guest), "alive", START_S)
        have_leader(checks, [guest])

    def one(agent: Agent) -> tuple[int, str, float]:
        began = time.monotonic()
        return *agent.command(OURS, "leave", timeout_s=60), time.monotonic() - began

    with ThreadPoolExecutor(len(leavers)) as threads:
        done = {agent: threads.submit(one, agent) for agent in leavers}
        for agent in leavers:
            code, output, seconds = done[agent].result()
            checks.note(f"{agent.name} leaves", code == 0, output)
            checks.say(f"leave of {agent.name} took {seconds:.1f} s")
    for agent in leavers:
        all_see(checks, watchers, wan_name(agent), "left", MISSED_S)


def crash_and_return(
    checks: NamedChecks,
    start: Start,
    real: Program,
    options: list[str],
    watchers: list[Agent],
    mine: Agent,
    other: Agent,
) -> None:
    """Failed in the WAN; one comes back by its snapshots alone, the other is forced to leave."""
    for agent in (mine, other):
        agent.kill()
    for agent in (mine, other):
        all_see(checks, watchers, wan_name(agent), "failed", 60)
    again = start(OURS, mine.name, mine.address, "-server", "-datacenter=dc1", *options)
    all_see(checks, [*watchers, again], wan_name(mine), "alive", START_S)
    code, output = watchers[1].command(real, "force-leave", other.name)
    checks.note(f"force-leave of {other.name}", code == 0, output)
    all_see(checks, watchers, wan_name(other), "left")
