"""What is run when a watch has news: a program or an HTTP request, as definitions name it. Pure; drivers run it.

A program gets the JSON and a newline on standard input, and `CONSUL_INDEX` in its environment; a text instead of a list
is run by the shell. An HTTP handler gets the same JSON as its body and the index as a header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.watch.plan import BadWatch, News
from pyconsul_agent.wire.gotypes import parse_duration

KEYS = ("handler", "args", "handler_type", "http_handler_config")
"""Keys of a definition that name its handler: `exempt` for `plan.parse`."""
INDEX_VARIABLE = "CONSUL_INDEX"
INDEX_HEADER = "X-Consul-Index"
SHELL = "/bin/sh"
HTTP_TIMEOUT_S = 10.0
OUTPUT_BYTES_MAX = 4096
"""So much of a handler's output is logged by an agent."""


@dataclass(frozen=True, slots=True)
class Script:
    """A program with its arguments."""

    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HTTP:
    """A request."""

    url: str
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = HTTP_TIMEOUT_S
    skip_verify: bool = False


def shell_arguments(text: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """A text as the arguments of the user's shell."""
    return (environ.get("SHELL") or SHELL, "-c", text)


def environment(environ: Mapping[str, str], index: int) -> dict[str, str]:
    """What a program sees."""
    return {**environ, INDEX_VARIABLE: str(index)}


def headers(handler: HTTP, news: News) -> list[tuple[str, str]]:
    """What an HTTP handler is sent."""
    return [("Content-Type", "application/json"), (INDEX_HEADER, str(news.index)), *handler.headers]


def parse(definition: Mapping[str, Any], environ: Mapping[str, str]) -> Script | HTTP:
    """The handler of a definition. Raises BadWatch with Consul's words."""
    given = {str(key).lower(): value for key, value in definition.items()}
    kind, text, arguments = given.get("handler_type", "script"), given.get("handler", ""), given.get("args", [])
    if kind == "http":
        if "http_handler_config" not in given:
            raise BadWatch("Handler type 'http' requires 'http_handler_config' to be set")
        return _http(given["http_handler_config"])
    if kind not in ("script", ""):
        raise BadWatch(f"Handler type '{kind}' not recognized")
    if text and arguments:
        raise BadWatch("Only one watch handler allowed")
    if isinstance(arguments, str):
        text, arguments = arguments, []
    if not isinstance(text, str):
        raise BadWatch("Watch handler must be a string")
    if not isinstance(arguments, list) or not all(isinstance(word, str) for word in arguments):
        raise BadWatch("Watch args must be a list of strings")
    if arguments:
        return Script(tuple(arguments))
    if not text:
        raise BadWatch("Must define a watch handler")
    return Script(shell_arguments(text, environ))


def _http(config: Any) -> HTTP:
    if isinstance(config, list) and len(config) == 1:  # a block of HCL
        config = config[0]
    if not isinstance(config, Mapping):
        raise BadWatch("Failed to parse 'http_handler_config': expected a map")
    given = {str(key).lower(): value for key, value in config.items()}
    path, timeout = given.get("path", ""), given.get("timeout", "")
    if not isinstance(path, str) or not path:
        raise BadWatch("Failed to parse 'http_handler_config': Requires 'path' to be set")
    try:
        timeout_s = parse_duration(str(timeout)) / 1e9 if timeout else HTTP_TIMEOUT_S
    except ValueError as error:
        raise BadWatch(f"Failed to parse 'http_handler_config': Failed to parse timeout: {error}") from None
    return HTTP(
        url=path,
        method=str(given.get("method") or "POST"),
        headers=tuple(_headers(given.get("header") or {})),
        timeout_s=timeout_s,
        skip_verify=given.get("tls_skip_verify") is True,
    )


def _headers(value: Any) -> Sequence[tuple[str, str]]:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        raise BadWatch("Failed to parse 'http_handler_config': header: expected a map")
    found = []
    for name, each in value.items():
        for text in [each] if isinstance(each, str) else each if isinstance(each, list) else [None]:
            if not isinstance(text, str):
                raise BadWatch(f"Failed to parse 'http_handler_config': header {name}: expected a list of strings")
            found.append((str(name), text))
    return found
