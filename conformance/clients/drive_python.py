"""Uses py-consul or python-consul as programs do; runs in an environment with one of them, never in ours.

    drive_python.py ADDRESS PORT NAME

Prints a JSON object a step: step, good, detail.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import consul

ADDRESS, PORT, NAME = sys.argv[1], int(sys.argv[2]), sys.argv[3]
errors: Any = consul.base if NAME == "python-consul" else importlib.import_module("consul.exceptions")
BYTES = bytes(range(256))
WAIT_S = 15


def connect() -> Any:
    return consul.Consul(host=ADDRESS, port=PORT)


def note(step: str, good: Any, detail: Any = "") -> None:
    print(json.dumps({"step": step, "good": bool(good), "detail": str(detail)}), flush=True)


def equal(step: str, got: Any, wanted: Any) -> None:
    note(step, got == wanted, f"{got!r} is not {wanted!r}")


def refused(step: str, kind: type[Exception], text: str, call: Any, *arguments: Any, **options: Any) -> None:
    try:
        note(step, False, f"no error but {call(*arguments, **options)!r}")
    except kind as error:
        note(step, text in str(error), error)


def until(step: str, look: Any) -> Any:
    end = time.monotonic() + WAIT_S
    while not (result := look()) and time.monotonic() < end:
        time.sleep(0.1)
    note(step, result, f"last: {result!r}")
    return result


def blocking(step: str, look: Any, index: str, change: Any, holds: Any) -> None:
    """A read that waits on `index` must stand until `change`, and then answer.

    Reads of the catalog are first let settle: the agent's own anti-entropy may still be writing.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(look, connect(), index)
        time.sleep(0.4)
        for _ in range(10 if step.startswith(("catalog", "health")) else 0):
            if not waiting.done():
                break
            index = waiting.result()[0]
            waiting = pool.submit(look, connect(), index)
            time.sleep(0.4)
        stood = not waiting.done()
        change()
        after, data = waiting.result(WAIT_S)
    note(step, stood and int(after) > int(index) and holds(data), (stood, index, after, data))


def kv(c: Any) -> None:
    equal("kv: put", c.kv.put("app/a", "one"), True)
    index, row = c.kv.get("app/a")
    equal("kv: get", (row["Key"], row["Value"], row["Flags"], row["LockIndex"]), ("app/a", b"one", 0, 0))
    note("kv: the index header is the row's", int(index) == row["ModifyIndex"], (index, row))
    c.kv.put("app/bytes", BYTES, flags=2**63)
    row = c.kv.get("app/bytes")[1]
    equal("kv: any bytes and large flags", (row["Value"], row["Flags"]), (BYTES, 2**63))
    c.kv.put("app/empty", None)
    equal("kv: an empty value is null", c.kv.get("app/empty")[1]["Value"], None)
    c.kv.put("app/ü x/&?#%2F", "odd")
    equal("kv: odd characters in a key", c.kv.get("app/ü x/&?#%2F")[1]["Key"], "app/ü x/&?#%2F")
    equal("kv: a missing key", c.kv.get("none")[1], None)
    equal("kv: cas with a stale index", c.kv.put("app/a", "two", cas=1), False)
    equal("kv: cas 0 on a key that is there", c.kv.put("app/a", "two", cas=0), False)
    equal("kv: cas 0 on a new key", c.kv.put("app/new", "1", cas=0), True)
    modified = c.kv.get("app/a")[1]["ModifyIndex"]
    equal("kv: cas with the index", c.kv.put("app/a", "two", cas=modified), True)
    rows = c.kv.get("app/", recurse=True)[1]
    equal("kv: recurse, in order", [r["Key"] for r in rows], sorted(r["Key"] for r in rows))
    equal("kv: recurse has all", len(rows), 5)
    c.kv.put("app/deep/1", "x")
    equal("kv: keys with separator", c.kv.get("app/", keys=True, separator="/")[1][-3:-1], ["app/empty", "app/new"])
    note("kv: keys stop at it", "app/deep/" in c.kv.get("app/", keys=True, separator="/")[1])
    for mode in ("consistent", "stale", "default"):
        equal(f"kv: {mode} read", c.kv.get("app/a", consistency=mode)[1]["Value"], b"two")
    index = c.kv.get("app/a")[0]
    blocking(
        "kv: a blocking read wakes",
        lambda other, i: other.kv.get("app/a", index=i, wait="30s"), index,
        lambda: c.kv.put("app/a", "three"), lambda row: row["Value"] == b"three",
    )  # fmt: skip
    index = c.kv.get("app/a")[0]
    blocking(
        "kv: a blocking read is told of a delete",
        lambda other, i: other.kv.get("app/a", index=i, wait="30s"), index,
        lambda: c.kv.delete("app/a"), lambda row: row is None,
    )  # fmt: skip
    started = time.monotonic()
    index = c.kv.get("app/new")[0]
    after, row = c.kv.get("app/new", index=index, wait="1s")
    note("kv: a wait ends by itself", 0.9 < time.monotonic() - started < 5 and after == index, (index, after))
    equal("kv: delete with a stale cas", c.kv.delete("app/new", cas=1), False)
    equal("kv: delete with cas", c.kv.delete("app/new", cas=row["ModifyIndex"]), True)
    equal("kv: recursive delete", c.kv.delete("app/", recurse=True), True)
    equal("kv: all is gone", c.kv.get("app/", recurse=True)[1], None)
    refused("kv: a value that is too large", errors.ClientError, "413", c.kv.put, "big", "x" * (512 * 1024 + 1))


def txn(c: Any) -> None:
    value = base64.b64encode(BYTES).decode()
    answer = c.txn.put([{"KV": {"Verb": "set", "Key": "t/a", "Value": value}}, {"KV": {"Verb": "get", "Key": "t/a"}}])
    equal("txn: errors", answer["Errors"], None)
    equal("txn: what was set is read", base64.b64decode(answer["Results"][1]["KV"]["Value"]), BYTES)
    wrong = [
        {"KV": {"Verb": "set", "Key": "t/b", "Value": ""}},
        {"KV": {"Verb": "check-index", "Key": "t/a", "Index": 1}},
    ]
    refused("txn: one that fails says which", errors.ClientError, '"OpIndex":1', c.txn.put, wrong)
    equal("txn: and nothing of it happened", c.kv.get("t/b")[1], None)


def sessions(c: Any) -> None:
    mine = c.session.create("mine", ttl=10, behavior="delete", lock_delay=0)
    other = c.session.create("other", lock_delay=0)
    row = c.session.info(mine)[1]
    equal("session: info", (row["Name"], row["TTL"], row["Behavior"], row["Node"]), ("mine", "10s", "delete", NAME))
    equal("session: list", {s["ID"] for s in c.session.list()[1]}, {mine, other})
    equal("session: of a node", {s["ID"] for s in c.session.node(NAME)[1]}, {mine, other})
    equal("session: renew", c.session.renew(mine)["ID"], mine)
    equal("lock: acquire", c.kv.put("lock", "m", acquire=mine), True)
    equal("lock: held, so not for others", c.kv.put("lock", "o", acquire=other), False)
    row = c.kv.get("lock")[1]
    equal("lock: its row", (row["Session"], row["LockIndex"], row["Value"]), (mine, 1, b"m"))
    equal("lock: release", c.kv.put("lock", "", release=mine), True)
    equal("lock: free for others", c.kv.put("lock", "o", acquire=other), True)
    equal("session: destroy", c.session.destroy(other), True)
    note("lock: free, and the key is there", "Session" not in c.kv.get("lock")[1], c.kv.get("lock"))
    c.kv.put("lock", "m", acquire=mine)
    index = c.kv.get("lock")[0]
    blocking(
        "lock: with behavior delete the key goes with its session, and a waiter hears it",
        lambda client, i: client.kv.get("lock", index=i, wait="30s"), index,
        lambda: c.session.destroy(mine), lambda row: row is None,
    )  # fmt: skip
    refused("session: renew of a gone one", errors.NotFound, f"Session id '{mine}' not found", c.session.renew, mine)
    equal("session: info of a gone one", c.session.info(mine)[1], None)
    refused(
        "lock: acquire with a gone session", errors.ConsulException, "invalid session", c.kv.put, "l", "", acquire=mine
    )


def agent(c: Any) -> None:
    config = c.agent.self()
    equal("agent: self", (config["Config"]["NodeName"], config["Member"]["Addr"]), (NAME, ADDRESS))
    equal("agent: members", [m["Name"] for m in c.agent.members()], [NAME])
    equal("agent: WAN members", [m["Name"] for m in c.agent.members(wan=True)], [f"{NAME}.dc1"])
    check = consul.Check.ttl("10m")
    equal(
        "agent: register a service",
        c.agent.service.register("web", "web1", "10.0.0.1", 8080, ["v1", "blue"], check),
        True,
    )
    c.agent.service.register("web", service_id="web2", port=8081, tags=["v2"])
    service = c.agent.services()["web1"]
    wanted = ("web", "10.0.0.1", 8080, ["v1", "blue"])
    equal("agent: services", tuple(service[key] for key in ("Service", "Address", "Port", "Tags")), wanted)

    def status() -> str:
        return c.agent.checks()["service:web1"]["Status"]

    equal("agent: a TTL check starts critical", status(), "critical")
    for word, call in (("passing", "ttl_pass"), ("warning", "ttl_warn"), ("critical", "ttl_fail")):
        equal(f"agent: {call}", getattr(c.agent.check, call)("service:web1", notes=f"now {word}"), True)
        found = c.agent.checks()["service:web1"]
        equal(f"agent: {call} is seen", (found["Status"], found["Output"]), (word, f"now {word}"))
    equal("agent: register a check", c.agent.check.register("mem", check, check_id="mem", notes="of memory"), True)
    c.agent.check.ttl_pass("mem")
    equal("agent: its notes", c.agent.checks()["mem"]["Notes"], "of memory")
    equal("agent: deregister a check", (c.agent.check.deregister("mem"), "mem" in c.agent.checks()), (True, False))
    for kind in ({"http": f"http://{ADDRESS}:{PORT}/v1/status/leader"}, {"tcp": (ADDRESS, PORT)}):
        ((word, target),) = kind.items()
        made = consul.Check.http(target, "1s") if word == "http" else consul.Check.tcp(*target, "1s")
        c.agent.check.register(word, made, check_id=word)
    until("agent: an HTTP check passes", lambda: c.agent.checks()["http"]["Status"] == "passing")
    until("agent: a TCP check passes", lambda: c.agent.checks()["tcp"]["Status"] == "passing")
    equal("agent: maintenance of a service", c.agent.service.maintenance("web1", "true", "upgrade"), True)
    note("agent: it has its check", "_service_maintenance:web1" in c.agent.checks(), c.agent.checks())
    c.agent.service.maintenance("web1", "false")
    equal("agent: maintenance of the node", c.agent.maintenance("true", "all of it"), True)
    equal("agent: it has its check and reason", c.agent.checks()["_node_maintenance"]["Notes"], "all of it")
    c.agent.maintenance("false")
    note("agent: and none afterwards", "_node_maintenance" not in c.agent.checks())
    refused(
        "agent: pass a check that is not there", errors.ConsulException, "nothere", c.agent.check.ttl_pass, "nothere"
    )


def catalog(c: Any) -> None:
    equal("catalog: datacenters", c.catalog.datacenters(), ["dc1"])
    equal("catalog: register", c.catalog.register("ext", "10.9.9.9", service={"Service": "db", "Port": 5432}), True)
    equal("catalog: nodes", sorted(n["Node"] for n in c.catalog.nodes()[1]), sorted(["ext", NAME]))
    until("catalog: services with tags", lambda: set(c.catalog.services()[1].get("web", ())) == {"v1", "v2", "blue"})
    equal("catalog: a service", [s["ServicePort"] for s in c.catalog.service("db")[1]], [5432])
    equal("catalog: with a tag", [s["ServiceID"] for s in c.catalog.service("web", tag="v2")[1]], ["web2"])
    equal("catalog: a node", list(c.catalog.node("ext")[1]["Services"]), ["db"])
    equal("catalog: no such node", c.catalog.node("nobody")[1], None)
    equal("catalog: nodes by metadata", [n["Node"] for n in c.catalog.nodes(node_meta={"rack": "r1"})[1]], [NAME])
    until(
        "catalog: all is synced",
        lambda: {"http", "tcp", "service:web1"} <= {r["CheckID"] for r in c.health.node(NAME)[1]},
    )
    index = c.catalog.services()[0]
    blocking(
        "catalog: a blocking read of services wakes",
        lambda other, i: other.catalog.services(index=i, wait="30s"), index,
        lambda: c.catalog.deregister("ext"), lambda services: "db" not in services,
    )  # fmt: skip


def health(c: Any) -> None:
    c.agent.check.ttl_pass("service:web1")

    def passing(**more: Any) -> list[str]:
        return sorted(row["Service"]["ID"] for row in c.health.service("web", passing=True, **more)[1])

    until("health: passing instances", lambda: passing() == ["web1", "web2"])
    equal("health: with a tag", passing(tag="v1"), ["web1"])
    equal("health: nearest first", len(c.health.service("web", near="_agent")[1]), 2)
    index = c.health.service("web", passing=True)[0]
    blocking(
        "health: a blocking read of passing instances wakes",
        lambda other, i: other.health.service("web", passing=True, index=i, wait="30s"), index,
        lambda: c.agent.check.ttl_fail("service:web1"), lambda rows: len(rows) == 1,
    )  # fmt: skip
    equal("health: all instances", len(c.health.service("web")[1]), 2)
    equal("health: checks of a service", [r["Status"] for r in c.health.checks("web")[1]], ["critical"])
    equal("health: checks by state", [r["CheckID"] for r in c.health.state("critical")[1]], ["service:web1"])
    note("health: checks of a node", "serfHealth" in [r["CheckID"] for r in c.health.node(NAME)[1]])
    equal("agent: deregister a service", c.agent.service.deregister("web1"), True)
    until("health: it has gone", lambda: len(c.health.service("web")[1]) == 1)


def rest(c: Any) -> None:
    fired = c.event.fire("deploy", "payload")
    found = until("event: fired and listed", lambda: c.event.list("deploy")[1])
    equal(
        "event: its parts", (found[0]["ID"], found[0]["Name"], found[0]["Payload"]), (fired["ID"], "deploy", b"payload")
    )
    equal("status: leader", c.status.leader(), f"{ADDRESS}:8300")
    equal("status: peers", c.status.peers(), [f"{ADDRESS}:8300"])
    note("coordinate: nodes", {row["Node"] for row in c.coordinate.nodes()[1]} <= {NAME})  # sent in 15 to 30 s
    equal("coordinate: datacenters", [row["Datacenter"] for row in c.coordinate.datacenters()], ["dc1"])
    made = c.query.create("web", name="q", onlypassing=True, tags=["v2"], ttl="10s")["ID"]
    equal("query: list", [row["Name"] for row in c.query.list()], ["q"])
    equal("query: get", c.query.get(made)[0]["Service"]["Tags"], ["v2"])
    answer = c.query.execute("q")
    equal("query: execute by name", [n["Service"]["ID"] for n in answer["Nodes"]], ["web2"])
    equal("query: explain", c.query.explain("q")["Query"]["Service"]["Service"], "web")
    equal("query: update", c.query.update(made, "web", name="q2"), True)
    equal("query: execute by its new name", c.query.execute("q2")["Service"], "web")
    equal("query: delete", (c.query.delete(made), c.query.list()), (True, []))
    equal("operator: raft", [s["Leader"] for s in c.operator.raft_config()["Servers"]], [True])


def acls(c: Any) -> None:
    """They are off, and every call says so."""
    if NAME == "python-consul":
        calls = [(c.acl.list, ()), (c.acl.info, ("x",)), (c.acl.create, ("n",)), (c.acl.update, ("x",))]
        calls += [(c.acl.clone, ("x",)), (c.acl.destroy, ("x",))]
    else:
        calls = [(c.acl.token.list, ()), (c.acl.policy.list, ()), (c.acl.role.list, ()), (c.acl.bootstrap, ())]
        calls += [(c.acl.token.read, ("x",)), (c.acl.auth_method.list, ()), (c.acl.binding_rule.list, ())]
    for call, arguments in calls:
        step = f"acl: {call.__self__.__class__.__name__}.{call.__name__} with ACLs off"
        refused(step, errors.ACLDisabled, "ACL support disabled", call, *arguments)


def only_new(c: Any) -> None:
    """What only the maintained client has."""
    c.agent.service.register("meta", meta={"k": "v"}, weights={"Passing": 7, "Warning": 2},
                             tagged_addresses={"wan": {"Address": "198.51.100.1", "Port": 80}})  # fmt: skip
    found = c.agent.service_definition("meta")
    equal("agent: a service's definition", (found["Meta"], found["Weights"]["Passing"]), ({"k": "v"}, 7))
    equal("agent: services by filter", list(c.agent.services(filter_expr="Service == meta")), ["meta"])
    refused("agent: join nobody", errors.ConsulException, "connection refused", c.agent.join, "127.0.21.99")
    point = {"Vec": [0.1] * 8, "Error": 1.5, "Adjustment": 0, "Height": 1e-5}
    equal("coordinate: update", c.coordinate.update(NAME, point), True)
    until("coordinate: all nodes have one", lambda: [row["Node"] for row in c.coordinate.nodes()[1]] == [NAME])
    equal("coordinate: a node", [row["Node"] for row in c.coordinate.node(NAME)[1]], [NAME])
    c.kv.put("snap", "before")
    archive = c.snapshot.save()
    c.kv.put("snap", "after")
    equal("snapshot: restore", c.snapshot.restore(archive), True)
    equal("snapshot: the state is back", c.kv.get("snap")[1]["Value"], b"before")
    note("operator: autopilot", c.operator.autopilot_configuration()["CleanupDeadServers"])
    until("operator: autopilot's health", lambda: c.operator.autopilot_health()["Healthy"])


def main() -> int:
    c = connect()
    parts = [kv, txn, sessions, agent, catalog, health, rest, acls]
    for part in [*parts, only_new] if NAME == "py-consul" else parts:
        part(c)
    return 0


if __name__ == "__main__":
    sys.exit(main())
