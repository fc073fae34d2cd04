"""Drives the raft core: its Readies to disk, network and state machine, and the world's answers back. Decides nothing.

One pump task asks the core for Readies. What may leave at once leaves at once; what must be durable goes to one storage
task; what is committed goes to the applier. All proposals of one turn of the loop become one Ready, hence one
transaction. The core is told `advance` only after the transaction's commit has returned. A storage error ends it all:
`fatal` is called and nothing is acknowledged any more.

The core is told the time of a clock that goes on while the machine is suspended: a leader that wakes must not believe
in a lease from before its sleep.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyconsul_agent.env.base import Clock, Net, Worker, open_stream
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError, DecodeError, LeadershipLost, RaftError, StorageError
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.core import Raft
from pyconsul_agent.raft.types import Change, Done, Event, Outgoing, Ready, Refusal, Reply, Role
from pyconsul_agent.runtime.raft_apply import Applier, Outcome, StateMachine
from pyconsul_agent.runtime.raft_incoming import Incoming, request_kind
from pyconsul_agent.runtime.raft_peers import Dial, Peers, close_writer
from pyconsul_agent.runtime.raft_proposals import Admission, in_pieces, pieces_of
from pyconsul_agent.runtime.raft_snapshots import SnapshotSink, SnapshotSource
from pyconsul_agent.runtime.raft_stats import raft_stats
from pyconsul_agent.runtime.raft_storage import RaftStorage
from pyconsul_agent.runtime.raft_watch import LeadershipWatch
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.structs.base import NANOSECONDS_PER_SECOND, GoTime
from pyconsul_agent.structs.raft import (
    Configuration,
    EntryType,
    RaftRequest,
    RaftResponse,
    Server,
    SnapshotMeta,
)
from pyconsul_agent.telemetry.instruments import Instruments
from pyconsul_agent.telemetry.server_meters import RaftMeter
from pyconsul_agent.wire.raft import MODE_RAFT

DIAL_TIMEOUT_S = 2.0
"""Short, because a lane that waits for a lost SYN sends no heartbeats."""
REMOVED_GRACE_S = 2.0
"""A removed server may still get the entry that removes it."""
TIMER_MIN_S = 1e-6
"""The core's clock and the loop's may round differently: time must pass before the next look."""
SHUT_DOWN = "raft is already shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPolicy:
    """When snapshots are taken by themselves: looked at every interval..2*interval, if so many entries came."""

    interval_s: float = 30.0
    threshold: int = 16384


class RaftNode:
    """One server's raft. Satisfies `server.seams` Proposer, Leadership and Membership."""

    def __init__(
        self,
        *,
        config: RaftConfig,
        me: Server,
        storage: RaftStorage,
        machine: StateMachine,
        net: Net,
        clock: Clock,
        blocking: Worker,
        rng: random.Random,
        log: Log,
        resolve: Callable[[Server], tuple[str, int]],
        fatal: Callable[[BaseException], None],
        bind_host: str | None = None,
        policy: SnapshotPolicy = SnapshotPolicy(),
        dial: Dial | None = None,
        meter: RaftMeter | None = None,
    ) -> None:
        """`blocking` runs restores, which take seconds: not the log's worker. `me` is ID and advertised address,
        `resolve` tells where a server is dialed, `dial` replaces plain TCP, `fatal` hears of the error that ended all.
        """
        self._config = config
        self._me = me
        self._storage = storage
        self._machine = machine
        self._net = net
        self._clock = clock
        self._blocking = blocking
        self._random = rng
        self._log = log
        self._fatal = fatal
        self._bind_host = bind_host
        self._policy = policy
        self._meter = meter = meter or Instruments().raft
        self._contact_due = 0.0
        self._tasks = TaskOwner(log)
        self._peers = Peers(
            dial=dial or self._dial,
            resolve=resolve,
            open_snapshot=storage.open_snapshot,
            events=self,
            log=log,
            answered=meter.replied,
        )
        self._incoming = Incoming(
            submit=self._submit,
            identify=self._identify,
            receive_snapshot=storage.receive_snapshot,
            peers=self._peers,
            log=log,
        )
        self._running = False
        self._kicked = asyncio.Event()
        self._to_store: asyncio.Queue[tuple[Ready, int]] = asyncio.Queue()
        self._unstored = 0
        self._stored = asyncio.Event()
        self._stable_index = 0
        self._disk = asyncio.Lock()
        self._snapshotting = asyncio.Lock()
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._sinks: dict[int, SnapshotSink] = {}
        self._next_token = 0
        self._admission = Admission()
        self._watch = LeadershipWatch()
        self._seen_members: frozenset[str] = frozenset()

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what is on disk, restore the newest snapshot, take part. Raises StorageError."""
        initial = await self._storage.load()
        snapshot = initial.snapshot
        if snapshot is not None:
            await self._restore_stored(snapshot)
        index, term = (snapshot.index, snapshot.term) if snapshot else (0, 0)
        self._stable_index = max(initial.last_index, index)
        self._applier = Applier(self._machine, self._clock, index, term)
        self._raft = Raft(self._config, self._me, initial, self._storage.reader, self._random, self._clock.boottime())
        self._running = True
        for name, work in (
            ("raft pump", self._pump),
            ("raft storage", self._store_all),
            ("raft apply", self._applier.run),
            ("raft snapshots", self._snapshot_now_and_then),
        ):
            self._tasks.start(self._essential(work), name)

    async def _restore_stored(self, snapshot: SnapshotMeta) -> None:
        source = await self._storage.open_snapshot(snapshot.id)
        began = self._clock.monotonic()
        try:
            switch = await self._blocking(lambda: self._machine.restore(source.chunks()))
            if switch is not None:
                switch()
            self._meter.rare("raft.fsm.restore", self._clock.monotonic() - began)
        except DecodeError as error:
            raise StorageError(f"failed to restore snapshot {snapshot.id}: {error}") from error
        finally:
            await source.close()

    async def stop(self) -> None:
        """End every connection and task, fail what is under way, release storage. Idempotent."""
        if self._running:
            self._running = False
            self._raft.stop(self._clock.boottime())
            self._applier.fail(RaftError(SHUT_DOWN))
            self._watch.end()
        await self._tasks.close()
        await self._peers.close()
        for sink in self._sinks.values():
            await sink.abort()
        self._sinks.clear()
        await self._storage.close()

    async def _essential(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """The edge of a task without which raft cannot go on.

        Takes a function: of a server that is stopped before its tasks ran, no coroutine may be left unawaited.
        """
        try:
            await work()
        except Exception as error:
            self._stop_for(error)

    def _stop_for(self, error: Exception) -> None:
        """Acknowledge nothing any more."""
        if self._running:
            self._running = False
            self._applier.fail(RaftError(SHUT_DOWN))
            self._watch.end()
            self._log.error("raft stopped", error=f"{type(error).__name__}: {error}")
            self._fatal(error)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        """Serve an incoming raft connection (mode byte read, deadline lifted) until it ends; closes it."""
        if not self._running:
            await close_writer(writer)
            return
        task = self._tasks.start_task(self._incoming.serve(reader, writer, peer), f"raft connection of {peer}")
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """Whether this server leads, as far as it knows."""
        return self._running and self._raft.role is Role.LEADER

    @property
    def leader_address(self) -> str:
        """`ip:port` of the leader, "" when none is known."""
        return self._raft.leader_address if self._running else ""

    @property
    def leader_id(self) -> str:
        """ID of the leader, "" when none is known."""
        return self._raft.leader_id if self._running else ""

    @property
    def last_contact_s(self) -> float | None:
        """Seconds since the leader was heard; 0 on the leader, None if never."""
        return self._raft.last_contact(self._clock.boottime())

    @property
    def settled(self) -> bool:
        """False while the state here is that of a restore which may yet be taken back."""
        return not self._running or not self._raft.unproven

    @property
    def lease_valid(self) -> bool:
        """Whether a default read may be answered now (promise P3); ask again just before answering."""
        return self._running and self._raft.lease_valid(self._clock.boottime())

    @property
    def term(self) -> int:
        """Current term."""
        return self._raft.term

    @property
    def last_index(self) -> int:
        """Highest index of log or snapshot."""
        return self._raft.last_index

    @property
    def last_term(self) -> int:
        """Term of `last_index`."""
        return self._raft.last_term

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return self._raft.commit_index

    @property
    def applied_index(self) -> int:
        """Highest index that the state machine has."""
        return self._applier.index

    @property
    def role(self) -> Role:
        """What this server is in its term."""
        return self._raft.role

    @property
    def refusals(self) -> Mapping[str, Refusal]:
        """Who refused us a vote since a leader was last known, by ID."""
        return self._raft.refusals

    @property
    def dial_errors(self) -> Mapping[str, str]:
        """Why peers could not be dialed when it was last tried, by ID."""
        return self._peers.dial_errors

    def configuration(self) -> tuple[Configuration, int]:
        """The latest configuration and its index."""
        return self._raft.configuration, self._raft.configuration_index

    def stats(self) -> dict[str, str]:
        """The raft section of `consul info`."""
        return raft_stats(self._raft, self._me, self._applier, self._config, self._clock.boottime())

    def on_leadership(self, callback: Callable[[bool, int], None]) -> None:
        """Call `callback(is_leader, term)` whenever this server gains or loses leadership."""
        self._watch.leadership.append(callback)

    def on_leader_change(self, callback: Callable[[str, str], None]) -> None:
        """Call `callback(address, id)` whenever another leader, or none, is known."""
        self._watch.leader.append(callback)

    # -- proposals ------------------------------------------------------------------------------------------------

    async def apply(self, kind: int, body: bytes) -> Any:
        """Commit a command; what the state machine returned (an error it returned is a value). Raises RaftError.

        A long KVS command becomes several entries. All pieces are proposed in one turn by one leader, so if each is
        committed they are neighbors of one term and the last one's result is the command's.
        """
        data = bytes((kind,)) + body
        pieces = pieces_of(kind, data, self._random.getrandbits(64) if in_pieces(kind, data) else 0)
        began = self._clock.monotonic()
        self._meter.applied.add(len(pieces))
        await self._admission.admit(len(pieces), len(data))
        try:
            self._check_running()
            now, at = self._clock.boottime(), self._now()
            futures = [
                self._applier.expect(
                    self._raft.propose(EntryType.COMMAND, piece, now, extensions, at),
                    proposal=True,
                )
                for piece, extensions in pieces
            ]
            self._kick()
            outcomes = [await future for future in futures]
        finally:
            self._admission.release(len(pieces), len(data))
        for outcome in outcomes:
            _index(outcome)
        self._meter.commit_time.add((self._clock.monotonic() - began) * 1000)
        return outcomes[-1][1]

    async def barrier(self) -> None:
        """Return when everything committed before has been applied here. Raises RaftError."""
        self._check_running()
        self._meter.barriers.add()
        await self._answered(self._raft.propose(EntryType.BARRIER, None, self._clock.boottime(), None, self._now()))

    async def verify(self) -> None:
        """Prove leadership by a quorum round; what was committed by then is applied. Raises RaftError, NotLeader."""
        self._check_running()
        self._meter.verified.add()
        index = await self._answered(self._raft.verify(self._clock.boottime()))
        await self._applier.reached(index)

    async def bootstrap(self, configuration: Configuration) -> None:
        """Give a virgin server its first configuration. Raises ValueError when there is any state."""
        self._check_running()
        self._raft.bootstrap(configuration, self._clock.boottime())
        self._kick()

    async def add_voter(self, id: str, address: str) -> None:
        """Add a voter, promote a nonvoter, or change a voter's address."""
        await self._change("add_voter", Server(id=id, address=address))

    async def add_nonvoter(self, id: str, address: str) -> None:
        """Add a server without vote."""
        await self._change("add_nonvoter", Server(id=id, address=address))

    async def demote_voter(self, id: str) -> None:
        """Take a server's vote."""
        await self._change("demote_voter", Server(id=id))

    async def remove_server(self, id: str) -> None:
        """Remove a server."""
        await self._change("remove_server", Server(id=id))

    async def transfer_leadership(self, id: str = "") -> None:
        """Hand leadership to that server, or to the voter that is furthest."""
        self._check_running()
        await self._answered(self._raft.transfer(self._clock.boottime(), id))

    async def _change(self, kind: str, server: Server) -> None:
        self._check_running()
        await self._answered(self._raft.change(Change(kind, server), self._clock.boottime()))

    async def _answered(self, ticket: int) -> int:
        future = self._applier.expect(ticket)
        self._kick()
        return _index(await future)

    def _check_running(self) -> None:
        if not self._running:
            raise RaftError(SHUT_DOWN)

    def _now(self) -> GoTime:
        seconds, nanoseconds = divmod(self._clock.wall_ns(), NANOSECONDS_PER_SECOND)
        # compat: a server whose zone is UTC writes offset 0, not the -1 of Go's time.UTC (1.10.11, log_c1).
        return GoTime(seconds, nanoseconds, 0)

    # -- snapshots ------------------------------------------------------------------------------------------------

    async def take_snapshot(self) -> SnapshotMeta:
        """Store the state machine as it is now; the newest snapshot if nothing came since. Raises RaftError."""
        async with self._snapshotting:
            self._check_running()
            index, term = self._applier.index, self._applier.term
            newest = self._raft.snapshot
            if index == 0:
                raise RaftError("nothing new to snapshot")
            if self._raft.unproven:
                raise RaftError("cannot take snapshot now, a restored one is not committed yet")
            if newest is not None and newest.index >= index:
                return newest
            configuration_index, configuration = self._raft.committed_configuration
            if configuration_index > index:
                raise RaftError(
                    f"cannot take snapshot now, wait until the configuration entry at {configuration_index} has been "
                    f"applied (have applied {index})"
                )
            meta = SnapshotMeta(
                index=index, term=term, configuration=configuration, configuration_index=configuration_index
            )
            now, meter = self._clock.monotonic, self._meter
            began = now()
            image = self._machine.snapshot()
            frozen = now()
            stored = await self._storage.create_snapshot(meta, image)
            meter.rare("raft.fsm.snapshot", frozen - began)
            meter.rare("raft.snapshot.persist", now() - frozen)
            meter.rare("raft.snapshot.takeSnapshot", now() - began)
            newest = self._raft.snapshot
            if newest is None or newest.index < stored.index:
                self._raft.snapshot_taken(stored, self._clock.boottime())
                self._kick()
            self._log.info("raft snapshot taken", id=stored.id, index=stored.index, bytes=stored.size)
            return stored

    async def open_snapshot(self) -> SnapshotSource:
        """Take a fresh snapshot and open it; the caller closes it. Raises RaftError."""
        return await self._storage.open_snapshot((await self.take_snapshot()).id)

    def scratch(self) -> SnapshotSink:
        """A place for a state that is not believed yet; write, finish, read its chunks, abort."""
        return self._storage.receive_snapshot(SnapshotMeta())

    async def restore(self, chunks: Iterable[bytes], saved: SnapshotMeta) -> None:
        """Replace the state machine by a user's snapshot (leader only). Raises RaftError, NotLeader, DecodeError.

        `chunks` is read on a worker thread; `saved` is the archive's meta. The caller has verified the archive, and
        writes a barrier and re-asserts leadership afterwards.
        """
        self._meter.restored()
        began = self._clock.monotonic()
        async with self._snapshotting:
            while self._unstored:
                self._stored.clear()
                await self._stored.wait()
            self._check_running()
            async with self._disk:
                meta = self._raft.begin_restore(self._clock.boottime())
                self._kick()
                # Rows keep the indexes they had when saved; what is written from now on must have higher ones.
                meta = replace(meta, index=max(meta.index, saved.index + 1))
                await self._applier.drained(self._applier.put_count)
                await self._replace_state(meta, chunks)
            # Committed, it shows that a quorum has the restored state.
            await self._answered(self._raft.propose(EntryType.NOOP, None, self._clock.boottime(), None, self._now()))
        self._meter.rare("raft.restoreUserSnapshot", self._clock.monotonic() - began)

    async def _replace_state(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        sink = self._storage.receive_snapshot(meta)
        swapped = False
        try:
            pieces = iter(chunks)
            while (piece := await self._blocking(lambda: next(pieces, None))) is not None:
                await sink.write(piece)
            stored = await sink.finish()
            switch = await self._blocking(lambda: self._machine.restore(sink.chunks()))
            await self._publish_restored(sink)
            swapped = self._running and self._raft.restored(stored, self._clock.boottime())
            if not swapped:
                await self._storage.revert()
                raise LeadershipLost
        finally:
            if not swapped:
                if self._running:
                    self._raft.restored(None, self._clock.boottime())
                await sink.abort()
            self._kick()
        if switch is not None:
            switch()
        self._applier.jump(stored.index, stored.term)
        self._stable_index = stored.index

    async def _publish_restored(self, sink: SnapshotSink) -> None:
        """From here on a crash leaves a server that holds the restored state, and can still go back before it.

        The lock of the disk keeps the log as it is until the core knows.
        """
        try:
            await self._storage.commit(restored=sink.meta)
            await sink.publish()
        except StorageError as error:
            self._stop_for(error)
            raise

    async def _snapshot_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(self._policy.interval_s, 2 * self._policy.interval_s))
            newest = self._raft.snapshot
            if self._raft.last_index - (newest.index if newest else 0) < self._policy.threshold:
                continue
            try:
                await self.take_snapshot()
            except RaftError as error:
                self._log.warn("raft snapshot not taken", error=str(error))

    # -- the pump -------------------------------------------------------------------------------------------------

    def _kick(self) -> None:
        self._kicked.set()

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._applier.room()
            if not self._running:
                return  # the disk failed: from now on not even heartbeats are answered, so that a leader notices
            self._kicked.clear()
            ready = self._raft.ready(self._clock.boottime())
            if ready is not None:
                self._perform(ready)
                self._observe()
                continue
            deadline = self._raft.deadline
            pause = 0.0 if deadline is None else max(deadline - self._clock.boottime(), TIMER_MIN_S)
            timer = None if deadline is None else loop.call_later(pause, self._kick)
            try:
                await self._kicked.wait()
            finally:
                if timer is not None:
                    timer.cancel()
            now = self._clock.boottime()
            if deadline is not None and now >= deadline:
                self._raft.tick(now)
                if now >= self._contact_due:
                    self._measure_contact(now)

    def _measure_contact(self, now: float) -> None:
        """As often as a leader's lease asks for it."""
        self._contact_due = now + self._config.leader_lease_timeout_s / 2
        contact = self._raft.follower_contact(now)
        if contact is not None:
            self._meter.last_contact.add(contact * 1000)

    def _perform(self, ready: Ready) -> None:
        self._send(ready.before_sync)
        for event in ready.events:
            self._log_event(event)
        if ready.must_sync:
            self._to_store.put_nowait((ready, self._applier.put_count))
            self._unstored += 1
        else:
            self._send(ready.after_sync)
        # What is committed is durable already, it need not wait for what this Ready stores.
        if ready.committed or ready.answers:
            self._applier.put(ready.committed, ready.answers)

    async def _store_all(self) -> None:
        while True:
            ready, position = await self._to_store.get()
            async with self._disk:
                done = await self._store(ready, position)
            self._send(ready.after_sync)
            self._unstored -= 1
            self._stored.set()
            self._raft.advance(done, self._clock.boottime())
            self._kick()

    async def _store(self, ready: Ready, position: int) -> Done:
        if ready.install is not None:
            return await self._install(ready, position)
        return await (self._revert(ready, position) if ready.revert else self._commit(ready))

    async def _commit(self, ready: Ready) -> Done:
        began = self._clock.monotonic()
        await self._storage.commit(
            hard_state=ready.hard_state,
            truncate_from=ready.truncate_from,
            entries=ready.entries,
            compact_to=ready.compact_to,
            settled=ready.settle,
        )
        took = self._clock.monotonic() - began
        if ready.entries:
            self._meter.stored(len(ready.entries), took, leads=self.is_leader)
        if ready.compact_to is not None:
            self._meter.rare("raft.compactLogs", took)
        if ready.truncate_from is not None:
            self._stable_index = min(self._stable_index, ready.truncate_from - 1)
        if ready.entries:
            self._stable_index = ready.entries[-1].index
        return Done(stable_index=self._stable_index)

    async def _install(self, ready: Ready, position: int) -> Done:
        assert ready.install is not None
        await self._applier.drained(position)
        sink = self._sinks.pop(ready.install.token)
        name, meta = sink.meta.id, ready.install.meta
        began = self._clock.monotonic()
        try:
            switch = await self._blocking(lambda: self._machine.restore(sink.chunks()))
        except StorageError:
            raise
        except ConsulError as error:
            await sink.abort()
            if ready.hard_state is not None:
                await self._storage.commit(hard_state=ready.hard_state)
            reason = f"failed to restore snapshot {name}: {error}"
            self._log.error("raft snapshot refused", error=reason)
            return Done(stable_index=self._stable_index, installed=False, install_error=reason)
        if ready.install.unproven:
            await self._storage.commit(hard_state=ready.hard_state, restored=sink.meta)
            await sink.publish()
        else:
            await sink.publish()
            await self._storage.commit(hard_state=ready.hard_state, clear_log=True)
        if switch is not None:
            switch()
        self._applier.jump(meta.index, meta.term)
        self._stable_index = meta.index
        self._meter.rare("raft.fsm.restore", self._clock.monotonic() - began)
        self._log.info("raft snapshot installed", id=name, index=meta.index, bytes=sink.meta.size)
        return Done(stable_index=meta.index, installed=True, snapshot_id=name)

    async def _revert(self, ready: Ready, position: int) -> Done:
        """A restore that never was committed is undone; see raft.snapshotting."""
        await self._applier.drained(position)
        if ready.hard_state is not None:
            await self._storage.commit(hard_state=ready.hard_state)
        before = await self._storage.revert()
        index, term = (before.snapshot.index, before.snapshot.term) if before.snapshot else (0, 0)
        if before.snapshot is not None:
            await self._restore_stored(before.snapshot)
        elif (switch := self._machine.blank()) is not None:
            switch()
        self._applier.jump(index, term)
        self._stable_index = max(before.last_index, index)
        return Done(stable_index=self._stable_index, reverted=before)

    def _send(self, messages: Iterable[Outgoing]) -> None:
        for message in messages:
            if not isinstance(message, Reply):
                self._peers.send(message)
                continue
            sink = self._sinks.pop(message.token, None)
            if sink is not None:
                self._tasks.start(sink.abort(), "raft snapshot abort")
            future = self._replies.pop(message.token, None)
            if future is not None and not future.done():
                future.set_result(message)

    def _log_event(self, event: Event) -> None:
        self._log.event(event.name, **dict(event.fields))

    def _observe(self) -> None:
        self._watch.look(self._raft)
        members = frozenset(server.id for server in self._raft.configuration.servers or ())
        if members != self._seen_members:
            if self._seen_members - members:
                self._tasks.start(self._forget_removed(), "raft lanes of removed servers")
            self._seen_members = members

    async def _forget_removed(self) -> None:
        await asyncio.sleep(REMOVED_GRACE_S)
        self._peers.retain(set(self._seen_members))

    # -- what peers tell ------------------------------------------------------------------------------------------

    def _submit(self, request: RaftRequest, sink: SnapshotSink | None) -> asyncio.Future[Reply]:
        self._next_token += 1
        token = self._next_token
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[token] = future
        # A connection that ends must not leave its requests behind.
        kind, began = request_kind(request), self._clock.monotonic()

        def answered(future: asyncio.Future[Reply]) -> None:
            self._replies.pop(token, None)
            if not future.cancelled():
                self._meter.request(kind, self._clock.monotonic() - began)

        future.add_done_callback(answered)
        if sink is not None:
            self._sinks[token] = sink
        self._raft.receive(token, request, self._clock.boottime())
        self._kick()
        return future

    def _identify(self, id_: bytes, address: bytes) -> Server | None:
        for server in self._raft.configuration.servers or ():
            if server.id.encode() == id_ or (not id_ and server.address.encode() == address):
                return server
        return None

    def replied(self, sequence: int, reply: RaftResponse | str | None) -> None:
        """PeerEvents: a request ended."""
        if self._running:
            self._raft.received_reply(sequence, reply, self._clock.boottime())
            self._kick()

    def reachable(self, server_id: str) -> None:
        """PeerEvents: a connection with that server works. Also for gossip to call."""
        if self._running:
            self._peers.hurry(server_id)
            self._raft.peer_reachable(server_id, self._clock.boottime())
            self._kick()

    def refused(self, server_id: str) -> None:
        """PeerEvents: nobody listens at that server's address and no connection with it is left."""
        if self._running:
            self._raft.peer_refused(server_id, self._clock.boottime())
            self._kick()

    async def _dial(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await open_stream(self._net, host, port, local_host=self._bind_host, timeout_s=DIAL_TIMEOUT_S)
        writer.write(bytes((MODE_RAFT,)))
        return reader, writer


def _index(outcome: Outcome) -> int:
    """The answer's index; raises its error."""
    answer, _ = outcome
    if answer.error is not None:
        raise answer.error
    return answer.index
