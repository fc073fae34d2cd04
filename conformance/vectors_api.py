"""What a real server's HTTP API answered of a state, asked of ours: from restored snapshots, and call by call of a log.

Everything runs in this process, without network or time: the HTTP handlers call the endpoints, the endpoints read the
restored store, and what they propose is taken down instead of replicated.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from conformance.case import Case, load, same
from conformance.vectors_calls import check_of
from conformance.vectors_fsm import log as recorded_log
from pyconsul_agent.fsm.apply import CONFIG_ENTRY, INTENTION, PREPARED_QUERY, SESSION
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.interfaces.http import catalog, config, connect, coordinate, health, intention, kv, operator, query
from pyconsul_agent.interfaces.http import session as sessions
from pyconsul_agent.interfaces.http import txn as transactions
from pyconsul_agent.interfaces.http.acl import ACLs
from pyconsul_agent.interfaces.http.message import Request
from pyconsul_agent.interfaces.http.params import Defaults
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Rules, Target
from pyconsul_agent.interfaces.http.routes import RouteTable
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints import catalog as rpc_catalog
from pyconsul_agent.server.endpoints import config_entry as rpc_config
from pyconsul_agent.server.endpoints import connect as rpc_connect
from pyconsul_agent.server.endpoints import health as rpc_health
from pyconsul_agent.server.endpoints import intention as rpc_intention
from pyconsul_agent.server.endpoints.coordinate import Coordinates
from pyconsul_agent.server.endpoints.federation import FederationStates
from pyconsul_agent.server.endpoints.kvs import KeyValues
from pyconsul_agent.server.endpoints.operator import Autopilot
from pyconsul_agent.server.endpoints.prepared_query import PreparedQueries
from pyconsul_agent.server.endpoints.session import Sessions
from pyconsul_agent.server.endpoints.shared import Near
from pyconsul_agent.server.endpoints.txn import Txn
from pyconsul_agent.server.leader.session_ttl import SessionTimers
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.acl import ACLAuthMethodListStub, ACLPolicyListStub, ACLTokenListStub
from pyconsul_agent.structs.config_requests import ConfigEntryRequest
from pyconsul_agent.wire import gojson, msgpack

SNAPSHOTS = {"snapA": "dc1", "snapB": "dc-x"}
"""By datacenter. (A real server refuses the third one: its nodes are spelled in two ways.)"""
NOT_OF_THE_STATE = ("/v1/operator/raft/", "/v1/catalog/datacenters")
"""Answered from raft's own configuration and from gossip."""
TOKEN = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
"""What the recorded calls carried."""


class Silent:
    """A log that nobody reads; an error is one of the comparison."""

    def event(self, name: str, /, **fields: object) -> None:
        """Not kept."""

    trace = debug = info = warn = event

    def error(self, message: str, /, **pairs: object) -> None:
        """An internal error."""
        raise AssertionError(f"{message}: {pairs}")

    def named(self, name: str) -> Silent:
        """Itself."""
        return self


class Leading:
    """Leads for ever."""

    is_leader = True
    leader_address = "127.0.0.1:8300"
    last_contact_s = 0.0
    lease_valid = True

    async def verify(self) -> None:
        """Always."""


class Proposals:
    """Takes down what would be written; `commit` then says what came of it."""

    is_leader = True

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self.commit: Callable[[], Any] = lambda: None

    async def apply(self, kind: int, body: bytes) -> Any:
        """The recorded result."""
        self.made.append(bytes([kind]) + body)
        return self.commit()

    async def barrier(self) -> None:
        """Nothing to wait for."""


class Bench:
    """HTTP down to a store, in one process."""

    def __init__(
        self, datacenter: str, *, connect_enabled: bool, node: str = "s1", session_ttl_min_s: float = 10.0
    ) -> None:
        self.store = Store()
        self.machine = StateMachine(self.store, lambda: 0.0)
        self.proposals = Proposals()
        self.ids = itertools.count()
        self.next_id = ""
        self._session_ttl_min_s = session_ttl_min_s
        self._endpoints = {
            endpoint.method.name: endpoint
            for family in self._families(datacenter, connect_enabled)
            for endpoint in family.endpoints()
        }
        defaults = Defaults(datacenter=datacenter, node_name=node)
        caller: Any = self
        uncached: Any = None
        families: tuple[Any, ...] = (
            kv.KV(caller, defaults, value_bytes_max=512 * 1024),
            sessions.Sessions(caller, defaults),
            catalog.Catalog(caller, defaults, uncached),
            health.Health(caller, defaults, uncached),
            transactions.Transactions(caller, defaults, value_bytes_max=512 * 1024, body_bytes_max=512 * 1024),
            coordinate.Coordinates(caller, defaults, enabled=True),
            operator.Operator(caller, defaults),
            query.PreparedQueries(caller, defaults, uncached),
            config.ConfigEntries(caller, defaults),
            connect.Connect(caller, defaults),
            intention.Intentions(caller, defaults),
            ACLs(),
        )
        table = RouteTable([route for family in families for route in family.routes()])
        log: Any = Silent()
        self._pipeline = Pipeline(table, Rules(), log)

    def _families(self, datacenter: str, connect_enabled: bool) -> tuple[Any, ...]:
        leading: Any = Leading()
        log: Any = Silent()
        store, proposer, ttl = self.store, self.proposals, self._session_ttl_min_s
        blocking = Blocking(store, leading, random.Random(1))
        near = Near(store, datacenter)
        remote: Any = None
        self.coordinates = Coordinates(store, proposer, blocking, list, log)
        return (
            rpc_catalog.Catalog(store, proposer, blocking, near, lambda: [datacenter]),
            rpc_health.Health(store, blocking, near),
            KeyValues(store, proposer, blocking, lambda: 0.0, ready=lambda: True),
            Sessions(store, proposer, blocking, SessionTimers(), now=lambda: 0.0, uuid=self.uuid, ttl_min_s=ttl),
            Txn(store, proposer, blocking, lambda: 0.0, ready=lambda: True),
            self.coordinates,
            Autopilot(store, proposer, blocking, dict),
            PreparedQueries(
                store, proposer, blocking, near, datacenter=datacenter, draw=random.Random(1), uuid=self.uuid,
                others=list, remote=remote, log=log,
            ),
            rpc_config.ConfigEntries(store, proposer, blocking, connect_enabled=connect_enabled),
            rpc_connect.DiscoveryChains(store, blocking, datacenter=datacenter, connect_enabled=connect_enabled),
            rpc_connect.ConnectCA(store, blocking, connect_enabled=connect_enabled),
            FederationStates(store, proposer, blocking),
            rpc_intention.Intentions(
                store, proposer, blocking, uuid=self.uuid, wall_ns=lambda: 0, connect_enabled=connect_enabled
            ),
        )  # fmt: skip

    def uuid(self) -> str:
        """The ID that the recording has, or one that is never used again."""
        return self.next_id or f"00000000-0000-0000-0000-{next(self.ids):012d}"

    async def call(self, method: Any, request: Any) -> Any:
        """A call of the agent above."""
        return await self._endpoints[method.name].run(request)

    def body_limit(self, path: str) -> tuple[int, str]:
        """How large a body sent there may be, in bytes, and the setting that says so."""
        located = self._pipeline.locate(path, "PUT")
        assert isinstance(located, Target) and located.route is not None and located.route.body_bytes_max is not None
        return located.route.body_bytes_max, located.route.body_setting

    def ask(self, method: str, path: str, body: bytes = b"", token: str = "") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an HTTP call."""
        located = self._pipeline.locate(path, method)
        assert isinstance(located, Target), path
        headers = {"x-consul-token": token} if token else {}
        assert located.query is not None
        request = Request(method, located.path, located.query, headers, body, "127.0.0.1", len(body))
        response = asyncio.run(self._pipeline.answer(located, request))
        return response.status, response.headers, response.body


# --- restored snapshots -------------------------------------------------------------------------------------------


def restored(folder: Path, name: str) -> Bench:
    """A bench over a recorded snapshot."""
    bench = Bench(SNAPSHOTS[name], connect_enabled=name == "snapA")
    with tarfile.open(folder / f"{name}.snap") as archive:
        file = archive.extractfile("state.bin")
        assert file is not None
        bench.machine.restore([file.read()])()
    return bench


def answered(bench: Bench, path: str, recorded: dict[str, Any]) -> None:
    """An answer is the recorded one: status, index and body."""
    status, headers, body = bench.ask("GET", path)
    same(status, recorded["status"], f"status of {body[:200]!r}")
    if recorded["index"] is not None:
        same(headers.get("X-Consul-Index"), str(recorded["index"]), "index")
    text = body.decode()
    value = json.loads(text) if text[:1] in ("[", "{") else text
    same(without_order(value, path), without_order(recorded["body"], path), "body")


def without_order(value: Any, path: str) -> Any:
    """Tags of services come in any order, and so do instances of the same name."""
    if path == "/v1/catalog/services" and isinstance(value, dict):
        return {name: sorted(tags) for name, tags in value.items()}
    return value


def acl_rows(bench: Bench, path: str) -> Any:
    """What an ACL path would show, if ACLs were on: the rows themselves, since no endpoint serves them yet."""
    tables = bench.store.tables
    what, _, wanted = path.removeprefix("/v1/acl/").partition("/")
    if what == "token":
        return next(row for row in tables.acl_tokens.scan() if row.accessor_id == wanted)
    if what == "policy":
        return next(row for row in tables.acl_policies.scan() if row.id == wanted)
    if what == "auth-method":
        return next(row for row in tables.acl_auth_methods.scan() if row.name == wanted)
    if what == "tokens":
        return [stub(ACLTokenListStub, row, legacy=row.rules != "") for row in tables.acl_tokens.scan()]
    if what == "policies":
        return [stub(ACLPolicyListStub, row) for row in tables.acl_policies.scan()]
    if what == "auth-methods":
        return [stub(ACLAuthMethodListStub, row) for row in tables.acl_auth_methods.scan()]
    return {"roles": tables.acl_roles, "binding-rules": tables.acl_binding_rules}[what].scan()


def stub(form: Any, row: Any, **more: Any) -> Any:
    """A row as lists show it: some of its fields."""
    return form(**{name: getattr(row, name) for name in form.__dataclass_fields__ if hasattr(row, name)}, **more)


def acl_shown(bench: Bench, path: str, recorded: dict[str, Any]) -> None:
    """The rows of an ACL table, and the table's index."""
    same(json.loads(gojson.encode(acl_rows(bench, path))), recorded["body"], "body")
    kind = path.split("/")[3]
    table = f"acl-{kind if kind.endswith('s') else {'policy': 'policies'}.get(kind, kind + 's')}"
    same(bench.store.index(table), int(recorded["index"]), "index")


def snapshot_cases(folder: Path) -> Iterator[Case]:
    """Every recorded answer of two snapshots."""
    for name in SNAPSHOTS:
        bench = restored(folder, name)
        for path, recorded in load(folder, f"{name}.api")["api"].items():
            if path.startswith(NOT_OF_THE_STATE):
                continue
            check = acl_shown if path.startswith("/v1/acl/") and recorded["status"] == 200 else answered
            yield Case(f"{name}.api {path}", partial(check, bench, path, recorded))


# --- calls and the commands that they became ----------------------------------------------------------------------

TIMES = (b"LegacyCreateTime", b"LegacyUpdateTime", b"CreatedAt", b"UpdatedAt")


class Recorded:
    """The recorded log, applied up to the call at hand."""

    def __init__(self, folder: Path) -> None:
        self.bench = Bench("dc1", connect_enabled=True, node="s3", session_ttl_min_s=1.0)
        self._entries = {entry.index: entry for entry, _ in recorded_log(folder)}
        self._applied = 0

    def up_to(self, index: int) -> Any:
        """Apply what is missing; returns the last result."""
        result = None
        while self._applied < index:
            self._applied += 1
            if self._applied in self._entries:
                result = self.bench.machine.apply(self._entries[self._applied])
        return result

    def data(self, after: int, up_to: int) -> bytes:
        """The command that entries hold, in pieces or not."""
        return b"".join(self._entries[index].data or b"" for index in range(after + 1, up_to + 1))


def body_of(op: dict[str, Any]) -> bytes:
    """What was sent."""
    if "body_hex" in op:
        return bytes.fromhex(op["body_hex"])
    if "body_fill" in op:
        return op["body_fill"].encode() * op["body_len"]
    return (op.get("body") or "").encode()


def same_command(ours: bytes, theirs: bytes) -> None:
    """The same command but for times."""
    same(ours[0], theirs[0], "command")
    for path, mine, recorded in differences(shape(ours), shape(theirs), ""):
        same(mine, recorded, path)


def shape(command: bytes) -> Any:
    """What a command holds; the one for config entries has a form of its own inside."""
    if command[0] == CONFIG_ENTRY:
        return msgpack.decode(ConfigEntryRequest, command[1:])
    return msgpack.unpack(command[1:])


def id_made(command: bytes) -> str:
    """The ID that the server chose for what it creates; empty if there is none."""
    found: Any = b""
    if command[:1] == bytes([SESSION]):
        found = msgpack.unpack(command[1:])[b"Session"][b"ID"]
    elif command[:1] == bytes([PREPARED_QUERY]):
        found = msgpack.unpack(command[1:])[b"Query"][b"ID"]
    elif command[:1] == bytes([INTENTION]):
        found = msgpack.unpack(command[1:])[b"Mutation"][b"Value"]
        found = found[b"LegacyID"] if found else b""
    return str(found, "ascii")


def differences(ours: Any, theirs: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Paths at which two values differ, but for times."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for name, value in ours.items():
            if name not in TIMES:
                yield from differences(value, theirs[name], f"{path}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, (mine, recorded) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(mine, recorded, f"{path}[{at}]")
    elif ours != theirs:
        yield path, ours, theirs


def replayed(recorded: Recorded, op: dict[str, Any]) -> None:
    """A call before whose command the log stands: the command and the answer."""
    before, after = op["raft_index_before"], op["raft_index_after"]
    recorded.up_to(before)
    bench = recorded.bench
    bench.next_id = id_made(recorded.data(before, after))
    bench.proposals.made.clear()
    bench.proposals.commit = lambda: recorded.up_to(after)
    status, _, body = bench.ask(op["method"], op["path"], body_of(op), TOKEN)
    written = [recorded.data(before, after)] if after > before else []
    same(len(bench.proposals.made), len(written), f"commands of {body!r}")
    for ours, theirs in zip(bench.proposals.made, written, strict=True):
        same_command(ours, theirs)
    same(status, op["status"], "status")
    same(body.decode().strip(), op["response"].strip(), "body")


def op_cases(folder: Path) -> Iterator[Case]:
    """Every call of the recorded cluster, one after the other."""
    recorded = Recorded(folder)
    for op in load(folder, "http_ops_c1"):
        title = f"http_ops_c1 {op['raft_index_before']} {op['label']}"
        yield Case(title, partial(check_of(op) or replayed, recorded, op))


def cases(folder: Path) -> Iterator[Case]:
    """Every comparison over HTTP."""
    yield from snapshot_cases(folder)
    yield from op_cases(folder)
