"""What users do with an agent, done through one agent and looked at from another: KV, locks, services, health, DNS."""

from __future__ import annotations

import base64
import socket
import threading
import time
from typing import Any

from dnslib import DNSRecord

from conformance.agents import DNS_PORT, Agent, Checks, until

DNS_TIMEOUT_S = 3.0


def ask(agent: Agent, name: str, kind: str = "A") -> list[str]:
    """The answers of an agent's DNS as text; none when there is no answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(DNS_TIMEOUT_S)
        try:
            asker.sendto(DNSRecord.question(name, kind).pack(), (agent.address, DNS_PORT))
            reply = DNSRecord.parse(asker.recv(65536))
        except OSError:
            return []
    return [str(answer.rdata) for answer in reply.rr]


def key_value(checks: Checks, through: Agent, server: Agent) -> None:
    """Write on one side, read on the other, wait for a change."""
    label = f"through {through.name}:"
    checks.equal(f"{label} a key is written", through.put("/v1/kv/app/one", b"first"), True)
    row = (server.get("/v1/kv/app/one") or [{}])[0]
    checks.equal(f"{label} {server.name} has its value", base64.b64decode(row.get("Value") or ""), b"first")
    modified = row.get("ModifyIndex", 0)
    checks.equal(f"{label} an old index changes nothing", through.put("/v1/kv/app/one?cas=1", b"x"), False)
    checks.equal(f"{label} the right index does", through.put(f"/v1/kv/app/one?cas={modified}", b"second"), True)
    server.put("/v1/kv/app/two?flags=7", b"\x00\xff")
    keys = through.get("/v1/kv/app?keys")
    checks.equal(f"{label} keys are listed", keys, ["app/one", "app/two"])
    rows = through.get("/v1/kv/app?recurse") or []
    checks.equal(f"{label} values and flags are read", [(r["Flags"], r["Value"]) for r in rows][1:], [(7, "AP8=")])
    consistent = through.request("GET", "/v1/kv/app/one?consistent&raw")
    checks.equal(f"{label} a consistent read", (consistent.status, consistent.body), (200, "second"))
    stale = through.request("GET", "/v1/kv/app/one?stale&raw")
    checks.equal(f"{label} a stale read", (stale.status, stale.body), (200, "second"))
    blocking(checks, label, through, server)
    operations = [
        {"KV": {"Verb": "set", "Key": "app/three", "Value": "MQ=="}},
        {"KV": {"Verb": "get", "Key": "app/one"}},
    ]
    answer: Any = through.put("/v1/txn", operations)
    good = isinstance(answer, dict) and not answer["Errors"] and len(answer["Results"]) == 2
    checks.note(f"{label} a transaction", good, answer)
    checks.equal(f"{label} a tree is deleted", through.request("DELETE", "/v1/kv/app?recurse").body, True)
    checks.equal(f"{label} {server.name} has none of it", server.request("GET", "/v1/kv/app?recurse").status, 404)


def blocking(checks: Checks, label: str, through: Agent, server: Agent) -> None:
    """A query waits for a write that comes by the other agent."""
    index = through.request("GET", "/v1/kv/app/one").index
    found: list[Any] = []

    def wait() -> None:
        started = time.monotonic()
        answer = through.request("GET", f"/v1/kv/app/one?index={index}&wait=10s&raw")
        found.append((answer.body, time.monotonic() - started))

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.7)
    server.put("/v1/kv/app/one", b"third")
    waiter.join(15)
    good = found and found[0][0] == "third" and 0.5 < found[0][1] < 5
    checks.note(f"{label} a blocking query returns at the write", good, found)


def sessions(checks: Checks, through: Agent, server: Agent) -> None:
    """Sessions and the locks they hold."""
    label = f"through {through.name}:"
    made: Any = through.put("/v1/session/create", {"Name": "one", "LockDelay": "0s", "TTL": "30s"})
    session = made.get("ID", "") if isinstance(made, dict) else ""
    if not checks.note(f"{label} a session is created", session, made):
        return
    listed = [row["ID"] for row in server.get(f"/v1/session/node/{through.name}") or ()]
    checks.equal(f"{label} {server.name} lists it", listed, [session])
    checks.equal(f"{label} it takes a lock", through.put(f"/v1/kv/lock?acquire={session}", b"me"), True)
    other: Any = server.put("/v1/session/create", {"Name": "two"})
    checks.equal("another session does not", server.put(f"/v1/kv/lock?acquire={other['ID']}", b"you"), False)
    renewed: Any = through.put(f"/v1/session/renew/{session}")
    checks.note(f"{label} it is renewed", isinstance(renewed, list) and renewed[0]["ID"] == session, renewed)
    checks.equal(f"{label} it is destroyed", through.put(f"/v1/session/destroy/{session}"), True)
    row = (server.get("/v1/kv/lock") or [{}])[0]
    checks.equal(f"{label} the lock is free", row.get("Session", ""), "")
    checks.equal("the other session takes it now", server.put(f"/v1/kv/lock?acquire={other['ID']}", b"you"), True)
    checks.equal("and gives it back", server.put(f"/v1/kv/lock?release={other['ID']}", b"you"), True)


def services(checks: Checks, through: Agent, server: Agent) -> None:
    """A service registered at one agent is found by the other, follows its check, and goes."""
    label = f"service of {through.name}:"
    definition = {
        "ID": "web1", "Name": "web", "Tags": ["blue"], "Port": 8080, "Meta": {"version": "1"},
        "Check": {"CheckID": "web-ttl", "TTL": "60s", "Status": "critical"},
    }  # fmt: skip
    checks.equal(f"{label} registered", through.put("/v1/agent/service/register", definition), "")
    rows = until(lambda: server.get("/v1/catalog/service/web"), 10) or [{}]
    seen = {
        key: rows[0].get(key) for key in ("Node", "Address", "ServiceID", "ServiceTags", "ServicePort", "ServiceMeta")
    }
    wanted = {
        "Node": through.name, "Address": through.address, "ServiceID": "web1", "ServiceTags": ["blue"],
        "ServicePort": 8080, "ServiceMeta": {"version": "1"},
    }  # fmt: skip
    checks.equal(f"{label} in the catalog of {server.name}", seen, wanted)
    checks.equal(f"{label} listed by name", (server.get("/v1/catalog/services") or {}).get("web"), ["blue"])
    checks.equal(f"{label} not passing yet", server.get("/v1/health/service/web?passing"), [])
    checks.equal(f"{label} not in DNS yet", ask(server, "web.service.consul"), [])
    checks.equal(f"{label} its check is told to pass", through.put("/v1/agent/check/pass/web-ttl?note=good"), "")
    found = checks.until(f"{label} passing", lambda: server.get("/v1/health/service/web?passing"))
    if found:
        outputs = {c["CheckID"]: c["Output"] for c in found[0]["Checks"]}
        checks.equal(f"{label} with the note", outputs.get("web-ttl"), "good")
    filtered = server.get("/v1/health/service/web?passing&tag=blue") or []
    checks.equal(f"{label} found by its tag", len(filtered), 1)
    names(checks, label, through, server)
    checks.equal(f"{label} its check is told to fail", through.put("/v1/agent/check/fail/web-ttl"), "")
    checks.until(f"{label} not passing", lambda: server.get("/v1/health/service/web?passing") == [])
    checks.equal(f"{label} deregistered", through.put("/v1/agent/service/deregister/web1"), "")
    checks.until(f"{label} gone", lambda: server.get("/v1/catalog/service/web") == [])


def names(checks: Checks, label: str, through: Agent, server: Agent) -> None:
    """DNS of both agents."""
    for agent in (server, through):
        checks.until(
            f"{label} DNS of {agent.name}, A", lambda a=agent: ask(a, "web.service.consul") == [through.address]
        )
        checks.equal(
            f"{label} DNS of {agent.name}, SRV",
            ask(agent, "blue.web.service.consul", "SRV"),
            [f"1 1 8080 {through.name}.node.dc1.consul."],
        )
        checks.equal(f"{label} DNS of {agent.name}, node", ask(agent, f"{through.name}.node.consul"), [through.address])


def external(checks: Checks, through: Agent, server: Agent) -> None:
    """A node that runs no agent, registered in the catalog."""
    node = {"Node": "ext", "Address": "10.1.1.1", "Service": {"Service": "db", "Port": 5432}}
    checks.equal("an external node is registered", through.put("/v1/catalog/register", node), True)
    rows = server.get("/v1/catalog/service/db") or [{}]
    checks.equal("its service is found", (rows[0].get("Node"), rows[0].get("ServicePort")), ("ext", 5432))
    checks.equal("it is deregistered", through.put("/v1/catalog/deregister", {"Node": "ext"}), True)
    checks.equal("it is gone", server.get("/v1/catalog/service/db"), [])


def events(checks: Checks, through: Agent, server: Agent) -> None:
    """A user event of one agent reaches the other."""
    fired = through.put("/v1/event/fire/deploy", b"v2")
    checks.note(f"{through.name} fires an event", isinstance(fired, dict) and fired.get("ID"), fired)

    def heard() -> bool:
        rows = server.get("/v1/event/list?name=deploy") or ()
        return [e["Payload"] for e in rows if e["ID"] == fired["ID"]] == ["djI="]

    checks.until(f"{server.name} hears it", heard)


def all_of(checks: Checks, through: Agent, server: Agent) -> None:
    """Everything above."""
    key_value(checks, through, server)
    sessions(checks, through, server)
    services(checks, through, server)
    external(checks, through, server)
    events(checks, through, server)
