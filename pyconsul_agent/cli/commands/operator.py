"""`operator raft list-peers|remove-peer`, and the form of 0.7: `operator raft -list-peers|-remove-peer`."""

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


def run_raft(context: Context, arguments: Sequence[str]) -> int:
    """The form of 0.7: the action is a switch."""
    if context.on("list-peers") == context.on("remove-peer"):
        context.err.write(context.usage)
        return 1
    return run_list_peers(context, arguments) if context.on("list-peers") else run_remove_peer(context, arguments)


RAFT = Command(
    "consul operator raft <subcommand> [options] [args]",
    "Reads and changes raft's peers: list-peers, remove-peer.",
    run_raft,
    (
        Flag("list-peers", "bool", "Show the servers (old form of `list-peers`)."),
        Flag("remove-peer", "bool", "Remove a server (old form of `remove-peer`)."),
        Flag("address", "string", "Address of the server, IP:port."),
        Flag("id", "string", "Id of the server."),
    ),
    groups="CS",
)
