"""`monitor`: the agent's log as it is written."""

from __future__ import annotations

from collections.abc import Sequence

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import APIError


def run(context: Context, arguments: Sequence[str]) -> int:
    """Print lines until the agent ends the stream (exit 1) or the user interrupts (exit 0)."""
    if address := context.rpc_address():
        from pyconsul_agent.cli import legacy

        return legacy.monitor(context, address)
    query = {"loglevel": context.text("log-level")}
    if context.on("log-json"):
        query["logjson"] = "true"
    try:
        for line in context.api().stream("/v1/agent/monitor", query):
            context.out.write(line.decode("utf-8", "replace"))
            context.out.flush()
    except APIError as error:
        return context.complain(f"Error starting monitor: {error}")
    except KeyboardInterrupt:
        return 0
    context.say()
    return context.complain(
        "Remote side ended the monitor! This usually means that the\nremote side has exited or crashed."
    )


MONITOR = Command(
    "consul monitor [options]",
    "Shows the log of a running agent, also at a finer level than the agent's own.",
    run,
    (
        Flag("log-json", "bool", "Show lines as JSON."),
        Flag("log-level", "string", "Level of the lines to show.", "INFO"),
    ),
    groups="CL",
)
