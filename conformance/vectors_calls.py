"""Calls of the recorded log whose requests no endpoint here turns into commands, judged from the command on.

ACLs and the CA have no endpoints yet, and an agent's own calls reach the log by way of its gossip and anti-entropy.
What was answered is told by the state before and after the entries that the call left: rows as they were shown, what is
gone, what never was. A call that left none must have had a reason that the state confirms.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from conformance.case import Mismatch, holds, same
from pyconsul_agent.errors import RPCError
from pyconsul_agent.interfaces.http import event, head
from pyconsul_agent.interfaces.http.message import Query, Request
from pyconsul_agent.interfaces.http.params import Defaults
from pyconsul_agent.server.node import ServerNode
from pyconsul_agent.state import connect_ca
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.acl import ACL
from pyconsul_agent.wire import gojson

if TYPE_CHECKING:
    from conformance.vectors_api import Bench, Recorded

NODE = "s3"
"""The agent that was asked."""
Op = dict[str, Any]
Check = Callable[["Recorded", Op], None]


def json_of(value: Any) -> Any:
    """A row as the API shows it."""
    return json.loads(gojson.encode(value))


def shown(bench: Bench, path: str) -> Any:
    """What our own API answers."""
    status, _, body = bench.ask("GET", path)
    same(status, 200, f"status of {path}")
    return json.loads(body)


# --- ACLs ---------------------------------------------------------------------------------------------------------


def acl_row(bench: Bench, kind: str, key: str) -> Any:
    """A row of an ACL table by its identity, or None."""
    tables = bench.store.tables
    rows, identity = {
        "token": (tables.acl_tokens, "accessor_id"),
        "policy": (tables.acl_policies, "id"),
        "role": (tables.acl_roles, "id"),
        "binding-rule": (tables.acl_binding_rules, "id"),
        "auth-method": (tables.acl_auth_methods, "name"),
    }[kind]
    return next((row for row in rows.scan() if getattr(row, identity) == key), None)


def acl_put(recorded: Recorded, op: Op) -> None:
    """What was created or changed is the row, field for field, and holds what was asked for."""
    recorded.up_to(op["raft_index_after"])
    answer, kind = json.loads(op["response"]), op["path"].split("/")[3]
    key = answer[{"token": "AccessorID", "auth-method": "Name"}.get(kind, "ID")]
    same(json_of(acl_row(recorded.bench, kind, key)), answer, kind)
    same(answer["ModifyIndex"], op["raft_index_after"], "index")
    for name in ("Name", "Description", "Rules", "Selector", "BindType", "BindName"):
        asked = json.loads(op["body"])
        if name in asked:
            same(answer[name], asked[name], name)


def acl_delete(recorded: Recorded, op: Op) -> None:
    """What was deleted was there, and is gone."""
    kind, key = op["path"].split("/")[3:5]
    recorded.up_to(op["raft_index_before"])
    holds(acl_row(recorded.bench, kind, key) is not None, f"{kind} {key} was there")
    recorded.up_to(op["raft_index_after"])
    same(acl_row(recorded.bench, kind, key), None, f"{kind} {key}")
    same(op["response"], "true", "answer")


def acl_bootstrap_again(recorded: Recorded, op: Op) -> None:
    """The bootstrap was over: the index that would reset it is the one of the answer."""
    recorded.up_to(op["raft_index_before"])
    index = recorded.bench.store.index("acl-token-bootstrap")
    text = f"Permission denied: ACL bootstrap no longer allowed (reset index: {index})"
    same((403, text), (op["status"], op["response"]), "answer")


def secret(bench: Bench, secret_id: str) -> Any:
    """The token with that secret, or None."""
    return next((row for row in bench.store.tables.acl_tokens.scan() if row.secret_id == secret_id), None)


def legacy(row: Any) -> Any:
    """A token in the form of before 1.4."""
    return json_of(
        ACL(
            id=row.secret_id, name=row.description, type=row.type, rules=row.rules,
            create_index=row.create_index, modify_index=row.modify_index,
        )
    )  # fmt: skip


def legacy_create(recorded: Recorded, op: Op) -> None:
    """A token of the old kind is there under the ID of the answer."""
    recorded.up_to(op["raft_index_after"])
    row = legacy(secret(recorded.bench, json.loads(op["response"])["ID"]))
    same({name: row[name] for name in ("Name", "Type", "Rules")}, json.loads(op["body"]), "token")


def legacy_list(recorded: Recorded, op: Op) -> None:
    """The tokens of the old kind."""
    recorded.up_to(op["raft_index_after"])
    rows = [legacy(row) for row in recorded.bench.store.tables.acl_tokens.scan() if row.type]
    by_id = sorted(rows, key=lambda row: str(row["ID"]))
    same(by_id, sorted(json.loads(op["response"]), key=lambda row: str(row["ID"])), "tokens")


def legacy_destroy(recorded: Recorded, op: Op) -> None:
    """The token with that secret was there, and is gone."""
    key = op["path"].rpartition("/")[2]
    recorded.up_to(op["raft_index_before"])
    holds(secret(recorded.bench, key) is not None, "it was there")
    recorded.up_to(op["raft_index_after"])
    same(secret(recorded.bench, key), None, "token")


# --- the agent's own ----------------------------------------------------------------------------------------------


def checks(bench: Bench) -> dict[str, Any]:
    """The checks of the node by ID."""
    return {row["CheckID"]: row for row in shown(bench, f"/v1/health/node/{NODE}")}


def service_registered(recorded: Recorded, op: Op) -> None:
    """The service and its check came into the catalog."""
    recorded.up_to(op["raft_index_after"])
    asked = json.loads(op["body"])
    service = shown(recorded.bench, f"/v1/catalog/node/{NODE}")["Services"][asked["Name"]]
    same((service["Service"], service["Port"]), (asked["Name"], asked["Port"]), "service")
    check = checks(recorded.bench)[f"service:{asked['Name']}"]
    same((check["Type"], check["Status"]), ("ttl", "critical"), "check")


def check_passed(recorded: Recorded, op: Op) -> None:
    """The check's status and output came into the catalog."""
    recorded.up_to(op["raft_index_after"])
    url = urlsplit(op["path"])
    check = checks(recorded.bench)[url.path.rpartition("/")[2]]
    same((check["Status"], check["Output"]), ("passing", parse_qs(url.query)["note"][0]), "check")


def service_gone(recorded: Recorded, op: Op) -> None:
    """The service left the catalog, with its check."""
    name = op["path"].rpartition("/")[2]
    recorded.up_to(op["raft_index_after"])
    holds(name not in shown(recorded.bench, f"/v1/catalog/node/{NODE}")["Services"], "no such service")
    holds(f"service:{name}" not in checks(recorded.bench), "no such check")


def maintenance(recorded: Recorded, op: Op) -> None:
    """The check of a node in maintenance came or went."""
    recorded.up_to(op["raft_index_after"])
    query = parse_qs(urlsplit(op["path"]).query)
    check = checks(recorded.bench).get("_node_maintenance")
    if query["enable"] == ["true"]:
        holds(check is not None, "the check is there")
        same((check["Status"], check["Notes"]), ("critical", query["reason"][0]), "check")
    else:
        same(check, None, "check")


def leaf(recorded: Recorded, op: Op) -> None:
    """A certificate's number is the one that the log gave out last."""
    recorded.up_to(op["raft_index_after"])
    given = recorded.bench.store.index("connect-ca-builtin-serial")
    # The answer is cut off before its end, so only its beginning can be read.
    number = op["response"].split('"SerialNumber":"', 1)[1].split('"', 1)[0]
    same(given, int(number, 16), "serial number")


def ca_configured(recorded: Recorded, op: Op) -> None:
    """The configuration of the CA is what was sent."""
    recorded.up_to(op["raft_index_after"])
    config = connect_ca.config(recorded.bench.store, WatchSet())[1]
    if config is None:
        raise Mismatch("no configuration")
    row, asked = json_of(config), json.loads(op["body"])
    same((row["Provider"], row["Config"]), (asked["Provider"], asked["Config"]), "configuration")


# --- without a command --------------------------------------------------------------------------------------------


def left_nothing(recorded: Recorded, op: Op) -> Bench:
    """The state at a call that left no entry."""
    same(op["raft_index_after"], op["raft_index_before"], "index after")
    recorded.up_to(op["raft_index_before"])
    return recorded.bench


def unknown_service(recorded: Recorded, op: Op) -> None:
    """A check for a service that the node does not have; ACLs were on, so the endpoint looked before it wrote."""
    bench, asked = left_nothing(recorded, op), json.loads(op["body"])
    check = asked["Check"]
    services = shown(bench, f"/v1/catalog/node/{asked['Node']}")["Services"]
    holds(check["ServiceID"] not in services, "no such service")
    same(op["response"], f"Unknown service '{check['ServiceID']}' for check '{check['CheckID']}'", "answer")


def unknown_session(recorded: Recorded, op: Op) -> None:
    """A session that is not there; ACLs were on, so the endpoint looked before it wrote. Ours answers the same."""
    bench = left_nothing(recorded, op)
    same(shown(bench, f"/v1/session/info/{op['path'].rpartition('/')[2]}"), [], "sessions")
    bench.proposals.commit = lambda: None
    status, _, body = bench.ask(op["method"], op["path"])
    same((status, body.decode()), (op["status"], op["response"]), "answer")


def unknown_member(recorded: Recorded, op: Op) -> None:
    """A node that nobody knows cannot be forced to leave: our server refuses it in the recorded words."""
    bench, name = left_nothing(recorded, op), op["path"].rpartition("/")[2]
    known = [row["Node"] for row in shown(bench, "/v1/catalog/nodes")]
    holds(known and name not in known, "no such node")
    pool = SimpleNamespace(member=lambda node: node if node in known else None)
    server: Any = SimpleNamespace(_lan=pool, _wan=None, _config=SimpleNamespace(datacenter="dc1"))
    try:
        asyncio.run(ServerNode.force_leave(server, name))
    except RPCError as error:
        same(str(error), op["response"], "answer")
    else:
        raise Mismatch("it was made to leave")


def lock_refused(recorded: Recorded, op: Op) -> None:
    """Another holds the lock. The original lets its state machine refuse; we refuse before the log (see KeyValues)."""
    before, after = op["raft_index_before"], op["raft_index_after"]
    recorded.up_to(before)
    bench = recorded.bench
    bench.proposals.made.clear()
    status, _, body = bench.ask(op["method"], op["path"], op["body"].encode())
    same((status, body.decode()), (op["status"], op["response"].strip()), "answer")
    same(bench.proposals.made, [], "commands")
    index = bench.store.index("kvs")
    same(recorded.up_to(after), False, "result of the recorded command")
    same(bench.store.index("kvs"), index, "index, which that command leaves alone")


def event_fired(recorded: Recorded, op: Op) -> None:
    """An event goes out by gossip: our handler's answer is the recorded one, and nothing is written."""
    left_nothing(recorded, op)
    answer, sent = json.loads(op["response"]), []

    async def call(method: Any, asked: Any) -> None:
        sent.append((method.name, asked.name))

    caller: Any = SimpleNamespace(call=call)
    events: Any = None
    handlers = event.EventEndpoints(caller, events, lambda: str(answer["ID"]), Defaults("dc1", NODE))
    body = op["body"].encode()
    response = asyncio.run(
        handlers.fire(Request(op["method"], op["path"], Query(""), {}, body, "127.0.0.1", len(body)))
    )
    same(json.loads(response.body), answer, "answer")
    same(sent, [("Internal.EventFire", answer["Name"])], "calls")
    same(base64.b64decode(answer["Payload"]), body, "payload")


def too_big(recorded: Recorded, op: Op) -> None:
    """A body above the limit is refused by its declared length."""
    bench = left_nothing(recorded, op)
    limit, setting = bench.body_limit(op["path"])
    holds(op["body_len"] > limit, "the limit is below")
    refusal = head.body_too_large(op["body_len"], limit, setting)
    same((refusal.status, refusal.body.decode()), (op["status"], op["response"]), "answer")


def coordinate_sent(recorded: Recorded, op: Op) -> None:
    """The command with the coordinate comes with the next batch."""
    before, after = op["raft_index_before"], op["raft_index_after"]
    recorded.up_to(before)
    bench = recorded.bench
    bench.proposals.made.clear()
    bench.proposals.commit = lambda: None
    status, _, body = bench.ask(op["method"], op["path"], op["body"].encode())
    same((status, body), (op["status"], b""), "answer")
    same(bench.proposals.made, [], "commands at once")
    asyncio.run(bench.coordinates.flush())
    written = [recorded.data(index - 1, index) for index in range(before + 1, after + 1)]
    same(len(bench.proposals.made), 1, "commands of the batch")
    holds(bench.proposals.made[0] in written, "the command is among the recorded ones")


ACL_PUTS = ("policy", "role", "token", "auth-method", "binding-rule")
BY_LABEL: dict[str, Check] = {
    "acl bootstrap again": acl_bootstrap_again,
    "acl legacy create": legacy_create,
    "acl legacy list": legacy_list,
    "legacy acl destroy": legacy_destroy,
    "agent service register": service_registered,
    "agent ttl pass": check_passed,
    "agent service deregister": service_gone,
    "agent maint": maintenance,
    "agent maint off": maintenance,
    "force-leave unknown": unknown_member,
    "leaf": leaf,
    "leaf 2": leaf,
    "ca config set": ca_configured,
    "ca rotate key type": ca_configured,
    "register check for missing service": unknown_service,
    "session destroy missing": unknown_session,
    "lock acquire other fails": lock_refused,
    "user event": event_fired,
    "kv too big": too_big,
    "coordinate update": coordinate_sent,
}


def check_of(op: Op) -> Check | None:
    """How a call is judged here; None for those that are replayed from the request on."""
    if known := BY_LABEL.get(op["label"]):
        return known
    if op["path"].startswith(tuple(f"/v1/acl/{kind}" for kind in ACL_PUTS)):
        return acl_delete if op["method"] == "DELETE" else acl_put
    return None
