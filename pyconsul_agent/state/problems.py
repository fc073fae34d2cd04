"""Complaints about config entries that several kinds share, in the original's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyconsul_agent.errors import RPCError
from pyconsul_agent.wire.gotypes import quote

META_PAIRS_MAX = 64
META_KEY_MAX = 128
META_VALUE_MAX = 512
HTTP_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"])


def several(problems: list[str]) -> RPCError:
    """Several complaints in one error, as the original joins them."""
    head = "1 error occurred:" if len(problems) == 1 else f"{len(problems)} errors occurred:"
    return RPCError(head + "".join(f"\n\t* {problem}" for problem in problems) + "\n\n")


def meta_problems(meta: Mapping[str, str] | None) -> list[str]:
    """What is wrong with an entry's metadata."""
    problems = []
    if len(meta or ()) > META_PAIRS_MAX:
        problems.append(f"Meta exceeds maximum element count {META_PAIRS_MAX}")
    for key, value in sorted((meta or {}).items()):
        if len(key.encode("utf-8", "surrogateescape")) > META_KEY_MAX:
            problems.append(f"Meta key {quote(key)} exceeds maximum length {META_KEY_MAX}")
        if len(value.encode("utf-8", "surrogateescape")) > META_VALUE_MAX:
            problems.append(f"Meta value for key {quote(key)} exceeds maximum length {META_VALUE_MAX}")
    return problems


def methods_problem(where: str, methods: Iterable[str] | None) -> str | None:
    """What is wrong with a list of HTTP methods in upper case; None if nothing."""
    found = set()
    for method in methods or ():
        if method not in HTTP_METHODS:
            return f"{where} contains an invalid method {quote(method)}"
        if method in found:
            return f"{where} contains {quote(method)} more than once"
        found.add(method)
    return None
