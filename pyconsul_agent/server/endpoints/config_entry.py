"""ConfigEntry.*: central configuration, written in the primary datacenter."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import CONFIG_ENTRY
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.connect import CONNECT_DISABLED
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.seams import Endpoint, Proposer, Where
from pyconsul_agent.state import config_entry, service_config
from pyconsul_agent.state.config_rules import checked, normalized
from pyconsul_agent.state.intention import in_config_entries
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods_mesh as methods
from pyconsul_agent.structs.config_kinds import KINDS, SERVICE_INTENTIONS, ConfigEntry, kind_of, name_of
from pyconsul_agent.structs.config_requests import (
    ConfigEntryListAllRequest,
    ConfigEntryQuery,
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
    ServiceConfigRequest,
    ServiceConfigResponse,
)
from pyconsul_agent.structs.methods import Empty
from pyconsul_agent.structs.requests import QueryOptions

UPSERT, UPSERT_CAS, DELETE = "upsert", "upsert-cas", "delete"
NOT_MIGRATED = "Intentions are read only while being upgraded to config entries"


class ConfigEntries:
    """Reads from the local store, writes through the log."""

    def __init__(self, store: Store, proposer: Proposer, blocking: Blocking, *, connect_enabled: bool) -> None:
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._connect_enabled = connect_enabled

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.CONFIG_ENTRY_APPLY, Where.PRIMARY, self.apply, write=True),
            Endpoint(methods.CONFIG_ENTRY_DELETE, Where.PRIMARY, self.delete, write=True),
            Endpoint(methods.CONFIG_ENTRY_GET, Where.FORWARD, self.get),
            Endpoint(methods.CONFIG_ENTRY_LIST, Where.FORWARD, self.list),
            Endpoint(methods.CONFIG_ENTRY_LIST_ALL, Where.FORWARD, self.list_all),
            Endpoint(methods.CONFIG_ENTRY_RESOLVE_SERVICE_CONFIG, Where.FORWARD, self.resolve_service_config),
        ]

    def _entry(self, request: ConfigEntryRequest) -> ConfigEntry:
        """The entry of a write, if it may be written here. Raises RPCError."""
        if request.entry is None:
            raise RPCError("no config entry was sent")
        if kind_of(request.entry) == SERVICE_INTENTIONS:
            if not self._connect_enabled:
                raise RPCError(CONNECT_DISABLED)
            if not in_config_entries(self._store.tables):
                raise RPCError(NOT_MIGRATED)
        return request.entry

    async def apply(self, request: ConfigEntryRequest) -> bool:
        """Store an entry; with `upsert-cas` only over the ModifyIndex that it carries.

        compat: one that is stored just so already is not written again, and its ModifyIndex does not matter (1.10.11).
        """
        entry = checked(self._entry(request))
        op = request.op if request.op in (UPSERT, UPSERT_CAS) else UPSERT
        if self._stored(entry) and await self._is_proven(entry):
            return True
        done = await propose(self._proposer, CONFIG_ENTRY, replace(request, entry=entry, op=op))
        return bool(done)

    def _stored(self, entry: ConfigEntry) -> bool:
        _, known = config_entry.get(self._store, WatchSet(), kind_of(entry), name_of(entry))
        if known is None:
            return False
        return replace(known, create_index=0, modify_index=0) == replace(entry, create_index=0, modify_index=0)

    async def _is_proven(self, entry: ConfigEntry) -> bool:
        """Whether it is still so once this server has proved that it leads: it may have been deposed unawares."""
        await self._blocking.check(QueryOptions(require_consistent=True))
        return self._stored(entry)

    async def delete(self, request: ConfigEntryRequest) -> Empty:
        """Delete an entry by kind and name; what is not there is fine."""
        entry = normalized(self._entry(request))
        await propose(self._proposer, CONFIG_ENTRY, replace(request, entry=entry, op=DELETE))
        return Empty()

    async def get(self, request: ConfigEntryQuery) -> ConfigEntryResponse:
        """One entry, or none."""
        _refuse_unknown(request.kind)

        def query(watch: WatchSet) -> ConfigEntryResponse:
            index, entry = config_entry.get(self._store, watch, request.kind, request.name)
            return ConfigEntryResponse(index=index, entry=entry)

        return await self._blocking.run(request, query, found=lambda reply: reply.entry is not None)

    async def list(self, request: ConfigEntryQuery) -> IndexedConfigEntries:
        """Entries of a kind, of all kinds if none is named."""
        if request.kind:
            _refuse_unknown(request.kind)

        def query(watch: WatchSet) -> IndexedConfigEntries:
            index, rows = config_entry.by_kind(self._store, watch, request.kind)
            return IndexedConfigEntries(index=index, kind=request.kind, entries=tuple(rows))

        return await self._blocking.run(request, query)

    async def list_all(self, request: ConfigEntryListAllRequest) -> IndexedGenericConfigEntries:
        """Entries of several kinds, of all if none is named."""
        for kind in request.kinds or ():
            _refuse_unknown(kind)
        wanted = frozenset(request.kinds or KINDS)

        def query(watch: WatchSet) -> IndexedGenericConfigEntries:
            index, rows = config_entry.by_kind(self._store, watch, "")
            kept = tuple(row for row in rows if kind_of(row) in wanted)
            return IndexedGenericConfigEntries(index=index, entries=kept)

        return await self._blocking.run(request, query)

    async def resolve_service_config(self, request: ServiceConfigRequest) -> ServiceConfigResponse:
        """What applies to the proxy of a service."""
        return await self._blocking.run(request, lambda watch: service_config.resolve(self._store, watch, request))


def _refuse_unknown(kind: str) -> None:
    if kind not in KINDS:
        raise RPCError(f"invalid config entry kind: {kind}")
