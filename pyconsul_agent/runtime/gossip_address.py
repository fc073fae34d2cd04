"""The addresses that users let an agent join, and the error texts when it could not. Pure text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyconsul_agent.errors import NetError

PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
class JoinTarget:
    """One entry of a join: node name or "", host name or IP, port."""

    name: str
    host: str
    port: int


def parse_join_address(text: str, default_port: int) -> JoinTarget:
    """`[name/]host[:port]`, IPv6 bare or in brackets. Raises NetError with the reason."""
    name, slash, rest = text.partition("/")
    if not slash:
        name, rest = "", text
    host, port = _split_host_port(rest, default_port)
    if not host:
        # compat: Go looks the empty name up
        raise NetError("lookup : no such host")
    return JoinTarget(name, host, port)


def _split_host_port(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, closed, tail = text[1:].partition("]")
        if not closed or (tail and not tail.startswith(":")):
            raise NetError(f"address {text}: malformed IPv6 address")
        return host, _port(text, tail[1:]) if tail else default_port
    if text.count(":") != 1:  # none, or a bare IPv6 address
        return text, default_port
    host, _, port = text.partition(":")
    return host, _port(text, port)


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= PORT_MAX):
        raise NetError(f"address {text}: invalid port")
    return int(port)


def endpoint(host: str, port: int) -> str:
    """`host:port`, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def errors_text(errors: Sequence[str]) -> str:
    r"""Several errors as Go's multi-error shows them.

    >>> errors_text(["a", "b"])
    '2 errors occurred:\n\t* a\n\t* b\n\n'
    """
    head = "1 error occurred:" if len(errors) == 1 else f"{len(errors)} errors occurred:"
    return head + "".join(f"\n\t* {error}" for error in errors) + "\n\n"
