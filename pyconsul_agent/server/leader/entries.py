"""A new leader writes the config entries of its configuration (`config_entries.bootstrap`) that are not there yet."""

from __future__ import annotations

from collections.abc import Sequence

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import CONFIG_ENTRY
from pyconsul_agent.server.endpoints.config_entry import UPSERT_CAS
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.seams import Proposer
from pyconsul_agent.state import config_entry
from pyconsul_agent.state.config_rules import checked
from pyconsul_agent.state.intention import in_config_entries
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.config_kinds import SERVICE_INTENTIONS, ConfigEntry, kind_of, name_of
from pyconsul_agent.structs.config_requests import ConfigEntryRequest


def judged(entry: ConfigEntry) -> ConfigEntry:
    """The entry with its defaults filled in. Raises RPCError when it cannot be used."""
    return checked(entry)


async def establish_entries(
    store: Store,
    proposer: Proposer,
    log: Log,
    entries: Sequence[ConfigEntry],
    *,
    datacenter: str,
    connect_enabled: bool,
) -> None:
    """Write what is absent; what is there stays, whatever it says. For the primary datacenter.

    compat: an entry that is refused is logged and the next one goes on; in 1.10 such a server cannot lead at all.
    Raises RPCError when nothing can be written any more.
    """
    for entry in entries:
        kind, name = kind_of(entry), name_of(entry)
        words = f'"{kind}" / "{name}"'
        if kind == SERVICE_INTENTIONS and not connect_enabled:
            reason = "Connect must be enabled to bootstrap intentions"
            log.error(f"Refusing to apply configuration entry {words} because {reason}")
        elif kind == SERVICE_INTENTIONS and not in_config_entries(store.tables):
            reason = "intentions are still being migrated to config entries"
            log.error(f"Refusing to apply configuration entry {words} because {reason}")
        elif config_entry.get(store, WatchSet(), kind, name)[1] is None:
            # Compared with nothing: whoever writes it meanwhile is not overwritten.
            request = ConfigEntryRequest(op=UPSERT_CAS, datacenter=datacenter, entry=entry)
            await _write(proposer, log, words, request)


async def _write(proposer: Proposer, log: Log, words: str, request: ConfigEntryRequest) -> None:
    try:
        await propose(proposer, CONFIG_ENTRY, request)
    except RPCError as error:
        log.error(f"Failed to apply configuration entry {words}", error=str(error))
        if not proposer.is_leader:
            raise
