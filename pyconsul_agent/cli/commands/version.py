"""`version`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.version import (
    CONSUL_REVISION,
    CONSUL_VERSION,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MAX,
    PROTOCOL_VERSION_MIN,
)


def run(context: Context, arguments: Sequence[str]) -> int:
    """Print it."""
    form = context.text("format")
    if form == "json":
        rpc = {"Default": PROTOCOL_VERSION, "Min": PROTOCOL_VERSION_MIN, "Max": PROTOCOL_VERSION_MAX}
        version = {"Version": CONSUL_VERSION, "Revision": CONSUL_REVISION, "Prerelease": "", "RPC": rpc}
        context.say(json.dumps(version, indent=3))
        return 0
    if form != "pretty":
        return context.complain(f"Unknown format: {form}")
    revision = f"Revision {CONSUL_REVISION}\n" if CONSUL_REVISION else ""
    context.say(
        f"Consul v{CONSUL_VERSION}\n{revision}Protocol {PROTOCOL_VERSION} spoken by default, understands "
        f"{PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION_MAX} (agent will automatically use protocol "
        f">{PROTOCOL_VERSION} when speaking to compatible agents)\n"
    )
    return 0


VERSION_COMMAND = Command(
    "consul version [options]",
    "Prints the version of Consul that this program is equal to on the wire.",
    run,
    (Flag("format", "string", "Output format: pretty or json.", "pretty"),),
)
