"""A real Consul 1.8.7 and ours in one cluster, on loopback: as clients of each other, as CLI, as raft peers.

Run as `python -m conformance.consul_peer [SCENARIO...]`; scenarios are the names in SCENARIOS, all without one. Each
step prints its result; closes with 'N passed, N failed'. Without a real Consul it is skipped, in CI it fails.
All but `encrypted_client` and `real_cli` are parts of `conformance.mixed` too, which CI runs.
"""

from __future__ import annotations

import base64
import sys
import time
from typing import Any

from conformance import real_cli, service_life
from conformance.agents import (
    OURS,
    SERVER_PORT,
    Agent,
    Checks,
    cluster,
    leader_known,
    member_status,
    serf_health,
    until,
)
from conformance.scenarios import run_scenarios

Program = tuple[str, ...]

CALM_S = 10.0
NET = "127.0.1"
SYNC_S = 5.0
"""A real agent registers itself again within 3 s of a new leader; a leave before that is undone by it."""
KEY = base64.b64encode(bytes(range(32))).decode()


def servers(start: Any, program: Program, addresses: list[str], prefix: str, *more: str) -> list[Agent]:
    """Servers of one make that wait for each other."""
    more = ("-retry-interval=1s", *more)
    agents = []
    for number, address in enumerate(addresses, 1):
        joins = [f"-retry-join={other}" for other in addresses[:1] if other != address]
        expect = f"-bootstrap-expect={len(addresses)}"
        agents.append(start(program, f"{prefix}{number}", address, "-server", expect, *joins, *more))
    return agents


def settle(checks: Checks, agents: list[Agent]) -> None:
    """Wait until all know a leader."""
    names = ", ".join(agent.name for agent in agents)
    checks.until(f"{names} have a leader", lambda: all(leader_known(agent) for agent in agents), 30)


def client_joins(checks: Checks, client: Agent, cluster_servers: list[Agent]) -> None:
    """A client is a member everywhere and healthy in the catalog."""
    for server in cluster_servers:
        checks.until(
            f"{server.name} sees {client.name} alive", lambda s=server: member_status(s, client.name) == "alive"
        )
        checks.until(
            f"{server.name} has a passing serfHealth of {client.name}",
            lambda s=server: serf_health(s, client.name) == "passing",
        )
    checks.until(f"{client.name} knows the leader", lambda: leader_known(client))
    nodes = {row["Node"]: row["Address"] for row in client.get("/v1/catalog/nodes") or ()}
    checks.equal(f"{client.name} lists the nodes", nodes, {a.name: a.address for a in [*cluster_servers, client]})


def stays_calm(checks: Checks, agents: list[Agent]) -> None:
    """Nobody suspects anybody for a while."""
    print(f"...  holding for {CALM_S:.0f} s", flush=True)
    time.sleep(CALM_S)
    lines = [f"{a.name}: {line}" for a in agents for line in a.log_lines() if "uspect" in line and "failed" in line]
    checks.equal("nobody suspected anybody", lines, [])


def client_leaves(checks: Checks, client: Agent, watchers: list[Agent]) -> None:
    """A leave shows as left and takes the node out of the catalog."""
    checks.equal(f"{client.name} leaves with exit code 0", client.interrupt(), 0)
    for server in watchers:
        checks.until(f"{server.name} sees it left", lambda s=server: member_status(s, client.name) == "left")
        checks.until(
            f"{server.name} has it out of the catalog",
            lambda s=server: (
                client.name not in {row["Node"] for row in s.get("/v1/catalog/nodes") or [{"Node": client.name}]}
            ),
        )


def real_client(checks: Checks, real: Program, net: str = NET) -> None:
    """Three of our servers, a real client."""
    with cluster(checks) as start:
        ours = servers(start, OURS, [f"{net}.{number}" for number in (2, 3, 4)], "ours")
        settle(checks, ours)
        client = start(real, "real", f"{net}.5", f"-retry-join={net}.2")
        client_joins(checks, client, ours)
        service_life.all_of(checks, client, ours[1])
        stays_calm(checks, [*ours, client])
        crashes(checks, start, real, client, ours)


def crashes(checks: Checks, start: Any, real: Program, client: Agent, ours: list[Agent]) -> None:
    """The client crashes and comes back, the leader crashes, the client leaves."""
    again = comes_back(checks, start, real, client, ours[0])
    living = leader_change(checks, again, ours)
    time.sleep(SYNC_S)
    client_leaves(checks, again, living)


def comes_back(checks: Checks, start: Any, real: Program, client: Agent, server: Agent) -> Agent:
    """The client crashes, is seen failed, and comes back as a new process."""
    client.kill()
    checks.until("its crash is seen as failed", lambda: member_status(server, client.name) == "failed", 40)
    checks.until("its serfHealth is critical", lambda: serf_health(server, client.name) == "critical")
    again: Agent = start(real, client.name, client.address, f"-retry-join={server.address}")
    checks.until("it comes back", lambda: member_status(server, client.name) == "alive", 30)
    checks.until("its serfHealth passes again", lambda: serf_health(server, client.name) == "passing")
    return again


def leader_of(agents: list[Agent]) -> Agent:
    """Which of them leads, as the first one says."""
    address = str(leader_known(agents[0]))
    return next(agent for agent in agents if address == f"{agent.address}:{SERVER_PORT}")


def leader_change(checks: Checks, client: Agent, cluster_servers: list[Agent]) -> list[Agent]:
    """The leader crashes and the client goes on with another; the servers that live."""
    old = leader_of(cluster_servers)
    old.kill()
    started = time.monotonic()
    wrote = until(lambda: client.put("/v1/kv/after", b"crash") is True, 40)
    checks.note(f"{client.name} writes after the leader's crash", wrote)
    print(f"...  {time.monotonic() - started:.1f} s after it", flush=True)
    return [agent for agent in cluster_servers if agent is not old]


def encrypted_client(checks: Checks, real: Program, net: str = NET) -> None:
    """The same under gossip encryption, shorter."""
    with cluster(checks) as start:
        ours = servers(start, OURS, [f"{net}.2"], "ours", f"-encrypt={KEY}")
        settle(checks, ours)
        client = start(real, "real", f"{net}.5", f"-retry-join={net}.2", f"-encrypt={KEY}")
        client_joins(checks, client, ours)
        time.sleep(SYNC_S)
        client_leaves(checks, client, ours)


def our_client(checks: Checks, real: Program, net: str = NET) -> None:
    """Two real servers, our client."""
    with cluster(checks) as start:
        theirs = servers(start, real, [f"{net}.10", f"{net}.11"], "real")
        settle(checks, theirs)
        client = start(OURS, "ours", f"{net}.12", f"-retry-join={net}.10")
        client_joins(checks, client, theirs)
        service_life.all_of(checks, client, theirs[1])
        stays_calm(checks, theirs)
        client_leaves(checks, client, theirs)


def raft_ids(agent: Agent) -> dict[str, Any]:
    """Name -> row of the raft configuration."""
    document = agent.get("/v1/operator/raft/configuration") or {"Servers": []}
    return {row["Node"]: row for row in document["Servers"]}


def is_voter(agent: Agent, name: str) -> bool:
    """Whether `agent` sees `name` as a voter."""
    return bool(raft_ids(agent).get(name, {}).get("Voter"))


def our_peer(checks: Checks, real: Program, net: str = NET) -> None:
    """Two real servers, one of ours joins them as raft peer; then a real leader crashes."""
    with cluster(checks) as start:
        theirs = servers(start, real, [f"{net}.20", f"{net}.21"], "real")
        settle(checks, theirs)
        theirs[0].put("/v1/kv/before", b"ours came")
        mine = start(OURS, "ours", f"{net}.22", "-server", f"-retry-join={net}.20")
        joins_raft(checks, mine, theirs)
        leader = leader_of(theirs)
        other = next(a for a in theirs if a is not leader)
        leader.kill()
        survives(checks, [other, mine])


def real_peer(checks: Checks, real: Program, net: str = NET) -> None:
    """Two of our servers, a real one joins them as raft peer; then our leader crashes."""
    with cluster(checks) as start:
        ours = servers(start, OURS, [f"{net}.20", f"{net}.21"], "ours")
        settle(checks, ours)
        ours[0].put("/v1/kv/before", b"theirs came")
        theirs = start(real, "real", f"{net}.22", "-server", f"-retry-join={net}.20")
        joins_raft(checks, theirs, ours)
        leader = leader_of(ours)
        other = next(a for a in ours if a is not leader)
        leader.kill()
        survives(checks, [other, theirs])


def joins_raft(checks: Checks, newcomer: Agent, others: list[Agent]) -> None:
    """A server of the other make becomes a voter and has the data."""
    asked = others[0] if checks.serves(others[0], "/v1/operator/raft/configuration") else newcomer
    checks.until(f"{newcomer.name} is a raft peer", lambda: newcomer.name in raft_ids(asked), 30)
    checks.until(f"{newcomer.name} is promoted", lambda: is_voter(asked, newcomer.name), 60)
    checks.until(f"{newcomer.name} has the data", lambda: newcomer.get("/v1/kv/before?stale"))
    checks.until(f"{newcomer.name} knows the leader", lambda: leader_known(newcomer))
    checks.equal(f"{newcomer.name} passes a write on", newcomer.put("/v1/kv/through", b"forwarded"), True)
    checks.until("all have it", lambda: all(a.get("/v1/kv/through?stale") for a in [newcomer, *others]))


def survives(checks: Checks, left: list[Agent]) -> None:
    """Two of three go on: a new leader, writes through both."""
    for agent in left:
        wrote = until(lambda a=agent: leader_known(a) and a.put(f"/v1/kv/{a.name}", b"after") is True, 60)
        checks.note(f"{agent.name} writes after the leader's crash", wrote)
    print(f"...  the leader is {leader_known(left[0])}", flush=True)
    checks.until("both have both", lambda: all(a.get(f"/v1/kv/{b.name}?stale") for a in left for b in left))


SCENARIOS = {
    "real_client": real_client,
    "encrypted_client": encrypted_client,
    "our_client": our_client,
    "real_cli": real_cli.run,
    "our_peer": our_peer,
    "real_peer": real_peer,
}


def main(arguments: list[str]) -> int:
    """Exit code of the program."""
    return run_scenarios("consul_peer", SCENARIOS, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
