"""Which server answers a call, and on what terms (docs/protocol/rpc.md#forwarding).

Every call of a server goes through here, those that came over the network (`serve`) and those of its own agent
(`call`). The order of decisions is Consul's: other datacenter, stale read, leader here, leader elsewhere, wait for a
leader. Beyond Consul, a default read is answered only if this server can still prove that it led when the answer was
computed (promise P3): by its lease, else by a quorum round.

Endpoints see only requests that are theirs to answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

from pyconsul_agent.env.base import Address, Clock
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import DecodeError, NoLeader, NotLeader, RaftError, RPCError
from pyconsul_agent.server.forward import LeaderNotTracked
from pyconsul_agent.server.seams import Endpoint, Leadership, Where
from pyconsul_agent.structs.base import Duration, duration
from pyconsul_agent.structs.methods import Method
from pyconsul_agent.structs.requests import QueryMeta, QueryOptions
from pyconsul_agent.wire import msgpack, netrpc

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")

HOLD_TIMEOUT_S = 7.0
JITTER_FRACTION = 16
"""One pause while holding is a random part of hold time-out / 16, as there; ours ends sooner when a leader is known."""

LEADER_ONLY = frozenset({"Operator.AutopilotState", "Operator.ServerHealth"})
"""Always answered by the leader, verified, whatever the caller allows."""

RESTORING = "a snapshot is being restored"
"""Ours; the reference shows a restored state before anybody else has it."""
LEADER = "leader"
"""The part of `stamp` that is who leads."""

WITHOUT_LEADER_META = frozenset({"Session.Renew"})
"""compat: its reply says nothing of the leader (1.10.11, recorded)."""


class Forwards(Protocol):
    """What the dispatcher asks of `server.forward.Forwarder`."""

    async def to_leader(self, name: str, body: bytes) -> bytes:
        """The leader's reply. Raises NoLeader, LeaderNotTracked or RPCError."""

    async def to_datacenter(self, datacenter: str, name: str, body: bytes) -> bytes:
        """The reply of a server there. Raises RPCError."""


@dataclass(frozen=True, slots=True)
class _Remote:
    """A reply of another server, still encoded."""

    body: bytes


class Dispatcher:
    """Routes calls to endpoints of this server or to other servers.

    `is_leaving` says that this server is on its way out: calls that need the leader then fail at once, so that
    clients turn to another server. `consistent_ready` says that the leader has finished its start-up barrier; `settled`
    is False while the state here is a restored one that may yet be taken back: not even stale reads see it (P4).
    None of the three has a default: one that is left out by mistake would answer reads that nobody vouches for.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        leadership: Leadership,
        forwarder: Forwards,
        *,
        datacenter: str,
        clock: Clock,
        random: random.Random,
        primary_datacenter: str = "",
        hold_timeout_s: float = HOLD_TIMEOUT_S,
        is_leaving: Callable[[], bool] = lambda: False,
        consistent_ready: Callable[[], bool],
        settled: Callable[[], bool],
        version: Callable[[str], int],
    ) -> None:
        self._endpoints = {endpoint.method.name: endpoint for endpoint in endpoints}
        self._own_reads = frozenset(name for name, endpoint in self._endpoints.items() if _is_own(endpoint))
        """Methods whose default reads a leader answers by itself."""
        self._services = frozenset(name.rpartition(".")[0] for name in self._endpoints)
        self._leadership = leadership
        self._forwarder = forwarder
        self._datacenter = datacenter
        self._primary = primary_datacenter or datacenter
        self._clock = clock
        self._random = random
        self._hold_timeout_s = hold_timeout_s
        self._is_leaving = is_leaving
        self._consistent_ready = consistent_ready
        self._settled = settled
        self._version = version
        self._news = asyncio.Event()

    def news(self) -> None:
        """Another leader is known, or this one has become ready: calls that wait for one look again at once."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def call(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """Answer a call of this very agent, without encoding it if it is answered here. Raises RPCError."""
        endpoint = self._endpoint(method.name)
        try:
            outcome = await self._answer(endpoint, request, None)
        except RaftError as error:
            raise RPCError(str(error)) from error
        if not isinstance(outcome, _Remote):
            return outcome  # type: ignore[no-any-return]
        try:
            return msgpack.decode(method.reply, outcome.body)
        except DecodeError as error:
            raise RPCError(netrpc.call_failed(netrpc.decoder_failed(error.reason))) from error

    async def serve(self, method_name: str, body: bytes, peer: Address) -> bytes:
        """Answer a call that came over the network. Raises RPCError or RaftError, whose text is the answer."""
        endpoint = self._endpoint(method_name)
        try:
            request = msgpack.decode(endpoint.method.request, body)
        except DecodeError as error:
            raise RPCError(netrpc.decoder_failed(error.reason)) from error
        outcome = await self._answer(endpoint, request, body)
        return outcome.body if isinstance(outcome, _Remote) else msgpack.encode(outcome)

    def stamp(self, part: str) -> Hashable | None:
        """See `agent.delegate.Delegate.stamp`."""
        if part == LEADER:
            return self._leadership.leader_address
        if self._is_leaving() or not self._leadership.is_leader or not self._consistent_ready():
            return None
        if not self._leadership.lease_valid:
            return None
        return self._version(part)

    def _is_own_read(self, endpoint: Endpoint, request: Any) -> bool:
        """Whether this is a default read that this leader answers, with nothing to be proved first."""
        if endpoint.method.name not in self._own_reads or request.allow_stale or request.require_consistent:
            return False
        if (datacenter := request.datacenter) and datacenter != self._datacenter:
            return False
        return self._leadership.is_leader and self._consistent_ready() and not self._is_leaving()

    # --- routing --------------------------------------------------------------------------------------------------

    def _endpoint(self, name: str) -> Endpoint:
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise RPCError(netrpc.unknown_method(name, self._services))
        return endpoint

    async def _answer(self, endpoint: Endpoint, request: Any, body: bytes | None) -> Any:
        """The reply, or a _Remote. `body` is the request as it came, if it came encoded."""
        name = endpoint.method.name
        if self._is_own_read(endpoint, request):
            # The common case, spelled out: thousands of blocked reads keep every frame between here and their wait.
            try:
                reply = await endpoint.run(request)
                if not self._vouches:
                    await self._vouch()
                return self._with_meta(name, reply)
            except RPCError as error:
                lost = isinstance(error, NoLeader | NotLeader)
                if not lost and not netrpc.is_retryable(str(error), is_read=True):
                    raise
        if name in LEADER_ONLY:
            request, body = replace(request, allow_stale=False, require_consistent=True), None
        if endpoint.where is Where.PRIMARY and request.datacenter != self._primary:
            request, body = replace(request, datacenter=self._primary), None
        datacenter = getattr(request, "datacenter", "")
        if endpoint.where is not Where.LOCAL and datacenter and datacenter != self._datacenter:
            return _Remote(await self._forwarder.to_datacenter(datacenter, name, _encoded(request, body)))
        if endpoint.where not in (Where.FORWARD, Where.PRIMARY):
            return self._with_meta(name, await endpoint.run(request))
        if self._may_be_stale(endpoint, request):
            if not self._settled():
                raise RPCError(RESTORING)
            await self._prepare_read(request)
            return self._with_meta(name, await endpoint.run(request))
        return await self._at_leader(endpoint, request, body)

    def _may_be_stale(self, endpoint: Endpoint, request: Any) -> bool:
        if not _is_read(endpoint, request) or not request.allow_stale:
            return False
        return self._leadership.is_leader or self._leadership.last_contact_s is not None

    async def _at_leader(self, endpoint: Endpoint, request: Any, body: bytes | None) -> Any:
        """Answer here while leading, else pass to the leader; wait for one as long as the hold time-out."""
        first_failure: float | None = None
        while True:
            if self._is_leaving():
                raise NoLeader
            try:
                if self._leadership.is_leader:
                    return await self._as_leader(endpoint, request)
                body = _encoded(request, body)
                return _Remote(await self._forwarder.to_leader(endpoint.method.name, body))
            except (NoLeader, LeaderNotTracked, _CannotVouch) as error:
                failure: RPCError = error
            except RPCError as error:
                if not netrpc.is_retryable(str(error), is_read=_is_read(endpoint, request)):
                    raise
                failure = error
            now = self._clock.monotonic()
            first_failure = now if first_failure is None else first_failure
            if now - first_failure >= self._hold_timeout_s:
                raise failure
            await self._pause()

    async def _as_leader(self, endpoint: Endpoint, request: Any) -> Any:
        """Run the endpoint here. Raises _CannotVouch when a read cannot be vouched for: nothing was answered.

        A new leader may not have applied yet what its predecessor acknowledged, so even a default read waits until
        the start-up barrier is through; that takes milliseconds, or there is no quorum.
        """
        name = endpoint.method.name
        if not _is_read(endpoint, request):
            return self._with_meta(name, await endpoint.run(request))
        await self._prepare_read(request)
        if not request.allow_stale and not self._consistent_ready():
            raise _CannotVouch
        try:
            reply = await endpoint.run(request)
        except NotLeader as error:
            raise _CannotVouch from error
        if not request.allow_stale and not self._vouches:
            await self._vouch()
        return self._with_meta(name, reply)

    @property
    def _vouches(self) -> bool:
        """Whether an answer computed in this turn of the loop is current for sure (P3)."""
        return self._consistent_ready() and self._leadership.lease_valid

    async def _vouch(self) -> None:
        """Prove that the answer just computed is current. Raises _CannotVouch."""
        # A read that waited may have outlived a leadership, and have run before the next one's barrier.
        if not self._consistent_ready():
            raise _CannotVouch
        try:
            await self._leadership.verify()
        except (RaftError, RPCError) as error:
            raise _CannotVouch from error

    async def _prepare_read(self, request: Any) -> None:
        """What a consistent read needs first. Raises RPCError or RaftError."""
        if isinstance(request, QueryOptions) and request.require_consistent:
            await self.consistent()

    async def consistent(self) -> None:
        """Prove that this server leads and has caught up. Raises RPCError or RaftError."""
        await self._leadership.verify()
        deadline = self._clock.monotonic() + self._hold_timeout_s
        while not self._consistent_ready():
            if self._clock.monotonic() >= deadline:
                raise RPCError(netrpc.NOT_READY_FOR_CONSISTENT_READS)
            await self._pause()

    async def _pause(self) -> None:
        """Wait for news of the leader, or for a random time."""
        with contextlib.suppress(TimeoutError):
            async with timeout(self._random.uniform(0.0, self._hold_timeout_s / JITTER_FRACTION)):
                await self._news.wait()

    # --- replies --------------------------------------------------------------------------------------------------

    def _with_meta(self, name: str, reply: Any) -> Any:
        """Fill in what this server knows of the leader; an index is never 0, since 0 means "do not block"."""
        if not isinstance(reply, QueryMeta):
            return reply
        index = max(1, reply.index)
        if name in WITHOUT_LEADER_META:
            return replace(reply, index=index)
        if self._leadership.is_leader:
            if reply.index == index and reply.known_leader and not reply.last_contact:
                return reply
            return replace(reply, index=index, known_leader=True, last_contact=Duration(0))
        since = self._leadership.last_contact_s
        known = bool(self._leadership.leader_address)
        return replace(reply, index=index, known_leader=known, last_contact=duration(since or 0.0))


class _CannotVouch(NoLeader):
    """A read cannot be proven current: this server may be deposed or not caught up. Nothing was answered."""


def _is_own(endpoint: Endpoint) -> bool:
    """Whether this is a read with a datacenter that is answered by the leader there, but not proved each time."""
    kind = endpoint.method.request
    if endpoint.write or endpoint.where is not Where.FORWARD or endpoint.method.name in LEADER_ONLY:
        return False
    return issubclass(kind, QueryOptions) and any(each.name == "datacenter" for each in fields(kind))


def _is_read(endpoint: Endpoint, request: object) -> bool:
    return not endpoint.write and isinstance(request, QueryOptions)


def _encoded(request: object, body: bytes | None) -> bytes:
    return msgpack.encode(request) if body is None else body
