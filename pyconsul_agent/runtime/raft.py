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
from dataclasses import replace
from typing import Any

from pyconsul_agent.env.base import Clock, Net, Worker
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RaftError
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.core import Raft
from pyconsul_agent.raft.types import Change, Event, Outgoing, Ready, Refusal, Reply, Role
from pyconsul_agent.runtime.raft_apply import Applier, StateMachine, index_of
from pyconsul_agent.runtime.raft_disk import Keeper
from pyconsul_agent.runtime.raft_incoming import Incoming, OpenRequests, request_kind
from pyconsul_agent.runtime.raft_peers import Dial, Peers, close_writer, raft_dial
from pyconsul_agent.runtime.raft_proposals import Admission, appended_at, in_pieces, pieces_of
from pyconsul_agent.runtime.raft_saving import DEFAULT_POLICY, SnapshotPolicy, Snapshotter
from pyconsul_agent.runtime.raft_snapshots import SnapshotSink, SnapshotSource
from pyconsul_agent.runtime.raft_stats import raft_stats
from pyconsul_agent.runtime.raft_storage import RaftStorage
from pyconsul_agent.runtime.raft_watch import LeadershipWatch
from pyconsul_agent.runtime.tasks import TaskOwner
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

TIMER_MIN_S = 1e-6
"""The core's clock and the loop's may round differently: time must pass before the next look."""
SHUT_DOWN = "raft is already shutdown"


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
        policy: SnapshotPolicy = DEFAULT_POLICY,
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
        self._clock = clock
        self._blocking = blocking
        self._random = rng
        self._log = log
        self._fatal = fatal
        self._policy = policy
        self._meter = meter = meter or Instruments().raft
        self._contact_due = 0.0
        self._tasks = TaskOwner(log)
        self._peers = Peers(
            dial=dial or raft_dial(net, bind_host),
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
        self.running = False
        self._kicked = asyncio.Event()
        self._to_store: asyncio.Queue[tuple[Ready, int]] = asyncio.Queue()
        self._unstored = 0
        self._stored = asyncio.Event()
        self._disk = Keeper(storage, machine, blocking, log, clock, meter)
        self._requests = OpenRequests()
        self._admission = Admission()
        self._watch = LeadershipWatch()

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what is on disk and take part; the newest snapshot is restored meanwhile. Raises StorageError.

        Until then this server votes, stores and acknowledges, but applies nothing and does not say that it leads.
        """
        initial = await self._disk.load()
        self._applier = Applier(self._machine, self._clock, self.kick)
        self._raft = Raft(self._config, self._me, initial, self._storage.reader, self._random, self._clock.boottime())
        self._snapshotter = self._make_snapshotter()
        self.running = True
        for name, work in (
            ("raft pump", self._pump),
            ("raft storage", self._store_all),
            ("raft apply", lambda: self._apply_all(initial.snapshot)),
            ("raft snapshots", self._snapshotter.now_and_then),
        ):
            self._tasks.start(self._essential(work), name)

    async def _apply_all(self, snapshot: SnapshotMeta | None) -> None:
        if snapshot is not None:
            await self._disk.restore_newest(snapshot, self._applier)
            self._observe()
        await self._applier.run()

    async def stop(self) -> None:
        """End every connection and task, fail what is under way, release storage. Idempotent."""
        if self.running:
            self.running = False
            self._raft.stop(self._clock.boottime())
            self._applier.fail(RaftError(SHUT_DOWN))
            self._watch.end()
        await self._tasks.close()
        await self._peers.close()
        await self._disk.close()

    def set_snapshots(self, policy: SnapshotPolicy, trailing_logs: int) -> None:
        """When to take snapshots and what to leave behind them, from now on (reload)."""
        self._policy, self._config = policy, replace(self._config, trailing_logs=trailing_logs)
        if self.running:
            self._snapshotter.follow(policy)
            self._raft.keep_trailing(trailing_logs)

    def _make_snapshotter(self) -> Snapshotter:
        return Snapshotter(
            self._raft, self._disk, self._machine, self._applier, self, self._all_stored,
            clock=self._clock, blocking=self._blocking, rng=self._random, log=self._log, policy=self._policy,
            meter=self._meter,
        )  # fmt: skip

    async def _essential(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """The edge of a task without which raft cannot go on.

        Takes a function: of a server that is stopped before its tasks ran, no coroutine may be left unawaited.
        """
        try:
            await work()
        except Exception as error:
            self.stop_for(error)

    def stop_for(self, error: Exception) -> None:
        """Acknowledge nothing any more."""
        if self.running:
            self.running = False
            self._applier.fail(RaftError(SHUT_DOWN))
            self._watch.end()
            self._log.error("raft stopped", error=f"{type(error).__name__}: {error}")
            self._fatal(error)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        """Serve an incoming raft connection (mode byte read, deadline lifted) until it ends; closes it."""
        if not self.running:
            await close_writer(writer)
            return
        task = self._tasks.start_task(self._incoming.serve(reader, writer, peer), f"raft connection of {peer}")
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()

    async def restored(self) -> None:
        """Return when the snapshot found at the start, if there was one, has been restored."""
        await self._disk.restored.wait()

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """Whether this server leads, as far as it knows, and has its state."""
        return self.running and self._raft.role is Role.LEADER and self._disk.restored.is_set()

    @property
    def leader_address(self) -> str:
        """`ip:port` of the leader, "" when none is known."""
        return self._raft.leader_address if self._leader_is_able() else ""

    @property
    def leader_id(self) -> str:
        """ID of the leader, "" when none is known."""
        return self._raft.leader_id if self._leader_is_able() else ""

    def _leader_is_able(self) -> bool:
        return self.running and (self._raft.role is not Role.LEADER or self._disk.restored.is_set())

    @property
    def last_contact_s(self) -> float | None:
        """Seconds since the leader was heard; 0 on the leader, None if never."""
        return self._raft.last_contact(self._clock.boottime())

    @property
    def settled(self) -> bool:
        """False until the newest snapshot is restored, and while the state is that of a restore not yet committed."""
        return self._disk.restored.is_set() and not (self.running and self._raft.unproven)

    @property
    def lease_valid(self) -> bool:
        """Whether a default read may be answered now (promise P3); ask again just before answering."""
        return self.running and self._disk.restored.is_set() and self._raft.lease_valid(self._clock.boottime())

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
            self.check_running()
            now, at = self._clock.boottime(), appended_at(self._clock)
            futures = [
                self._applier.expect(
                    self._raft.propose(EntryType.COMMAND, piece, now, extensions, at),
                    proposal=True,
                )
                for piece, extensions in pieces
            ]
            self.kick()
            outcomes = [await future for future in futures]
        finally:
            self._admission.release(len(pieces), len(data))
        for outcome in outcomes:
            index_of(outcome)
        self._meter.commit_time.add((self._clock.monotonic() - began) * 1000)
        return outcomes[-1][1]

    async def barrier(self) -> None:
        """Return when everything committed before has been applied here. Raises RaftError."""
        self.check_running()
        self._meter.barriers.add()
        await self._answered(self._propose_empty(EntryType.BARRIER))

    async def verify(self) -> None:
        """Prove leadership by a quorum round; what was committed by then is applied. Raises RaftError, NotLeader."""
        self.check_running()
        self._meter.verified.add()
        index = await self._answered(self._raft.verify(self._clock.boottime()))
        await self._applier.reached(index)

    async def bootstrap(self, configuration: Configuration) -> None:
        """Give a virgin server its first configuration. Raises ValueError when there is any state."""
        self.check_running()
        self._raft.bootstrap(configuration, self._clock.boottime())
        self.kick()

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
        self.check_running()
        await self._answered(self._raft.transfer(self._clock.boottime(), id))

    async def _change(self, kind: str, server: Server) -> None:
        self.check_running()
        await self._answered(self._raft.change(Change(kind, server), self._clock.boottime()))

    def _propose_empty(self, kind: EntryType) -> int:
        return self._raft.propose(kind, None, self._clock.boottime(), None, appended_at(self._clock))

    async def _answered(self, ticket: int) -> int:
        future = self._applier.expect(ticket)
        self.kick()
        return index_of(await future)

    def check_running(self) -> None:
        """Raises RaftError once raft has stopped or failed."""
        if not self.running:
            raise RaftError(SHUT_DOWN)

    # -- snapshots ------------------------------------------------------------------------------------------------

    async def take_snapshot(self) -> SnapshotMeta:
        """Store the state machine as it is now; the newest snapshot if nothing came since. Raises RaftError."""
        self.check_running()
        return await self._snapshotter.take()

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
        self.check_running()
        await self._snapshotter.restore(chunks, saved)

    async def noop(self) -> int:
        """Commit an empty entry; its index. Raises RaftError."""
        return await self._answered(self._propose_empty(EntryType.NOOP))

    # -- the pump -------------------------------------------------------------------------------------------------

    def kick(self) -> None:
        """Ask the core for Readies soon."""
        self._kicked.set()

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self.running:
                return  # the disk failed: from now on not even heartbeats are answered, so that a leader notices
            self._kicked.clear()
            ready = self._raft.ready(self._clock.boottime(), room=self._applier.room())
            if ready is not None:
                self._perform(ready)
                self._observe()
                continue
            deadline = self._raft.deadline
            pause = 0.0 if deadline is None else max(deadline - self._clock.boottime(), TIMER_MIN_S)
            timer = None if deadline is None else loop.call_later(pause, self.kick)
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
            began = self._clock.monotonic()
            done = await self._disk.store(ready, self._applier, position)
            if ready.entries:
                self._meter.stored(len(ready.entries), self._clock.monotonic() - began, leads=self.is_leader)
            self._send(ready.after_sync)
            self._unstored -= 1
            self._stored.set()
            self._raft.advance(done, self._clock.boottime())
            self.kick()

    async def _all_stored(self) -> None:
        while self._unstored:
            self._stored.clear()
            await self._stored.wait()

    def _send(self, messages: Iterable[Outgoing]) -> None:
        for message in messages:
            if not isinstance(message, Reply):
                self._peers.send(message)
                continue
            sink = self._disk.sinks.pop(message.token, None)
            if sink is not None:
                self._tasks.start(sink.abort(), "raft snapshot abort")
            self._requests.answer(message)

    def _log_event(self, event: Event) -> None:
        self._log.event(event.name, **dict(event.fields))

    def _observe(self) -> None:
        self._watch.look(self._raft, able=self._disk.restored.is_set())
        self._peers.members(frozenset(server.id for server in self._raft.configuration.servers or ()))

    # -- what peers tell ------------------------------------------------------------------------------------------

    def _submit(self, request: RaftRequest, sink: SnapshotSink | None) -> asyncio.Future[Reply]:
        token, future = self._requests.open()
        if sink is not None:
            self._disk.sinks[token] = sink
        kind, began = request_kind(request), self._clock.monotonic()

        def answered(reply: asyncio.Future[Reply]) -> None:
            if not reply.cancelled():
                self._meter.request(kind, self._clock.monotonic() - began)

        if kind:
            future.add_done_callback(answered)
        self._raft.receive(token, request, self._clock.boottime())
        self.kick()
        return future

    def _identify(self, id_: bytes, address: bytes) -> Server | None:
        for server in self._raft.configuration.servers or ():
            if server.id.encode() == id_ or (not id_ and server.address.encode() == address):
                return server
        return None

    def replied(self, sequence: int, reply: RaftResponse | str | None) -> None:
        """PeerEvents: a request ended."""
        if self.running:
            self._raft.received_reply(sequence, reply, self._clock.boottime())
            self.kick()

    def reachable(self, server_id: str) -> None:
        """PeerEvents: a connection with that server works. Also for gossip to call."""
        if self.running:
            self._peers.hurry(server_id)
            self._raft.peer_reachable(server_id, self._clock.boottime())
            self.kick()

    def refused(self, server_id: str) -> None:
        """PeerEvents: nobody listens at that server's address and no connection with it is left."""
        if self.running:
            self._raft.peer_refused(server_id, self._clock.boottime())
            self.kick()
