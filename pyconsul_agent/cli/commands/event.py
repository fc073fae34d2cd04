"""`event`: fire a user event."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.commands.members import go_regexp_error
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import APIError


def run(context: Context, arguments: Sequence[str]) -> int:
    """Fire it and print its id."""
    name = context.text("name")
    if not name:
        context.err.write(f"Event name must be specified\n\n{context.usage}")
        return 1
    for flag in ("node", "service", "tag"):
        try:
            re.compile(context.text(flag))
        except re.error as error:
            reason = go_regexp_error(context.text(flag), error)
            return context.complain(f"Failed to compile {flag} filter regexp: {reason}")
    if context.text("tag") and not context.text("service"):
        return context.complain("Cannot provide tag filter without service filter.")
    if len(arguments) > 1:
        context.err.write(f"Too many command line arguments.\n\n{context.usage}")
        return 1
    api = context.api()
    try:
        api.get("/v1/agent/self").expect_ok()
    except APIError as error:
        return context.complain(f"Error querying Consul agent: {error}")
    query = {flag: context.text(flag) for flag in ("node", "service", "tag") if context.text(flag)}
    payload = arguments[0].encode("utf-8", "surrogateescape") if arguments else None
    try:
        fired = api.put(f"/v1/event/fire/{name}", query, payload).expect_ok().json()
    except APIError as error:
        return context.complain(f"Error firing event: {error}")
    context.say(f"Event ID: {fired.get('ID', '')}")
    return 0


EVENT = Command(
    "consul event [options] [payload]",
    "Sends a user event through the cluster by gossip. Delivery is not certain, and not ordered.",
    run,
    (
        Flag("name", "string", "Name of the event."),
        Flag("node", "string", "Regular expression: only nodes whose names match."),
        Flag("service", "string", "Regular expression: only nodes with an instance of a matching service."),
        Flag("tag", "string", "Regular expression: only services with a matching tag. Needs -service."),
    ),
    groups="C",
)
