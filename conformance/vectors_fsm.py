"""Every entry of a real cluster's log, applied: results and indexes must be those of the real state machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from conformance.case import Case, data_of, holds, load, same
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.state import (
    catalog,
    config_entry,
    connect_ca,
    coordinate,
    health,
    intention,
    kv,
    prepared_query,
    session,
    system,
)
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.raft import LogEntry
from pyconsul_agent.wire.msgpack import plain


def log(folder: Path) -> Iterator[tuple[LogEntry, str | None]]:
    """(entry, name of its command) of the recorded log."""
    for row in load(folder, "log_c1"):
        extensions = bytes.fromhex(row["extensions_hex"]) if row["extensions_hex"] else None
        entry = LogEntry(
            index=row["index"],
            term=row["term"],
            type=row["log_type"],
            data=data_of(row["data"]),
            extensions=extensions,
        )
        yield entry, row.get("msg_type")


def query(store: Store, name: str) -> str:
    """What a read of the state says, as the recording shows it."""
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
    calls: dict[str, Any] = {
        **{name: partial(acl_rows, store, table) for name, table in ACL_LISTS.items()},
        "AutopilotConfig": lambda: counted(system.autopilot_config(store, watch)),
        "CAConfig": lambda: counted(connect_ca.config(store, watch)),
        "CARoots": lambda: connect_ca.roots(store, watch),
        "CheckServiceNodes": lambda: health.service_nodes(store, watch, argument),
        "ChecksInState": lambda: health.in_state(store, watch, argument),
        "ConfigEntries": lambda: config_entry.by_kind(store, watch, ""),
        "ConfigEntriesByKind": lambda: config_entry.by_kind(store, watch, argument),
        "Coordinates": lambda: coordinate.list_all(store, watch),
        "FederationStateList": lambda: (store.index("federation-states"), store.tables.federation_states),
        "Intentions": lambda: intention.list_all(store, watch),
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


ACL_LISTS = {
    "ACLTokenList": "acl-tokens",
    "ACLPolicyList": "acl-policies",
    "ACLRoleList": "acl-roles",
    "ACLBindingRuleList": "acl-binding-rules",
    "ACLAuthMethodList": "acl-auth-methods",
}


def acl_rows(store: Store, name: str) -> tuple[int, Any]:
    """A table of ACLs with its index."""
    return store.index(name), next(table for table in store.tables.all() if table.name == name)


def counted(answer: tuple[int, Any]) -> tuple[int, list[Any]]:
    """One row or none as a list."""
    return answer[0], [] if answer[1] is None else [answer[1]]


def shown(store: Store, name: str) -> str | None:
    """An index row or a read by its recorded name."""
    if name.startswith("table:"):
        value = store.tables.index.get(name.removeprefix("table:").encode())
        return None if value is None else str(value)
    return query(store, name.removeprefix("q:"))


def result_matches(result: Any, expected: Any) -> bool:
    """Whether a command's result is the recorded one."""
    if expected is None or expected.get("nil"):
        return result is None
    if "error" in expected:
        return isinstance(result, Exception) and str(result) == expected["error"]
    if expected["go_type"] == "structs.TxnResponse":
        return same_json(plain(result), expected["json"])
    return result == expected["json"] and type(result) is type(expected["json"])


def same_json(ours: Any, theirs: Any) -> bool:
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


def machine() -> StateMachine:
    """An empty one."""
    return StateMachine(Store(), lambda: 0.0)


class Replay:
    """The log applied once, when the first result is asked for. `wrong` and `compared` are by index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wrong: dict[int, list[str]] = {}
        self.compared: dict[int, int] = {}
        self._done = False

    def at(self, index: int) -> None:
        """Raise Mismatch unless all that was compared after the entry at `index` is equal."""
        if not self._done:
            self._apply()
            self._done = True
        holds(self.compared[index], "nothing was compared")
        same(self.wrong[index], [], "differences")

    def _apply(self) -> None:
        expectations = {row["index"]: row for row in load(self.folder, "fsm_replay_c1")}
        fsm = machine()
        current: dict[str, Any] = {}
        for entry, _ in log(self.folder):
            result = fsm.apply(entry)
            expected = expectations[entry.index]
            wrong: list[str] = []
            compared = 1
            if not result_matches(result, expected.get("result")):
                wrong.append(f"result {result!r} is not {expected.get('result')!r}")
            current.update(expected.get("changed", {}))
            for name, value in current.items():
                compared += 1
                ours = shown(fsm.store, name)
                if ours != value:
                    wrong.append(f"{name}: {ours!r} is not {value!r}")
            self.wrong[entry.index], self.compared[entry.index] = wrong, compared


def cases(folder: Path) -> Iterator[Case]:
    """A case for every entry: its result, and all indexes and reads after it."""
    replay = Replay(folder)
    for entry, _ in log(folder):
        yield Case(f"state after entry {entry.index}", partial(replay.at, entry.index))
