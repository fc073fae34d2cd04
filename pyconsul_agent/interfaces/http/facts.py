"""`/v1/agent/metrics` and `/v1/agent/metrics/stream`: numbers about this agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response
from pyconsul_agent.interfaces.http.params import Defaults
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.telemetry.registry import Interval, Registry, shown
from pyconsul_agent.wire import gojson
from pyconsul_agent.wire.gojson import Ordered

PROMETHEUS_OFF = "Prometheus is not enabled since its retention time is not positive"
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Measured(Protocol):
    """The agent's metrics."""

    @property
    def registry(self) -> Registry: ...

    def stream(self) -> AsyncIterator[Interval]:
        """Each interval when it is complete."""


def wants_prometheus(request: Request) -> bool:
    """Whether a scraper asks, by parameter or by what it accepts."""
    if request.query.get("format") == "prometheus":
        return True
    accept = request.headers.get("accept", "")
    if "application/openmetrics-text" in accept:
        return True
    return "text/plain" in accept and "version=0.4.0" in accept.replace(" ", "")


def in_order(value: Any) -> Any:
    """Plain dictionaries as structs, whose fields keep their order; `Labels` is a map."""
    if isinstance(value, dict):
        return Ordered({key: item if key == "Labels" else in_order(item) for key, item in value.items()})
    return [in_order(item) for item in value] if isinstance(value, list) else value


class Facts:
    """The handlers."""

    def __init__(self, metrics: Measured, defaults: Defaults) -> None:
        self._metrics = metrics
        self._defaults = defaults

    def routes(self) -> list[Route]:
        return [
            Route("/v1/agent/metrics", (("GET", self.metrics),), "agent:read"),
            Route("/v1/agent/metrics/stream", (("GET", self.stream),), "agent:read"),
        ]

    async def metrics(self, request: Request) -> Response:
        """The last complete interval of 10 s, or everything since the start in Prometheus's form."""
        registry = self._metrics.registry
        if not wants_prometheus(request):
            return json_response(in_order(registry.display()), request, pretty=self._defaults.pretty)
        if registry.retention_s <= 0:
            raise HTTPError(415, PROMETHEUS_OFF)
        return Response(200, registry.prometheus().encode("utf-8", "replace"), PROMETHEUS_TEXT)

    async def stream(self, request: Request) -> Response:
        """Each interval as it ends, one JSON object a line, until the reader goes away."""
        return Response(stream=self._lines())

    async def _lines(self) -> AsyncIterator[bytes]:
        async for interval in self._metrics.stream():
            yield gojson.encode(in_order(shown(interval))) + b"\n"
