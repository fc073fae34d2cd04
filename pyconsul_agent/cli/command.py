"""What a command is: its flags, its help, a function; and what it gets: streams, environment, the HTTP client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from pyconsul_agent.cli.flags import Flag, Value, usage
from pyconsul_agent.cli.terminal import RED, colored, paint

if TYPE_CHECKING:
    from pyconsul_agent.cli.http_api import API

CLIENT_FLAGS = (
    Flag("http-addr", "string", "Address of the agent's HTTP API: an IP or DNS name with a port, a URL, or unix:// "
         "and a path. Also from CONSUL_HTTP_ADDR. The default is http://127.0.0.1:8500.", shown="address"),
    Flag("token", "string", "ACL token of the request. Also from CONSUL_HTTP_TOKEN.", shown="value"),
    Flag("token-file", "string", "File that holds the ACL token. Also from CONSUL_HTTP_TOKEN_FILE.", shown="value"),
    Flag("ca-file", "string", "File of certificate authorities for TLS. Also from CONSUL_CACERT.", shown="value"),
    Flag("ca-path", "string", "Folder of certificate authorities for TLS. Also from CONSUL_CAPATH.", shown="value"),
    Flag("client-cert", "string", "Client certificate file for TLS. Also from CONSUL_CLIENT_CERT.", shown="value"),
    Flag("client-key", "string", "Client key file for TLS. Also from CONSUL_CLIENT_KEY.", shown="value"),
    Flag("tls-server-name", "string", "Name to expect in the server's certificate. Also from "
         "CONSUL_TLS_SERVER_NAME.", shown="value"),
)  # fmt: skip
SERVER_FLAGS = (
    Flag("datacenter", "string", "Datacenter to ask. Unset, the agent's own.", shown="value"),
    Flag("stale", "bool", "Let any server answer, not only the leader."),
)
NAMESPACE_FLAGS = (Flag("namespace", "string", "Namespace to ask (Consul Enterprise).", shown="string"),)
LEGACY_FLAGS = (
    Flag(
        "rpc-addr",
        "string",
        "Address of the agent's legacy RPC of 0.5-0.7, which is "
        "then spoken instead of HTTP. CONSUL_RPC_ADDR wins over it.",
        shown="addr",
    ),
)

GROUPS = {"C": CLIENT_FLAGS, "S": SERVER_FLAGS, "N": NAMESPACE_FLAGS, "L": LEGACY_FLAGS}


class SetupError(Exception):
    """The HTTP client cannot be made: bad token file, bad certificates, bad address."""


@dataclass(slots=True)
class Context:
    """The outside of one run."""

    out: TextIO
    err: TextIO
    stdin: BinaryIO
    environ: Mapping[str, str]
    make_env: Callable[[], Any]
    values: dict[str, Value] = field(default_factory=dict)
    given: dict[str, Value] = field(default_factory=dict)
    usage: str = ""
    bad_usage: str = ""

    def say(self, text: str = "") -> None:
        """A line of results."""
        self.out.write(f"{text}\n")

    def complain(self, text: str) -> int:
        """A line on stderr; gives exit code 1."""
        self.err.write(f"{paint(text, RED) if colored(self.err, self.environ) else text}\n")
        return 1

    def text(self, flag: str) -> str:
        """A flag's text."""
        value = self.values[flag]
        assert isinstance(value, str)
        return value

    def on(self, flag: str) -> bool:
        """A boolean flag."""
        return self.values[flag] is True

    def number(self, flag: str) -> int:
        """A whole number."""
        value = self.values[flag]
        assert isinstance(value, int)
        return value

    def pairs(self, flag: str) -> dict[str, str]:
        """A key=value flag."""
        value = self.values[flag]
        assert isinstance(value, dict)
        return value

    def rpc_address(self) -> str:
        """Where the legacy RPC is wanted instead of HTTP; empty when it is not. The variable wins, as it always did."""
        return self.environ.get("CONSUL_RPC_ADDR", "") or self.text("rpc-addr")

    def api(self) -> API:
        """The HTTP client that flags and environment ask for. Raises SetupError."""
        from pyconsul_agent.cli.http_api import api_of

        return api_of(self.values, self.environ, self.err)


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `groups` names the shared flags: C client, S server, N namespace, L legacy (section 3 of cli.md)."""

    usage_line: str
    help: str
    run: Callable[[Context, Sequence[str]], int]
    flags: tuple[Flag, ...] = ()
    groups: str = ""

    def all_flags(self) -> tuple[Flag, ...]:
        """Own flags and shared ones."""
        return (*self.flags, *(flag for group in self.groups for flag in GROUPS[group]))

    def usage_text(self) -> str:
        """The whole help."""
        shared = [flag for group in self.groups for flag in GROUPS[group]]
        return usage(self.usage_line, self.help, [("HTTP API Options", shared), ("Command Options", self.flags)])

    def bad_usage_text(self) -> str:
        """What follows a flag that cannot be used: all flags, by name."""
        return usage("", "", [("", self.all_flags())])
