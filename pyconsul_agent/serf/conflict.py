"""Who owns a name that two nodes claim: the pool is asked, the majority decides (docs/protocol/gossip.md 10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.serf.admission import same_identity
from pyconsul_agent.serf.effects import NameLost, QueryAnswered, QueryFinished, SerfEffect
from pyconsul_agent.swim.effects import LogLevel, Node, log_line
from pyconsul_agent.wire.gossip import Address, address_text
from pyconsul_agent.wire.serf import decode_conflict


@dataclass(slots=True)
class NameVote:
    """The answers to one `_serf_conflict` query of ours, asked for our own name."""

    id: int
    endpoint: Address
    answers: int = 0
    agreed: int = 0

    def count(self, payload: bytes) -> None:
        """One node's answer: whom it holds for the owner. What cannot be read does not vote."""
        try:
            member = decode_conflict(payload)
            here = member is not None and (address_text(member.address or b""), member.port) == self.endpoint
        except DecodeError:
            return
        self.answers += 1
        self.agreed += here

    @property
    def is_lost(self) -> bool:
        """Whether fewer than a majority of the answers are for us."""
        return self.agreed < self.answers // 2 + 1


class NameConflicts:
    """Claims of two nodes to one name, as this node sees them."""

    def __init__(
        self, name: str, ask_owner: Callable[[Node, float], int] | None, emit: Callable[[SerfEffect], None]
    ) -> None:
        """`ask_owner` sends the `_serf_conflict` query about a node and gives its number; None: nobody is asked.

        It raises ValueError when the query cannot be sent.
        """
        self.taken_by: str | None = None
        """`address:port` of another node that goes by our name, as the last join heard; None if it heard of none."""
        self._name = name
        self._ask_owner = ask_owner
        self._emit = emit
        self._vote: NameVote | None = None

    def seen(self, existing: Node, other: Node, now: float) -> None:
        """`other` claims the name of `existing`."""
        if existing.name == self._name:
            text = "Node name conflicts with another node. Names must be unique!"
            address = f"{other.address}:{other.port}"
            self._emit(log_line(LogLevel.ERROR, text, node=other.name, address=address))
            if not same_identity(existing.meta, other.meta):  # else it is us, at an address we have left
                self.taken_by = address
            self._ask_for_our_name(existing, now)
        else:
            pairs = {"existing": f"{existing.address}:{existing.port}", "other": f"{other.address}:{other.port}"}
            self._emit(log_line(LogLevel.WARN, "Name conflict, both claim it", node=other.name, **pairs))

    def told(self, effect: SerfEffect) -> None:
        """What the query desk says: passed on, but for the answers that only we want."""
        vote = self._vote
        if vote is None or not isinstance(effect, QueryAnswered | QueryFinished) or effect.id != vote.id:
            self._emit(effect)
        elif isinstance(effect, QueryAnswered):
            vote.count(effect.payload or b"")
        else:
            self._vote = None
            if vote.is_lost:
                self._emit(NameLost(vote.answers, vote.agreed))
            else:
                text = "majority in name conflict resolution"
                self._emit(log_line(LogLevel.INFO, text, answers=vote.answers, agreed=vote.agreed))

    def _ask_for_our_name(self, me: Node, now: float) -> None:
        if self._ask_owner is None or self._vote is not None:
            return
        try:
            number = self._ask_owner(me, now)
        except ValueError as error:
            self._emit(log_line(LogLevel.ERROR, "failed to ask who owns our name", error=str(error)))
            return
        self._vote = NameVote(number, me.endpoint)
