"""`operator raft list-peers|remove-peer`, `operator autopilot get-config`."""

from __future__ import annotations

from collections.abc import Sequence

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import APIError
from pyconsul_agent.cli.tables import columnize


def run_list_peers(context: Context, arguments: Sequence[str]) -> int:
    """Print raft's configuration in its own order."""
    try:
        servers = context.api().get("/v1/operator/raft/configuration").expect_ok().json()["Servers"]
    except APIError as error:
        return context.complain(f"Error getting peers: Failed to retrieve raft configuration: {error}")
    rows = [["Node", "ID", "Address", "State", "Voter", "RaftProtocol"]]
    for server in servers:
        state = "leader" if server["Leader"] else "follower"
        voter = "true" if server["Voter"] else "false"
        protocol = server.get("ProtocolVersion") or "<=1"
        rows.append([server["Node"], server["ID"], server["Address"], state, voter, protocol])
    context.say(columnize(rows))
    return 0


def run_remove_peer(context: Context, arguments: Sequence[str]) -> int:
    """Remove one server by address or id."""
    address, identity = context.text("address"), context.text("id")
    if not address and not identity:
        return context.complain("Error removing peer: an address or id is required for the peer to remove")
    if address and identity:
        return context.complain("Error removing peer: cannot give both an address and id")
    name, value = ("address", address) if address else ("id", identity)
    try:
        context.api().request("DELETE", "/v1/operator/raft/peer", {name: value}).expect_ok()
    except APIError as error:
        return context.complain(f"Error removing peer: {error}")
    context.say(f'Removed peer with {name} "{value}"')
    return 0


def run_autopilot_get(context: Context, arguments: Sequence[str]) -> int:
    """Print the settings."""
    try:
        config = context.api().get("/v1/operator/autopilot/configuration").expect_ok().json()
    except APIError as error:
        return context.complain(f"Error querying Autopilot configuration: {error}")
    for key in ("CleanupDeadServers", "LastContactThreshold", "MaxTrailingLogs", "MinQuorum",
                "ServerStabilizationTime"):  # fmt: skip
        value = config.get(key, 0)
        context.say(f"{key} = {str(value).lower() if isinstance(value, bool) else value}")
    context.say(f'RedundancyZoneTag = "{config.get("RedundancyZoneTag", "")}"')
    context.say(f"DisableUpgradeMigration = {str(config.get('DisableUpgradeMigration', False)).lower()}")
    context.say(f'UpgradeVersionTag = "{config.get("UpgradeVersionTag", "")}"')
    return 0


LIST_PEERS = Command(
    "consul operator raft list-peers [options]", "Shows the servers of raft's configuration.", run_list_peers,
    groups="CS",
)  # fmt: skip
REMOVE_PEER = Command(
    "consul operator raft remove-peer [options]",
    "Removes a server that is gone for good from raft's configuration.",
    run_remove_peer,
    (
        Flag("address", "string", "Address of the server, IP:port."),
        Flag("id", "string", "Id of the server."),
    ),
    groups="CS",
)
AUTOPILOT_GET = Command(
    "consul operator autopilot get-config [options]", "Shows autopilot's settings.", run_autopilot_get, groups="CS"
)
