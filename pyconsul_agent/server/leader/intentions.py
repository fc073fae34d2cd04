"""A leader with Connect moves intentions to where they are kept since 1.9: into config entries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import CONFIG_ENTRY, INTENTION
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.endpoints.config_entry import UPSERT
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.seams import Proposer
from pyconsul_agent.state.intention import in_config_entries
from pyconsul_agent.state.intention_rules import moved_to_entries, validate_intentions
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.config_requests import ConfigEntryRequest
from pyconsul_agent.structs.intention_requests import IntentionRequest

FEATURE = "si"
"""Tag `ft_si` of servers that read intentions from config entries."""
LOOK_INTERVAL_S = 5.0
PAUSE_S = 0.02
"""Between two entries: a state with thousands is moved while others write."""


async def establish_intentions(store: Store, proposer: Proposer, log: Log) -> None:
    """Say in the log that config entries are used, once, when there is nothing to move. Raises RPCError."""
    if in_config_entries(store.tables) or len(store.tables.intentions):
        return
    try:
        await propose(proposer, INTENTION, IntentionRequest(op="delete-all"))
    except RPCError as error:
        log.error("failed to prepare config entries for intentions", error=str(error))
        raise


class IntentionMigration:
    """Moves the rows of the table that servers before 1.9 used, which a snapshot or a log may bring.

    Until the last step everybody reads the table, and nobody may write: that step empties it and says that the entries
    count from now on, in one command. So a leader that ends on the way leaves nothing but entries that nobody reads
    yet, and the next one writes them again.
    """

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        log: Log,
        *,
        connect_enabled: bool,
        is_primary: bool,
        servers: Callable[[], Iterable[ServerInfo]],
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._log = log
        self._connect_enabled = connect_enabled
        self._is_primary = is_primary
        self._servers = servers

    async def run(self) -> None:
        """Over at once when there is nothing to move. Raises RPCError when it cannot be written."""
        tables = self._store.tables
        if not self._connect_enabled or in_config_entries(tables) or not len(tables.intentions):
            return
        if not self._is_primary:
            self._log.warn("intentions of before Consul 1.9 are kept as they are and cannot be changed")
            return
        while not all(server.features.get(FEATURE) == 1 for server in self._servers()):
            await asyncio.sleep(LOOK_INTERVAL_S)
        entries = moved_to_entries(self._store.tables.intentions.scan())
        try:
            for entry in entries:
                validate_intentions(entry, legacy=True)
        except RPCError as error:
            self._log.error("intentions cannot be moved to config entries", error=str(error))
            return
        for entry in entries:
            await propose(self._proposer, CONFIG_ENTRY, ConfigEntryRequest(op=UPSERT, entry=entry))
            await asyncio.sleep(PAUSE_S)
        await propose(self._proposer, INTENTION, IntentionRequest(op="delete-all"))
        self._log.info("intentions were moved to config entries", entries=len(entries))
