"""A real client on our servers, with default settings, for as long as one likes: part `a` of `conformance.mixed`.

Beside it stands the same with real servers, to compare with: every answer of HTTP (`mixed_api`) and of DNS
(`mixed_dns`), turn for turn, and in the end what the logs complain of. The life of a service, cached and blocking
reads of health are gone through once a turn as well. When the time is over the client and a server crash.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

from conformance import consul_peer, mixed_api, mixed_dns, service_life
from conformance.agents import OURS, Agent, Checks, cluster, serf_health, until
from conformance.consul_peer import Program, is_voter, raft_ids
from conformance.mixed_api import CLIENT, Client

REST_S = 30.0
"""Between two turns, so that the machine is left to others as well."""
PROBLEMS_SHOWN = 5
AT_STALE = re.compile(rf"^step \d+ \([^)]*{mixed_api.STALE.pattern}")
"""Reads that any server may answer as it was a moment ago, ours and real ones alike."""
FLAP = re.compile(r"EventMemberFailed|[Mm]arking \S+ as failed|marking as failed")
BUSY = (
    r"memberlist: (?:Refuting|Suspect|Was able to connect)|"
    r"Error getting server health from server: .*context deadline exceeded"
)
"""What a busy machine raises: suspicions that were refuted, a server that did not tell its health within 2 s."""
BUSY_LINES, BUSY_A_SECOND = 10, 0.2
"""So many of those an agent may log, and so many more in each second. Pings that one make does not understand of the
other are a suspicion in every second, or in every third for who has two peers of its own make.
"""
LOUD = re.compile(r"\[(?:WARN|ERROR?)\]")
BY_ITSELF = "Coordinate.Update|Catalog.NodeServiceList|Status.Ping"
"""What a client calls and users do not, or both clusters' users alike."""
CLIENT_MAY_SAY = re.compile(
    rf"RPC failed to server: method=(?!{BY_ITSELF})|Request error|Connect must be enabled|errors? occurred:$|"
    rf"No servers available|No known Consul servers|agent: Check |{BUSY}"
)
"""Refusals of what was asked over HTTP, whose answers were compared; definitions that 1.10 judges more strictly than
the client's version; its first moment, before it knows a server; checks of services that are not there."""
SERVERS_MAY_SAY = re.compile(
    rf"bootstrap = true: do not enable|server\.serf\.\w+: |server\.snapshot: |"
    rf"starting election: last-leader=$|Election timeout reached|{BUSY}"
)
"""The first election, joins of nobody, and the archives that a scenario restores."""


def busy(checks: Checks, real: Program, minutes: float, net: str) -> None:
    """Turn after turn until `minutes` are over, at least one."""
    with ExitStack() as stack:
        start = stack.enter_context(cluster(checks))
        ours = stand(checks, start, OURS, real, net, 2)
        theirs = stand(checks, stack.enter_context(cluster(checks)), real, real, net, 6)
        began = time.monotonic()
        end = began + minutes * 60
        for turn in itertools.count(1):
            one_turn(checks, turn, ours, theirs)
            left = end - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, REST_S))
        calm(checks, ours, theirs, time.monotonic() - began)
        checks.equal("its serfHealth passes", serf_health(ours.servers[1], CLIENT), "passing")
        consul_peer.crashes(checks, start, real, ours.agent, list(ours.servers))


def stand(checks: Checks, start: Any, program: Program, real: Program, net: str, first: int) -> Client:
    """Three servers, the first of which leads and has the others join one by one, and a real client of them."""
    servers: list[Agent] = [start(program, "server1", f"{net}.{first}", "-server", "-bootstrap")]
    consul_peer.settle(checks, servers)
    for number in (1, 2):
        join = (f"-retry-join={net}.{first}", "-retry-interval=1s")
        servers.append(start(program, f"server{number + 1}", f"{net}.{first + number}", "-server", *join))
        checks.until(f"server{number + 1} is a peer", lambda n=number: len(raft_ids(servers[0])) == n + 1, 30)
    client = start(real, CLIENT, f"{net}.{first + 3}", f"-retry-join={net}.{first}")
    consul_peer.client_joins(checks, client, servers)
    for server in servers:
        checks.until(f"{server.name} votes", partial(is_voter, servers[0], server.name), 60)
    checks.until(f"{CLIENT} knows all peers", lambda: len(client.get("/v1/status/peers") or ()) == len(servers))
    return Client(client, servers)


def one_turn(checks: Checks, turn: int, ours: Client, theirs: Client) -> None:
    """The whole interface once."""
    for name in mixed_api.names():
        steps, problems = mixed_api.compared(name, ours, theirs, turn)
        if problems and all(AT_STALE.search(problem) for problem in problems):
            print(f"...  {name} again, a server was behind\n", end="", flush=True)
            for side in (ours, theirs):
                mixed_api.clear(side.agent)
            steps, problems = mixed_api.compared(name, ours, theirs, turn)
        detail = "\n    ".join(["", *problems[:PROBLEMS_SHOWN]])
        checks.note(f"turn {turn}: {name}, {steps} answers as of real servers", steps and not problems, detail)
        for side in (ours, theirs):
            mixed_api.clear(side.agent)
    resolves(checks, turn, ours, theirs)
    service_life.all_of(checks, ours.agent, ours.servers[turn % len(ours.servers)])
    theirs.agent.put("/v1/event/fire/deploy", b"v2")  # that both sides go on with the same list of events
    watched(checks, ours.agent, ours.servers[0])


def resolves(checks: Checks, turn: int, ours: Client, theirs: Client) -> None:
    """Every question by UDP and TCP."""
    for side in (ours, theirs):
        mixed_dns.fill(side.agent)
    different: list[str] = []
    questions = mixed_dns.questions()
    for question in questions:
        # A stale read may come from a server that is not yet there.
        same = until(lambda q=question: not differ(q, ours, theirs), 0 if len(different) > PROBLEMS_SHOWN else 5)
        if not same:
            different.append(f"{question}: {differ(question, ours, theirs)}")
    detail = "\n    ".join(["", *different[:PROBLEMS_SHOWN]])
    checks.note(f"turn {turn}: DNS, {len(questions)} answers as of real servers", not different, detail)
    for side in (ours, theirs):
        mixed_api.clear(side.agent)


def differ(question: tuple[str, str, bool], ours: Client, theirs: Client) -> str:
    """What is different in the answers to a question, in words; nothing if they are equal."""
    views = []
    for side in (ours, theirs):
        try:
            views.append(mixed_dns.view(side.agent, question, side.servers))
        except OSError as error:
            return f"{side.agent.address}: {error}"
    return "" if views[0] == views[1] else f"{views[0]} instead of {views[1]}"


def watched(checks: Checks, client: Agent, server: Agent) -> None:
    """Health by cache and by index, which newer clients take from subscriptions."""
    body = {"Node": "far", "Address": "10.0.0.9", "Service": {"ID": "w", "Service": "watched", "Port": 80}}
    server.put("/v1/catalog/register", body)
    first = until(lambda: client.request("GET", "/v1/health/service/watched?cached").body, 10)
    checks.equal("a cached answer", len(first), 1)
    index = client.request("GET", "/v1/health/service/watched?index=1").index
    timer = threading.Timer(1.0, server.put, ("/v1/catalog/deregister", {"Node": "far", "ServiceID": "w"}))
    timer.start()
    began = time.monotonic()
    gone = client.request("GET", f"/v1/health/service/watched?index={index}&wait=10s")
    timer.join()
    checks.equal("a blocking answer", (gone.status, gone.body, time.monotonic() - began < 8), (200, [], True))
    server.put("/v1/catalog/deregister", {"Node": "far"})


# --- logs -----------------------------------------------------------------------------------------------------


def calm(checks: Checks, ours: Client, theirs: Client, seconds: float) -> None:
    """Nobody was taken for failed in so long, and nobody complains of what is fine beside real servers."""
    agents = [*ours.servers, ours.agent]
    flaps = [f"{agent.name}: {line}" for agent in agents for line in agent.log_lines() if FLAP.search(line)]
    checks.equal("no membership flapped", flaps[:PROBLEMS_SHOWN], [])
    for agent in agents:
        doubts = [line for line in agent.log_lines() if LOUD.search(line) and re.search(BUSY, line)]
        few = len(doubts) <= BUSY_LINES + BUSY_A_SECOND * seconds
        checks.note(f"{agent.name} doubts others seldom", few, f"{len(doubts)} times: {doubts[-PROBLEMS_SHOWN:]}")
    fine = complaints(theirs.agent)
    new = [
        line for shape, line in complaints(ours.agent).items() if shape not in fine and not CLIENT_MAY_SAY.search(line)
    ]
    checks.equal("the client logs no error that it does not log with real servers", new[:PROBLEMS_SHOWN], [])
    for server in ours.servers:
        odd = [line for line in complaints(server).values() if not SERVERS_MAY_SAY.search(line)]
        checks.equal(f"{server.name} logs no errors", odd[:PROBLEMS_SHOWN], [])


def complaints(agent: Agent) -> dict[str, str]:
    """Shape -> the first such line of the warnings and errors in a log; a shape has no numbers and no identities."""
    found: dict[str, str] = {}
    for line in agent.log_lines():
        if LOUD.search(line):
            text = line.partition("[")[2].replace(mixed_api.HOP, "")
            shape = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+(?:\.\d+)*(?:[mµn]?s)?|server\d", "*", text)
            found.setdefault(shape, line)
    return found
