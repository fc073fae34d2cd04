"""The whole HTTP API and DNS of a real client on our servers, compared with a real client on real servers.

Two clusters stand side by side: three of our servers with a real client, and the same with real servers. Each recorded
scenario that needs no special configuration (`golden/http/scenarios`) is played to both clients at the same time, and
what our side answers must be what the real side answers; where versions of servers differ, what was recorded of 1.10.11
will do as well. Identities, indexes and times are matched as in `http_compare`. The order of indexes is not judged
here: agents write by themselves in between, and `http_golden` judges it.

After each scenario both clusters are cleared over HTTP, so that the same ones can be played again and again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from conformance import http_golden
from conformance.agents import DNS_PORT, HTTP_PORT, LAN_PORT, SERVER_PORT, Agent
from conformance.http_agent import PORTS, Answer
from conformance.http_compare import Comparison, Observed, observe, parse_json

SCENARIOS = http_golden.ROOT / "scenarios"
TRANSCRIPTS = http_golden.ROOT / "transcripts"
CLIENT = "node-a"
"""The node name that the scenarios use."""
SPECIAL = ("config", "agents", "flags", "files", "token", "ready", "skip_leader")
"""What a scenario has that wants another agent than a client with defaults."""
ACTIONS = ("launch", "restart", "write_file")
STALE = re.compile(r"[?&](?:stale|cached)")
BEHIND_S = 0.25
"""A follower hears of a commit with the next heartbeat; which server answers a stale read is chance."""
LATE_FACTOR, LATE_EXTRA_S = 3.0, 5.0
"""Both clusters share a machine with whatever else is tested: only a blocked or spinning agent is late."""
WAN_PORT = 8302
USUAL_PORTS = (HTTP_PORT, SERVER_PORT, LAN_PORT, WAN_PORT, DNS_PORT)
UNORDERED = {
    "GET /v1/agent/members": ("",),
    "GET /v1/coordinate/nodes": ("",),
    "GET /v1/internal/ui/gateway-services-nodes/none": ("",),
}
"""What comes in an order of its own, by request."""
LOOSE = {
    "GET /v1/catalog/nodes?near=_agent": {"": "type"},
    "GET /v1/catalog/service/consul": {"*.ServiceMeta": "type"},
    "GET /v1/coordinate/datacenters": {"0.Coordinates.*.Node": "string"},
    "GET /v1/health/service/consul": {"*.Service.Meta": "type"},
}
"""What differs by nature: distances, and what servers of different versions say of themselves."""
TAIL = {
    "steps": [
        {
            "do": "GET /v1/agent/self",
            "match": {
                "Coord": "type",
                "Config.NodeID": "string",
                "Stats": "keys",
                "Member.Tags": "keys",
                "DebugConfig": "keys",
            },
        },
        {
            "do": "GET /v1/agent/members",
            "match": {"*.Tags": "type", "*.DelegateMax": "type", "*.DelegateCur": "type", "*.ProtocolMax": "type"},
        },
        {"do": "GET /v1/agent/members?wan=1"},
        {"do": "GET /v1/agent/host", "match": {"body": "regex:ermission|Memory"}},
        {"do": "GET /v1/agent/services"},
        {"do": "GET /v1/agent/service/none"},
        {"do": "PUT /v1/agent/reload"},
        {"do": "PUT /v1/agent/join/127.0.0.99"},
        {"do": "PUT /v1/agent/force-leave/nobody"},
        {"do": "PUT /v1/agent/token/default", "json": {"Token": ""}},
        {"do": "PUT /v1/agent/service/register", "json": {"ID": "w", "Name": "web", "Port": 80}},
        {"do": "GET /v1/catalog/node/node-a", "until": {"has": ["web"]}, "match": {"Node.Meta": "type"}},
        {"do": "GET /v1/catalog/node-services/node-a", "match": {"Node.Meta": "type"}},
        {"do": "PUT /v1/agent/service/maintenance/w?enable=true&reason=rest"},
        {"do": "GET /v1/health/checks/web", "until": {"has": ["rest"]}},
        {"do": "PUT /v1/agent/service/maintenance/w?enable=false"},
        {"do": "GET /v1/health/checks/web", "until": {"lacks": ["rest"]}},
        {"do": "GET /v1/agent/connect/ca/leaf/web"},
        {"do": "GET /v1/catalog/connect/web"},
        {"do": "GET /v1/health/connect/web"},
        {"do": "GET /v1/health/ingress/web"},
        {"do": "GET /v1/catalog/gateway-services/none"},
        {
            "do": "GET /v1/internal/ui/nodes",
            "unordered": [""],
            "match": {"*.Services.*.Meta": "type", "*.TaggedAddresses": "type"},
        },
        {"do": "GET /v1/internal/ui/node/node-a"},
        {"do": "GET /v1/internal/ui/node/nobody"},
        {"do": "GET /v1/internal/ui/services", "unordered": [""]},
        {"do": "GET /v1/internal/ui/gateway-services-nodes/none"},
        {"do": "GET /v1/internal/federation-states"},
        {"do": "GET /v1/internal/federation-states/mesh-gateways"},
        {"do": "GET /v1/internal/federation-state/dc1"},
        {"do": "GET /v1/internal/federation-state/dc9"},
        {"do": "GET /v1/discovery-chain/web"},
        {"do": "GET /v1/coordinate/node/node-a", "until": {"status": 200}, "match": {"0.Coord": "type"}},
        {"do": "GET /v1/coordinate/nodes", "match": {"*.Coord": "type", "*.Node": "string"}},
        {"do": "GET /v1/operator/keyring"},
        {"do": "GET /v1/operator/autopilot/health", "until": {"status": 200}, "match": {"Servers": "type"}},
        {"do": "DELETE /v1/operator/raft/peer?id=none"},
        {"do": "GET /v1/health/state/any", "unordered": [""]},
        {"do": "PUT /v1/agent/service/deregister/w"},
        {"do": "GET /v1/catalog/service/web", "until": {"lacks": ["web"]}},
    ]
}
"""What the recorded scenarios do not ask of such a client, or not with servers beside it."""
LASTING = {"event/fire-list": ("deploy", "nopayload", "another")}
"""Words of scenarios that name what nobody can delete."""
HOP = "rpc error making call: "
KINDS = ("service-defaults", "proxy-defaults", "service-resolver", "service-router", "service-splitter",
         "ingress-gateway", "terminating-gateway", "service-intentions", "mesh")  # fmt: skip


class Client:
    """A client of one cluster, as the scenarios see an agent. `http_agent.AgentProcess` without its life.

    `servers` in the order in which they stand for those of the other cluster.
    """

    def __init__(self, agent: Agent, servers: Sequence[Agent]) -> None:
        self.agent = agent
        self.servers = servers
        self.address = (agent.address, HTTP_PORT)
        self.ports = dict(zip(PORTS, USUAL_PORTS, strict=True))
        self.directory = Path("/GOLDEN/a")


class Play(http_golden.Run):
    """A scenario played to a client that is there already."""

    def __init__(self, scenario: dict[str, Any], client: Client) -> None:
        self._scenario = scenario
        self._token = ""
        self._agents: Any = {"a": client}
        self._first = "a"
        self._values = {"dir.a": str(client.directory)}
        self._values.update({f"port.a.{port}": number for port, number in client.ports.items()})
        self._bodies = {}
        self._pending = {}
        self._renamed = {client.agent.address: "127.0.0.1"}
        self._renamed.update({server.address: f"127.0.0.{place}" for place, server in enumerate(client.servers, 2)})
        self.watermark = 0

    def _request(self, step: dict[str, Any]) -> Observed:
        if STALE.search(step.get("do", "")):
            time.sleep(BEHIND_S)
        return super()._request(step)

    def _judged(self, step: dict[str, Any], answer: Answer, took_s: float) -> Observed:
        allowed = dict(step.get("took", {}))
        if "max" in allowed:
            allowed["max"] = allowed["max"] * LATE_FACTOR + LATE_EXTRA_S
        return super()._judged({**step, "took": allowed}, answer, took_s)

    def _seen(self, answer: Answer, *, took: str) -> Observed:
        return observe(answer, self._renamed, took)


def names() -> list[str]:
    """The scenarios for a client with defaults."""
    return [*(name for name in http_golden.names() if _plain(name)), "tail"]


def _plain(name: str) -> bool:
    scenario = steps_of(name)
    return not any(scenario.get(key) for key in SPECIAL) and not any(
        key in step or "/v1/agent/leave" in step.get("do", "") for step in scenario["steps"] for key in ACTIONS
    )


def compared(name: str, ours: Client, real: Client, turn: int = 1) -> tuple[int, list[str]]:
    """Play a scenario to both for the `turn`th time; how many answers were compared, and what differs, in words.

    A step's status and body may also be those recorded; headers come from the client itself and are always compared.
    """
    scenario = steps_of(name, turn)
    with ThreadPoolExecutor(2) as both:
        got, want = both.map(lambda client: list(Play(scenario, client).steps()), (ours, real))
    for step in scenario["steps"]:
        step["unordered"] = [*step.get("unordered", ()), *UNORDERED.get(step.get("do", ""), ())]
        step["match"] = {**step.get("match", {}), **LOOSE.get(step.get("do", ""), {})}
    beside = {"steps": [as_recorded(one and hops(one, 1)) for one in want]}
    count = sum(None not in pair for pair in zip(got, beside["steps"], strict=True))
    problems = Comparison(scenario, beside, 0, ordered=False).problems([one and hops(one, 1) for one in got])
    if not problems or name == "tail":
        return count, problems
    transcript = parse_json((TRANSCRIPTS / f"{name}.json").read_text())
    alone = Comparison(scenario, transcript, 0, ordered=False).problems([one and hops(one, 0) for one in got])
    recorded = {_step(text) for text in alone if not _of_header(text)}
    return count, [text for text in problems if _of_header(text) or _step(text) in recorded]


def steps_of(name: str, turn: int = 1) -> dict[str, Any]:
    """A scenario, made anew for each who plays it; what agents do not forget has another name in each turn."""
    text = json.dumps(TAIL) if name == "tail" else (SCENARIOS / f"{name}.json").read_text()
    for word in LASTING.get(name, ()) if turn > 1 else ():
        text = text.replace(word, f"{word}-{turn}")
    scenario: dict[str, Any] = json.loads(text)
    return scenario


def hops(one: Observed, most: int) -> Observed:
    """An error without the prefixes of hops beyond `most`, and a list of errors sorted: both come by chance."""
    text = (one.body or {}).get("text")
    if text is None:
        return one
    text = HOP * most + text.replace(HOP, "") if HOP in text else text
    if " errors occurred:" in text:
        text = "\n".join(sorted(text.split("\n")))
    return replace(one, body={"text": text})


def as_recorded(one: Observed | None) -> dict[str, Any] | None:
    """An answer in the form of a transcript's; None, which is not compared, when it was not had in the step's time."""
    if one is None or one.took:
        return None
    return {"status": one.status, "headers": one.headers, "body": one.body, "failed": one.failed}


def _of_header(problem: str) -> bool:
    return ") header " in problem or ") @" in problem


def _step(problem: str) -> str:
    return problem.partition(" (")[0]


# --- back to the beginning ------------------------------------------------------------------------------------


def clear(agent: Agent) -> None:
    """Take away all that a scenario may have left in a cluster, through its client."""
    agent.put("/v1/agent/maintenance?enable=false")
    for service in agent.get("/v1/agent/services") or {}:
        agent.put(f"/v1/agent/service/deregister/{quote(service, safe='')}")
    for check in agent.get("/v1/agent/checks") or {}:
        agent.put(f"/v1/agent/check/deregister/{quote(check, safe='')}")
    for session in agent.get("/v1/session/list") or ():
        agent.put(f"/v1/session/destroy/{session['ID']}")
    agent.request("DELETE", "/v1/kv/?recurse")
    for query in agent.get("/v1/query") or ():
        agent.request("DELETE", f"/v1/query/{query['ID']}")
    for kind in KINDS:
        for entry in agent.get(f"/v1/config/{kind}") or ():
            agent.request("DELETE", f"/v1/config/{kind}/{quote(entry['Name'], safe='')}")
    members = {member["Name"] for member in agent.get("/v1/agent/members") or ()}
    for node in agent.get("/v1/catalog/nodes") or ():
        if node["Node"] not in members:
            agent.put("/v1/catalog/deregister", {"Node": node["Node"]})
        else:
            _clear_node(agent, node["Node"])


def _clear_node(agent: Agent, node: str) -> None:
    for service in ((agent.get(f"/v1/catalog/node/{node}") or {}).get("Services") or {}).values():
        if service["Service"] != "consul":
            agent.put("/v1/catalog/deregister", {"Node": node, "ServiceID": service["ID"]})
    for check in agent.get(f"/v1/health/node/{node}") or ():
        if check["CheckID"] != "serfHealth":
            agent.put("/v1/catalog/deregister", {"Node": node, "CheckID": check["CheckID"]})
