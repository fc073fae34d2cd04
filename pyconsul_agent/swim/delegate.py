"""What the failure detector asks of the layer above while it works. Only questions: what it *tells* is an effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pyconsul_agent.swim.effects import Node


class Delegate(Protocol):
    """The layer above (serf). Called synchronously; must not call back into Swim."""

    def node_meta(self, limit: int) -> bytes:
        """This node's meta (encoded tags), at most `limit` bytes."""

    def may_have_broadcasts(self) -> bool:
        """False when `get_broadcasts` certainly has nothing."""

    def get_broadcasts(self, overhead: int, limit: int) -> Sequence[bytes]:
        """Messages to piggyback, **without** the user type byte; each costs `overhead` + its length, in all `limit`."""

    def local_state(self, join: bool) -> bytes:
        """State to send in a push/pull."""

    def ack_payload(self) -> bytes:
        """Payload of an ack over UDP (the coordinate)."""

    def alive_veto(self, node: Node) -> str | None:
        """Why this one node may not be known here; None if it may."""

    def merge_veto(self, nodes: Sequence[Node]) -> str | None:
        """Why this remote list (of a push/pull that joins) is refused as a whole; None if it is not."""

    def address_allowed(self, address: str) -> bool:
        """Whether a member may have this IP address (the allowed CIDRs)."""

    def same_identity(self, old_meta: bytes | None, new_meta: bytes | None) -> bool:
        """Whether both metas carry the same, non-empty node ID."""


class NoDelegate:
    """A bare member: no meta, no state, nothing refused."""

    def node_meta(self, limit: int) -> bytes:
        return b""

    def may_have_broadcasts(self) -> bool:
        return True

    def get_broadcasts(self, overhead: int, limit: int) -> Sequence[bytes]:
        return ()

    def local_state(self, join: bool) -> bytes:
        return b""

    def ack_payload(self) -> bytes:
        return b""

    def alive_veto(self, node: Node) -> str | None:
        return None

    def merge_veto(self, nodes: Sequence[Node]) -> str | None:
        return None

    def address_allowed(self, address: str) -> bool:
        return True

    def same_identity(self, old_meta: bytes | None, new_meta: bytes | None) -> bool:
        return False
