"""`healthcheck`: does this agent's HTTP answer? For the image's HEALTHCHECK, which pays for a Python start every time.

Any status counts as up, also 403: a lone server that waits for its peers, or one with ACLs, is not ill. So this asks
with one socket and reads one line, and imports nothing else.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag

DEFAULT_ADDRESS = "127.0.0.1:8500"
TIMEOUT_S = 2.0
REQUEST = b"GET /v1/agent/self HTTP/1.0\r\nHost: localhost\r\n\r\n"


def first_line(address: str, timeout_s: float) -> str:
    """The status line of the agent at `host:port`, `http://host:port` or `unix://path`. Raises OSError, ValueError."""
    where: Any
    if address.startswith("unix://"):
        family, where = socket.AF_UNIX, address.removeprefix("unix://")
    else:
        host, _, port = address.removeprefix("http://").rstrip("/").rpartition(":")
        name = host.strip("[]") or "127.0.0.1"
        family, *_, where = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        stream.settimeout(timeout_s)
        stream.connect(where)
        stream.sendall(REQUEST)
        start = stream.recv(64)
    if not start.startswith(b"HTTP/1."):
        raise ValueError("no HTTP answer")
    return start.split(b"\r\n")[0].decode("latin-1")


def run(context: Context, arguments: Sequence[str]) -> int:
    """Exit code 0 when it answers, 1 when not."""
    address = context.text("http-addr") or context.environ.get("CONSUL_HTTP_ADDR", "") or DEFAULT_ADDRESS
    try:
        context.say(first_line(address, TIMEOUT_S))
    except (OSError, ValueError) as error:
        return context.complain(f"{address}: {error}")
    return 0


HEALTHCHECK = Command(
    "consul healthcheck [options]",
    "Exits with 0 when the agent's HTTP API answers, whatever it says.",
    run,
    (Flag("http-addr", "string", "Address of the agent's HTTP API.", shown="address"),),
)
