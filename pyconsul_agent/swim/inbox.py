"""What a burst of datagrams leaves to be handled: newest first, alive messages before all others, both bounded.

After a pause the newest news is worth most: it tells what the older only guessed. Protocol: docs/protocol/gossip.md,
section 3.3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from pyconsul_agent.swim.config import HANDOFF_QUEUE_MAX
from pyconsul_agent.wire.gossip import Address, Alive, PacketMessage


class Inbox:
    """Two bounded stacks."""

    def __init__(self) -> None:
        self._urgent: deque[tuple[PacketMessage, Address]] = deque()
        self._others: deque[tuple[PacketMessage, Address]] = deque()

    def put(self, message: PacketMessage, source: Address) -> bool:
        """Keep a message; False if there is no room and it is dropped."""
        stack = self._urgent if type(message) is Alive else self._others
        if len(stack) >= HANDOFF_QUEUE_MAX:
            return False
        stack.append((message, source))
        return True

    def drain(self) -> Iterator[tuple[PacketMessage, Address]]:
        """Take everything out, in the order to handle it."""
        while self._urgent or self._others:
            yield (self._urgent or self._others).pop()
