"""Drives one gossip pool: Swim and Serf on a UDP and a TCP socket of `env`, one timer, one group of tasks.

Decides nothing about the protocol: bytes go in, effects come out and are carried out in order, the timer is set to the
next deadline. After `stop` no task, timer or socket of the pool is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from pyconsul_agent.env.base import Datagrams, Env, Listener
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError, DecodeError, DialRefused, NetError, NetTimeout
from pyconsul_agent.runtime.gossip_address import JoinTarget, endpoint, errors_text, parse_join_address
from pyconsul_agent.runtime.gossip_cipher import GossipSeal
from pyconsul_agent.runtime.gossip_events import PoolEvent, Subscription
from pyconsul_agent.runtime.gossip_rejoin import rejoin
from pyconsul_agent.runtime.gossip_streams import GossipStreams
from pyconsul_agent.runtime.serf_snapshot_file import SnapshotFile
from pyconsul_agent.serf import keys
from pyconsul_agent.serf.admission import Veto
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.core import Serf
from pyconsul_agent.serf.effects import (
    AppendSnapshot,
    IntentSent,
    KeyringChanged,
    NameLost,
    QueryAnswered,
    QueryFinished,
    QueryReceived,
    Reconnect,
    ReplaceSnapshot,
    SendUser,
    SerfEffect,
)
from pyconsul_agent.serf.keys import KeyOutcome
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.structs.member import Member, MemberEvent, UserEvent
from pyconsul_agent.swim.config import LAN, SwimConfig
from pyconsul_agent.swim.core import Swim
from pyconsul_agent.swim.effects import BroadcastFinished, Effect, JoinFinished, LogLine, OpenStream, SendPacket
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.wire.gossip import Address, StreamMessage
from pyconsul_agent.wire.gossip_crypto import OVERHEAD
from pyconsul_agent.wire.serf import KeyRequest, encode

PACKETS_MAX = 4096
"""Datagrams read but not yet handled; beyond it new ones are dropped, as the socket's own buffer would."""
JOIN_PARALLEL_MAX = 16
ROUNDS_MAX = 10_000
"""Effects may cause effects; this many rounds after one input can only be a bug."""
JOIN_GRACE_S = 10.0
AFTER_ERROR_S = 1.0
"""When the timer is tried again after an error of our own."""
STOPPED = "gossip pool is stopped"

__all__ = ["GossipOptions", "GossipPool", "PoolEvent", "Subscription"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipOptions:
    """One pool. `advertise` None: the bound address. `bind_port` 0: any free one (tests)."""

    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    bind_host: str = "0.0.0.0"  # noqa: S104 - as Consul; the configuration says otherwise when it should
    bind_port: int = 8301
    advertise: Address | None = None
    swim: SwimConfig = LAN
    serf: SerfConfig = SerfConfig()
    veto: Veto | None = None
    keyring: Keyring | None = None
    verify_incoming: bool = True
    verify_outgoing: bool = True
    snapshot_path: str | None = None
    on_keyring: Callable[[Keyring], None] | None = None
    """Called when a key query changed the ring, to keep its file: before the answer, so it may write that file."""


class GossipPool:
    """A running member of a pool."""

    def __init__(self, env: Env, log: Log, options: GossipOptions) -> None:
        self._env = env
        self._log = log
        self._options = options
        self._seal = GossipSeal(
            options.keyring,
            env.token_bytes,
            verify_incoming=options.verify_incoming,
            verify_outgoing=options.verify_outgoing,
        )
        self._streams = GossipStreams(
            env.net,
            log,
            self._seal,
            timeout_s=options.swim.stream_timeout_s,
            spawn=self._spawn,
            answer=self._answer_stream,
        )
        self._snapshot_file = SnapshotFile(env.files, env.blocking, log, options.snapshot_path)
        self._subscriptions: list[Subscription] = []
        self._joins: dict[int, asyncio.Future[str | None]] = {}
        self._broadcasts: dict[int, asyncio.Future[bool]] = {}
        self._intents: dict[int, asyncio.Future[bool]] = {}
        self._answers: dict[int, asyncio.Queue[tuple[str, bytes] | None]] = {}
        self._packets: list[tuple[bytes, Address]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._lag_told = 0.0  # of the timer that is set now
        self._timer_due = 0.0  # uvloop gives a handle without `when()` for a time that has come
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._owner: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._datagrams: Datagrams | None = None
        self._listener: Listener | None = None
        self._has_left = False
        self._performing = False
        self._swim: Swim
        self._serf: Serf

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind, become a member of our own pool, begin to rejoin what the snapshot knows.

        Raises NetError (ports), ValueError (tags too long), OSError (snapshot file).
        """
        options = self._options
        snapshot = await self._snapshot_file.load(rejoin_after_leave=options.serf.rejoin_after_leave)
        self._serf = Serf(
            options.serf,
            name=options.name,
            tags=options.tags,
            rng=self._env.random,
            veto=options.veto,
            snapshot=snapshot,
            snapshot_bytes=self._snapshot_file.bytes_at_start,
        )
        self._serf.set_keyring(options.keyring)
        await self._bind()
        overhead = OVERHEAD[1] if self._seal.is_on else 0
        self._swim = Swim(
            replace(options.swim, packet_overhead=overhead),
            name=options.name,
            advertise=options.advertise or self.local_address,
            delegate=self._serf,
            rng=self._env.random,
        )
        ready = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._own(ready), name=f"gossip {options.serf.pool} {options.name}")
        await ready
        now = self._now()
        self._serf.start(now)
        self._swim.start(now)
        self._perform(now)
        if snapshot is not None:
            self._spawn(self._rejoin(snapshot.alive))

    async def _bind(self) -> None:
        """One port number for TCP and UDP."""
        host, port = self._options.bind_host, self._options.bind_port
        self._listener = await self._env.net.listen(self._streams.protocol, host, port)
        try:
            self._datagrams = await self._env.net.datagrams(self._packet, host, self._listener.local[1])
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
            self._silence()

    async def stop(self) -> None:
        """Stop without leaving (call `leave` first for that). Safe to call twice."""
        if self._owner is None:
            return
        if not self._has_left:
            self._log.warn("Shutdown without a Leave")
        self._serf.flush_snapshot()
        self._perform(self._now())
        self._stopping.set()
        self._silence()
        if self._listener is not None:
            await self._listener.close()
        owner, self._owner = self._owner, None
        await owner

    def _silence(self) -> None:
        """Close what calls us, and let nobody wait for what will not happen."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        self._packets.clear()
        for join in self._joins.values():
            _settle(join, STOPPED)
        for answers in self._answers.values():
            answers.put_nowait(None)
        for future in (*self._broadcasts.values(), *self._intents.values()):
            if not future.done():
                future.set_exception(NetError(STOPPED))
        for subscription in list(self._subscriptions):
            subscription.close()

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
        self._serf.begin_join()
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
            self._serf.finish_join(count, now)
            self._perform(now)
        if not count and errors:
            raise NetError(errors_text(errors))
        return count

    async def _resolve(self, target: JoinTarget) -> list[tuple[str, Address]]:
        return [(target.name, (ip, target.port)) for ip in await self._env.resolver.resolve(target.host)]

    async def _push_pull(self, targets: Sequence[tuple[str, Address]]) -> list[str | None]:
        """One joining push/pull with each; None or the error, in order."""
        now = self._now()
        futures = []
        for number in self._swim.join(targets, now):
            future = self._joins[number] = asyncio.get_running_loop().create_future()
            futures.append(future)
        self._perform(now)
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
            lambda: len(self._serf.members()) > 1,
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
        if await self._intent_sent(self._serf.begin_leave(self._now())):
            self._log.warn("timeout while waiting for graceful leave")
        ticket = self._swim.leave(self._now(), serf.broadcast_timeout_s)
        if await self._outcome(self._broadcasts, ticket):
            self._log.warn("timeout waiting for leave broadcast")
        return True

    async def finish_leave(self) -> None:
        """Give the word time to reach everybody; follows `begin_leave`."""
        await asyncio.sleep(self._options.serf.leave_propagate_delay_s)
        self._serf.finish_leave()
        self._perform(self._now())

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Take a failed member for left; `prune`: forget it. Raises NetTimeout when the word could not be spread."""
        if await self._intent_sent(self._serf.force_leave(name, self._now(), prune=prune)):
            raise NetTimeout("timed out broadcasting node removal")

    async def set_tags(self, tags: Mapping[str, str]) -> None:
        """Announce new tags. Raises ValueError when they are too long, NetTimeout when they could not be spread."""
        self._serf.set_tags(tags)
        ticket = self._swim.update_meta(self._now(), self._options.serf.broadcast_timeout_s)
        if await self._outcome(self._broadcasts, ticket):
            raise NetTimeout("timeout waiting for update broadcast")

    def user_event(self, name: str, payload: bytes, *, coalesce: bool = False) -> None:
        """Broadcast a user event. Raises ValueError when it is too long."""
        self._serf.user_event(name, payload, coalesce=coalesce)
        self._perform(self._now())

    def respond(self, query: QueryReceived, payload: bytes) -> bool:
        """Answer a query; False when its time is over. Raises ValueError when the payload is too long."""
        now = self._now()
        answered = self._serf.respond(query.ltime, query.id, payload, now)
        self._perform(now)
        return answered

    def set_keyring(self, keyring: Keyring) -> None:
        """Use other keys from now on; a pool without encryption cannot get one while it runs."""
        if not self._seal.is_on:
            raise ConsulError("encryption is not enabled")
        self._seal.set_keyring(keyring)
        self._serf.set_keyring(keyring)

    async def key_operation(self, operation: str, key: bytes = b"", *, relay_factor: int = 0) -> KeyOutcome:
        """`install-key`, `use-key`, `remove-key` or `list-keys` on every member; returns when all answered or in time.

        The outcome carries the errors of members. Raises ValueError when the query cannot be sent.
        """
        assert keys.KEY_PREFIX + operation in keys.KEY_QUERIES, operation
        outcome = KeyOutcome(self._swim.alive_count())
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
        timeout_s = self._serf.query_timeout_s(self._swim.alive_count())
        number = self._serf.ask(name, payload, now, timeout_s=timeout_s, relay_factor=relay_factor)
        answers = self._answers[number] = asyncio.Queue()
        self._perform(now)
        try:
            while (answer := await answers.get()) is not None:
                yield answer
        finally:
            del self._answers[number]
            self._serf.end_query(number)

    async def _intent_sent(self, ticket: int) -> bool:
        return await self._outcome(self._intents, ticket)

    async def _outcome(self, book: dict[int, asyncio.Future[bool]], ticket: int) -> bool:
        """Carry out what was begun and wait until it is spread; True when it timed out."""
        book[ticket] = asyncio.get_running_loop().create_future()
        self._perform(self._now())
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
        return self._serf.members()

    def member(self, name: str) -> Member | None:
        """One member."""
        return self._serf.member(name)

    def local_member(self) -> Member:
        """Ourselves."""
        member = self._serf.member(self._options.name)
        assert member is not None
        return member

    @property
    def name_taken_by(self) -> str | None:
        """`address:port` of another node with our name, if the last join met one."""
        return self._serf.name_taken_by

    def coordinate(self) -> VivaldiCoordinate:
        """Our network coordinate."""
        return self._serf.coordinate

    def cached_coordinate(self, name: str) -> VivaldiCoordinate | None:
        """A member's coordinate as it last told us."""
        return self._serf.cached_coordinate(name)

    def stats(self) -> dict[str, str]:
        """The section `serf_lan` or `serf_wan` of `consul info`."""
        values = {name: str(value) for name, value in self._serf.stats().items()}
        values["encrypted"] = "true" if self.is_encrypted else "false"
        values["health_score"] = str(self._swim.health_score)
        return dict(sorted(values.items()))

    def subscribe(self) -> Subscription:
        """Member events, user events and queries from now on."""
        subscription = Subscription(self._subscriptions.remove)
        self._subscriptions.append(subscription)
        return subscription

    # --- inputs ---------------------------------------------------------------------------------------------------

    def _packet(self, data: bytes, source: Address) -> None:
        if not self._packets:
            asyncio.get_running_loop().call_soon(self._flush_packets)
        if len(self._packets) < PACKETS_MAX:
            self._packets.append((data, source))

    def _flush_packets(self) -> None:
        """One burst of datagrams at once, so that Swim can take the newest news first."""
        packets, self._packets = self._packets, []
        if not packets or self._stopping.is_set():
            return
        opened = []
        for data, source in packets:
            try:
                opened.append((self._seal.unpack(data), source))
            except DecodeError as error:
                self._log.debug("packet ignored", from_=endpoint(*source), error=error.reason)
        now = self._now()
        try:
            self._note_lag(now, self._timer_due)
            self._swim.receive(opened, now)
            self._perform(now)
        except Exception as error:  # the edge: whatever peers send must not end the pool
            peers = sorted({endpoint(*source) for _, source in opened})[:8]
            self._log.error("gossip: packets caused an error", from_=peers, error=repr(error))
            self._set_timer()

    def _answer_stream(self, message: StreamMessage, peer: Address) -> bytes | None:
        now = self._now()
        answer = self._swim.stream_requested(message, peer, now)
        self._perform(now)
        return answer

    async def _open_stream(self, order: OpenStream) -> None:
        try:
            message = await self._streams.exchange(order)
        except (NetError, DecodeError) as error:
            now = self._now()
            self._swim.stream_failed(order.id, str(error), now, refused=isinstance(error, DialRefused))
        else:
            now = self._now()
            self._swim.stream_answered(order.id, message, now)
        self._perform(now)

    def _on_timer(self, due: float) -> None:
        now = self._now()
        self._note_lag(now, due)
        self._timer = None
        self._flush_packets()  # what was read before this timer ran is older than the deadlines it checks
        try:
            self._swim.tick(now)
            self._serf.tick(now)
            self._perform(now)
        except Exception as error:  # the edge: a pool that stops gossiping in silence would be declared dead
            self._log.error("gossip: the timer caused an error", error=repr(error))
            self._arm(now + AFTER_ERROR_S)

    def _note_lag(self, now: float, due: float) -> None:
        """Tell Swim when this loop stood still, before it judges others by what it has not read yet."""
        if self._timer is None:
            return
        fresh = self._env.clock.lag(due) - self._lag_told
        if fresh > 0 and self._swim.note_lag(fresh, now):
            self._lag_told += fresh
            self._log.debug("gossip: the event loop stood still", seconds=round(fresh, 3))

    # --- effects --------------------------------------------------------------------------------------------------

    def _perform(self, now: float) -> None:
        """Carry out effects, and what they cause, in order; then set the timer."""
        if self._performing:
            return
        self._performing = True
        try:
            for _ in range(ROUNDS_MAX):
                effects = self._swim.take()
                told = self._serf.take()
                if not effects and not told:
                    break
                for serf_effect in told:
                    self._do_serf(serf_effect)
                for effect in effects:
                    self._do(effect, now)
            else:
                raise AssertionError("gossip effects do not end")
        finally:
            self._performing = False
        self._set_timer()

    def _do(self, effect: Effect, now: float) -> None:
        match effect:
            case SendPacket(to, data):
                if self._datagrams is not None:
                    self._datagrams.send(self._seal.packet(data), to)
            case OpenStream():
                self._spawn(self._open_stream(effect))
            case JoinFinished(number, _, error):
                _settle(self._joins.pop(number, None), error)
            case BroadcastFinished(ticket, timed_out):
                _settle(self._broadcasts.get(ticket), timed_out)
            case LogLine():
                self._write_log(effect)
            case _:
                self._serf.handle(effect, now)
                for told in self._serf.take():
                    self._do_serf(told)

    def _do_serf(self, effect: SerfEffect) -> None:
        match effect:
            case MemberEvent() | UserEvent() | QueryReceived():
                self._publish(effect)
            case SendUser(to, data):
                self._swim.send_user(to, data)
            case Reconnect():
                self._spawn(self._reconnect(effect))
            case AppendSnapshot() | ReplaceSnapshot():
                self._snapshot_file.write(effect)
            case QueryAnswered(number, node, payload):
                if payload is not None and number in self._answers:
                    self._answers[number].put_nowait((node, payload))
            case QueryFinished(number):
                if number in self._answers:
                    self._answers[number].put_nowait(None)
            case KeyringChanged(keyring):
                self._seal.set_keyring(keyring)
                if self._options.on_keyring is not None:
                    self._options.on_keyring(keyring)
            case NameLost(answers, agreed):
                text = "minority in name conflict resolution, quitting"
                self._log.error(text, answers=answers, agreed=agreed)
                self._stopping.set()
            case IntentSent(ticket, timed_out):
                _settle(self._intents.get(ticket), timed_out)
            case LogLine():
                self._write_log(effect)

    def _publish(self, event: PoolEvent) -> None:
        if isinstance(event, MemberEvent):
            pool, kind, member = self._options.serf.pool, event.kind.value, event.member
            self._log.event("member_event", pool=pool, kind=kind, name=member.name, address=member.address)
        for subscription in self._subscriptions:
            if not subscription.put(event):
                self._log.warn(
                    "a subscriber of gossip events is too slow, oldest dropped", dropped=subscription.dropped
                )

    def _write_log(self, line: LogLine) -> None:
        pairs = {("from_" if key == "from" else key): value for key, value in line.pairs}
        if line.event:
            self._log.event(line.event, **pairs)
        else:
            getattr(self._log, line.level.value)(line.message, **pairs)

    def _set_timer(self) -> None:
        if self._stopping.is_set():
            return
        deadlines = [due for due in (self._swim.next_deadline(), self._serf.next_deadline()) if due is not None]
        if not deadlines:
            return
        self._arm(min(deadlines))

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            if self._timer_due == due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._lag_told = 0.0
        self._timer = asyncio.get_running_loop().call_at(due, self._on_timer, due)


def _settle(future: asyncio.Future[Any] | None, result: object) -> None:
    if future is not None and not future.done():
        future.set_result(result)
