"""Config entries: reading and writing them, with what follows for gateways, and the graph they must keep whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state import gateway
from pyconsul_agent.state.discovery_chain import ChainEntries, Evaluation, compile_chain, is_http_like, key
from pyconsul_agent.state.store import Store, Tables, Txn
from pyconsul_agent.state.table import fold, join
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.config_entry import (
    IngressGatewayConfigEntry,
    ProxyConfigEntry,
    ServiceConfigEntry,
    TerminatingGatewayConfigEntry,
)
from pyconsul_agent.structs.config_kinds import (
    INGRESS_GATEWAY,
    MESH,
    PROXY_DEFAULTS,
    PROXY_GLOBAL,
    SERVICE_DEFAULTS,
    SERVICE_INTENTIONS,
    SERVICE_RESOLVER,
    SERVICE_ROUTER,
    SERVICE_SPLITTER,
    TERMINATING_GATEWAY,
    WILDCARD,
    ConfigEntry,
    kind_of,
    name_of,
    related_services,
)
from pyconsul_agent.structs.config_routing import (
    ServiceResolverConfigEntry,
    ServiceRouterConfigEntry,
    ServiceSplitterConfigEntry,
)
from pyconsul_agent.structs.discovery_chain import CompiledDiscoveryChain
from pyconsul_agent.structs.intention import ServiceIntentionsConfigEntry
from pyconsul_agent.wire.gotypes import quote

CONFIG_ENTRIES = "config-entries"
GRAPH_KINDS = (SERVICE_ROUTER, SERVICE_SPLITTER, SERVICE_RESOLVER)
TRIAL_DATACENTER = "dc1"
TRIAL_TRUST_DOMAIN = "b6fc9da3-03d4-4b5a-9134-c045e9b20152.consul"
"""For chains that are compiled only to see whether they can be; both may show up in an error."""

Overrides = Mapping[bytes, ConfigEntry | None]
"""Entries as they would be after a change: by key, None for one that would be gone."""
EntryT = TypeVar("EntryT", bound=ConfigEntry)


def entry_key(kind: str, name: str) -> bytes:
    """Key in the table."""
    return join(fold(kind), fold(name))


# --- reads ------------------------------------------------------------------------------------------------------


def get(store: Store, watch: WatchSet, kind: str, name: str) -> tuple[int, ConfigEntry | None]:
    """One entry. The index is the table's, whether or not it is there."""
    watch.row(CONFIG_ENTRIES, entry_key(kind, name))
    return store.index(CONFIG_ENTRIES), store.tables.config_entries.get(entry_key(kind, name))


def by_kind(store: Store, watch: WatchSet, kind: str) -> tuple[int, list[ConfigEntry]]:
    """Entries of a kind by name; of every kind, by kind and name, if it is empty."""
    prefix = join(fold(kind), b"") if kind else b""
    watch.prefix(CONFIG_ENTRIES, prefix)
    return store.index(CONFIG_ENTRIES), store.tables.config_entries.scan(prefix)


def _of_kind(tables: Tables, kind: str) -> list[ConfigEntry]:
    return tables.config_entries.scan(join(fold(kind), b""))


# --- writes -----------------------------------------------------------------------------------------------------


def put(txn: Txn, entry: ConfigEntry) -> None:
    """Insert or replace. Raises RPCError when gateways or discovery chains would not fit together any more."""
    existing = txn.tables.config_entries.get(entry_key(kind_of(entry), name_of(entry)))
    created = existing.create_index if existing is not None else txn.index
    if isinstance(entry, ServiceIntentionsConfigEntry) and isinstance(existing, ServiceIntentionsConfigEntry):
        entry = _updated_over(entry, existing)
    entry = replace(entry, create_index=created, modify_index=txn.index)
    _validate_graph(txn.tables, kind_of(entry), name_of(entry), entry)
    insert(txn, entry)


def insert(txn: Txn, entry: ConfigEntry) -> None:
    """Insert as it is, with what follows for gateways."""
    row_key = entry_key(kind_of(entry), name_of(entry))
    existing = txn.tables.config_entries.get(row_key)
    if isinstance(entry, IngressGatewayConfigEntry):
        if not isinstance(existing, IngressGatewayConfigEntry) or existing.listeners != entry.listeners:
            gateway.link_gateway(txn, entry.name, INGRESS_GATEWAY, gateway.ingress_links(entry))
    elif isinstance(entry, TerminatingGatewayConfigEntry) and (
        not isinstance(existing, TerminatingGatewayConfigEntry) or existing.services != entry.services
    ):
        gateway.link_gateway(txn, entry.name, TERMINATING_GATEWAY, gateway.terminating_links(entry))
    txn.put(txn.tables.config_entries, row_key, entry)
    txn.raise_index(CONFIG_ENTRIES)


def compare_and_set(txn: Txn, wanted: int, entry: ConfigEntry) -> bool:
    """Put if the stored entry has this ModifyIndex; 0 wants none there. False when it was not so."""
    existing = txn.tables.config_entries.get(entry_key(kind_of(entry), name_of(entry)))
    if (existing.modify_index if existing is not None else 0) != wanted:
        return False
    put(txn, entry)
    return True


def delete(txn: Txn, kind: str, name: str) -> None:
    """Delete; what is not there is fine. Raises RPCError when others depend on it."""
    row_key = entry_key(kind, name)
    if txn.tables.config_entries.get(row_key) is None:
        return
    if kind in (INGRESS_GATEWAY, TERMINATING_GATEWAY):
        gateway.unlink_gateway(txn, name, kind)
    _validate_graph(txn.tables, kind, name, None)
    txn.delete(txn.tables.config_entries, row_key)
    txn.set_index(CONFIG_ENTRIES)


def _updated_over(
    entry: ServiceIntentionsConfigEntry, previous: ServiceIntentionsConfigEntry
) -> ServiceIntentionsConfigEntry:
    """The entry with what the old API must not lose: an intention keeps its ID and its time of creation."""
    by_name = {source.name: source for source in previous.sources or ()}
    by_id = {source.legacy_id: source for source in previous.sources or () if source.legacy_id}
    sources = []
    for place, source in enumerate(entry.sources or ()):
        if source.legacy_id:
            same = by_name.get(source.name)
            if same is not None and not same.legacy_id:
                raise RPCError(f"Sources[{place}].LegacyID: cannot set this field")
            if same is not None and same.legacy_id != source.legacy_id:
                raise RPCError(f"Sources[{place}].LegacyID: cannot set this field to a different value")
            known = by_id.get(source.legacy_id)
            if known is not None and known.legacy_create_time is not None:
                time = known.legacy_create_time
                source = replace(source, legacy_create_time=None if time.is_zero else time)
        sources.append(source)
    return replace(entry, sources=tuple(sources)) if entry.sources is not None else entry


# --- the graph --------------------------------------------------------------------------------------------------


def _validate_graph(tables: Tables, kind: str, name: str, entry: ConfigEntry | None) -> None:
    """Refuse a change (`entry` None: a deletion) that would break a chain, a gateway or an intention."""
    if kind == INGRESS_GATEWAY:
        _refuse_clash(tables, kind, name, TERMINATING_GATEWAY)
    elif kind == TERMINATING_GATEWAY:
        _refuse_clash(tables, kind, name, INGRESS_GATEWAY)
    if kind == MESH or (kind == PROXY_DEFAULTS and name != PROXY_GLOBAL):
        return
    if kind in (SERVICE_INTENTIONS, INGRESS_GATEWAY) and entry is None:
        return
    concerned = _Concerned(tables, kind, name, entry)
    overrides: Overrides = {entry_key(kind, name): entry}
    protocols, tops = {}, {}
    for service in sorted(concerned.chains.values()):
        chain = compile_chain(
            Evaluation(service, TRIAL_DATACENTER, TRIAL_TRUST_DOMAIN),
            chain_entries(tables, service, overrides)[0],
        )
        protocols[key(service)] = chain.protocol
        tops[key(service)] = (chain.nodes or {})[chain.start_node].type
    for ingress in concerned.ingresses:
        _check_ingress(ingress, protocols, tops, strict=kind == INGRESS_GATEWAY)
    for intentions in concerned.intentions:
        _check_intentions(intentions, protocols)


def _refuse_clash(tables: Tables, kind: str, name: str, other: str) -> None:
    if tables.config_entries.get(entry_key(other, name)) is not None:
        raise RPCError(
            f"cannot create a {quote(kind)} config entry with name {quote(name)}, "
            f"a {quote(other)} config entry with that name already exists"
        )


class _Concerned:
    """What a change of one entry may break: chains by folded name, ingress gateways, intentions."""

    def __init__(self, tables: Tables, kind: str, name: str, entry: ConfigEntry | None) -> None:
        self.chains: dict[str, str] = {}
        self.ingresses: list[IngressGatewayConfigEntry] = []
        self.intentions: list[ServiceIntentionsConfigEntry] = []
        if kind == PROXY_DEFAULTS:
            for graph_kind in GRAPH_KINDS:
                self._take(_of_kind(tables, graph_kind))
            self._take(_of_kind(tables, INGRESS_GATEWAY))
            self._take(_of_kind(tables, SERVICE_INTENTIONS))
        elif kind in (SERVICE_INTENTIONS, INGRESS_GATEWAY):
            self._take([entry] if entry is not None else [])
        else:
            self._take(_of_kind(tables, SERVICE_INTENTIONS))
            self._chain(name)
            self._take(tables.config_entries.lookup("link", fold(name)))
        for ingress in self.ingresses:
            for service in related_services(ingress):
                self._chain(service)
        for intentions in self.intentions:
            self._chain(intentions.name)

    def _chain(self, service: str) -> None:
        self.chains.setdefault(key(service), service)

    def _take(self, entries: Iterable[ConfigEntry]) -> None:
        for entry in entries:
            if isinstance(entry, IngressGatewayConfigEntry):
                self.ingresses.append(entry)
            elif isinstance(entry, ServiceIntentionsConfigEntry):
                self.intentions.append(entry)
            else:
                self._chain(name_of(entry))


def _check_ingress(
    ingress: IngressGatewayConfigEntry, protocols: Mapping[str, str], tops: Mapping[str, str], *, strict: bool
) -> None:
    for listener in ingress.listeners or ():
        for service in listener.services or ():
            if service.name == WILDCARD:
                continue
            protocol = protocols.get(key(service.name), "")
            if protocol == listener.protocol:
                continue
            # A TCP listener may stand before any service whose requests nobody routes.
            if strict or listener.protocol != "tcp" or tops.get(key(service.name)) != "resolver":
                raise RPCError(
                    f"service {quote(service.name)} has protocol {quote(protocol)}, "
                    f"which does not match defined listener protocol {quote(listener.protocol)}"
                )


def _check_intentions(intentions: ServiceIntentionsConfigEntry, protocols: Mapping[str, str]) -> None:
    if intentions.name == WILDCARD or not any(source.permissions for source in intentions.sources or ()):
        return
    protocol = protocols.get(key(intentions.name), "")
    if not is_http_like(protocol):
        raise RPCError(
            f"service {quote(intentions.name)} has protocol {quote(protocol)}, "
            "which is incompatible with L7 intentions permissions"
        )


# --- chains -----------------------------------------------------------------------------------------------------


class _Reader:
    """Entries with a change that is only thought of."""

    def __init__(self, tables: Tables, overrides: Overrides) -> None:
        self._table = tables.config_entries
        self._overrides = overrides

    def get(self, kind: str, name: str, form: type[EntryT]) -> EntryT | None:
        row_key = entry_key(kind, name)
        found = self._overrides[row_key] if row_key in self._overrides else self._table.get(row_key)
        return found if isinstance(found, form) else None


def chain_entries(tables: Tables, service: str, overrides: Overrides | None = None) -> tuple[ChainEntries, set[bytes]]:
    """All entries that the chain of a service may use, and the keys of those looked for."""
    reader = _Reader(tables, overrides or {})
    found = ChainEntries()
    asked: set[bytes] = set()

    def read(kind: str, name: str, form: type[Any]) -> Any:
        asked.add(entry_key(kind, name))
        return reader.get(kind, name, form)

    names = {key(service): service}
    router = read(SERVICE_ROUTER, service, ServiceRouterConfigEntry)
    todo = {key(service): service}
    if router is not None:
        found.routers[key(service)] = router
        todo = {key(name): name for name in related_services(router)}
    resolvers: dict[str, str] = {}
    _follow(todo, resolvers, lambda name: read(SERVICE_SPLITTER, name, ServiceSplitterConfigEntry), found.splitters)
    names |= resolvers
    seen: dict[str, str] = {}
    _follow(resolvers, seen, lambda name: read(SERVICE_RESOLVER, name, ServiceResolverConfigEntry), found.resolvers)
    names |= seen
    for folded, name in sorted(names.items()):
        defaults = read(SERVICE_DEFAULTS, name, ServiceConfigEntry)
        if defaults is not None:
            found.services[folded] = defaults
    found.proxy = cast(ProxyConfigEntry | None, read(PROXY_DEFAULTS, PROXY_GLOBAL, ProxyConfigEntry))
    return found, asked


def _follow(todo: dict[str, str], seen: dict[str, str], read: Any, into: dict[str, Any]) -> None:
    """Read the entries of all services named, then of those that these name, and so on."""
    waiting = sorted(todo.items())
    while waiting:
        folded, name = waiting.pop()
        if folded in seen:
            continue
        seen[folded] = name
        entry = read(name)
        if entry is not None:
            into[folded] = entry
            waiting += [(key(other), other) for other in sorted(related_services(entry))]


def discovery_chain(store: Store, watch: WatchSet, asked: Evaluation) -> tuple[int, CompiledDiscoveryChain]:
    """The compiled chain of a service. Raises RPCError."""
    entries, looked_at = chain_entries(store.tables, asked.service)
    for row_key in looked_at:
        watch.row(CONFIG_ENTRIES, row_key)
    return store.index(CONFIG_ENTRIES), compile_chain(asked, entries)


def protocol_of(tables: Tables, service: str) -> str:
    """The protocol of a service by its own and the proxies' defaults alone."""
    reader = _Reader(tables, {})
    entries = ChainEntries(proxy=reader.get(PROXY_DEFAULTS, PROXY_GLOBAL, ProxyConfigEntry))
    defaults = reader.get(SERVICE_DEFAULTS, service, ServiceConfigEntry)
    if defaults is not None:
        entries.services[key(service)] = defaults
    return compile_chain(Evaluation(service, TRIAL_DATACENTER, TRIAL_TRUST_DOMAIN), entries).protocol
