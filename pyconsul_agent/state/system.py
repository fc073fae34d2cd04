"""Single rows and small tables of the cluster itself: autopilot's configuration, metadata, federation states."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.state.store import SINGLETON, Store, Txn
from pyconsul_agent.state.table import fold
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.federation import FederationState
from pyconsul_agent.structs.operator import AutopilotConfig
from pyconsul_agent.structs.system import SystemMetadataEntry

SYSTEM_METADATA = "system-metadata"
FEDERATION_STATES = "federation-states"


def autopilot_config(store: Store, watch: WatchSet) -> tuple[int, AutopilotConfig | None]:
    """Autopilot's configuration; its index is the row's own."""
    watch.row("autopilot-config", SINGLETON)
    row = store.tables.autopilot.get(SINGLETON)
    return (row.modify_index if row else 0), row


def set_autopilot_config(txn: Txn, config: AutopilotConfig, *, compare: bool = False) -> bool:
    """Store the configuration; with `compare` only if its ModifyIndex is the stored one's."""
    existing = txn.tables.autopilot.get(SINGLETON)
    if compare and (existing is None or existing.modify_index != config.modify_index):
        return False
    created = existing.create_index if existing else txn.index
    txn.put(txn.tables.autopilot, SINGLETON, replace(config, create_index=created, modify_index=txn.index))
    return True


def set_metadata(txn: Txn, entry: SystemMetadataEntry) -> None:
    """Store one pair."""
    key = fold(entry.key)
    existing = txn.tables.system_metadata.get(key)
    created = existing.create_index if existing else txn.index
    txn.put(txn.tables.system_metadata, key, replace(entry, create_index=created, modify_index=txn.index))
    txn.set_index(SYSTEM_METADATA)


def delete_metadata(txn: Txn, name: str) -> None:
    """Delete one pair; unknown ones are fine."""
    key = fold(name)
    if txn.tables.system_metadata.get(key) is not None:
        txn.delete(txn.tables.system_metadata, key)
        txn.set_index(SYSTEM_METADATA)


def federation_state(store: Store, watch: WatchSet, datacenter: str) -> tuple[int, FederationState | None]:
    """A datacenter's state."""
    watch.row(FEDERATION_STATES, fold(datacenter))
    return store.index(FEDERATION_STATES), store.tables.federation_states.get(fold(datacenter))


def federation_states(store: Store, watch: WatchSet) -> tuple[int, list[FederationState]]:
    """The states of all datacenters by name."""
    watch.table(FEDERATION_STATES)
    return store.index(FEDERATION_STATES), store.tables.federation_states.scan()


def set_federation_state(txn: Txn, state: FederationState) -> None:
    """Store a datacenter's state."""
    key = fold(state.datacenter)
    existing = txn.tables.federation_states.get(key)
    row = replace(
        state,
        create_index=existing.create_index if existing else txn.index,
        modify_index=txn.index,
        primary_modify_index=state.primary_modify_index or txn.index,
    )
    txn.put(txn.tables.federation_states, key, row)
    txn.set_index(FEDERATION_STATES)


def delete_federation_state(txn: Txn, datacenter: str) -> None:
    """Delete a datacenter's state; unknown ones are fine."""
    key = fold(datacenter)
    if txn.tables.federation_states.get(key) is not None:
        txn.delete(txn.tables.federation_states, key)
        txn.set_index(FEDERATION_STATES)
