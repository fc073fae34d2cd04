"""What gossip still has to carry for serf: intents, queries and user events, and who waits until theirs is sent.

Three queues, since intents go before queries and these before user events when a packet is short of space
(docs/protocol/gossip.md 8).
"""

from __future__ import annotations

from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.effects import IntentSent
from pyconsul_agent.swim.broadcast import TransmitLimitedQueue
from pyconsul_agent.swim.effects import LogLevel, LogLine, log_line


class Broadcasts:
    """The queues of one node. A ticket stands for one announcement whose sender waits for its last transmission."""

    def __init__(self, config: SerfConfig) -> None:
        self._config = config
        mult = config.retransmit_mult
        self.intents, self.queries, self.events = (TransmitLimitedQueue(mult) for _ in range(3))
        self._queues = (self.intents, self.queries, self.events)
        self._tickets: dict[int, float] = {}  # ticket -> when waiting for its transmissions ends
        self._ticket_count = 0

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues)

    def get(self, overhead: int, limit: int, members: int) -> list[bytes]:
        """Messages to piggyback: each costs `overhead` and its length, in all at most `limit`."""
        taken: list[bytes] = []
        for queue in self._queues:
            if not len(queue):
                continue
            messages = queue.get(overhead, limit, members)
            limit -= sum(overhead + len(message) for message in messages)
            taken += messages
        return taken

    # --- waiting --------------------------------------------------------------------------------------------------

    def new_ticket(self) -> int:
        """A number that no announcement had."""
        self._ticket_count += 1
        return self._ticket_count

    def announce(self, message: bytes, ticket: int, now: float) -> None:
        """Queue an intent of ours; `IntentSent` with the ticket follows."""
        self._tickets[ticket] = now + self._config.broadcast_timeout_s
        self.intents.queue(message, ticket=ticket)

    @property
    def is_awaited(self) -> bool:
        """Whether a ticket is out."""
        return bool(self._tickets)

    def next_deadline(self) -> float | None:
        """When waiting for the first ticket ends."""
        return min(self._tickets.values()) if self._tickets else None

    def sent(self) -> list[IntentSent]:
        """Whose message is out of its queue since the last call."""
        return [
            IntentSent(ticket, timed_out=False)
            for queue in (self.intents, self.events, self.queries)
            for ticket in queue.take_finished()
            if self._tickets.pop(ticket, None) is not None
        ]

    def expired(self, now: float) -> list[IntentSent]:
        """Whose time is over."""
        late = [ticket for ticket, deadline in self._tickets.items() if deadline <= now]
        for ticket in late:
            del self._tickets[ticket]
        return [IntentSent(ticket, timed_out=True) for ticket in late]

    def give_up(self) -> list[IntentSent]:
        """There is nobody to hear it: nobody waits any longer."""
        tickets = list(self._tickets)
        self._tickets.clear()
        return [IntentSent(ticket, timed_out=False) for ticket in tickets]

    # --- bounds ---------------------------------------------------------------------------------------------------

    def check_depth(self, members: int) -> list[LogLine]:
        """Prune what grew beyond what the pool's size allows; what there is to say of it."""
        config, lines = self._config, []
        retain = max(config.queue_depth_min, 2 * members)
        for name, queue in (("Intent", self.intents), ("Event", self.events), ("Query", self.queries)):
            if len(queue) >= config.queue_depth_warning:
                lines.append(log_line(LogLevel.WARN, "broadcast queue is deep", queue=name, depth=len(queue)))
            dropped = max(len(queue) - retain, 0)
            if dropped:
                queue.prune(retain)
                lines.append(log_line(LogLevel.WARN, "broadcast queue was pruned", queue=name, dropped=dropped))
        return lines

    def forget(self) -> None:
        """Nothing need be told to anybody."""
        for queue in self._queues:
            queue.prune(0)
