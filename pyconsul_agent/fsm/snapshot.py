"""The state as a stream of typed records, and back: what raft snapshots and `consul snapshot save` carry.

The stream is a msgpack map {"LastIndex": n}, then until its end records of one type byte and one msgpack value. Kinds
that Consul after 1.10 added are carried through unread. What stands behind which gateway is in no record: it follows
from the others, and is worked out when all have been read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgpack

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.fsm.chunking import Assembler
from pyconsul_agent.state import config_entry, gateway
from pyconsul_agent.state.store import (
    INDEX_TABLE,
    SINGLETON,
    Image,
    OpaqueRecord,
    ServiceRow,
    Store,
    Tombstone,
    check_key,
    row_id,
    service_key,
)
from pyconsul_agent.state.table import fold, join
from pyconsul_agent.structs.base import wire
from pyconsul_agent.structs.catalog import Node, NodeService
from pyconsul_agent.structs.config_kinds import ConfigEntry
from pyconsul_agent.structs.config_requests import ConfigEntryRequest
from pyconsul_agent.structs.coordinate import Coordinate
from pyconsul_agent.structs.federation import FederationState, FederationStateRequest
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.intention import Intention
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.operator import AutopilotConfig
from pyconsul_agent.structs.prepared_query import PreparedQuery
from pyconsul_agent.structs.requests import RegisterRequest
from pyconsul_agent.structs.session import Session
from pyconsul_agent.structs.system import SystemMetadataEntry
from pyconsul_agent.wire.msgpack import build, encode, pack

RowT = TypeVar("RowT", Node, NodeService, HealthCheck)

RECORD_BYTES_MAX = 256 * 1024 * 1024
FEED_BYTES = 64 * 1024

REGISTER, KVS, SESSION, TOMBSTONE, COORDINATES, QUERY, AUTOPILOT = 0, 2, 3, 5, 6, 7, 9
BOOTSTRAP, INDEX, CHUNKS, FEDERATION, SYSTEM = 11, 16, 29, 30, 31

ACL_TOKEN, ACL_POLICY, ACL_ROLE, ACL_BINDING_RULE, ACL_AUTH_METHOD = 17, 19, 23, 25, 27
INTENTION, CA_ROOT, CA_PROVIDER, CA_CONFIG, CONFIG_ENTRY = 12, 13, 14, 15, 22
OLD_TOKEN = 4
"""A token of before 1.4; read, never written."""

OPAQUE_FIRST = (32, 33, 34)
OPAQUE_LAST = tuple(range(35, 43))
OPAQUE = frozenset(OPAQUE_FIRST + OPAQUE_LAST)

RARE = frozenset(
    [ACL_TOKEN, ACL_POLICY, ACL_ROLE, ACL_BINDING_RULE, ACL_AUTH_METHOD, OLD_TOKEN, CA_ROOT, CA_PROVIDER, CA_CONFIG]
)
"""Rows that few clusters have; what reads them is imported when the first one comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """A row of the index table."""

    key: str = wire("Key", "")
    value: int = wire("Value", 0)


# --- writing --------------------------------------------------------------------------------------------------


def write(image: Image, chunks: dict[str, Any]) -> Iterator[bytes]:
    """The stream for `image`, one record a piece, in the order of Consul 1.10."""
    yield pack({"LastIndex": image.last_index})
    for kind, body in _records(image, chunks):
        yield bytes([kind]) + body


def _records(image: Image, chunks: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
    yield from _opaque(image, OPAQUE_FIRST)
    for request in _registrations(image):
        yield REGISTER, encode(request)
    for row in _sorted(image, "coordinates"):
        yield COORDINATES, encode([row])
    for row in _sorted(image, "sessions"):
        yield SESSION, encode(row)
    for kind, table in ACL_TABLES:
        for row in _sorted(image, table):
            yield kind, encode(row)
    for row in _sorted(image, "kvs"):
        yield KVS, encode(row)
    for row in _sorted(image, "tombstones"):
        yield TOMBSTONE, encode(DirEntry(key=row.key, modify_index=row.index))
    for row in _sorted(image, "prepared-queries"):
        yield QUERY, encode(row)
    for row in _sorted(image, "autopilot-config"):
        yield AUTOPILOT, encode(row)
    for kind, table in CONNECT_TABLES:
        for row in _sorted(image, table):
            yield kind, encode(row)
    for row in _sorted(image, "config-entries"):
        yield CONFIG_ENTRY, encode(ConfigEntryRequest(entry=row))
    for row in _sorted(image, "federation-states"):
        yield FEDERATION, encode(FederationStateRequest(op="upsert", state=row))
    for row in _sorted(image, "system-metadata"):
        yield SYSTEM, encode(row)
    yield from _opaque(image, OPAQUE_LAST)
    for key in image.order[INDEX_TABLE]:
        yield INDEX, pack({"Key": key, "Value": image.rows[INDEX_TABLE][key]})
    yield CHUNKS, pack(chunks)


ACL_TABLES = (
    (ACL_TOKEN, "acl-tokens"),
    (ACL_POLICY, "acl-policies"),
    (ACL_ROLE, "acl-roles"),
    (ACL_BINDING_RULE, "acl-binding-rules"),
    (ACL_AUTH_METHOD, "acl-auth-methods"),
)
CONNECT_TABLES = (
    (INTENTION, "connect-intentions"),
    (CA_ROOT, "connect-ca-roots"),
    (CA_PROVIDER, "connect-ca-builtin"),
    (CA_CONFIG, "connect-ca-config"),
)


def _sorted(image: Image, table: str) -> Iterator[Any]:
    rows = image.rows[table]
    for key in image.order[table]:
        yield rows[key]


def _opaque(image: Image, kinds: tuple[int, ...]) -> Iterator[tuple[int, bytes]]:
    for kind in kinds:
        for row in _sorted(image, "opaque"):
            if row.kind == kind:
                yield kind, row.body


def _registrations(image: Image) -> Iterator[RegisterRequest]:
    services: dict[bytes, list[ServiceRow]] = {}
    checks: dict[bytes, list[Any]] = {}
    for row in _sorted(image, "services"):
        services.setdefault(fold(row.node), []).append(row)
    for row in _sorted(image, "checks"):
        checks.setdefault(fold(row.node), []).append(row)
    for node in _sorted(image, "nodes"):
        base = RegisterRequest(
            datacenter=node.datacenter,
            id=node.id,
            node=node.node,
            address=node.address,
            tagged_addresses=node.tagged_addresses,
            node_meta=node.meta,
            create_index=node.create_index,
            modify_index=node.modify_index,
        )
        yield base
        for service in services.get(fold(node.node), ()):
            yield replace(base, service=service.service)
        for check in checks.get(fold(node.node), ()):
            yield replace(base, check=check)


# --- reading --------------------------------------------------------------------------------------------------


def read(stream: Iterable[bytes]) -> tuple[Store, Assembler]:
    """Build a state from the stream, in any order of records. Raises DecodeError."""
    records = _parse(stream)
    header = next(records, None)
    if header is None or not isinstance(header[1], dict) or type(header[1].get(b"LastIndex", 0)) is not int:
        raise DecodeError("snapshot has no header")
    loader = _Loader(header[1].get(b"LastIndex", 0))
    for kind, value in records:
        loader.take(kind, value)
    loader.finish()
    return loader.store, loader.assembler


def _parse(stream: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """(type, value) of each record; the header comes first with type -1."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=RECORD_BYTES_MAX)
    kind: int | None = -1
    for piece in stream:
        for at in range(0, len(piece), FEED_BYTES):
            try:
                unpacker.feed(piece[at : at + FEED_BYTES])
                while True:
                    if kind is None:
                        byte = unpacker.read_bytes(1)
                        if not byte:
                            break
                        kind = byte[0]
                    value = unpacker.unpack()
                    yield kind, value
                    kind = None
            except msgpack.OutOfData:
                continue
            except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
                raise DecodeError(f"malformed snapshot: {type(error).__name__}: {error}"[:200]) from error
    if kind is not None:
        raise DecodeError("snapshot ends in the middle of a record")


class _Loader:
    """A state under construction."""

    def __init__(self, last_index: int) -> None:
        self.store = Store()
        self.tables = self.store.tables
        self.assembler = Assembler()
        self.last_index = last_index
        self._opaque_count = 0
        self._entries: list[ConfigEntry] = []

    def take(self, kind: int, value: Any) -> None:
        """Add one record."""
        tables = self.tables
        if kind == REGISTER:
            self._registration(build(RegisterRequest, value))
        elif kind == KVS:
            entry = build(DirEntry, value)
            tables.kvs.put(entry.key, entry)
        elif kind == SESSION:
            session = build(Session, value)
            tables.sessions.put(row_id(session.id), session)
        elif kind == TOMBSTONE:
            entry = build(DirEntry, value)
            tables.tombstones.put(entry.key, Tombstone(entry.key, entry.modify_index))
        elif kind == COORDINATES:
            for row in build(list[Coordinate], value):
                tables.coordinates.put(join(fold(row.node), fold(row.segment)), row)
        elif kind == QUERY:
            query = build(PreparedQuery, value)
            tables.prepared_queries.put(row_id(query.id), query)
        elif kind == AUTOPILOT:
            tables.autopilot.put(SINGLETON, build(AutopilotConfig, value))
        else:
            self._take_small(kind, value)

    def _take_small(self, kind: int, value: Any) -> None:
        if kind == INDEX:
            index = build(IndexEntry, value)
            self._set_index(index.key, index.value)
        elif kind == BOOTSTRAP:
            self._set_index("acl-token-bootstrap", build(SystemMetadataEntry, value).modify_index)
        elif kind == CHUNKS:
            self.assembler.restore(value)
        elif kind == FEDERATION:
            state = build(FederationStateRequest, value).state or FederationState()
            self.tables.federation_states.put(fold(state.datacenter), state)
        elif kind == SYSTEM:
            pair = build(SystemMetadataEntry, value)
            self.tables.system_metadata.put(fold(pair.key), pair)
        elif kind == INTENTION:
            row = build(Intention, value)
            self.tables.intentions.put(row_id(row.id), row)
        elif kind == CONFIG_ENTRY:
            entry = build(ConfigEntryRequest, value).entry
            if entry is not None:
                self._entries.append(entry)
        elif kind in RARE:
            from pyconsul_agent.fsm import snapshot_rows

            snapshot_rows.take(self.tables, kind, value)
        elif kind in OPAQUE:
            self._opaque_count += 1
            self.tables.opaque.put(b"%010d" % self._opaque_count, OpaqueRecord(kind, pack(value)))
        else:
            raise DecodeError(f"Unrecognized msg type: {kind}")

    def _set_index(self, name: str, value: int) -> None:
        self.tables.index.put(name.encode("utf-8", "surrogateescape"), value)

    def _registration(self, request: RegisterRequest) -> None:
        name = request.node
        if (request.service is None and request.check is None) or self.tables.nodes.get(fold(name)) is None:
            self.tables.nodes.put(fold(name), self._node(request))
        if request.service is not None:
            row = ServiceRow(name, self._dated(request.service))
            self.tables.services.put(service_key(name, request.service.id), row)
        for check in ((request.check,) if request.check else ()) + (request.checks or ()):
            self.tables.checks.put(check_key(check.node, check.check_id), self._dated(check))

    def _node(self, request: RegisterRequest) -> Node:
        row = Node(
            id=request.id,
            node=request.node,
            address=request.address,
            datacenter=request.datacenter,
            tagged_addresses=request.tagged_addresses,
            meta=request.node_meta,
            create_index=request.create_index,
            modify_index=request.modify_index,
        )
        return self._dated(row)

    def _dated(self, row: RowT) -> RowT:
        """Rows of old versions have no indexes; they get the snapshot's."""
        if row.create_index and row.modify_index:
            return row
        return replace(row, create_index=self.last_index, modify_index=self.last_index)

    def finish(self) -> None:
        """What can be done only when every record is there."""
        self._respell()
        self._derive()

    def _derive(self) -> None:
        """Gateways' services and the links between services, as if all had been written in this order.

        The index table is afterwards what the records said.
        """
        recorded = dict(self.tables.index.rows)
        with self.store.begin(self.last_index) as txn:
            for row in self.tables.services.scan():
                gateway.service_registered(txn, row.node, row.service, None)
        for entry in self._entries:
            with self.store.begin(entry.modify_index) as txn:
                config_entry.insert(txn, entry)
        for name, value in recorded.items():
            self.tables.index.put(name, value)

    def _respell(self) -> None:
        """Use the node's own spelling in services and checks.

        compat: 1.10 writes, and then refuses to read, snapshots where the letter case differs.
        """
        for key in self.tables.services.keys():  # noqa: SIM118  (a table is not a dict)
            service = self.tables.services.rows[key]
            node = self.tables.nodes.get(fold(service.node))
            if node is not None and node.node != service.node:
                self.tables.services.put(key, replace(service, node=node.node))
        for key in self.tables.checks.keys():  # noqa: SIM118
            check = self.tables.checks.rows[key]
            node = self.tables.nodes.get(fold(check.node))
            if node is not None and node.node != check.node:
                self.tables.checks.put(key, replace(check, node=node.node))
