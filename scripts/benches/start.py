"""Starts: of an agent until its first HTTP answer and its first leader, and of short commands.

    scripts/bench start [--rounds 5] [--against REV]

Each agent is a single server with an empty data directory. Times are wall clock from the start of the process, Python's
byte code compiled before; short commands talk to a running agent of their own make.
"""

from __future__ import annotations

import statistics
import subprocess
import time

from scripts.benches.frame import OURS, Fleet, Make, Server, fleet, leader_of, makes, parser, spread

COMMANDS = {"members": ("members",), "kv get": ("kv", "get", "a"), "version": ("version",)}
POLL_S = 0.002


def answers(server: Server) -> bool:
    """Whether HTTP is up."""
    try:
        return server.request("GET", "/v1/status/leader")[0] == 200
    except OSError:
        return False


def first(look, began: float) -> float:
    """Seconds from `began` until `look` is true."""
    while not look():
        assert time.perf_counter() - began < 60, "it does not come up"
        time.sleep(POLL_S)
    return time.perf_counter() - began


def start(agents: Fleet, make: Make) -> tuple[float, float]:
    """Seconds to the first answer and to the first leader."""
    began = time.perf_counter()
    server = agents.start(make, ["-bootstrap"])
    http_s = first(lambda: answers(server), began)
    leader_s = first(lambda: leader_of(server), began)
    agents.stop(server)
    return http_s, leader_s


def command_s(make: Make, server: Server, arguments: tuple[str, ...]) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    command = [*make.command, *arguments]
    if len(arguments) > 0 and arguments[0] != "version":
        command = [*make.command, *arguments[:-1], *split(arguments[-1], server.url)]
    done = subprocess.run(command, cwd=make.folder, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return time.perf_counter() - began


def split(last: str, url: str) -> list[str]:
    """The last word of a command with the agent's address before it, where flags may stand."""
    return [last, f"-http-addr={url}"] if last == "members" else [f"-http-addr={url}", last]


def main(arguments: list[str]) -> int:
    """Measure in turn."""
    chosen = parser(__doc__, rounds=5, seconds=0).parse_args(arguments)
    times: dict[str, dict[str, list[float]]] = {}
    with makes(chosen) as found, fleet(chosen) as agents:
        servers = {make.label: agents.cluster(make)[0] for make in found}
        for server in servers.values():
            assert server.request("PUT", "/v1/kv/a", b"1")[0] == 200
        for _ in range(chosen.rounds):
            for make in found:
                http_s, leader_s = start(agents, make)
                row = times.setdefault(make.label, {})
                row.setdefault("agent to first answer", []).append(http_s)
                row.setdefault("agent to first leader", []).append(leader_s)
                for name, words in COMMANDS.items():
                    row.setdefault(f"consul {name}", []).append(command_s(make, servers[make.label], words))
    for name, ours in times[OURS].items():
        print(f"start, {name}: ours {statistics.median(ours) * 1e3:.0f} ms (least {min(ours) * 1e3:.0f})", flush=True)
        for label, rows in times.items():
            if label != OURS:
                ratio = spread([a / b for a, b in zip(ours, rows[name], strict=True)])
                print(f"    {label} {statistics.median(rows[name]) * 1e3:.0f} ms, ours/{label} {ratio}")
    return 0
