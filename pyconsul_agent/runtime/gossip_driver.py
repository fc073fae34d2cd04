"""Between the sockets of a gossip pool and its cores: bytes go in, effects come out, one timer runs.

Effects are carried out in order before the next input. The timer is set to the cores' next deadline; how late it runs
is told to Swim, which must not take our own standing still for the silence of others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pyconsul_agent.env.base import Datagrams, Env
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import DecodeError, DialRefused, NetError
from pyconsul_agent.runtime.gossip_address import endpoint
from pyconsul_agent.runtime.gossip_cipher import GossipSeal
from pyconsul_agent.runtime.gossip_events import PoolEvent, Subscription
from pyconsul_agent.runtime.gossip_options import GossipOptions
from pyconsul_agent.runtime.gossip_streams import GossipStreams, Spawn
from pyconsul_agent.runtime.gossip_waiting import Waiting
from pyconsul_agent.runtime.serf_snapshot_file import SnapshotFile
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
from pyconsul_agent.structs.member import MemberEvent, UserEvent
from pyconsul_agent.swim.core import Swim
from pyconsul_agent.swim.effects import (
    BroadcastFinished,
    Deliver,
    Effect,
    JoinFinished,
    LogLine,
    OpenStream,
    PingComplete,
    SendPacket,
    StreamPurpose,
)
from pyconsul_agent.telemetry.net_meters import GossipMeter
from pyconsul_agent.wire.gossip import Address, StreamMessage

PACKETS_MAX = 4096
"""Datagrams read but not yet handled; beyond it new ones are dropped, as the socket's own buffer would."""
ROUNDS_MAX = 10_000
"""Effects may cause effects; this many rounds after one input can only be a bug."""
AFTER_ERROR_S = 1.0
"""When the timer is tried again after an error of our own."""


class GossipDriver:
    """Feeds Swim and Serf and does what they say. `swim`, `serf` and `datagrams` are set by the pool at its start."""

    swim: Swim
    serf: Serf

    def __init__(
        self,
        env: Env,
        log: Log,
        options: GossipOptions,
        *,
        seal: GossipSeal,
        snapshot_file: SnapshotFile,
        waiting: Waiting,
        meter: GossipMeter,
        spawn: Spawn,
        reconnect: Callable[[Reconnect], None],
        quit: Callable[[], None],
    ) -> None:
        """`reconnect` begins to try a failed member; `quit` ends the pool, whose name another has won."""
        self.datagrams: Datagrams | None = None
        self.subscriptions: list[Subscription] = []
        self.streams = GossipStreams(
            env.net,
            log,
            seal,
            timeout_s=options.swim.stream_timeout_s,
            spawn=spawn,
            answer=self._answer_stream,
            meter=meter,
        )
        self._env = env
        self._log = log
        self._options = options
        self._seal = seal
        self._snapshot_file = snapshot_file
        self._waiting = waiting
        self._meter = meter
        self._spawn = spawn
        self._reconnect = reconnect
        self._quit = quit
        self._packets: list[tuple[bytes, Address]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._lag_told = 0.0  # of the timer that is set now
        self._timer_due = 0.0  # uvloop gives a handle without `when()` for a time that has come
        self._performing = False
        self._ended = False  # nothing is read any more, and no timer set

    def silence(self) -> None:
        """Close what calls us, and let nobody wait for what will not happen."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.datagrams is not None:
            self.datagrams.close()
            self.datagrams = None
        self._packets.clear()
        self._waiting.stop()
        for subscription in list(self.subscriptions):
            subscription.close()

    # --- inputs ---------------------------------------------------------------------------------------------------

    def packet(self, data: bytes, source: Address) -> None:
        """A datagram came."""
        self._meter.udp_received.add(len(data))
        if not self._packets:
            asyncio.get_running_loop().call_soon(self._flush_packets)
        if len(self._packets) < PACKETS_MAX:
            self._packets.append((data, source))

    def _flush_packets(self) -> None:
        """One burst of datagrams at once, so that Swim can take the newest news first."""
        packets, self._packets = self._packets, []
        if not packets or self._ended:
            return
        opened = []
        for data, source in packets:
            try:
                opened.append((self._seal.unpack(data), source))
            except DecodeError as error:
                self._log.debug("packet ignored", from_=endpoint(*source), error=error.reason)
        now = self._env.clock.monotonic()
        try:
            self._note_lag(now, self._timer_due)
            self.swim.receive(opened, now)
            self.perform(now)
        except Exception as error:  # the edge: whatever peers send must not end the pool
            peers = sorted({endpoint(*source) for _, source in opened})[:8]
            self._log.error("gossip: packets caused an error", from_=peers, error=repr(error))
            self._set_timer()

    def _answer_stream(self, message: StreamMessage, peer: Address) -> bytes | None:
        now = self._env.clock.monotonic()
        answer = self.swim.stream_requested(message, peer, now)
        self.perform(now)
        return answer

    async def _open_stream(self, order: OpenStream) -> None:
        began = self._env.clock.monotonic()
        try:
            message = await self.streams.exchange(order)
        except (NetError, DecodeError) as error:
            now = self._env.clock.monotonic()
            self.swim.stream_failed(order.id, str(error), now, refused=isinstance(error, DialRefused))
        else:
            now = self._env.clock.monotonic()
            if order.purpose is StreamPurpose.PUSH_PULL:
                self._meter.push_pull(now - began)
            self.swim.stream_answered(order.id, message, now)
        self.perform(now)

    def _on_timer(self, due: float) -> None:
        now = self._env.clock.monotonic()
        self._note_lag(now, due)
        self._timer = None
        self._flush_packets()  # what was read before this timer ran is older than the deadlines it checks
        try:
            self.swim.tick(now)
            self.serf.tick(now)
            self.perform(now)
            self._meter.round(self._env.clock.monotonic() - now)
        except Exception as error:  # the edge: a pool that stops gossiping in silence would be declared dead
            self._log.error("gossip: the timer caused an error", error=repr(error))
            self._arm(now + AFTER_ERROR_S)

    def _note_lag(self, now: float, due: float) -> None:
        """Tell Swim when this loop stood still, before it judges others by what it has not read yet."""
        if self._timer is None:
            return
        fresh = self._env.clock.lag(due) - self._lag_told
        if fresh > 0 and self.swim.note_lag(fresh, now):
            self._lag_told += fresh
            self._log.debug("gossip: the event loop stood still", seconds=round(fresh, 3))

    # --- effects --------------------------------------------------------------------------------------------------

    def perform(self, now: float) -> None:
        """Carry out effects, and what they cause, in order; then set the timer."""
        if self._performing:
            return
        self._performing = True
        try:
            for _ in range(ROUNDS_MAX):
                effects = self.swim.take()
                told = self.serf.take()
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
                if self.datagrams is not None:
                    packet = self._seal.packet(data)
                    self._meter.udp_sent.add(len(packet))
                    self.datagrams.send(packet, to)
            case OpenStream():
                self._spawn(self._open_stream(effect))
            case JoinFinished(number, _, error):
                self._waiting.joined(number, error)
            case BroadcastFinished(ticket, timed_out):
                self._waiting.broadcast(ticket, timed_out)
            case LogLine():
                self._write_log(effect)
            case _:
                if isinstance(effect, PingComplete):
                    self._meter.probed(effect.rtt_s)
                elif isinstance(effect, Deliver):
                    self._meter.messages.add(len(effect.data))
                self.serf.handle(effect, now)
                for told in self.serf.take():
                    self._do_serf(told)

    def _do_serf(self, effect: SerfEffect) -> None:
        match effect:
            case MemberEvent() | UserEvent() | QueryReceived():
                self._publish(effect)
            case SendUser(to, data):
                self.swim.send_user(to, data)
            case Reconnect():
                self._reconnect(effect)
            case AppendSnapshot() | ReplaceSnapshot():
                self._snapshot_file.write(effect)
            case QueryAnswered(number, node, payload):
                if payload is not None:
                    self._waiting.answered(number, (node, payload))
            case QueryFinished(number):
                self._waiting.answered(number, None)
            case KeyringChanged(keyring):
                self._seal.set_keyring(keyring)
                if self._options.on_keyring is not None:
                    self._options.on_keyring(keyring)
            case NameLost(answers, agreed):
                text = "minority in name conflict resolution, quitting"
                self._log.error(text, answers=answers, agreed=agreed)
                self._ended = True
                self._quit()
            case IntentSent(ticket, timed_out):
                self._waiting.intent(ticket, timed_out)
            case LogLine():
                self._write_log(effect)

    def _publish(self, event: PoolEvent) -> None:
        if isinstance(event, MemberEvent):
            pool, kind, member = self._options.serf.pool, event.kind.value, event.member
            self._log.event("member_event", pool=pool, kind=kind, name=member.name, address=member.address)
        else:
            self._meter.heard("events" if isinstance(event, UserEvent) else "queries", event.name)
        for subscription in self.subscriptions:
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
        if self._ended:
            return
        deadlines = [due for due in (self.swim.next_deadline(), self.serf.next_deadline()) if due is not None]
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
