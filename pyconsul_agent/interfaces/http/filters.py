"""`?filter=` where the agent itself answers. Elsewhere servers filter."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.interfaces.http.message import HTTPError, Request
from pyconsul_agent.query.bexpr.expression import Predicate, SyntaxProblem, compile_filter, parse_filter
from pyconsul_agent.structs.catalog import NodeService, Weights
from pyconsul_agent.structs.health import HealthCheck

PREFIX = "Failed to create boolean expression evaluator: "


def service_filter(request: Request) -> Predicate:
    """Whether a local service is asked for. Raises HTTPError; so does the result, for a search that could be slow."""
    text = request.query.get("filter")
    if not text:
        return _everything
    try:
        accepts = compile_filter(text, NodeService)
    except ValueError as error:
        raise HTTPError(500, f"{PREFIX}{error}") from None
    return _told(lambda service: accepts(service if service.weights else replace(service, weights=DEFAULT_WEIGHTS)))


def check_filter(request: Request, any_checks: bool) -> Predicate:
    """Whether a local check is asked for. Raises HTTPError as above.

    compat: 1.10 judges what is selected only when there is a check to look at, and says so without the prefix.
    """
    text = request.query.get("filter")
    if not text:
        return _everything
    try:
        parse_filter(text)
        accepts = compile_filter(text, HealthCheck) if any_checks else _everything
    except SyntaxProblem as error:
        raise HTTPError(500, f"{PREFIX}{error}") from None
    except ValueError as error:
        raise HTTPError(500, str(error)) from None
    return _told(accepts)


DEFAULT_WEIGHTS = Weights(passing=1, warning=1)
"""What a service without weights is shown with."""


def _everything(row: object) -> bool:
    return True


def _told(accepts: Predicate) -> Predicate:
    def tell(row: object) -> bool:
        try:
            return accepts(row)
        except ValueError as error:
            raise HTTPError(500, str(error)) from None

    return tell
