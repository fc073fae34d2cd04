"""The agent's cache of answers of servers: for `?cached` over HTTP and `dns_config.use_cache`.

`get` answers from what is there, or fetches and keeps it. Kinds that support blocking queries are kept up to date: a
task per entry repeats a blocking query as long as the entry stays; the health of a service is followed by a
subscription instead where servers offer them (`health_view`). What is fresh, what stays and how much of it is
decided in `cache_table`; here are the calls and the waiting.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pyconsul_agent.agent.cache_table import DEFAULT_LIMITS, CacheLimits, Entry, Table
from pyconsul_agent.agent.delegate import Caller, Subscriber
from pyconsul_agent.agent.health_view import HealthView
from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout, timeout_at
from pyconsul_agent.errors import ConsulError, DecodeError, NoServers, RPCError
from pyconsul_agent.structs.base import Duration, duration, seconds
from pyconsul_agent.structs.methods import (
    CATALOG_LIST_DATACENTERS,
    CATALOG_LIST_SERVICES,
    CATALOG_NODE_SERVICES,
    CATALOG_SERVICE_NODES,
    HEALTH_SERVICE_NODES,
    PREPARED_QUERY_EXECUTE,
    Method,
)
from pyconsul_agent.structs.requests import (
    PreparedQueryExecuteRequest,
    QueryMeta,
    QueryOptions,
    QuerySource,
    ServiceSpecificRequest,
)
from pyconsul_agent.wire.grpc import GRPCError, NotOffered, Status
from pyconsul_agent.wire.msgpack import encode
from pyconsul_agent.wire.subscribe import EVENT

REFRESH_WAIT_S = 600.0
"""How long each blocking query of a refresh may take."""
CONNECTED_S = 31.0
"""A refresh that has been under way so long is blocking at a server that is there."""
REFRESH_PAUSE_S = 1.0
"""Before a refresh asks again that was answered without having waited and without news."""
WAIT_DEFAULT_S, WAIT_MAX_S = 300.0, 600.0
SNAPSHOT_TIMEOUT_S = 10.0
"""How long a subscription may take to tell what there is; a call is tried then."""
STREAM_IDLE_S = 1200.0
"""An entry that is followed by a subscription goes when nobody has asked for it so long."""
STREAM_RETRY_S = 120.0
"""How long calls are used after all servers have refused subscriptions, and how long one may block when they failed."""
STREAM_CALL_S = 1.0
"""The least that such a call blocks."""
STREAM_FAILURES_MAX = 3
STREAM_PAUSE_S = 0.2

RequestT = TypeVar("RequestT", bound=QueryOptions)
ReplyT = TypeVar("ReplyT")


@dataclass(frozen=True, slots=True)
class Kind(Generic[RequestT, ReplyT]):
    """What may be cached: its name in Consul, the RPC that fetches it, and whether it is refreshed by blocking."""

    name: str
    method: Method[RequestT, ReplyT]
    refreshed: bool = True


DATACENTERS = Kind("catalog-datacenters", CATALOG_LIST_DATACENTERS, refreshed=False)
SERVICES = Kind("catalog-list-services", CATALOG_LIST_SERVICES)
SERVICE_NODES = Kind("catalog-services", CATALOG_SERVICE_NODES)
NODE_SERVICES = Kind("node-services", CATALOG_NODE_SERVICES)
HEALTH_NODES = Kind("health-services", HEALTH_SERVICE_NODES)
QUERY_EXECUTE = Kind("prepared-query", PREPARED_QUERY_EXECUTE, refreshed=False)


@dataclass(frozen=True, slots=True)
class Cached(Generic[ReplyT]):
    """An answer: whether it was there already, and if so how old it is."""

    value: ReplyT
    hit: bool
    age_s: float = 0.0

    @property
    def headers(self) -> dict[str, str]:
        """What HTTP tells of it."""
        return {"X-Cache": "HIT", "Age": f"{self.age_s:.0f}"} if self.hit else {"X-Cache": "MISS"}


class _Slot:
    """An entry and who works on it: `done` is set, and replaced, each time that a fetch has ended."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.task: asyncio.Task[None] | None = None
        self.done = asyncio.Event()
        self.hurry = asyncio.Event()

    def wake(self) -> None:
        done, self.done = self.done, asyncio.Event()
        done.set()


class Cache:
    """Answers from memory where it may. `close` ends the refreshing."""

    def __init__(
        self,
        caller: Caller,
        clock: Clock,
        draw: random.Random,
        log: Log,
        limits: CacheLimits = DEFAULT_LIMITS,
        *,
        subscriber: Subscriber | None = None,
    ) -> None:
        self._caller = caller
        self._subscriber = subscriber
        self._stream_at = 0.0
        self._clock = clock
        self._draw = draw
        self._log = log
        self._table = Table(limits)
        self._slots: dict[bytes, _Slot] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._table)

    @property
    def streams(self) -> bool:
        """Whether the health of services is followed by subscriptions (if a server offers them)."""
        return self._subscriber is not None

    @property
    def bytes_kept(self) -> int:
        """An estimate of the memory that the entries take."""
        return self._table.bytes_kept

    def limit(self, rate: float, burst: int) -> None:
        """Other `entry_fetch_rate` and `entry_fetch_max_burst` from now on (reload)."""
        self._table.limit(rate, burst)

    async def close(self) -> None:
        """Cancel every fetch and wait until they have ended. Idempotent."""
        self._closed = True
        slots = list(self._slots.values())
        tasks = [slot.task for slot in slots if slot.task is not None]
        for slot in slots:
            self._table.drop(slot.entry)
        self._forget([slot.entry for slot in slots])
        await asyncio.gather(*tasks, return_exceptions=True)

    async def get(self, kind: Kind[RequestT, ReplyT], request: RequestT) -> Cached[ReplyT]:
        """The answer to `request`, whose options say how fresh it must be and whether to wait for a newer one.

        Raises what the call raises, if that is an error and there is nothing that may stand in for it.
        """
        if self._closed:
            return Cached(await self._caller.call(kind.method, request), hit=False)
        now = self._clock.monotonic()
        key = key_of(kind, request)
        self._forget(self._table.expire(now))
        entry = self._table.find(key, now)
        if entry is not None and entry.answers(request, now, first=True):
            return Cached(entry.value, hit=True, age_s=entry.age_s(now))  # type: ignore[arg-type]
        slot = self._fetching(kind, request, key, now)
        wait_s = min(seconds(request.max_query_time) or WAIT_DEFAULT_S, WAIT_MAX_S)
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            done = slot.done
            try:
                # Only what is there may be given when the time is over; the first fetch has the call's own time-out.
                async with timeout_at(deadline if slot.entry.valid else None):
                    await done.wait()
            except TimeoutError:
                return Cached(slot.entry.value, hit=False)  # type: ignore[arg-type]
            entry, now = slot.entry, self._clock.monotonic()
            if entry.answers(request, now, first=False):
                return Cached(entry.value, hit=False)  # type: ignore[arg-type]
            if entry.error is not None:
                if entry.excuses(request, now):
                    return Cached(entry.value, hit=True, age_s=entry.age_s(now))  # type: ignore[arg-type]
                raise entry.error.with_traceback(None)
            if entry.gone:
                return Cached(await self._caller.call(kind.method, request), hit=False)

    def _fetching(self, kind: Kind[RequestT, ReplyT], request: RequestT, key: bytes, now: float) -> _Slot:
        """The slot of `key`, with a fetch under way."""
        slot = self._slots.get(key)
        if slot is None:
            entry, out = self._table.add(key, now, refreshed=kind.refreshed)
            slot = self._slots[key] = _Slot(entry)
            self._forget(out)
        if slot.task is None:
            slot.task = asyncio.get_running_loop().create_task(self._keep(slot, kind, request))
            slot.task.add_done_callback(lambda task: self._ended(slot, task))
        slot.hurry.set()
        return slot

    def _ended(self, slot: _Slot, task: asyncio.Task[None]) -> None:
        slot.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("Cache fetch failed", error=f"{type(error).__name__}: {error}")
            self._table.failed(slot.entry, RPCError("internal error"), self._clock.monotonic())
        slot.wake()

    def _forget(self, entries: list[Entry]) -> None:
        """What the table has let go needs no refreshing any more."""
        for entry in entries:
            slot = self._slots.get(entry.key)
            if slot is None or slot.entry is not entry:
                continue
            del self._slots[entry.key]
            if slot.task is not None and slot.task is not asyncio.current_task():
                slot.task.cancel()
            slot.wake()

    # --- fetching ---------------------------------------------------------------------------------------------

    async def _keep(self, slot: _Slot, kind: Kind[RequestT, ReplyT], request: RequestT) -> None:
        """Fetch once; a kind that is refreshed again and again, until the entry has gone."""
        entry = slot.entry
        while not entry.gone and not self._closed:
            if isinstance(request, ServiceSpecificRequest) and kind.method is HEALTH_SERVICE_NODES:
                await self._follow(slot, request)
                if entry.gone:
                    return
            while (pause := self._table.pause_s(entry, self._clock.monotonic())) > 0:
                await asyncio.sleep(pause)
            began, index = self._clock.monotonic(), entry.index
            await self._fetch(slot, kind, request)
            slot.hurry.clear()
            if entry.error is not None and (not entry.valid or "ACL not found" in str(entry.error)):
                self._table.drop(entry)
                self._forget([entry])
            if not kind.refreshed or entry.gone:
                return
            slot.wake()
            pause = entry.backoff_s(self._draw)
            if entry.index == index and entry.error is None and self._clock.monotonic() - began < REFRESH_PAUSE_S:
                pause = max(pause, REFRESH_PAUSE_S)
            await _pause(pause, slot.hurry)

    async def _follow(self, slot: _Slot, request: ServiceSpecificRequest) -> None:
        """Keep an entry fresh by a subscription, until that cannot go on; then calls do it."""
        entry, failures = slot.entry, 0
        try:
            view = HealthView(request)
        except ValueError:
            return  # a server says what is wrong with the filter
        while self._subscriber is not None and self._may_stream(entry, request) and failures < STREAM_FAILURES_MAX:
            connected = asyncio.get_running_loop().call_later(CONNECTED_S, _connected, entry)
            try:
                failures = 0 if await self._subscribed(self._subscriber, slot, view) else failures + 1
            except TimeoutError:
                if not view.complete:
                    return
                if self._clock.monotonic() - entry.used_at >= STREAM_IDLE_S:
                    self._table.drop(entry)
                    self._forget([entry])
            except NoServers:
                return
            except NotOffered:
                self._stream_at = self._clock.monotonic() + STREAM_RETRY_S
            except (RPCError, DecodeError) as error:
                failures += 1
                if isinstance(error, GRPCError) and error.status == Status.ABORTED:
                    view.reset()
                elif entry.lost_contact_at is None:
                    self._log.debug("Subscription lost", service=request.service_name, error=str(error))
                    entry.lost_contact_at = self._clock.monotonic()
                await asyncio.sleep(self._draw.random() * STREAM_PAUSE_S * 2**failures)
            finally:
                connected.cancel()

    async def _subscribed(self, subscriber: Subscriber, slot: _Slot, view: HealthView) -> bool:
        """One subscription, to its end. Raises TimeoutError without a snapshot, or when it was quiet for long."""
        entry, loop, news = slot.entry, asyncio.get_running_loop(), False
        async with timeout(SNAPSHOT_TIMEOUT_S) as limit, aclosing(subscriber.subscribe(view.question)) as told:
            if view.complete:
                limit.reschedule(loop.time() + STREAM_IDLE_S)
            async for message in told:
                if not view.apply(EVENT.decode(message)):
                    continue
                news = True
                limit.reschedule(loop.time() + STREAM_IDLE_S)
                self._forget(self._table.arrived(entry, view.reply(), view.index, self._clock.monotonic()))
                slot.hurry.clear()
                slot.wake()
                if entry.gone:
                    break
        return news

    def _may_stream(self, entry: Entry, request: ServiceSpecificRequest) -> bool:
        if entry.gone or self._closed or self._clock.monotonic() < self._stream_at:
            return False
        return _can_be_followed(request)

    def _call_wait_s(self, kind: Kind[RequestT, ReplyT], request: RequestT) -> float:
        """How long a call may block: what a subscription could follow as well, until one may be tried again."""
        if self._subscriber is None or kind.method is not HEALTH_SERVICE_NODES:
            return REFRESH_WAIT_S
        if not isinstance(request, ServiceSpecificRequest) or not _can_be_followed(request):
            return REFRESH_WAIT_S
        left = self._stream_at - self._clock.monotonic()
        return max(left, STREAM_CALL_S) if left > 0 else STREAM_RETRY_S

    async def _fetch(self, slot: _Slot, kind: Kind[RequestT, ReplyT], request: RequestT) -> None:
        """One call; its result goes into the entry."""
        entry, loop = slot.entry, asyncio.get_running_loop()
        # After an error the servers may be others, with lower indexes: then see first what there is.
        blocking = kind.refreshed and entry.valid and entry.error is None
        connected = loop.call_later(CONNECTED_S, _connected, entry) if blocking else None
        try:
            wait_s = self._call_wait_s(kind, request)
            reply = await self._caller.call(kind.method, _question(request, entry.index if blocking else 0, wait_s))
        except ConsulError as error:
            if entry.valid and entry.lost_contact_at is None:
                self._log.warn("Cannot refresh a cached answer", kind=kind.name, error=str(error))
            self._table.failed(entry, error, self._clock.monotonic())
        else:
            index = reply.index if isinstance(reply, QueryMeta) else 1
            self._forget(self._table.arrived(entry, reply, index, self._clock.monotonic()))
        finally:
            if connected is not None:
                connected.cancel()


def _connected(entry: Entry) -> None:
    entry.lost_contact_at = None


async def _pause(span_s: float, hurry: asyncio.Event) -> None:
    """Wait, but not when somebody is waiting for the result."""
    if span_s <= 0:
        return
    try:
        async with timeout(span_s):
            await hurry.wait()
    except TimeoutError:
        return


def _can_be_followed(request: ServiceSpecificRequest) -> bool:
    """Whether a subscription tells what is asked for: none knows of gateways or of who is near."""
    return not request.ingress and not request.source.node


def _question(request: RequestT, index: int, wait_s: float) -> RequestT:
    """What is asked of a server: any may answer, as the answer will be old anyhow."""
    return replace(
        request,
        min_query_index=index,
        max_query_time=duration(wait_s) if index else Duration(0),
        allow_stale=True,
        require_consistent=False,
        max_stale_duration=Duration(0),
    )


def key_of(kind: Kind[RequestT, ReplyT], request: RequestT) -> bytes:
    """16 bytes that stand for the question and who asks it, without how fresh the answer must be."""
    plain = replace(
        request,
        min_query_index=0,
        max_query_time=Duration(0),
        allow_stale=False,
        require_consistent=False,
        use_cache=False,
        max_stale_duration=Duration(0),
        max_age=Duration(0),
        must_revalidate=False,
        stale_if_error=Duration(0),
    )
    if isinstance(plain, PreparedQueryExecuteRequest):
        # As in Consul, who asks does not count: else each client of DNS would have entries of its own.
        plain = replace(plain, source=QuerySource(node=plain.source.node), agent=QuerySource())
    return hashlib.blake2b(encode((kind.name, encode(plain))), digest_size=16).digest()
