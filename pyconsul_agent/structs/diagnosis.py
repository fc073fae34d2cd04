"""Why there is no leader, as a server tells it at /v1/status/diagnosis. Ours: Consul has nothing like it."""

from __future__ import annotations

from pyconsul_agent.structs.base import struct, wire


@struct
class DiagnosedServer:
    """One server that raft or gossip knows.

    `gossip` is serf's word or `unknown`; `vote` and `dial` say why it did not help to elect this server: what it
    answered last to our candidacy, and why it could not be dialed. Both are empty when there is nothing to tell.
    """

    name: str = wire("Name", default="")
    id: str = wire("ID", default="")
    address: str = wire("Address", default="")
    voter: bool = wire("Voter", default=False)
    gossip: str = wire("Gossip", default="unknown")
    expect: int = wire("BootstrapExpect", default=0)
    vote: str = wire("Vote", default="")
    dial: str = wire("Dial", default="")


@struct
class Diagnosis:
    """What this agent knows of who leads. `reason` is one line, empty while there is a leader."""

    leader: str = wire("Leader", default="")
    reason: str = wire("Reason", default="")
    leaderless_s: float = wire("LeaderlessSeconds", default=0.0)
    role: str = wire("Role", default="")
    term: int = wire("Term", default=0)
    last_index: int = wire("LastIndex", default=0)
    expect: int = wire("BootstrapExpect", default=0)
    bootstrapped: bool = wire("Bootstrapped", default=False)
    quorum: int = wire("Quorum", default=0)
    servers: tuple[DiagnosedServer, ...] = wire("Servers", default=())
