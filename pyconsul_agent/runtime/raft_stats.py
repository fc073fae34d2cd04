"""The raft section of `consul info` and /v1/agent/self: names and forms are Consul 1.10.11's."""

from __future__ import annotations

from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.core import Raft
from pyconsul_agent.runtime.raft_apply import Applier
from pyconsul_agent.structs.raft import Configuration, Server, Suffrage

_SUFFRAGES: dict[int, str] = {Suffrage.VOTER: "Voter", Suffrage.NONVOTER: "Nonvoter", Suffrage.STAGING: "Staging"}


def raft_stats(raft: Raft, me: Server, applier: Applier, config: RaftConfig, now: float) -> dict[str, str]:
    """Sorted by name, as shown."""
    snapshot = raft.snapshot
    contact = raft.last_contact(now)
    return {
        "applied_index": str(applier.index),
        "commit_index": str(raft.commit_index),
        "fsm_pending": str(applier.backlog),
        "last_contact": "never" if contact is None else _duration(contact),
        "last_log_index": str(raft.last_index),
        "last_log_term": str(raft.last_term),
        "last_snapshot_index": str(snapshot.index if snapshot else 0),
        "last_snapshot_term": str(snapshot.term if snapshot else 0),
        "latest_configuration": _configuration(raft.configuration),
        # compat: 1.10.11 always shows 0 here (test_stats_have_the_keys_of_consul_info).
        "latest_configuration_index": "0",
        "num_peers": str(_other_voters(raft.configuration, me.id)),
        "protocol_version": str(config.protocol_version),
        "protocol_version_max": "3",
        "protocol_version_min": "0",
        "snapshot_version_max": "1",
        "snapshot_version_min": "0",
        "state": raft.role.value,
        "term": str(raft.term),
    }


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms" if seconds else "0"


def _configuration(configuration: Configuration) -> str:
    servers = (
        f"{{Suffrage:{_SUFFRAGES.get(server.suffrage, 'Voter')} ID:{server.id} Address:{server.address}}}"
        for server in configuration.servers or ()
    )
    return f"[{' '.join(servers)}]"


def _other_voters(configuration: Configuration, my_id: str) -> int:
    voters = [server.id for server in configuration.servers or () if server.suffrage == Suffrage.VOTER]
    return len(voters) - 1 if my_id in voters else 0
