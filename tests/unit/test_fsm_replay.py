"""Every entry of a real cluster's log, applied: results and indexes must be those of the real state machine."""

import json
import re
from pathlib import Path

import pytest

from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.state import catalog, coordinate, health, kv, prepared_query, session, system
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.raft import LogEntry
from pyconsul_agent.wire.msgpack import plain

VECTORS = Path(__file__).resolve().parents[2] / "conformance" / "vectors" / "raft"

NOT_IMPLEMENTED = re.compile(
    r"table:(acl-|connect-ca|config-entries|gateway-services|mesh-topology|connect-intentions)"
    r"|q:(ACL|CA|ConfigEntries|Intentions)"
)
NOT_IMPLEMENTED_TYPES = frozenset(
    ["ACL", "ACLBootstrap", "ConnectCA", "ConfigEntry", "Intention", "ACLTokenSet", "ACLTokenDelete"]
    + [f"ACL{name}{verb}" for name in ("Policy", "Role", "BindingRule", "AuthMethod") for verb in ("Set", "Delete")]
)


def data_of(value):
    if value is None:
        return None
    if "hex" in value:
        return bytes.fromhex(value["hex"])
    fill = bytes([value["fill_byte"]]) * value["fill_count"]
    return bytes.fromhex(value["prefix_hex"]) + fill + bytes.fromhex(value["suffix_hex"])


def log():
    for row in json.loads((VECTORS / "log_c1.json").read_text()):
        extensions = bytes.fromhex(row["extensions_hex"]) if row["extensions_hex"] else None
        entry = LogEntry(
            index=row["index"],
            term=row["term"],
            type=row["log_type"],
            data=data_of(row["data"]),
            extensions=extensions,
        )
        yield entry, row.get("msg_type")


def query(store, name):
    kind, _, argument = name.partition(" ")
    argument = json.loads(argument) if argument.startswith('"') else argument
    watch = WatchSet()
    if kind == "KVSGet":
        index, row = store.index("kvs", "tombstones"), kv.get(store, watch, argument.encode())[1]
        if row is None:
            return f"index={index} absent"
        return (
            f"index={index} create={row.create_index} modify={row.modify_index} "
            f"lock={row.lock_index} session={row.session}"
        )
    if kind == "NodeServices":
        index, node, services = catalog.node_services(store, watch, argument)
        return f"index={index} n={-1 if node is None else len(services)}"
    calls = {
        "AutopilotConfig": lambda: counted(system.autopilot_config(store, watch)),
        "CheckServiceNodes": lambda: health.service_nodes(store, watch, argument),
        "ChecksInState": lambda: health.in_state(store, watch, argument),
        "Coordinates": lambda: coordinate.list_all(store, watch),
        "FederationStateList": lambda: (store.index("federation-states"), store.tables.federation_states),
        "KVSList": lambda: kv.list_prefix(store, watch, argument.encode()),
        "NodeChecks": lambda: health.of_node(store, watch, argument),
        "NodeSessions": lambda: session.of_node(store, watch, argument),
        "Nodes": lambda: catalog.list_nodes(store, watch),
        "PreparedQueryList": lambda: prepared_query.list_all(store, watch),
        "ServiceChecks": lambda: health.of_service(store, watch, argument),
        "ServiceNodes": lambda: catalog.instances(store, watch, argument),
        "Services": lambda: catalog.list_services(store, watch),
        "SessionList": lambda: session.list_all(store, watch),
        "SystemMetadataList": lambda: (store.index("system-metadata"), store.tables.system_metadata),
    }
    index, rows = calls[kind]()
    return f"index={index} n={len(rows)}"


def counted(answer):
    return answer[0], [] if answer[1] is None else [answer[1]]


def shown(store, name):
    if name.startswith("table:"):
        value = store.tables.index.get(name.removeprefix("table:").encode())
        return None if value is None else str(value)
    return query(store, name.removeprefix("q:"))


def result_matches(result, expected):
    if expected is None or expected.get("nil"):
        return result is None
    if "error" in expected:
        return isinstance(result, Exception) and str(result) == expected["error"]
    if expected["go_type"] == "structs.TxnResponse":
        return same_json(plain(result), expected["json"])
    return result == expected["json"] and type(result) is type(expected["json"])


def same_json(ours, theirs):
    """Compare what the recording shows; Go's JSON leaves zero values out and shows bytes as base64."""
    if isinstance(theirs, dict):
        return ours is not None and all(
            same_json(ours.get(key), value) for key, value in theirs.items() if key not in ("Definition",)
        )
    if isinstance(theirs, list):
        return len(ours or ()) == len(theirs) and all(map(same_json, ours or (), theirs))
    if isinstance(ours, bytes):
        return theirs is None or ours.decode() == theirs or isinstance(theirs, str)
    return ours == theirs or (not ours and not theirs)


def machine():
    return StateMachine(Store(), lambda: 0.0)


@pytest.fixture(scope="module")
def replayed():
    """Apply the log once; per entry the result and, of every row ever mentioned, what it shows."""
    expectations = {row["index"]: row for row in json.loads((VECTORS / "fsm_replay_c1.json").read_text())}
    fsm, current, wrong, compared = machine(), {}, [], 0
    for entry, kind in log():
        result = fsm.apply(entry)
        expected = expectations[entry.index]
        if kind not in NOT_IMPLEMENTED_TYPES:
            compared += 1
            if not result_matches(result, expected.get("result")):
                wrong.append((entry.index, "result", result, expected.get("result")))
        current.update(expected.get("changed", {}))
        for name, value in current.items():
            if NOT_IMPLEMENTED.match(name):
                continue
            compared += 1
            ours = shown(fsm.store, name)
            if ours != value:
                wrong.append((entry.index, name, ours, value))
    return fsm, wrong, compared


def test_replay_gives_the_results_and_indexes_of_the_real_state_machine(replayed):
    _, wrong, compared = replayed
    assert compared > 20_000
    assert wrong == []
