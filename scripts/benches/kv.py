"""Writes: PUTs of 64-byte values by 32 concurrent writers, on a single server and on three.

    scripts/bench kv [--servers 1 3] [--rounds 5] [--seconds 4] [--against REV]

wrk -t1 -c32, each request another of 10,000 keys, all to the leader; data directories on disk. CPU is that of all
servers of a cluster.
"""

from __future__ import annotations

from scripts.benches.frame import Make, alternate, fleet, makes, need_wrk, parser, wrk

KEYS = 10_000
VALUE_BYTES = 64
SCRIPT = f"""
local body = string.rep("v", {VALUE_BYTES - 6})
local count = 0
function request()
  count = count + 1
  return wrk.format("PUT", "/v1/kv/bench/" .. (count % {KEYS}), nil, body .. string.format("%06d", count % 1000000))
end
"""


def main(arguments: list[str]) -> int:
    """Run both clusters."""
    options = parser(__doc__, rounds=5, seconds=4)
    options.add_argument("--servers", type=int, nargs="*", default=[1, 3])
    chosen = options.parse_args(arguments)
    need_wrk()
    with makes(chosen) as found:
        for count in chosen.servers:
            with fleet(chosen) as agents:
                clusters = {make.label: agents.cluster(make, count) for make in found}

                def measure(make: Make, clusters=clusters):
                    return wrk(clusters[make.label], "/", chosen.seconds, script=SCRIPT)

                alternate(f"kv put, {count} server{'s' if count > 1 else ''}", found, chosen.rounds, measure)
    return 0
