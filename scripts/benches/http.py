"""HTTP reads: requests per second, p99 and CPU per request.

    scripts/bench http [CASE...] [--rounds 5] [--seconds 3] [--against REV]

wrk -t1 -c32. kv, health, nodes, leader, recurse and stale ask for one thing again and again, which ours answers from
memory while nothing has changed; many asks for 10,000 keys in turn, mixed is health with every tenth request a write of
a key, and churn with every tenth a registration, so that no answer can be given twice for long. These ask the leader,
which is a single server. follower and follower-stale ask another of three servers, client and client-stale an agent in
client mode before these; CPU is then that of all four.
"""

from __future__ import annotations

import json

from scripts.benches.frame import Fleet, Make, Server, alternate, fleet, makes, need_wrk, parser, until, wrk

CASES = {
    "kv": "/v1/kv/foo",
    "health": "/v1/health/service/web",
    "nodes": "/v1/catalog/nodes",
    "leader": "/v1/status/leader",
    "recurse": "/v1/kv/tree/?recurse",
    "stale": "/v1/kv/foo?stale",
}
ELSEWHERE = {
    "follower": ("follower", "/v1/kv/foo"),
    "follower-stale": ("follower", "/v1/kv/foo?stale"),
    "client": ("client", "/v1/kv/foo"),
    "client-stale": ("client", "/v1/health/service/web?stale"),
}
"""Name of a case -> whom it asks, and for what."""
MANY = 10_000
SCRIPTS = {
    "many": f"""
local count = 0
function request()
  count = (count + 7919) % {MANY}
  return wrk.format("GET", "/v1/kv/many/" .. count)
end
""",
    "mixed": """
local count = 0
function request()
  count = count + 1
  if count % 10 == 0 then return wrk.format("PUT", "/v1/kv/mixed", nil, "value " .. count) end
  return wrk.format("GET", "/v1/health/service/web")
end
""",
    "churn": """
local count = 0
function request()
  count = count + 1
  if count % 10 == 0 then
    local address = "10.1.1." .. count % 250
    return wrk.format("PUT", "/v1/catalog/register", nil, '{"Node": "other", "Address": "' .. address .. '"}')
  end
  return wrk.format("GET", "/v1/health/service/web")
end
""",
}
PER_TXN = 64
SERVICES = 3
TREE = 50
SPREAD_S = 10.0


def fill(server: Server) -> None:
    """What the cases read."""
    put(server, "/v1/kv/foo", b"x" * 64)
    for number in range(TREE):
        put(server, f"/v1/kv/tree/{number:03}", b"value %d" % number)
    for begin in range(0, MANY, PER_TXN):
        operations = [
            {"KV": {"Verb": "set", "Key": f"many/{number}", "Value": "dmFsdWU="}}
            for number in range(begin, min(begin + PER_TXN, MANY))
        ]
        put(server, "/v1/txn", json.dumps(operations).encode())
    for number in range(SERVICES):
        row = {
            "Node": f"node{number}",
            "Address": f"10.0.0.{number + 1}",
            "Service": {"ID": f"web{number}", "Service": "web", "Tags": ["v1", "eu"], "Port": 80, "Meta": {"a": "b"}},
            "Checks": [{"Node": f"node{number}", "CheckID": "web", "Name": "up", "Status": "passing",
                        "ServiceID": f"web{number}"}],
        }  # fmt: skip
        put(server, "/v1/catalog/register", json.dumps(row).encode())


def put(server: Server, path: str, body: bytes) -> None:
    """A PUT that must succeed."""
    status, answer = server.request("PUT", path, body)
    assert status == 200, (path, status, answer)


def main(arguments: list[str]) -> int:
    """Run the cases."""
    options = parser(__doc__, rounds=5, seconds=3)
    options.add_argument("cases", nargs="*", metavar="CASE")
    chosen = options.parse_args(arguments)
    known = [*CASES, *SCRIPTS, *ELSEWHERE]
    if unknown := [case for case in chosen.cases if case not in known]:
        options.error(f"no case {', '.join(unknown)}; there are {', '.join(known)}")
    need_wrk()
    cases = chosen.cases or known
    with makes(chosen) as found, fleet(chosen) as agents:
        if here := [case for case in cases if case not in ELSEWHERE]:
            alone = {make.label: agents.cluster(make) for make in found}
            for cluster in alone.values():
                fill(cluster[0])
            for case in here:

                def measure(make: Make, path: str = CASES.get(case, "/"), script: str = SCRIPTS.get(case, "")):
                    return wrk(alone[make.label], path, chosen.seconds, script=script)

                alternate(f"http {case}", found, chosen.rounds, measure)
            for cluster in alone.values():
                agents.stop(cluster[0])
        if there := [case for case in cases if case in ELSEWHERE]:
            asked = {make.label: asked_elsewhere(agents, make) for make in found}
            for case in there:

                def ask(make: Make, whom: str = ELSEWHERE[case][0], path: str = ELSEWHERE[case][1]):
                    first = asked[make.label][whom]
                    others = [each for each in asked[make.label].values() if each is not first]
                    return wrk([first, *others], path, chosen.seconds)

                alternate(f"http {case}", found, chosen.rounds, ask)
    return 0


def asked_elsewhere(agents: Fleet, make: Make) -> dict[str, Server]:
    """Three servers and a client agent, each by its part; the key that is read is known to all."""
    leader, follower, third = agents.cluster(make, 3)
    client = agents.client(make, [leader, follower, third])
    fill(leader)
    members = {"follower": follower, "client": client, "leader": leader, "third": third}
    for each in members.values():
        until(lambda at=each: at.request("GET", "/v1/kv/foo?stale")[0] == 200, SPREAD_S, f"{each.log.name}: no key")
    return members
