"""DNS queries over UDP of a single server: queries per second and p99 latency, beside a real Consul.

    scripts/bench dns [CASE...] [--rounds 5] [--seconds 2] [--sockets 1 20] [--no-consul] [--profile FILE]

dnsperf on loopback with 100 queries under way, from 1 and from 20 sockets. Cases: a node's address, addresses and SRV
of a service with 3 and with 100 instances. Both agents have the same catalog and are measured in turn, round after
round; what counts is the median of the rounds' ratios (ours / theirs), since two processors shared with others make
absolute figures worthless. Latencies are of runs of their own, for telling each costs the load generator time. Closes
with a table; the exit code is 1 when a ratio misses its goal.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conformance.agents import OURS, Agent, Checks, cluster, until
from conformance.real_consul import Missing, program, real_consul

DNS_PORT = 8600
OUTSTANDING = 100
START_S = 30.0
CASES = {
    "node A": ("golden0.node.consul", "A", 2.0),
    "service A, 3": ("web.service.consul", "A", 2.0),
    "service SRV, 3": ("web.service.consul", "SRV", 2.0),
    "service A, 100": ("many.service.consul", "A", 1.0),
    "service SRV, 100": ("many.service.consul", "SRV", 1.0),
}
"""Name of a case -> (name, type, what queries/s must at least be as a multiple of Consul's)."""

RATE = re.compile(r"Queries per second:\s+([\d.]+)")
LOST = re.compile(r"Queries lost:\s+(\d+)")
ANSWER = re.compile(rb"^> (\S+) \S+ \S+ ([\d.]+)", re.MULTILINE)


def fill(agent: Agent) -> None:
    """The catalog that the cases ask for."""
    for service, instances in (("web", 3), ("many", 100)):
        for number in range(instances):
            node = f"{'golden' if service == 'web' else 'n'}{number}"
            row = {
                "Node": node,
                "Address": f"10.{1 if service == 'web' else 2}.0.{number + 1}",
                "Service": {"ID": f"{service}{number}", "Service": service, "Port": 8080},
                "Checks": [
                    {"Node": node, "CheckID": "host", "Name": "host", "Status": "passing"},
                    {"Node": node, "CheckID": "up", "Name": "up", "Status": "passing",
                     "ServiceID": f"{service}{number}"},
                ],
            }  # fmt: skip
            answer = agent.request("PUT", "/v1/catalog/register", row)
            if answer.status != 200:
                sys.exit(f"bench: {agent.name} refused {node}: {answer.status} {answer.body}")


def dnsperf(agent: Agent, question: str, sockets: int, seconds: float, *options: str) -> bytes:
    """What dnsperf printed about one question asked again and again."""
    with tempfile.NamedTemporaryFile("w", suffix=".queries") as file:
        file.write(question + "\n")
        file.flush()
        done = subprocess.run(
            [program("dnsperf"), "-s", agent.address, "-p", str(DNS_PORT), "-d", file.name, "-c", str(sockets),
             "-q", str(OUTSTANDING), "-l", f"{seconds:g}", *options],
            capture_output=True, stdin=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    return done.stdout


def rate(agent: Agent, question: str, sockets: int, seconds: float) -> float:
    """Queries answered per second."""
    text = dnsperf(agent, question, sockets, seconds).decode()
    lost, found = LOST.search(text), RATE.search(text)
    if found is None or lost is None or int(lost[1]) or "NOERROR" not in text:
        sys.exit(f"bench: {agent.name} does not answer {question}:\n{text}")
    return float(found[1])


def p99_ms(agent: Agent, question: str, sockets: int, seconds: float) -> float:
    """The latency, in milliseconds, under which 99 of 100 queries were answered, at full load."""
    times = sorted(float(found[1]) for found in ANSWER.findall(dnsperf(agent, question, sockets, seconds, "-v")))
    if not times:
        sys.exit(f"bench: no latencies of {agent.name} for {question}")
    return times[len(times) * 99 // 100] * 1e3


def compare(agents: Sequence[Agent], case: str, sockets: int, options: argparse.Namespace) -> tuple[str, bool]:
    """One line of the table, and whether the goal was reached."""
    name, type_, goal = CASES[case]
    question = f"{name} {type_}"
    rates: list[list[float]] = [[] for _ in agents]
    latencies: list[list[float]] = [[] for _ in agents]
    for agent in agents:
        dnsperf(agent, question, sockets, 0.5)  # warm
    for _ in range(options.rounds):
        for agent, found in zip(agents, rates, strict=True):
            found.append(rate(agent, question, sockets, options.seconds))
        for agent, found in zip(agents, latencies, strict=True):
            found.append(p99_ms(agent, question, sockets, options.seconds))
    ours = f"{statistics.median(rates[0]):8.0f} q/s {statistics.median(latencies[0]):7.2f} ms"
    line = f"{case:<17} {sockets:>7}  {ours}"
    if len(agents) == 1:
        return line, True
    ratios = [mine / theirs for mine, theirs in zip(rates[0], rates[1], strict=True)]
    slower = [mine / theirs for mine, theirs in zip(latencies[0], latencies[1], strict=True)]
    theirs = f"{statistics.median(rates[1]):8.0f} q/s {statistics.median(latencies[1]):7.2f} ms"
    ratio, p99 = statistics.median(ratios), statistics.median(slower)
    good = ratio >= goal and p99 <= 1.0
    verdict = "" if good else f"  goal: {goal:g}, p99 1"
    return (
        f"{line}  {theirs}  {ratio:5.2f} ({min(ratios):.2f}-{max(ratios):.2f}) p99 {p99:4.2f} "
        f"({min(slower):.2f}-{max(slower):.2f}){verdict}",
        good,
    )


def profiled(options: argparse.Namespace) -> tuple[str, ...]:
    """The command of our agent, under cProfile when that is asked for."""
    if not options.profile:
        return OURS
    return (OURS[0], "-m", "cProfile", "-o", str(Path(options.profile).resolve()), *OURS[1:])


def main(arguments: list[str]) -> int:
    """Run the cases."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench dns", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--sockets", type=int, nargs="*", default=[1, 20])
    parser.add_argument("--no-consul", action="store_true", help="without a real Consul")
    parser.add_argument("--net", default="127.0.61", help="the agents live on NET.11 and NET.12 (127.0.61)")
    parser.add_argument("--profile", metavar="FILE", help="run our agent under cProfile")
    parser.add_argument("--config", metavar="JSON", default="{}", help="further configuration of both agents")
    options = parser.parse_args(arguments)
    if unknown := [case for case in options.cases if case not in CASES]:
        parser.error(f"no case {', '.join(unknown)}; there are: {', '.join(CASES)}")
    try:
        program("dnsperf")
        makes = [("ours", profiled(options))] + ([] if options.no_consul else [("consul", (real_consul(),))])
    except Missing as reason:
        sys.exit(f"bench: {reason}")
    checks, lines, all_good = Checks(), [], True
    with cluster(checks) as start, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"connect": {"enabled": False}, "disable_update_check": True, "log_level": "warn",
                   "performance": {"raft_multiplier": 1}, **json.loads(options.config)}, file)  # fmt: skip
        file.flush()
        agents = [
            start(command, label, f"{options.net}.{11 + at}", "-server", "-bootstrap", "-config-file", file.name)
            for at, (label, command) in enumerate(makes)
        ]
        for agent in agents:
            if not until(lambda agent=agent: agent.get("/v1/catalog/service/consul"), START_S):  # type: ignore[misc]
                sys.exit(f"bench: {agent.name} has no leader: {agent.log_lines()[-5:]}")
            fill(agent)
        for case in options.cases or CASES:
            for sockets in options.sockets:
                line, good = compare(agents, case, sockets, options)
                print(line, flush=True)
                lines.append(line)
                all_good = all_good and good
        if options.profile:
            agents[0].interrupt()
    head = (
        f"{'case':<17} sockets  {'ours':>12} {'p99':>10}  {'Consul':>12} {'p99':>10}  ratio (range), p99 ratio (range)"
    )
    print("", head, *lines, sep="\n")
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
