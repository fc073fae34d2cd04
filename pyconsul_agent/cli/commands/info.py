"""`info`: the agent's statistics."""

from __future__ import annotations

from collections.abc import Sequence

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.http_api import APIError


def run(context: Context, arguments: Sequence[str]) -> int:
    """Print groups and keys in order."""
    if address := context.rpc_address():
        from pyconsul_agent.cli import legacy

        return legacy.info(context, address)
    try:
        stats = context.api().get("/v1/agent/self").expect_ok().json().get("Stats")
    except APIError as error:
        return context.complain(f"Error querying agent: {error}")
    if not isinstance(stats, dict):
        return context.complain("Agent response did not contain 'Stats' key")
    for group, values in sorted(stats.items()):
        context.say(f"{group}:")
        for key, value in sorted(values.items()):
            context.say(f"\t{key} = {value}")
    return 0


INFO = Command("consul info [options]", "Shows what the agent knows of itself, for operators.", run, groups="CL")
