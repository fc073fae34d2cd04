"""One gossip pool: Swim and Serf on a UDP and a TCP socket of `env`, one group of tasks, and what callers ask of it.

Decides nothing about the protocol; the driver moves bytes and effects between sockets and cores. After `stop` no task,
timer or socket of the pool is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pyconsul_agent.env.base import Env, Listener
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError, NetError, NetTimeout
from pyconsul_agent.runtime.gossip_address import JoinTarget, endpoint, errors_text, parse_join_address
from pyconsul_agent.runtime.gossip_cipher import GossipSeal
from pyconsul_agent.runtime.gossip_driver import GossipDriver
from pyconsul_agent.runtime.gossip_events import PoolEvent, Subscription
from pyconsul_agent.runtime.gossip_options import GossipOptions
from pyconsul_agent.runtime.gossip_rejoin import rejoin
from pyconsul_agent.runtime.gossip_waiting import Waiting
from pyconsul_agent.runtime.serf_snapshot_file import SnapshotFile
from pyconsul_agent.serf import keys
from pyconsul_agent.serf.core import Serf
from pyconsul_agent.serf.effects import QueryReceived, Reconnect
from pyconsul_agent.serf.keys import KeyOutcome
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.structs.member import Member
from pyconsul_agent.swim.core import Swim
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.telemetry.instruments import Instruments
from pyconsul_agent.telemetry.net_meters import GossipMeter
from pyconsul_agent.wire.gossip import Address
from pyconsul_agent.wire.gossip_crypto import OVERHEAD
from pyconsul_agent.wire.serf import KeyRequest, encode

JOIN_PARALLEL_MAX = 16
JOIN_GRACE_S = 10.0

__all__ = ["GossipOptions", "GossipPool", "PoolEvent", "Subscription"]


class GossipPool:
    """A running member of a pool."""

    def __init__(self, env: Env, log: Log, options: GossipOptions, meter: GossipMeter | None = None) -> None:
        self._env = env
        self._meter = meter = meter or Instruments().gossip
        self._log = log
        self._options = options
        self._stopping = asyncio.Event()
        self._seal = GossipSeal(
            options.keyring,
            env.token_bytes,
            verify_incoming=options.verify_incoming,
            verify_outgoing=options.verify_outgoing,
        )
        self._snapshot_file = SnapshotFile(env.files, env.blocking, log, options.snapshot_path, wrote=meter.wrote)
        self._waiting = Waiting()
        self._driver = GossipDriver(
            env,
            log,
            options,
            seal=self._seal,
            snapshot_file=self._snapshot_file,
            waiting=self._waiting,
            meter=meter,
            spawn=self._spawn,
            reconnect=lambda order: self._spawn(self._reconnect(order)),
            quit=self._stopping.set,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._owner: asyncio.Task[None] | None = None
        self._listener: Listener | None = None
        self._has_left = False

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind, become a member of our own pool, begin to rejoin what the snapshot knows.

        Raises NetError (ports), ValueError (tags too long), OSError (snapshot file).
        """
        options = self._options
        snapshot = await self._snapshot_file.load(rejoin_after_leave=options.serf.rejoin_after_leave)
        self._driver.serf = Serf(
            options.serf,
            name=options.name,
            tags=options.tags,
            rng=self._env.random,
            veto=options.veto,
            snapshot=snapshot,
            snapshot_bytes=self._snapshot_file.bytes_at_start,
        )
        self._driver.serf.set_keyring(options.keyring)
        await self._bind()
        overhead = OVERHEAD[1] if self._seal.is_on else 0
        self._driver.swim = Swim(
            replace(options.swim, packet_overhead=overhead),
            name=options.name,
            advertise=options.advertise or self.local_address,
            delegate=self._driver.serf,
            rng=self._env.random,
        )
        ready = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._own(ready), name=f"gossip {options.serf.pool} {options.name}")
        await ready
        now = self._now()
        self._driver.serf.start(now)
        self._driver.swim.start(now)
        self._driver.perform(now)
        if snapshot is not None:
            self._spawn(self._rejoin(snapshot.alive))

    async def _bind(self) -> None:
        """One port number for TCP and UDP."""
        host, port = self._options.bind_host, self._options.bind_port
        self._listener = await self._env.net.listen(self._driver.streams.protocol, host, port)
        try:
            self._driver.datagrams = await self._env.net.datagrams(self._driver.packet, host, self._listener.local[1])
        except NetError:
            await self._listener.close()
            raise

    async def _own(self, ready: asyncio.Future[None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._snapshot_file.run())
                ready.set_result(None)
                await self._stopping.wait()
                for task in self._tasks:
                    task.cancel()
                self._snapshot_file.finish()
        finally:
            self._group = None
            self._driver.silence()

    async def stop(self) -> None:
        """Stop without leaving (call `leave` first for that). Safe to call twice."""
        if self._owner is None:
            return
        if not self._has_left:
            self._log.warn("Shutdown without a Leave")
        self._driver.serf.flush_snapshot()
        self._driver.perform(self._now())
        self._stopping.set()
        self._driver.silence()
        if self._listener is not None:
            await self._listener.close()
        owner, self._owner = self._owner, None
        await owner

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._group is None or self._stopping.is_set():
            work.close()
            return
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _now(self) -> float:
        return self._env.clock.monotonic()

    # --- membership -----------------------------------------------------------------------------------------------

    async def join(self, addresses: Sequence[str]) -> int:
        """Push/pull with every address (`[name/]host[:port]`, a host may have several); returns how many answered.

        Raises NetError when none did, with every reason, as Consul words it.
        """
        errors: list[str] = []
        targets: list[tuple[str, Address]] = []
        for address in addresses:
            try:
                targets += await self._resolve(parse_join_address(address, self.local_address[1]))
            except NetError as error:
                errors.append(f"Failed to resolve {address}: {error}")
        count = 0
        self._driver.serf.begin_join()
        try:
            for start in range(0, len(targets), JOIN_PARALLEL_MAX):
                batch = targets[start : start + JOIN_PARALLEL_MAX]
                for (_, to), reason in zip(batch, await self._push_pull(batch), strict=True):
                    if reason is None:
                        count += 1
                    else:
                        errors.append(f"Failed to join {endpoint(*to)}: {reason}")
        finally:
            now = self._now()
            self._driver.serf.finish_join(count, now)
            self._driver.perform(now)
        if not count and errors:
            raise NetError(errors_text(errors))
        return count

    async def _resolve(self, target: JoinTarget) -> list[tuple[str, Address]]:
        return [(target.name, (ip, target.port)) for ip in await self._env.resolver.resolve(target.host)]

    async def _push_pull(self, targets: Sequence[tuple[str, Address]]) -> list[str | None]:
        """One joining push/pull with each; None or the error, in order."""
        now = self._now()
        futures = []
        for number in self._driver.swim.join(targets, now):
            future = self._waiting.joins[number] = asyncio.get_running_loop().create_future()
            futures.append(future)
        self._driver.perform(now)
        timeout_s = self._options.swim.stream_timeout_s + JOIN_GRACE_S
        _, late = await asyncio.wait(futures, timeout=timeout_s)
        for future in late:
            future.cancel()
        return ["i/o timeout" if future in late else future.result() for future in futures]

    async def _rejoin(self, alive: Mapping[str, str]) -> None:
        """Find those whom the snapshot knows."""
        serf = self._options.serf
        await rejoin(
            alive,
            self._contact,
            lambda: len(self._driver.serf.members()) > 1,
            self._env.random,
            self._log,
            pool=serf.pool,
            own_name=self._options.name,
            interval_s=serf.reconnect_interval_s,
        )

    async def _contact(self, name: str, address: str) -> bool:
        """Whether a member answers at an address. Raises NetError when that is none."""
        targets = await self._resolve(parse_join_address(address, self.local_address[1]))
        return None in await self._push_pull([(name, to) for _, to in targets])

    async def _reconnect(self, order: Reconnect) -> None:
        where = endpoint(*order.to)
        self._log.info("attempting reconnect", node=order.name, address=where)
        (error,) = await self._push_pull([(order.name, order.to)])
        if error is not None:
            self._log.debug("reconnect failed", node=order.name, address=where, error=error)

    async def leave(self) -> None:
        """Leave in order: intent, then memberlist's word, then time for both to spread. The pool keeps answering."""
        if await self.begin_leave():
            await self.finish_leave()

    async def begin_leave(self) -> bool:
        """Say that we leave, to as many as the protocol asks for; False if that was done already."""
        if self._has_left:
            return False
        self._has_left = True
        serf = self._options.serf
        if await self._intent_sent(self._driver.serf.begin_leave(self._now())):
            self._log.warn("timeout while waiting for graceful leave")
        ticket = self._driver.swim.leave(self._now(), serf.broadcast_timeout_s)
        if await self._outcome(self._waiting.broadcasts, ticket):
            self._log.warn("timeout waiting for leave broadcast")
        return True

    async def finish_leave(self) -> None:
        """Give the word time to reach everybody; follows `begin_leave`."""
        await asyncio.sleep(self._options.serf.leave_propagate_delay_s)
        self._driver.serf.finish_leave()
        self._driver.perform(self._now())

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Take a failed member for left; `prune`: forget it. Raises NetTimeout when the word could not be spread."""
        if await self._intent_sent(self._driver.serf.force_leave(name, self._now(), prune=prune)):
            raise NetTimeout("timed out broadcasting node removal")

    async def set_tags(self, tags: Mapping[str, str]) -> None:
        """Announce new tags. Raises ValueError when they are too long, NetTimeout when they could not be spread."""
        self._driver.serf.set_tags(tags)
        ticket = self._driver.swim.update_meta(self._now(), self._options.serf.broadcast_timeout_s)
        if await self._outcome(self._waiting.broadcasts, ticket):
            raise NetTimeout("timeout waiting for update broadcast")

    def user_event(self, name: str, payload: bytes, *, coalesce: bool = False) -> None:
        """Broadcast a user event. Raises ValueError when it is too long."""
        self._driver.serf.user_event(name, payload, coalesce=coalesce)
        self._driver.perform(self._now())

    def respond(self, query: QueryReceived, payload: bytes) -> bool:
        """Answer a query; False when its time is over. Raises ValueError when the payload is too long."""
        now = self._now()
        answered = self._driver.serf.respond(query.ltime, query.id, payload, now)
        self._driver.perform(now)
        return answered

    def set_keyring(self, keyring: Keyring) -> None:
        """Use other keys from now on; a pool without encryption cannot get one while it runs."""
        if not self._seal.is_on:
            raise ConsulError("encryption is not enabled")
        self._seal.set_keyring(keyring)
        self._driver.serf.set_keyring(keyring)

    async def key_operation(self, operation: str, key: bytes = b"", *, relay_factor: int = 0) -> KeyOutcome:
        """`install-key`, `use-key`, `remove-key` or `list-keys` on every member; returns when all answered or in time.

        The outcome carries the errors of members. Raises ValueError when the query cannot be sent.
        """
        assert keys.KEY_PREFIX + operation in keys.KEY_QUERIES, operation
        outcome = KeyOutcome(self._driver.swim.alive_count())
        payload = encode(KeyRequest(key=key))
        async with aclosing(self.ask(keys.KEY_PREFIX + operation, payload, relay_factor=relay_factor)) as answers:
            async for node, answer in answers:
                outcome.count(node, answer)
                if outcome.is_complete:
                    break
        return outcome

    async def ask(self, name: str, payload: bytes, *, relay_factor: int = 0) -> AsyncGenerator[tuple[str, bytes], None]:
        """Ask every member; (node, payload) of the answers as they come, until the time for them is over.

        Raises ValueError, at the first step, when the query cannot be sent.
        """
        now = self._now()
        timeout_s = self._driver.serf.query_timeout_s(self._driver.swim.alive_count())
        number = self._driver.serf.ask(name, payload, now, timeout_s=timeout_s, relay_factor=relay_factor)
        answers = self._waiting.answers[number] = asyncio.Queue()
        self._driver.perform(now)
        try:
            while (answer := await answers.get()) is not None:
                yield answer
        finally:
            del self._waiting.answers[number]
            self._driver.serf.end_query(number)

    async def _intent_sent(self, ticket: int) -> bool:
        return await self._outcome(self._waiting.intents, ticket)

    async def _outcome(self, book: dict[int, asyncio.Future[bool]], ticket: int) -> bool:
        """Carry out what was begun and wait until it is spread; True when it timed out."""
        book[ticket] = asyncio.get_running_loop().create_future()
        self._driver.perform(self._now())
        try:
            return await book[ticket]
        finally:
            del book[ticket]

    # --- views ----------------------------------------------------------------------------------------------------

    @property
    def local_address(self) -> Address:
        """Where the pool is bound."""
        assert self._listener is not None
        return self._listener.local

    @property
    def is_encrypted(self) -> bool:
        """Whether the pool has keys, from the configuration or from its file."""
        return self._seal.is_on

    @property
    def keyring(self) -> Keyring | None:
        """The keys in use."""
        return self._seal.keyring

    def members(self) -> list[Member]:
        """All members known, self, failed and left ones too, by name."""
        return self._driver.serf.members()

    def member(self, name: str) -> Member | None:
        """One member."""
        return self._driver.serf.member(name)

    def local_member(self) -> Member:
        """Ourselves."""
        member = self._driver.serf.member(self._options.name)
        assert member is not None
        return member

    @property
    def name_taken_by(self) -> str | None:
        """`address:port` of another node with our name, if the last join met one."""
        return self._driver.serf.name_taken_by

    def coordinate(self) -> VivaldiCoordinate:
        """Our network coordinate."""
        return self._driver.serf.coordinate

    def cached_coordinate(self, name: str) -> VivaldiCoordinate | None:
        """A member's coordinate as it last told us."""
        return self._driver.serf.cached_coordinate(name)

    def stats(self) -> dict[str, str]:
        """The section `serf_lan` or `serf_wan` of `consul info`."""
        values = {name: str(value) for name, value in self._driver.serf.stats().items()}
        values["encrypted"] = "true" if self.is_encrypted else "false"
        values["health_score"] = str(self._driver.swim.health_score)
        return dict(sorted(values.items()))

    def measures(self) -> Iterator[tuple[str, float, Mapping[str, str]]]:
        """Gauges, once in an interval of the metrics; none before the start."""
        return self._meter.look(self.stats()) if self._owner is not None else iter(())

    def subscribe(self) -> Subscription:
        """Member events, user events and queries from now on."""
        subscription = Subscription(self._driver.subscriptions.remove)
        self._driver.subscriptions.append(subscription)
        return subscription
