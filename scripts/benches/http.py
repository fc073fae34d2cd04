"""HTTP reads on a leader that is a single server: requests per second, p99 and CPU per request.

    scripts/bench http [CASE...] [--rounds 5] [--seconds 3] [--against REV]

wrk -t1 -c32. Cases: kv, health, nodes, leader, recurse, stale.
"""

from __future__ import annotations

import json

from scripts.benches.frame import Make, Server, alternate, fleet, makes, need_wrk, parser, wrk

CASES = {
    "kv": "/v1/kv/foo",
    "health": "/v1/health/service/web",
    "nodes": "/v1/catalog/nodes",
    "leader": "/v1/status/leader",
    "recurse": "/v1/kv/tree/?recurse",
    "stale": "/v1/kv/foo?stale",
}
SERVICES = 3
TREE = 50


def fill(server: Server) -> None:
    """What the cases read."""
    put(server, "/v1/kv/foo", b"x" * 64)
    for number in range(TREE):
        put(server, f"/v1/kv/tree/{number:03}", b"value %d" % number)
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
    if unknown := [case for case in chosen.cases if case not in CASES]:
        options.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    need_wrk()
    with makes(chosen) as found, fleet(chosen) as agents:
        servers = {make.label: agents.cluster(make) for make in found}
        for cluster in servers.values():
            fill(cluster[0])
        for case in chosen.cases or CASES:

            def measure(make: Make, path: str = CASES[case]):
                return wrk(servers[make.label], path, chosen.seconds)

            alternate(f"http {case}", found, chosen.rounds, measure)
    return 0
