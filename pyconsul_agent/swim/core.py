"""The failure detector as one value: inputs with `now`, effects out. No socket, no clock, no serf, no keys.

The driver reads datagrams and streams, takes label and encryption off, feeds them here, performs what `take()` gives in
that order, and calls `tick` at `next_deadline()`. After every input the layer above must see the effects before the next.
Protocol: docs/protocol/gossip.md, section 7.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from pyconsul_agent.swim.config import SwimConfig
from pyconsul_agent.swim.delegate import Delegate
from pyconsul_agent.swim.effects import Effect, Node
from pyconsul_agent.wire.gossip import Address, StreamMessage


class Swim:
    """One member of one pool."""

    def __init__(
        self, config: SwimConfig, *, name: str, advertise: Address, delegate: Delegate, rng: random.Random
    ) -> None:
        raise NotImplementedError

    # --- driving ------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Become alive with incarnation 1 and begin to probe, gossip and push/pull."""
        raise NotImplementedError

    def take(self) -> list[Effect]:
        """The effects since the last call, in the order to be performed."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called at the latest; None before `start`."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Do what is due: probes, suspicions, gossip, push/pull."""
        raise NotImplementedError

    def note_lag(self, seconds: float, now: float) -> None:
        """The driver ran `seconds` late: count it against our own health and give the running probe that much more."""
        raise NotImplementedError

    # --- packets ------------------------------------------------------------------------------------------------

    def receive(self, packets: Sequence[tuple[bytes, Address]], now: float) -> None:
        """Datagrams (label and encryption removed) with their senders, oldest first."""
        raise NotImplementedError

    def send_user(self, to: Address, data: bytes) -> None:
        """Send one message of the layer above to one place, best effort (serf's query answers and relays)."""
        raise NotImplementedError

    def note_refused(self, address: Address, now: float) -> None:
        """The host at `address` answered that nobody listens (ICMP or TCP): evidence of death, nothing more."""
        raise NotImplementedError

    # --- streams ------------------------------------------------------------------------------------------------

    def stream_requested(self, message: StreamMessage, source: Address, now: float) -> bytes | None:
        """A peer opened a stream and sent `message`; returns the answer to write (then close), or None: close."""
        raise NotImplementedError

    def stream_answered(self, id: int, message: StreamMessage, now: float) -> None:
        """The answer to an `OpenStream`."""
        raise NotImplementedError

    def stream_failed(self, id: int, error: str, now: float, *, refused: bool = False) -> None:
        """An `OpenStream` came to nothing; `refused` when nobody listens there."""
        raise NotImplementedError

    # --- membership ---------------------------------------------------------------------------------------------

    def join(self, targets: Sequence[tuple[str, Address]], now: float) -> tuple[int, ...]:
        """Push/pull (join) with every (name or "", address); each ends in a `JoinFinished` with the id returned here."""
        raise NotImplementedError

    def leave(self, now: float, timeout_s: float) -> int:
        """Announce that we leave; `BroadcastFinished` with this ticket follows. Pings are answered on."""
        raise NotImplementedError

    def update_meta(self, now: float, timeout_s: float) -> int:
        """Announce the delegate's new meta; `BroadcastFinished` with this ticket follows."""
        raise NotImplementedError

    # --- views --------------------------------------------------------------------------------------------------

    @property
    def local(self) -> Node:
        """Our own record."""
        raise NotImplementedError

    @property
    def health_score(self) -> int:
        """0 is well; each step makes probing slower (Lifeguard)."""
        raise NotImplementedError

    def nodes(self) -> list[Node]:
        """Every record held, by name, dead and left ones too."""
        raise NotImplementedError

    def node(self, name: str) -> Node | None:
        """The record of `name`."""
        raise NotImplementedError

    def alive_count(self) -> int:
        """Records alive or suspect, ourselves included."""
        raise NotImplementedError

    def queued_broadcasts(self) -> int:
        """Messages in the broadcast queue."""
        raise NotImplementedError
