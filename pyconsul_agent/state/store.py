"""The replicated data of a server: typed tables, one number per table, transactions.

Pure and synchronous. A transaction changes the tables in place and remembers how to undo; because nothing here awaits,
no reader can see one half done. The rules of what a command does are in the modules beside this one; `docs/protocol/
raft.md#state-store-rules` tells them. Nothing here knows a clock: times come in as `now` (monotonic seconds).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pyconsul_agent.state.table import Table, fold, join
from pyconsul_agent.state.watch import Changes, Touch, WatchRegistry
from pyconsul_agent.structs.base import Duration, seconds
from pyconsul_agent.structs.catalog import GatewayService, Node, NodeService
from pyconsul_agent.structs.config_kinds import ConfigEntry, related_services
from pyconsul_agent.structs.coordinate import Coordinate
from pyconsul_agent.structs.federation import FederationState
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.intention import Intention, ServiceIntentionsConfigEntry
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.operator import AutopilotConfig
from pyconsul_agent.structs.prepared_query import PreparedQuery
from pyconsul_agent.structs.session import Session
from pyconsul_agent.structs.system import SystemMetadataEntry

if TYPE_CHECKING:  # their modules are read by the first command that needs them
    from pyconsul_agent.structs.acl import ACLAuthMethod, ACLBindingRule, ACLPolicy, ACLRole, ACLToken
    from pyconsul_agent.structs.connect_ca import CAConfiguration, CAConsulProviderState, CARoot

RowT = TypeVar("RowT")

INDEX_TABLE = "index"
LOCK_DELAY_MAX_S = 60.0
SINGLETON = b""
"""Key of the row of a table that has one."""

KV, CATALOG = "kv", "catalog"
"""Parts of the state whose changes are counted apart, see `Store.version`."""
_KV_TOUCHES = frozenset({"kvs", "tombstones"})
_KV_INDEXES = frozenset({b"kvs", b"tombstones"})
_NOT_OF_KV = frozenset({"nodes", "services", "checks", "coordinates", INDEX_TABLE})


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """An instance of a service on a node."""

    node: str
    service: NodeService


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is left of a deleted key (or of all keys with a prefix)."""

    key: bytes
    index: int


@dataclass(frozen=True, slots=True)
class OpaqueRecord:
    """A snapshot record of a kind that this server carries but does not read: type byte and msgpack value."""

    kind: int
    body: bytes


def uuid_key(text: str) -> bytes:
    """A UUID as a key. Raises ValueError with the original's words ("UUID must be 36 characters", ...)."""
    if len(text.encode("utf-8", "surrogateescape")) != 36:
        raise ValueError("UUID must be 36 characters")
    hyphens = text.count("-")
    if hyphens > 4:
        raise ValueError(f'UUID should have maximum of 4 "-"; got {hyphens}')
    digits = text.replace("-", "")
    if len(digits) % 2:
        raise ValueError("Input (without hyphens) must be even length")
    for character in digits:
        if character not in "0123456789abcdefABCDEF":
            raise ValueError(f"Invalid UUID: encoding/hex: invalid byte: U+{ord(character):04X} '{character}'")
    return bytes.fromhex(digits)


def row_id(text: str) -> bytes:
    """A UUID as a key for rows that are known to be well formed; other text is its own key."""
    try:
        return uuid_key(text)
    except ValueError:
        return text.encode("utf-8", "surrogateescape")


def session_check_keys(session: Session) -> list[bytes]:
    """Keys, in the checks table, of the checks that a session depends on."""
    return [check_key(session.node, check) for check in dict.fromkeys(session_checks(session))]


def session_checks(session: Session) -> list[str]:
    """The check IDs of a session: the old undivided list, node checks, service checks."""
    ids = list(session.checks or ())
    ids += list(session.node_checks or ())
    ids += [check.id for check in session.service_checks or ()]
    return ids


def service_key(node: str, service_id: str) -> bytes:
    """Key in the services table."""
    return join(fold(node), fold(service_id))


def check_key(node: str, check_id: str) -> bytes:
    """Key in the checks table."""
    return join(fold(node), fold(check_id))


def node_prefix(node: str) -> bytes:
    """Prefix of all keys of a node's services, checks and coordinates."""
    return fold(node) + b"\0"


def connect_names(row: ServiceRow) -> tuple[bytes, ...]:
    """The service that can be reached over Connect through this instance."""
    if row.service.kind == "connect-proxy":
        return (fold(row.service.proxy.destination_service_name),)
    return (fold(row.service.service),) if row.service.connect.native else ()


@dataclass(frozen=True, slots=True)
class MeshLink:
    """That a service (or an ingress gateway) reaches another. `instances` are the proxies that say so."""

    upstream: str
    downstream: str
    instances: frozenset[bytes]
    create_index: int
    modify_index: int


def raw(text: str) -> bytes:
    """Text as a key that compares bytewise."""
    return text.encode("utf-8", "surrogateescape")


def linked_services(entry: ConfigEntry) -> list[bytes]:
    """Services that a config entry refers to."""
    return [fold(name) for name in sorted(related_services(entry))]


def legacy_intention_ids(entry: ConfigEntry) -> list[bytes]:
    """IDs by which the old API finds the intentions of a config entry."""
    if not isinstance(entry, ServiceIntentionsConfigEntry):
        return []
    return sorted({row_id(source.legacy_id) for source in entry.sources or () if source.legacy_id})


def intention_names(row: Intention) -> bytes:
    """The four names that only one intention may have."""
    return join(fold(row.source_ns), fold(row.source_name), fold(row.destination_ns), fold(row.destination_name))


def is_template(query: PreparedQuery) -> bool:
    """Whether a prepared query is a template."""
    return query.template.type != ""


class Tables:
    """Every table of one state. Their names are those of the index table."""

    def __init__(self) -> None:
        self.index: Table[int] = Table(INDEX_TABLE)
        self.nodes: Table[Node] = Table("nodes", {"id": lambda row: (fold(row.id),) if row.id else ()})
        self.services: Table[ServiceRow] = Table(
            "services",
            {
                "name": lambda row: (fold(row.service.service),),
                "kind": lambda row: (row.service.kind.encode("utf-8", "surrogateescape"),),
                "connect": connect_names,
            },
        )
        self.checks: Table[HealthCheck] = Table(
            "checks",
            {
                "service": lambda row: (fold(row.service_name),) if row.service_name else (),
                "status": lambda row: (row.status.encode("utf-8", "surrogateescape"),),
                "node_service": lambda row: (service_key(row.node, row.service_id),),
            },
        )
        self.kvs: Table[DirEntry] = Table("kvs", {"session": lambda row: (row_id(row.session),) if row.session else ()})
        self.tombstones: Table[Tombstone] = Table("tombstones")
        self.sessions: Table[Session] = Table(
            "sessions", {"node": lambda row: (fold(row.node),), "check": session_check_keys}
        )
        self.coordinates: Table[Coordinate] = Table("coordinates")
        self.prepared_queries: Table[PreparedQuery] = Table(
            "prepared-queries",
            {
                "name": lambda row: (fold(row.name),) if row.name and not is_template(row) else (),
                "any_name": lambda row: (fold(row.name),) if row.name else (),
                "template": lambda row: (fold(row.name),) if is_template(row) else (),
                "session": lambda row: (row_id(row.session),) if row.session else (),
            },
        )
        self.config_entries: Table[ConfigEntry] = Table(
            "config-entries", {"link": linked_services, "intention": legacy_intention_ids}
        )
        self.gateway_services: Table[GatewayService] = Table(
            "gateway-services", {"service": lambda row: (fold(row.service.name),)}
        )
        self.mesh_topology: Table[MeshLink] = Table(
            "mesh-topology", {"downstream": lambda row: (fold(row.downstream),)}
        )
        self.intentions: Table[Intention] = Table("connect-intentions", {"names": lambda row: (intention_names(row),)})
        self.acl_tokens: Table[ACLToken] = Table(
            "acl-tokens",
            {
                "accessor": lambda row: (row_id(row.accessor_id),) if row.accessor_id else (),
                "auth_method": lambda row: (fold(row.auth_method),) if row.auth_method else (),
            },
        )
        self.acl_policies: Table[ACLPolicy] = Table("acl-policies", {"name": lambda row: (fold(row.name),)})
        self.acl_roles: Table[ACLRole] = Table("acl-roles", {"name": lambda row: (fold(row.name),)})
        self.acl_binding_rules: Table[ACLBindingRule] = Table(
            "acl-binding-rules", {"auth_method": lambda row: (fold(row.auth_method),)}
        )
        self.acl_auth_methods: Table[ACLAuthMethod] = Table("acl-auth-methods")
        self.ca_roots: Table[CARoot] = Table("connect-ca-roots")
        self.ca_config: Table[CAConfiguration] = Table("connect-ca-config")
        self.ca_provider: Table[CAConsulProviderState] = Table("connect-ca-builtin")
        self.autopilot: Table[AutopilotConfig] = Table("autopilot-config")
        self.system_metadata: Table[SystemMetadataEntry] = Table("system-metadata")
        self.federation_states: Table[FederationState] = Table("federation-states")
        self.opaque: Table[OpaqueRecord] = Table("opaque")

    def all(self) -> list[Table[Any]]:
        """Every table, the index table first."""
        return [value for value in vars(self).values() if isinstance(value, Table)]


class LockDelays:
    """Until when keys whose holder was invalidated may not be locked. Local to this server, never replicated."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def note(self, key: bytes, until: float, now: float) -> None:
        """Refuse locks of `key` until then. Entries that ended are dropped on the way, so the table stays small."""
        if len(self._until) >= _SWEEP_AT:
            self._until = {held: end for held, end in self._until.items() if end > now}
        self._until[key] = until

    def remaining_s(self, key: bytes, now: float) -> float:
        """Seconds for which `key` may not yet be locked; 0 when it may."""
        until = self._until.get(key, 0.0)
        if until <= now:
            self._until.pop(key, None)
            return 0.0
        return until - now

    def clear(self) -> None:
        """Forget all (the state was replaced)."""
        self._until.clear()


_SWEEP_AT = 1024


@dataclass(frozen=True, slots=True)
class Image:
    """A frozen copy of all rows, cheap to take; may be written out by another thread."""

    rows: dict[str, dict[bytes, Any]] = field(default_factory=dict)
    order: dict[str, list[bytes]] = field(default_factory=dict)
    """Keys of each table, sorted. To sort a large one anew would stop every other thread for tens of milliseconds."""

    @property
    def last_index(self) -> int:
        """The highest number in the index table."""
        return max(self.rows[INDEX_TABLE].values(), default=0)


class Store:
    """The current state and those who watch it. `tables` is replaced as a whole by a restore."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.watchers = WatchRegistry()
        self.lock_delays = LockDelays()
        self.generation = 0
        """Counts restores."""
        self._versions = {KV: 0, CATALOG: 0}
        self._open = False

    def version(self, part: str) -> int:
        """A number that grows with every change that a read of `part` could see.

        KV is keys, values and tombstones; CATALOG is everything but those. What belongs to neither counts for both.
        """
        return self._versions[part]

    def _count(self, touched: Iterable[Touch]) -> None:
        kv = catalog = False
        for table, key in touched:
            if table in _KV_TOUCHES or (table == INDEX_TABLE and key in _KV_INDEXES):
                kv = True
            else:
                catalog = True
                kv = kv or table not in _NOT_OF_KV
        self._versions[KV] += kv
        self._versions[CATALOG] += catalog

    def begin(self, index: int, now: float = 0.0) -> Txn:
        """A write transaction at raft index `index`; `now` only dates lock delays. One at a time."""
        assert not self._open, "a transaction is open"
        self._open = True
        return Txn(self, index, now)

    def index(self, *names: str) -> int:
        """The highest number of the named entries of the index table, 0 if none exists."""
        return max(
            (self.tables.index.rows.get(name.encode("utf-8", "surrogateescape"), 0) for name in names), default=0
        )

    def snapshot(self) -> Image:
        """All rows as they are now (a shallow copy per table)."""
        tables = self.tables.all()
        return Image({table.name: dict(table.rows) for table in tables}, {table.name: table.keys() for table in tables})

    def restore(self, fresh: Store) -> None:
        """Become what `fresh` holds and wake every watcher."""
        assert not self._open
        self.tables = fresh.tables
        self.lock_delays.clear()
        self.generation += 1
        self._versions = {part: version + 1 for part, version in self._versions.items()}
        self.watchers.wake_all()

    def _closed(self) -> None:
        self._open = False


class Txn:
    """A write transaction. Ends by `commit` or `abort`; as a context manager it aborts on an exception."""

    __slots__ = ("_delays", "_touched", "_undo", "index", "now", "of", "op", "store", "tables")

    def __init__(self, store: Store, index: int, now: float) -> None:
        self.store = store
        self.tables = store.tables
        self.index = index
        self.now = now
        self.op = self.of = ""
        """What the command says that it does, and to which kind of things: for metrics only."""
        self._undo: list[tuple[Table[Any], bytes, Any]] = []
        self._touched: set[Touch] = set()
        self._delays: list[tuple[bytes, float]] = []

    def __enter__(self) -> Txn:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.commit()
        else:
            self.abort()

    def put(self, table: Table[RowT], key: bytes, row: RowT) -> None:
        """Insert or replace a row."""
        self._undo.append((table, key, table.put(key, row)))
        self._touched.add((table.name, key))

    def delete(self, table: Table[Any], key: bytes) -> None:
        """Delete a row; nothing happens if it is not there."""
        old = table.remove(key)
        if old is not None:
            self._undo.append((table, key, old))
            self._touched.add((table.name, key))

    def set_index(self, name: str, value: int | None = None) -> None:
        """Set an entry of the index table, to this transaction's index unless told otherwise."""
        key = name.encode("utf-8", "surrogateescape")
        self.put(self.tables.index, key, self.index if value is None else value)

    def raise_index(self, *names: str) -> None:
        """Entries of the index table become this transaction's index unless they are higher."""
        for name in names:
            if self.store.index(name) < self.index:
                self.set_index(name)

    def delete_index(self, name: str) -> None:
        """Remove an entry of the index table."""
        self.delete(self.tables.index, name.encode("utf-8", "surrogateescape"))

    def delay_lock(self, key: bytes, delay: Duration) -> None:
        """Refuse locks of `key` for a while, once this commits."""
        if delay > 0:
            self._delays.append((key, min(seconds(delay), LOCK_DELAY_MAX_S)))

    def commit(self) -> Changes:
        """Make it final and wake the watchers."""
        for key, delay_s in self._delays:
            self.store.lock_delays.note(key, self.now + delay_s, self.now)
        self.store._closed()
        self.store._count(self._touched)
        changes = Changes(self.index, self._touched)
        self.store.watchers.notify(changes)
        return changes

    def abort(self) -> None:
        """Undo everything; nobody is woken."""
        for table, key, old in reversed(self._undo):
            if old is None:
                table.remove(key)
            else:
                table.put(key, old)
        self.store._closed()


def distinct(items: Iterable[str]) -> list[str]:
    """Without repetitions, in order of first appearance."""
    return list(dict.fromkeys(items))
