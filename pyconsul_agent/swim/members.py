"""Who is alive: the node records and the rules by which alive, suspect and dead messages change them.

Inputs are messages with `now`; outputs are broadcasts put in the queue and effects given to `emit`. Knows nothing of
packets, probing or streams. Protocol: docs/protocol/gossip.md, sections 7.1 to 7.3 and 7.7.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.swim.awareness import Awareness
from pyconsul_agent.swim.broadcast import TransmitLimitedQueue
from pyconsul_agent.swim.config import MEMBERS_MAX, META_BYTES_MAX, SwimConfig
from pyconsul_agent.swim.delegate import Delegate
from pyconsul_agent.swim.effects import (
    Effect,
    LogLevel,
    Node,
    NotifyConflict,
    NotifyJoin,
    NotifyLeave,
    NotifyUpdate,
    log_event,
    log_line,
)
from pyconsul_agent.swim.suspicion import Suspicion
from pyconsul_agent.swim.timing import NANOSECONDS, suspicion_timeout_ns
from pyconsul_agent.wire.gossip import (
    VERSIONS_LENGTH,
    Address,
    Alive,
    Dead,
    NodeState,
    PushNodeState,
    Suspect,
    address_bytes,
    address_text,
    encode_message,
)

SCAN_NODES_MAX = 32
DRAWS_PER_NODE = 4
"""In larger pools random members are drawn; all are looked at only if so many draws found too few."""
INCARNATION_MAX = (1 << 32) - 1
REFUSAL_MEMORY_S = 5.0
"""How long a refusal by the host counts as evidence in a suspicion that starts later."""
BACKDATED_PART_MAX = 0.5
"""So much of a refused suspect's time may have passed before the suspicion is told of."""
MOVE_MEMORY_S = 30.0
"""How long a refused new address, or a refusal by the old one's host, is remembered as evidence."""


class Membership:
    """The records of one pool, our own among them."""

    def __init__(
        self,
        config: SwimConfig,
        *,
        name: str,
        advertise: Address,
        delegate: Delegate,
        rng: random.Random,
        queue: TransmitLimitedQueue,
        awareness: Awareness,
        emit: Callable[[Effect], None],
    ) -> None:
        self._config = config
        self._versions = config.versions
        self.name = name
        self.advertise = advertise
        self._delegate = delegate
        self._rng = rng
        self._queue = queue
        self._awareness = awareness
        self._emit = emit
        self.nodes: dict[str, Node] = {}
        self.ring: list[str] = []
        """The order of probing; new names go in at a random place."""
        self.suspicions: dict[str, Suspicion] = {}
        self.leaving = False
        self._incarnation = 0
        self._moves: dict[str, tuple[Alive, float]] = {}
        self._refused: dict[str, float] = {}
        self.contested: set[str] = set()
        """Names to be probed soon: their address is claimed by another with the same ID, or a probe proved nothing."""
        self.gone: dict[Address, str] = {}
        """Where those were that are held for dead; a packet from there is a sign of life."""

    # --- views --------------------------------------------------------------------------------------------------

    @property
    def local(self) -> Node:
        """Our own record."""
        return self.nodes[self.name]

    def __len__(self) -> int:
        return len(self.nodes)

    def others_alive(self) -> bool:
        """Whether anybody else may hear a broadcast."""
        return any(not node.is_gone for node in self.nodes.values() if node.name != self.name)

    def choose(self, count: int, fits: Callable[[Node], bool]) -> list[Node]:
        """Up to `count` random others that fit."""
        if len(self.ring) > SCAN_NODES_MAX:
            found = self._draw(count, fits)
            if len(found) == count:
                return found
        candidates = [node for name, node in self.nodes.items() if name != self.name and fits(node)]
        return self._rng.sample(candidates, min(count, len(candidates)))

    def _draw(self, count: int, fits: Callable[[Node], bool]) -> list[Node]:
        """Some that fit, without looking at everybody; in a large pool most do."""
        found: dict[str, Node] = {}
        for _ in range(DRAWS_PER_NODE * count):
            name = self.ring[int(self._rng.random() * len(self.ring))]
            if name != self.name and name not in found:
                node = self.nodes[name]
                if fits(node):
                    found[name] = node
                    if len(found) == count:
                        break
        return list(found.values())

    def next_deadline(self) -> float | None:
        """When the first suspicion ends."""
        if not self.suspicions:
            return None
        return min((suspicion.deadline for suspicion in self.suspicions.values()), default=None)

    # --- ourselves ----------------------------------------------------------------------------------------------

    def next_incarnation(self, accused: int = 0) -> int:
        """A number above all that we used and above `accused` (no number is above the last one of 32 bits)."""
        self._incarnation = min(max(self._incarnation, accused) + 1, INCARNATION_MAX)
        return self._incarnation

    def announce(self, meta: bytes, now: float, ticket: int | None = None) -> None:
        """Become alive, or tell of new meta."""
        alive = Alive(
            incarnation=self.next_incarnation(),
            node=self.name,
            address=address_bytes(self.advertise[0]),
            port=self.advertise[1],
            meta=meta or None,
            versions=self._versions,
        )
        self.alive(alive, now, ours=True, ticket=ticket)

    def _refute(self, accused: int) -> None:
        """Say that we are alive, above the accusation. The broadcast is named by address, as memberlist does, so it
        does not cancel the queued messages about us.
        """
        me = replace(self.local, incarnation=self.next_incarnation(accused))
        self.nodes[self.name] = me
        self._awareness.change(1)
        self._queue.queue(encode_message(alive_of(me)), name=me.address)

    # --- alive --------------------------------------------------------------------------------------------------

    def alive(self, message: Alive, now: float, *, ours: bool = False, ticket: int | None = None) -> None:
        """A node is said to be alive (`ours`: we say it of ourselves)."""
        local = message.node == self.name
        if (local and self.leaving) or self._is_old_news(message):
            return
        claim = self._claim(message, now, ours)
        if claim is None:
            return
        known = self.nodes.get(message.node)
        moved = False
        if known is None:
            if not ours and not self._admit(claim):
                return
            known = self._create(claim, now)
        elif known.endpoint != claim.endpoint:
            if not self._delegate.address_allowed(claim.address):
                self._warn("Rejected IP update", node=claim.name, ip=claim.address)
                return
            moved = self._may_move(known, claim, message, now)
            if not moved:
                return
        if local:
            if message.incarnation < known.incarnation and not moved:
                return
        elif message.incarnation <= known.incarnation and not moved:
            return
        self.suspicions.pop(message.node, None)
        if local and not ours:
            self._alive_about_us(message, known)
            return
        self._queue.queue(encode_message(replace(message, port=claim.port)), name=message.node, ticket=ticket)
        self._store_alive(known, claim, now)

    def _is_old_news(self, message: Alive) -> bool:
        """Most of what comes says what we know: the same number from the same place. It changes nothing, whatever else
        is in it, so nobody is asked about it.
        """
        known = self.nodes.get(message.node)
        return (
            known is not None
            and message.incarnation <= known.incarnation
            and message.node != self.name
            and message.port == known.port
            and message.address == address_bytes(known.address)
        )

    def _alive_about_us(self, message: Alive, me: Node) -> None:
        same = (message.incarnation, message.meta or b"", message.versions) == (
            me.incarnation,
            me.meta or b"",
            me.versions,
        )
        if not same:
            self._warn("Refuting an alive message", node=self.name, incarnation=message.incarnation)
            self._refute(message.incarnation)

    def _store_alive(self, known: Node, claim: Node, now: float) -> None:
        changed_at = known.changed_at if known.state == NodeState.ALIVE else now
        node = replace(claim, state=NodeState.ALIVE, changed_at=changed_at)
        self.nodes[node.name] = node
        self._moves.pop(node.name, None)
        self._refused.pop(node.name, None)
        self.gone.pop(known.endpoint, None)
        if known.is_gone:
            self._emit(NotifyJoin(node))
        elif (known.meta or b"") != (node.meta or b"") or known.endpoint != node.endpoint:
            self._emit(NotifyUpdate(node))

    def _claim(self, message: Alive, now: float, ours: bool) -> Node | None:
        """The record that the message asks for, or None if it is not acceptable."""
        versions = message.versions
        if len(versions) >= 3 and not 0 < versions[0] <= versions[1]:
            self._warn("Ignoring an alive message for invalid protocol versions", node=message.node)
            return None
        if len(versions) < VERSIONS_LENGTH:
            self._warn("Ignoring an alive message: Vsn is not present", node=message.node)
            return None
        if not message.node or len(message.meta or b"") > META_BYTES_MAX:
            self._warn("Ignoring an alive message without a name or with too much meta", node=message.node)
            return None
        try:
            address = address_text(message.address)
        except DecodeError as error:
            self._warn("Ignoring an alive message", node=message.node, error=str(error))
            return None
        mine = self._versions
        claim = Node(
            name=message.node,
            address=address,
            port=message.port or self.advertise[1],
            meta=message.meta,
            versions=mine if versions == mine else versions[:VERSIONS_LENGTH],
            incarnation=message.incarnation,
            state=NodeState.ALIVE,
            changed_at=now,
        )
        veto = None if ours else self._delegate.alive_veto(claim)
        if veto is not None:
            self._warn("Ignoring an alive message", node=message.node, error=veto)
            return None
        return claim

    def _admit(self, claim: Node) -> bool:
        if not self._delegate.address_allowed(claim.address):
            self._warn("Rejected node", node=claim.name, ip=claim.address)
            return False
        if len(self.nodes) >= MEMBERS_MAX:
            self._warn("Rejected node: too many members", node=claim.name)
            return False
        return True

    def _create(self, claim: Node, now: float) -> Node:
        """A record in state dead, so that what follows is a join."""
        node = replace(claim, state=NodeState.DEAD, incarnation=0, changed_at=now)
        self.nodes[node.name] = node
        self.ring.append(node.name)
        place = self._rng.randrange(len(self.ring))
        self.ring[place], self.ring[-1] = self.ring[-1], self.ring[place]
        return node

    def _may_move(self, known: Node, claim: Node, message: Alive, now: float) -> bool:
        """Whether the name may take the new address; if not, that is a conflict."""
        reclaim = self._config.dead_node_reclaim_s
        if known.state == NodeState.LEFT:
            return True
        if known.state == NodeState.DEAD and 0 < reclaim < now - known.changed_at:
            return True
        if self._same_member_moved(known, claim):
            if self._old_address_is_silent(known, now):
                return True
            self._moves[known.name] = (message, now)
            self.contested.add(known.name)
        self._emit(
            log_line(
                LogLevel.ERROR,
                "Conflicting address for node",
                node=known.name,
                mine=f"{known.address}:{known.port}",
                theirs=f"{claim.address}:{claim.port}",
                old_state=int(known.state),
            )
        )
        self._emit(NotifyConflict(known, claim))
        return False

    def _same_member_moved(self, known: Node, claim: Node) -> bool:
        """Our choice: a member restarted elsewhere need not wait for the reclaim time, but only with the same ID."""
        return (
            self._config.members_keep_id_when_moving
            and known.name != self.name
            and self._delegate.same_identity(known.meta, claim.meta)
        )

    def _old_address_is_silent(self, known: Node, now: float) -> bool:
        if known.state != NodeState.ALIVE:
            return True
        refused_at = self._refused.get(known.name)
        return refused_at is not None and now - refused_at <= MOVE_MEMORY_S

    # --- evidence about moved members ---------------------------------------------------------------------------

    def note_refused(self, address: Address, now: float) -> None:
        """Nobody listens at `address`."""
        for node in [node for node in self.nodes.values() if node.endpoint == address and node.name != self.name]:
            self._refused[node.name] = now
            suspicion = self.suspicions.get(node.name)
            if suspicion is not None:
                self._trust_refusal(suspicion)
            self._accept_remembered_move(node.name, now)

    def note_silence(self, name: str, since: float, now: float) -> None:
        """`name` has not answered us since then: with a refusal of its host, the suspicion counts from there; some time
        for a refutation is left.
        """
        suspicion = self.suspicions.get(name)
        if suspicion is not None and suspicion.is_hastened:
            suspicion.backdate(max(since, now - self._least_ns(1) * BACKDATED_PART_MAX / NANOSECONDS))

    def note_answer(self, node: Node, now: float) -> None:
        """`node` as we pinged it has answered."""
        current = self.nodes.get(node.name)
        if current is not None and current.endpoint == node.endpoint:
            self.note_life(node.name, now)

    def note_life(self, name: str, now: float) -> None:
        """`name` answered us from where we think it is: the claim of another to its name has no ground, and we do not
        declare it dead for what others say; a suspicion begins anew.
        """
        suspicion = self.suspicions.get(name)
        if suspicion is not None:
            suspicion.restart(now)
        self._refused.pop(name, None)
        self._moves.pop(name, None)

    def _accept_remembered_move(self, name: str, now: float) -> None:
        message, heard_at = self._moves.pop(name, (None, 0.0))
        if message is not None and now - heard_at <= MOVE_MEMORY_S:
            self.alive(message, now)

    # --- suspect ------------------------------------------------------------------------------------------------

    def suspect(self, message: Suspect, now: float) -> None:
        """A node is said not to answer."""
        known = self.nodes.get(message.node)
        if known is None or message.incarnation < known.incarnation:
            return
        running = self.suspicions.get(message.node)
        if running is not None:
            if running.confirm(message.sender):
                self._queue.queue(encode_message(message), name=message.node)
            return
        if known.state != NodeState.ALIVE:
            return
        if message.node == self.name:
            self._refute(message.incarnation)
            self._warn("Refuting a suspect message", sender=message.sender)
            return
        self._queue.queue(encode_message(message), name=message.node)
        self.nodes[known.name] = replace(
            known, state=NodeState.SUSPECT, incarnation=message.incarnation, changed_at=now
        )
        suspicion = self.suspicions[known.name] = self._new_suspicion(message.sender, now)
        if now - self._refused.get(known.name, -REFUSAL_MEMORY_S) < REFUSAL_MEMORY_S:
            self._trust_refusal(suspicion)
        self._accept_remembered_move(known.name, now)

    def _new_suspicion(self, suspector: str, now: float) -> Suspicion:
        config = self._config
        needed = config.suspicion_mult - 2
        if len(self.nodes) - 2 < needed:
            needed = 0
        least = self._least_ns(len(self.nodes))
        return Suspicion(suspector, needed, least, config.suspicion_max_timeout_mult * least, now)

    def _trust_refusal(self, suspicion: Suspicion) -> None:
        """The suspect's own host says that nobody listens: no need to hear it from more members in a large pool."""
        if self._config.refusal_shortens_suspicion:
            suspicion.hasten(self._least_ns(1))

    def _least_ns(self, node_count: int) -> int:
        """The least time of a suspicion in a pool of that size."""
        config = self._config
        return suspicion_timeout_ns(config.suspicion_mult, node_count, round(config.probe_interval_s * NANOSECONDS))

    def expire_suspicions(self, now: float) -> None:
        """Declare dead whose time is over."""
        if not self.suspicions:
            return
        due = [name for name, suspicion in self.suspicions.items() if suspicion.deadline <= now]
        for name in due:
            self.expire(name, now)

    def expire(self, name: str, now: float) -> None:
        """The suspicion of `name` was not refuted."""
        suspicion, node = self.suspicions.get(name), self.nodes.get(name)
        if suspicion is None or node is None or node.state != NodeState.SUSPECT:
            return
        self._emit(log_event("marked_failed", name=name, confirmations=suspicion.confirmations))
        self.dead(Dead(node.incarnation, name, self.name), now)

    def postpone(self, seconds: float) -> None:
        """We were deaf for so long: no suspicion may end for that alone."""
        for suspicion in self.suspicions.values():
            suspicion.postpone(seconds)

    # --- dead ---------------------------------------------------------------------------------------------------

    def dead(self, message: Dead, now: float, *, ticket: int | None = None) -> None:
        """A node is said to be dead, or says of itself that it left."""
        known = self.nodes.get(message.node)
        if known is None or message.incarnation < known.incarnation:
            return
        self.suspicions.pop(message.node, None)
        if known.is_gone:
            return
        if message.node == self.name and not self.leaving:
            self._refute(message.incarnation)
            self._warn("Refuting a dead message", sender=message.sender)
            return
        self._queue.queue(encode_message(message), name=message.node, ticket=ticket)
        state = NodeState.LEFT if message.node == message.sender else NodeState.DEAD
        node = replace(known, state=state, incarnation=message.incarnation, changed_at=now)
        self.nodes[node.name] = node
        if state == NodeState.DEAD and node.name != self.name:
            self.gone[node.endpoint] = node.name
        self._emit(NotifyLeave(node))
        self._accept_remembered_move(node.name, now)

    # --- push/pull ----------------------------------------------------------------------------------------------

    def states(self) -> tuple[PushNodeState, ...]:
        """All records as they are told to others."""
        return tuple(
            PushNodeState(
                node.name,
                address_bytes(node.address),
                node.port,
                node.meta,
                node.incarnation,
                int(node.state),
                node.versions,
            )
            for node in self.nodes.values()
        )

    def merge(self, states: Iterable[PushNodeState], now: float) -> None:
        """What another one knows. Its dead are only suspects to us, so that they can refute."""
        for state in states:
            match state.state:
                case NodeState.ALIVE:
                    self.alive(
                        Alive(state.incarnation, state.name, state.address, state.port, state.meta, state.versions), now
                    )
                case NodeState.LEFT:
                    self.dead(Dead(state.incarnation, state.name, state.name), now)
                case NodeState.DEAD | NodeState.SUSPECT:
                    self.suspect(Suspect(state.incarnation, state.name, self.name), now)

    # --- forgetting ---------------------------------------------------------------------------------------------

    def forget_the_dead(self, now: float) -> None:
        """At each wrap of the ring: drop long dead and left records, shuffle the rest."""
        limit = self._config.gossip_to_the_dead_s
        old = [node for node in self.nodes.values() if node.is_gone and now - node.changed_at > limit]
        for node in old:
            if node.name == self.name:
                continue  # a left agent still tells of itself
            del self.nodes[node.name]
            self.gone.pop(node.endpoint, None)
            self._refused.pop(node.name, None)
            self._moves.pop(node.name, None)
            self.contested.discard(node.name)
        self.ring = [name for name in self.ring if name in self.nodes]
        self._rng.shuffle(self.ring)

    def _warn(self, message: str, **pairs: object) -> None:
        self._emit(log_line(LogLevel.WARN, message, **pairs))


def alive_of(node: Node) -> Alive:
    """What says that `node` is alive as we know it."""
    return Alive(node.incarnation, node.name, address_bytes(node.address), node.port, node.meta, node.versions)
