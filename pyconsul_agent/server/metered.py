"""Dispatch and endpoints with a meter in front: calls are counted and timed here, so that neither knows of metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from pyconsul_agent.env.base import Address, Clock
from pyconsul_agent.errors import RPCRateExceeded
from pyconsul_agent.runtime.rpc_server import RPCService
from pyconsul_agent.server.seams import Endpoint
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.methods import Method
from pyconsul_agent.structs.requests import QueryOptions
from pyconsul_agent.telemetry.meters import RPC_SAMPLES, RPCMeter

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class Dispatch(RPCService, Protocol):
    """What is metered: `server.dispatch.Dispatcher`."""

    async def call(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT: ...


class MeteredDispatch:
    """A dispatcher, metered. With every call of `call`, this agent called itself."""

    def __init__(self, inner: Dispatch, meter: RPCMeter, clock: Clock) -> None:
        self._inner = inner
        self._meter = meter
        self._now = clock.monotonic

    async def call(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """As `Dispatcher.call`."""
        began, failed, exceeded = self._now(), True, False
        read = isinstance(request, QueryOptions)
        try:
            reply = await self._inner.call(method, request)
            failed = False
            return reply
        except RPCRateExceeded:
            exceeded = True
            raise
        finally:
            meter = self._meter
            meter.own_call(failed=failed, exceeded=exceeded)
            consistent = read and request.require_consistent  # type: ignore[attr-defined]
            meter.answered(self._now() - began, read=read, consistent=consistent, failed=failed)

    async def serve(self, method_name: str, body: bytes, peer: Address) -> bytes:
        """As `Dispatcher.serve`."""
        began, failed = self._now(), True
        self._meter.network_call()
        try:
            reply = await self._inner.serve(method_name, body, peer)
            failed = False
            return reply
        finally:
            known = methods.METHODS.get(method_name)
            read = known is not None and issubclass(known.request, QueryOptions)
            self._meter.answered(self._now() - began, read=read, consistent=False, failed=failed)


LOOKUPS = {methods.CATALOG_SERVICE_NODES.name: "catalog", methods.HEALTH_SERVICE_NODES.name: "health"}


def metered(endpoints: Sequence[Endpoint], meter: RPCMeter, clock: Clock) -> list[Endpoint]:
    """The endpoints; those that Consul measures with a meter around what they do here, after all forwarding."""
    return [_metered(endpoint, meter, clock.monotonic) for endpoint in endpoints]


def _metered(endpoint: Endpoint, meter: RPCMeter, now: Callable[[], float]) -> Endpoint:
    name, run = endpoint.method.name, endpoint.run
    if name in RPC_SAMPLES:

        async def timed(request: Any) -> Any:
            began = now()
            try:
                return await run(request)
            finally:
                meter.ran(name, now() - began)

        return replace(endpoint, run=timed)
    if name in LOOKUPS:
        area = LOOKUPS[name]

        async def counted(request: Any) -> Any:
            reply = await run(request)
            kind = f"{area}.{'connect' if request.connect else 'service'}"
            tags = request.service_tags or ((request.service_tag,) if request.service_tag else ())
            found = bool(reply.nodes if area == "health" else reply.service_nodes)
            meter.looked_up(kind, request.service_name, tags, old_tag=not request.service_tags, found=found)
            return reply

        return replace(endpoint, run=counted)
    return endpoint
