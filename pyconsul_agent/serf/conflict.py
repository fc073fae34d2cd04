"""Who owns a name that two nodes claim: the pool is asked, the majority decides (docs/protocol/gossip.md 10)."""

from __future__ import annotations

from dataclasses import dataclass

from pyconsul_agent.errors import DecodeError
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
