"""Dispatch and log with a meter in front: calls are counted and timed here, so that neither knows of metrics."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from pyconsul_agent.env.base import Address, Clock
from pyconsul_agent.errors import RPCRateExceeded
from pyconsul_agent.runtime.rpc_server import RPCService
from pyconsul_agent.server.seams import Proposer
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.methods import Method
from pyconsul_agent.structs.requests import QueryOptions
from pyconsul_agent.telemetry.meters import RPCMeter

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
            meter.answered(method.name, self._now() - began, read=read, consistent=consistent, failed=failed)
            if method is methods.CATALOG_SERVICE_NODES:
                meter.service_query(str(getattr(request, "service_name", "")))

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
            self._meter.answered(method_name, self._now() - began, read=read, consistent=False, failed=failed)


class MeteredProposer:
    """The replicated log, metered."""

    def __init__(self, inner: Proposer, meter: RPCMeter, clock: Clock) -> None:
        self._inner = inner
        self._meter = meter
        self._now = clock.monotonic

    @property
    def is_leader(self) -> bool:
        """As the log's."""
        return self._inner.is_leader

    async def apply(self, kind: int, body: bytes) -> Any:
        """As `Proposer.apply`."""
        began = self._now()
        self._meter.applied.add()
        result = await self._inner.apply(kind, body)
        self._meter.commit_time.add((self._now() - began) * 1000)
        return result

    async def barrier(self) -> None:
        """As `Proposer.barrier`."""
        self._meter.barriers.add()
        await self._inner.barrier()


__all__ = ["MeteredDispatch", "MeteredProposer"]
