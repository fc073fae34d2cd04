"""`?filter=` where the agent itself answers. Elsewhere servers filter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pyconsul_agent.interfaces.http.message import HTTPError, Request
from pyconsul_agent.query.bexpr.expression import SyntaxProblem, compile_filter, parse_filter
from pyconsul_agent.structs.catalog import NodeService, Weights
from pyconsul_agent.structs.health import HealthCheck

PREFIX = "Failed to create boolean expression evaluator: "
DEFAULT_WEIGHTS = Weights(passing=1, warning=1)
"""What a service without weights is shown with."""


def filtered_services(request: Request, services: Collection[NodeService]) -> Collection[NodeService]:
    """The local services that are asked for. Raises HTTPError."""
    text = request.query.get("filter")
    if not text:
        return services
    try:
        kept = compile_filter(text, NodeService)
    except ValueError as error:
        raise HTTPError(500, f"{PREFIX}{error}") from None
    try:
        return kept.keep(each if each.weights else replace(each, weights=DEFAULT_WEIGHTS) for each in services)
    except ValueError as error:
        raise HTTPError(500, str(error)) from None


def filtered_checks(request: Request, checks: Collection[HealthCheck]) -> Collection[HealthCheck]:
    """The local checks that are asked for. Raises HTTPError.

    compat: 1.10 judges what is selected only when there is a check to look at, and says so without the prefix.
    """
    text = request.query.get("filter")
    if not text:
        return checks
    try:
        parse_filter(text)
        return compile_filter(text, HealthCheck).keep(checks) if checks else checks
    except SyntaxProblem as error:
        raise HTTPError(500, f"{PREFIX}{error}") from None
    except ValueError as error:
        raise HTTPError(500, str(error)) from None
