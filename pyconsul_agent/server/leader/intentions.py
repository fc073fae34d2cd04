"""A leader with Connect moves intentions to where they are kept since 1.9: into config entries."""

from __future__ import annotations

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import INTENTION
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.seams import Proposer
from pyconsul_agent.state.intention import in_config_entries
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.intention_requests import IntentionRequest


async def establish_intentions(store: Store, proposer: Proposer, log: Log) -> None:
    """Say in the log that config entries are used, once, unless rows of the old table would be lost by that.

    Such rows can only come from a snapshot of 1.8 or older; a Consul server of 1.9 or 1.10 that leads moves them.
    """
    if in_config_entries(store.tables):
        return
    if len(store.tables.intentions):
        log.warn("intentions of before Consul 1.9 are kept as they are and cannot be changed")
        return
    try:
        await propose(proposer, INTENTION, IntentionRequest(op="delete-all"))
    except RPCError as error:
        log.error("failed to prepare config entries for intentions", error=str(error))
        raise
