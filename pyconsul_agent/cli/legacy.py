"""The commands of 0.5 - 0.7 over the legacy RPC: what they print, and that they print all of it to stdout.

Used when `-rpc-addr` or CONSUL_RPC_ADDR is given; scripts that give these expect the old output.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from contextlib import suppress

from pyconsul_agent.cli.command import Context
from pyconsul_agent.cli.ipc_client import DialFailed, IPCClient, IPCError
from pyconsul_agent.cli.tables import columnize
from pyconsul_agent.wire.ipc import ForceLeave, Join, Joined, KeyOperation, KeyringAnswer, MemberRow, Members

NOTHING_TO_SHOW = 2
KINDS = {"consul": "server", "node": "client"}


def _with_client(context: Context, address: str, prefix: str, use: Callable[[IPCClient], int]) -> int:
    """Run `use` on a connection; errors become one line and exit code 1."""
    try:
        with IPCClient(address) as client:
            return use(client)
    except DialFailed as error:
        context.say(f"Error connecting to Consul agent: {error}")
    except IPCError as error:
        context.say(f"{prefix}: {error}")
    return 1


def members(context: Context, address: str, wanted: re.Pattern[str]) -> int:
    """The table of 0.7: sorted by name, no segments; exit code 2 when no member is left to show."""

    def use(client: IPCClient) -> int:
        command = "members-wan" if context.on("wan") else "members-lan"
        rows = client.ask(command, Members).members or ()
        shown = sorted((row for row in rows if wanted.search(row.status)), key=lambda row: row.name)
        if not shown:
            return NOTHING_TO_SHOW
        context.say(columnize(_detailed(shown) if context.on("detailed") else _standard(shown)))
        return 0

    return _with_client(context, address, "Error retrieving members", use)


def _address(row: MemberRow) -> str:
    try:
        ip = ipaddress.ip_address(row.address or b"")
    except ValueError:
        return f"<nil>:{row.port}"
    return f"[{ip}]:{row.port}" if ip.version == 6 else f"{ip}:{row.port}"


def _standard(rows: Sequence[MemberRow]) -> list[list[str]]:
    table = [["Node", "Address", "Status", "Type", "Build", "Protocol", "DC"]]
    for row in rows:
        tags = row.tags or {}
        build = tags.get("build", "").partition(":")[0] if tags.get("build") else "< 0.3"
        line = [row.name, _address(row), row.status]
        kind = KINDS.get(tags.get("role", ""))
        line += [kind, build, tags.get("vsn", ""), tags.get("dc", "")] if kind else ["unknown", "", "", ""]
        table.append(line)
    return table


def _detailed(rows: Sequence[MemberRow]) -> list[list[str]]:
    table = [["Node", "Address", "Status", "Tags"]]
    for row in rows:
        tags = ",".join(f"{key}={value}" for key, value in sorted((row.tags or {}).items()))
        table.append([row.name, _address(row), row.status, tags])
    return table


def join(context: Context, address: str, addresses: Sequence[str]) -> int:
    """Join with all addresses in one request."""

    def use(client: IPCClient) -> int:
        joined = client.ask("join", Joined, Join(existing=tuple(addresses), wan=context.on("wan")))
        context.say(f"Successfully joined cluster by contacting {joined.num} nodes.")
        return 0

    return _with_client(context, address, "Error joining the cluster", use)


def leave(context: Context, address: str) -> int:
    """Make the agent leave and stop."""

    def use(client: IPCClient) -> int:
        client.call("leave")
        context.say("Graceful leave complete")
        return 0

    return _with_client(context, address, "Error leaving", use)


def force_leave(context: Context, address: str, node: str) -> int:
    """Turn a failed member into a left one; says nothing."""

    def use(client: IPCClient) -> int:
        client.call("force-leave", ForceLeave(node=node))
        return 0

    return _with_client(context, address, "Error force leaving", use)


def reload(context: Context, address: str) -> int:
    """Make the agent read its configuration again, some time soon."""

    def use(client: IPCClient) -> int:
        client.call("reload")
        context.say("Configuration reload triggered")
        return 0

    return _with_client(context, address, "Error reloading", use)


def info(context: Context, address: str) -> int:
    """Groups and keys in order."""

    def use(client: IPCClient) -> int:
        for group, values in sorted(client.stats().items()):
            context.say(f"{group}:")
            for key, value in sorted(values.items()):
                context.say(f"\t{key} = {value}")
        return 0

    return _with_client(context, address, "Error querying agent", use)


def keyring(context: Context, address: str, action: str, text: str) -> int:
    """List, install, use or remove a key; errors are told pool by pool, and by node."""
    command = "list-keys" if action == "list" else f"{action}-key"
    factor = context.number("relay-factor")
    body: KeyOperation | None = (
        KeyOperation(key=context.text(action), relay_factor=factor) if action != "list" else None
    )
    if action == "list" and factor:
        body = KeyOperation(relay_factor=factor)  # only 0.7 knows the factor, and it wants a body then

    def use(client: IPCClient) -> int:
        context.say(f"==> {text}")
        answer = client.ask(command, KeyringAnswer, body)
        pools = [(info.datacenter, info.pool) for info in answer.info or ()]
        broken = [info for info in answer.info or () if info.error]
        for info in broken:
            context.say(f"\n{_pool_name(info.datacenter, info.pool)} error: {info.error}")
            for message in answer.messages or ():
                if (message.datacenter, message.pool) == (info.datacenter, info.pool):
                    context.say(f"  {message.node}: {message.message}")
        if broken:
            return 1
        context.say("==> Done!")
        nodes = {(info.datacenter, info.pool): info.num_nodes for info in answer.info or ()}
        for pool in pools if action == "list" else ():
            context.say(f"\n{_pool_name(*pool)}:")
            for key in answer.keys or ():
                if (key.datacenter, key.pool) == pool:
                    context.say(f"  {key.key} [{key.count}/{nodes[pool]}]")
        return 0

    return _with_client(context, address, "error", use)


def _pool_name(datacenter: str, pool: str) -> str:
    return "WAN" if pool == "WAN" else f"{datacenter} (LAN)"


def monitor(context: Context, address: str) -> int:
    """Bare lines until the agent ends (exit 1) or the user interrupts (exit 0)."""

    def use(client: IPCClient) -> int:
        lines = client.monitor(context.text("log-level"))
        try:
            for line in lines:
                context.say(line)
                context.out.flush()
        except KeyboardInterrupt:
            with suppress(IPCError):  # the agent may be gone already
                client.stop()
            return 0
        context.say("\nRemote side ended the monitor! This usually means that the\nremote side has exited or crashed.")
        return 1

    return _with_client(context, address, "Error starting monitor", use)
