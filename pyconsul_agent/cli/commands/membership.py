"""`join`, `leave`, `force-leave`, `reload`: one PUT to the agent each."""

from __future__ import annotations

from collections.abc import Sequence

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import APIError


def run_join(context: Context, addresses: Sequence[str]) -> int:
    """Join each address; success when one of them answered."""
    if not addresses:
        context.err.write(f"At least one address to join must be specified.\n\n{context.usage}")
        return 1
    if address := context.rpc_address():
        from pyconsul_agent.cli import legacy

        return legacy.join(context, address, addresses)
    api = context.api()
    query = {"wan": "1"} if context.on("wan") else {}
    joined = 0
    for address in addresses:
        try:
            api.put(f"/v1/agent/join/{address}", query).expect_ok()
            joined += 1
        except APIError as error:
            context.complain(f"Error joining address '{address}': {error}")
    if not joined:
        return context.complain("Failed to join any nodes.")
    context.say(f"Successfully joined cluster by contacting {joined} nodes.")
    return 0


def run_leave(context: Context, arguments: Sequence[str]) -> int:
    """Make the agent leave and stop."""
    if arguments:
        context.complain(f"Error found unexpected args: [{' '.join(arguments)}]")
        context.out.write(context.usage)
        return 1
    if address := context.rpc_address():
        from pyconsul_agent.cli import legacy

        return legacy.leave(context, address)
    try:
        context.api().put("/v1/agent/leave").expect_ok()
    except APIError as error:
        return context.complain(f"Error leaving: {error}")
    context.say("Graceful leave complete")
    return 0


def run_force_leave(context: Context, nodes: Sequence[str]) -> int:
    """Turn a failed member into a left one."""
    if len(nodes) != 1:
        context.err.write(f"A single node name must be specified to force leave.\n\n{context.usage}")
        return 1
    if address := context.rpc_address():
        from pyconsul_agent.cli import legacy

        return legacy.force_leave(context, address, nodes[0])
    query = {"prune": "1"} if context.on("prune") else {}
    try:
        context.api().put(f"/v1/agent/force-leave/{nodes[0]}", query).expect_ok()
    except APIError as error:
        return context.complain(f"Error force leaving: {error}")
    return 0


def run_reload(context: Context, arguments: Sequence[str]) -> int:
    """Make the agent read its configuration again."""
    if address := context.rpc_address():
        from pyconsul_agent.cli import legacy

        return legacy.reload(context, address)
    try:
        context.api().put("/v1/agent/reload").expect_ok()
    except APIError as error:
        return context.complain(f"Error reloading: {error}")
    context.say("Configuration reload triggered")
    return 0


JOIN = Command(
    "consul join [options] address ...",
    "Makes a running agent join the cluster of at least one of the addresses.",
    run_join,
    (Flag("wan", "bool", "Join the WAN pool (servers only)."),),
    groups="CL",
)
LEAVE = Command(
    "consul leave [options]", "Makes the agent leave the cluster in order and stop.", run_leave, groups="CL"
)
FORCE_LEAVE = Command(
    "consul force-leave [options] name",
    "Turns a failed member into a left one, so that nobody tries to reach it any more. A member that is still alive "
    "joins again.",
    run_force_leave,
    (Flag("prune", "bool", "Forget the member at once."),),
    groups="CL",
)
RELOAD = Command(
    "consul reload [options]", "Makes the agent read its configuration again (as SIGHUP does).", run_reload, groups="CL"
)
