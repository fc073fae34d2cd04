"""Two datacenters of three of our servers each, on loopback: what crosses between them, and a leader that is lost.

Run as `python -m conformance.wan`, or as `scripts/cluster --wan --check`. Each step prints its result; closes with
'N passed, N failed'. `--net` chooses the first three parts of the addresses.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from typing import Any

from conformance.agents import DNS_PORT, OURS, SERVER_PORT, Agent, Answer, Checks, cluster, leader_known
from conformance.dns_query import ask
from conformance.scenarios import guarded

NAMES = ("dc1", "dc2")
PASSED_ON = (
    "/v1/catalog/nodes",
    "/v1/catalog/services",
    "/v1/catalog/service/web",
    "/v1/catalog/node/far",
    "/v1/catalog/node-services/far",
    "/v1/health/node/far",
    "/v1/health/checks/web",
    "/v1/health/service/web",
    "/v1/health/service/web?passing",
    "/v1/health/state/any",
    "/v1/kv/across",
    "/v1/kv/?keys",
    "/v1/kv/?recurse",
    "/v1/session/list",
    "/v1/session/node/far",
    "/v1/status/leader",
    "/v1/status/peers",
    "/v1/coordinate/node/far",
    "/v1/query",
    "/v1/operator/raft/configuration",
    "/v1/operator/autopilot/configuration",
)
"""Asked in one datacenter with `?dc=` of the other, and of that one itself."""
LEADER_LOSS_S = 30.0


def start_both(start: Any, net: str) -> dict[str, list[Agent]]:
    """Three servers per datacenter; those of the second know one of the first."""
    found: dict[str, list[Agent]] = {}
    for place, name in enumerate(NAMES):
        addresses = [f"{net}.{2 + place * 3 + number}" for number in range(3)]
        found[name] = [
            start(OURS, f"{name}-s{number}", address, *flags(name, net, addresses[0]))
            for number, address in enumerate(addresses, 1)
        ]
    return found


def flags(name: str, net: str, join: str) -> list[str]:
    """A server's command line."""
    more = [] if name == NAMES[0] else [f"-retry-join-wan={net}.2"]
    return [
        "-server", "-bootstrap-expect=3", f"-datacenter={name}", f"-retry-join={join}", "-retry-interval=1s",
        "-retry-interval-wan=1s", *more,
    ]  # fmt: skip


def of(path: str, datacenter: str) -> str:
    """The path with `?dc=`."""
    return f"{path}{'&' if '?' in path else '?'}dc={datacenter}"


def plain(value: Any) -> Any:
    """Without what changes by itself between two questions."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key not in ("Coord", "LastContact")}
    return [plain(each) for each in value] if isinstance(value, list) else value


def meet(checks: Checks, both: dict[str, list[Agent]]) -> None:
    """Every server sees six in the WAN, and both datacenters with its own first."""
    for name, agents in both.items():
        checks.until(f"{name} has a leader", lambda a=agents: all(leader_known(agent) for agent in a), 40)
    names = {f"{agent.name}.{name}" for name, agents in both.items() for agent in agents}
    for name, agents in both.items():
        other = next(each for each in NAMES if each != name)
        for agent in agents:
            checks.until(f"{agent.name} sees all six", lambda a=agent: alive(a) == names, 40, lambda a=agent: alive(a))
            checks.equal(f"{agent.name} lists datacenters", agent.get("/v1/catalog/datacenters"), [name, other])


def alive(agent: Agent) -> set[str]:
    """Names of the live members of the WAN pool."""
    return {row["Name"] for row in agent.get("/v1/agent/members?wan=1") or () if row["Status"] == 1}


def calls(checks: Checks, near: Agent, far: Agent) -> None:
    """What is asked of the other datacenter is answered as it answers itself."""
    service = {"ID": "web1", "Service": "web", "Port": 80, "Tags": ["v1"]}
    check = {"CheckID": "c", "Name": "c", "Status": "passing", "ServiceID": "web1"}
    body = {"Node": "far", "Address": "10.9.9.9", "Service": service, "Check": check, "Datacenter": "dc2"}
    checks.equal("a registration crosses", near.put("/v1/catalog/register", body), True)
    checks.equal("a write crosses", near.put(of("/v1/kv/across", "dc2"), b"over there"), True)
    transaction = [{"KV": {"Verb": "set", "Key": "txn", "Value": "eA=="}}]
    checks.note("a transaction crosses", isinstance(near.put(of("/v1/txn", "dc2"), transaction), dict))
    session = near.put(of("/v1/session/create", "dc2"), {"Node": "far", "Checks": []})
    checks.note("a session is made there", isinstance(session, dict) and session.get("ID"), session)
    checks.equal("a lock is had there", near.put(of(f"/v1/kv/lock?acquire={session['ID']}", "dc2"), b""), True)
    for path in PASSED_ON:
        crossed, own = near.request("GET", of(path, "dc2")), far.request("GET", path)
        checks.equal(f"GET {path}", (crossed.status, plain(crossed.body)), (own.status, plain(own.body)))
    checks.equal("the write is not here", near.request("GET", "/v1/kv/across").status, 404)
    unknown = near.request("GET", "/v1/catalog/nodes?dc=dc9")
    checks.equal("an unknown datacenter", (unknown.status, str(unknown.body).strip()), (500, "No path to datacenter"))
    wakes(checks, near, far)


def wakes(checks: Checks, near: Agent, far: Agent) -> None:
    """A blocking query waits across."""
    index = near.request("GET", of("/v1/kv/across", "dc2")).index
    answers: list[Answer] = []
    asking = threading.Thread(
        target=lambda: answers.append(near.request("GET", of(f"/v1/kv/across?index={index}&wait=15s", "dc2")))
    )
    asking.start()
    time.sleep(0.5)
    began = time.monotonic()
    far.put("/v1/kv/across", b"changed")
    asking.join()
    checks.note("a blocking query across wakes", answers and answers[0].index > index and time.monotonic() - began < 5)


def names(checks: Checks, near: Agent) -> None:
    """DNS names of the other datacenter, and of this one by name."""
    server = (near.address, DNS_PORT)
    checks.equal("DNS of a service there", ask(server, "web.service.dc2.consul").data(), ["10.9.9.9"])
    checks.equal("DNS of a tag there", ask(server, "v1.web.service.dc2.consul").data(), ["10.9.9.9"])
    checks.equal("DNS of a node there", ask(server, "far.node.dc2.consul").data(), ["10.9.9.9"])
    located = ask(server, "web.service.dc2.consul", "SRV").data()
    checks.equal("SRV there", located, ["1 1 80 far.node.dc2.consul."])
    checks.equal("DNS of the service here", ask(server, "web.service.dc1.consul").status, "NXDOMAIN")


def failover(checks: Checks, near: Agent) -> None:
    """A prepared query finds instances elsewhere when there are none here, and only then."""
    wanted = (("listed", {"Datacenters": ["dc2"]}), ("nearest", {"NearestN": 1}))
    for name, rule in wanted:
        query = {"Name": name, "Service": {"Service": "web", "Failover": rule}}
        made = near.request("POST", "/v1/query", query)
        checks.equal(f"query {name} is made", made.status, 200)
        found = near.get(f"/v1/query/{name}/execute") or {}
        told = (found.get("Datacenter"), found.get("Failovers"), len(found.get("Nodes") or ()))
        checks.equal(f"query {name} fails over", told, ("dc2", 1, 1))
        question = ((near.address, DNS_PORT), f"{name}.query.consul")
        # DNS reads are stale: the server asked may not have the query yet.
        checks.until(f"DNS of query {name} fails over", lambda q=question: ask(*q).data() == ["10.9.9.9"])
    body = {"Node": "close", "Address": "10.1.1.1", "Service": {"ID": "web1", "Service": "web", "Port": 80}}
    near.put("/v1/catalog/register", body)
    found = near.get("/v1/query/listed/execute") or {}
    checks.equal("no failover with an instance here", (found.get("Datacenter"), found.get("Failovers")), ("dc1", 0))
    near.put("/v1/catalog/deregister", {"Node": "close"})


def loses_leader(checks: Checks, start: Any, net: str, both: dict[str, list[Agent]]) -> None:
    """The far datacenter loses its leader, then its quorum, and gets it back; the near one does not care."""
    near = both["dc1"][0]
    address = str(leader_known(both["dc2"][0])).removesuffix(f":{SERVER_PORT}")
    old = next(agent for agent in both["dc2"] if agent.address == address)
    left = [agent for agent in both["dc2"] if agent is not old]
    old.kill()
    began = time.monotonic()
    checks.equal("a write here goes on", near.put("/v1/kv/here", b"1"), True)
    checks.until("a write there goes on", lambda: wrote(near, of("/v1/kv/after", "dc2")), LEADER_LOSS_S)
    print(f"...  {time.monotonic() - began:.1f} s after the leader's end", flush=True)
    left[1].kill()
    # The lone server still takes itself or the dead one for leader until its lease is over.
    checks.until("the last one there has no leader", lambda: leader_known(left[0]) == "", LEADER_LOSS_S)
    # As in Consul, a call that meets a dead server fails, and the next goes to another.
    checks.until(
        "stale reads there go on",
        lambda: near.get(of("/v1/kv/across?stale", "dc2")),
        detail=lambda: near.request("GET", of("/v1/kv/across?stale", "dc2")),
    )
    checks.equal("a write here goes on without them", near.put("/v1/kv/here", b"2"), True)
    checks.until("a write there is refused", lambda: refused(near, of("/v1/kv/lost", "dc2")), LEADER_LOSS_S)
    for agent in (old, left[1]):
        start(OURS, agent.name, agent.address, *flags("dc2", net, left[0].address))
    checks.until("a write there goes on again", lambda: wrote(near, of("/v1/kv/again", "dc2")), 2 * LEADER_LOSS_S)
    checks.equal("what was refused is not there", near.request("GET", of("/v1/kv/lost", "dc2")).status, 404)
    checks.note("what was acknowledged is there", near.get(of("/v1/kv/after", "dc2")))


def wrote(agent: Agent, path: str) -> bool:
    """Whether a write was acknowledged."""
    try:
        return agent.put(path, b"x") is True
    except OSError:
        return False


def refused(agent: Agent, path: str) -> bool:
    """Whether a write is refused for want of a leader."""
    answer = agent.request("PUT", path, b"x")
    return answer.status == 500 and "No cluster leader" in str(answer.body)


def run(checks: Checks, net: str) -> None:
    """All of it."""
    with cluster(checks) as start:
        both = start_both(start, net)
        meet(checks, both)
        calls(checks, both["dc1"][0], both["dc2"][1])
        names(checks, both["dc1"][1])
        failover(checks, both["dc1"][2])
        loses_leader(checks, start, net, both)


def main(arguments: list[str]) -> int:
    """Exit code of the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="127.0.6", help="first three parts of the addresses")
    options = parser.parse_args(arguments)
    for name in [key for key in os.environ if key.startswith("CONSUL_")]:
        del os.environ[name]
    checks = Checks()
    guarded(checks, lambda: run(checks, options.net))
    return checks.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
