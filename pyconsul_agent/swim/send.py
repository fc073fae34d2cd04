"""Making datagrams: piggybacked broadcasts, compound, compression, CRC. What leaves here needs only label and keys.

Protocol: docs/protocol/gossip.md, sections 1.2, 7.5 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyconsul_agent.swim.broadcast import TransmitLimitedQueue
from pyconsul_agent.swim.config import SwimConfig
from pyconsul_agent.swim.delegate import Delegate
from pyconsul_agent.swim.effects import Effect, Node, SendPacket
from pyconsul_agent.wire.gossip import Address
from pyconsul_agent.wire.gossip_packet import (
    COMPOUND_HEADER_OVERHEAD,
    COMPOUND_PART_OVERHEAD,
    add_crc,
    compress_message,
    pack_compounds,
)

USER_TYPE = b"\x08"
PROTOCOL_CRC = 5
COMPRESS_FROM = 128
"""Shorter messages do not get shorter by compression, so it is not tried."""


class Sender:
    """Fills and wraps datagrams for one member."""

    def __init__(
        self,
        config: SwimConfig,
        *,
        queue: TransmitLimitedQueue,
        delegate: Delegate,
        node_count: Callable[[], int],
        emit: Callable[[Effect], None],
    ) -> None:
        self._config = config
        self._queue = queue
        self._delegate = delegate
        self._node_count = node_count
        self._emit = emit

    def send(self, message: bytes, to: Address) -> None:
        """One message to an address, with as many broadcasts as fit behind it."""
        space = self._space() - len(message) - COMPOUND_PART_OVERHEAD
        self._wrap_and_emit([message, *self.broadcasts(space)], to, crc=False)

    def send_bare(self, message: bytes, to: Address) -> None:
        """One message to an address and nothing else."""
        self._wrap_and_emit([message], to, crc=False)

    def send_to_node(self, messages: Sequence[bytes], node: Node) -> None:
        """These messages to a member whose record we hold, so a CRC can be added when it knows them."""
        self._wrap_and_emit(messages, node.endpoint, crc=node.protocol_max >= PROTOCOL_CRC)

    def gossip(self, node: Node) -> bool:
        """One packet of broadcasts; False if there was nothing to send."""
        messages = self.broadcasts(self._space())
        if messages:
            self.send_to_node(messages, node)
        return bool(messages)

    def may_have_broadcasts(self) -> bool:
        """False when there is certainly nothing to tell."""
        return len(self._queue) > 0 or self._delegate.may_have_broadcasts()

    def broadcasts(self, space: int) -> list[bytes]:
        """Broadcasts for `space` bytes: ours first, the upper layer's (with their type byte) in what is left."""
        if not self.may_have_broadcasts():
            return []
        chosen = self._queue.get(COMPOUND_PART_OVERHEAD, space, self._node_count())
        left = space - sum(map(len, chosen)) - COMPOUND_PART_OVERHEAD * len(chosen)
        overhead = COMPOUND_PART_OVERHEAD + len(USER_TYPE)
        if left > overhead:
            chosen += [USER_TYPE + message for message in self._delegate.get_broadcasts(overhead, left)]
        return chosen

    def _space(self) -> int:
        return self._config.packet_bytes_max - COMPOUND_HEADER_OVERHEAD - self._config.packet_overhead

    def _wrap_and_emit(self, messages: Sequence[bytes], to: Address, *, crc: bool) -> None:
        for packet in messages if len(messages) == 1 else pack_compounds(messages):
            if self._config.compression and len(packet) >= COMPRESS_FROM:
                packet = min(packet, compress_message(packet), key=len)
            self._emit(SendPacket(to, add_crc(packet) if crc else packet))
