"""The TCP side: the book of streams we opened, and the exchange of everything both sides know (push/pull).

Protocol: docs/protocol/gossip.md, sections 6 and 7.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.swim.config import META_BYTES_MAX, SwimConfig
from pyconsul_agent.swim.delegate import Delegate
from pyconsul_agent.swim.effects import (
    Effect,
    JoinFinished,
    LogLevel,
    MergeRemoteState,
    Node,
    OpenStream,
    StreamPurpose,
    log_line,
)
from pyconsul_agent.swim.members import Membership
from pyconsul_agent.wire.gossip import (
    VERSIONS_LENGTH,
    Address,
    NodeState,
    PushNodeState,
    PushPull,
    address_text,
)
from pyconsul_agent.wire.gossip_stream import encode_stream

DRIVER_GRACE_S = 5.0
"""After its deadline a stream that the driver never reported is taken as failed, so the book cannot grow."""


@dataclass(frozen=True, slots=True)
class OpenedStream:
    """One stream of the book."""

    purpose: StreamPurpose
    to: Address
    node: str
    deadline: float
    join: bool
    sequence: int


class Streams:
    """Opens streams and merges what they bring."""

    def __init__(
        self, config: SwimConfig, *, members: Membership, delegate: Delegate, emit: Callable[[Effect], None]
    ) -> None:
        self._config = config
        self._members = members
        self._delegate = delegate
        self._emit = emit
        self._book: dict[int, OpenedStream] = {}
        self._last_id = 0

    def open(
        self,
        purpose: StreamPurpose,
        to: Address,
        node: str,
        request: bytes,
        deadline: float,
        *,
        join: bool = False,
        sequence: int = 0,
    ) -> int:
        """Ask the driver for a stream; returns its id."""
        self._last_id += 1
        self._book[self._last_id] = OpenedStream(purpose, to, node, deadline, join, sequence)
        self._emit(OpenStream(self._last_id, purpose, to, node, request, deadline))
        return self._last_id

    def push_pull_with(self, to: Address, node: str, *, join: bool, now: float) -> int:
        """Open a stream and send everything we know."""
        request = encode_stream(self.local_state(join))
        deadline = now + self._config.stream_timeout_s
        return self.open(StreamPurpose.PUSH_PULL, to, node, request, deadline, join=join)

    def close(self, id: int) -> OpenedStream | None:
        """Take a stream out of the book; None if it is not there (any more)."""
        return self._book.pop(id, None)

    def next_deadline(self) -> float | None:
        """When the first stream of the book is given up."""
        if not self._book:
            return None
        return min((stream.deadline + DRIVER_GRACE_S for stream in self._book.values()), default=None)

    def overdue(self, now: float) -> list[int]:
        """Streams to be given up."""
        if not self._book:
            return []
        return [number for number, stream in self._book.items() if stream.deadline + DRIVER_GRACE_S <= now]

    # --- push/pull ----------------------------------------------------------------------------------------------

    def local_state(self, join: bool) -> PushPull:
        """Everything we know."""
        return PushPull(join, self._members.states(), self._delegate.local_state(join))

    def finish_push_pull(self, id: int, stream: OpenedStream, remote: PushPull, now: float) -> None:
        """The other side's answer to ours. The Join flag that counts is our own."""
        error = self.merge(remote, stream.join, now)
        if error is not None:
            self._emit(log_line(LogLevel.ERROR, "Failed push/pull merge", error=error, source=stream.to[0]))
        if stream.join:
            self._emit(JoinFinished(id, stream.to, error))

    def merge(self, remote: PushPull, join: bool, now: float) -> str | None:
        """Take over what the other side knows; an error text if the whole exchange is refused."""
        error = verify_protocol(self._members.states(), remote.states)
        if error is None and join:
            error = self._join_veto(remote.states)
        if error is not None:
            return error
        self._members.merge(remote.states, now)
        if remote.user_state:
            self._emit(MergeRemoteState(remote.user_state, join))
        return None

    def _join_veto(self, states: Sequence[PushNodeState]) -> str | None:
        try:
            nodes = [_node_of(state, self._members.advertise[1]) for state in states]
        except DecodeError as error:
            return error.reason
        return self._delegate.merge_veto(nodes)


def _node_of(state: PushNodeState, default_port: int) -> Node:
    if len(state.meta or b"") > META_BYTES_MAX:
        raise DecodeError(f"meta of node {state.name!r} exceeds {META_BYTES_MAX} bytes")
    if not NodeState.ALIVE <= state.state <= NodeState.LEFT:
        raise DecodeError(f"state of node {state.name!r} is unknown: {state.state}")
    return Node(
        name=state.name,
        address=address_text(state.address),
        port=state.port or default_port,
        meta=state.meta,
        versions=state.versions[:VERSIONS_LENGTH],
        incarnation=state.incarnation,
        state=NodeState(state.state),
    )


def verify_protocol(local: Sequence[PushNodeState], remote: Sequence[PushNodeState]) -> str | None:
    """Whether everybody on both lists can speak with all who are alive; the text of the first who cannot.

    Each entry's current version must be within what every *alive* entry understands. A missing version counts as 0,
    but a remote entry without any does not narrow the range.
    """
    understood = [
        versions
        for states, skip_empty in ((local, False), (remote, True))
        for state in states
        if state.state == NodeState.ALIVE and (state.versions or not skip_empty)
        for versions in (_six(state.versions),)
    ]
    least, most = max((v[0] for v in understood), default=0), min((v[1] for v in understood), default=255)
    delegate_least, delegate_most = (
        max((v[3] for v in understood), default=0),
        min((v[4] for v in understood), default=255),
    )
    for state in (*local, *remote):
        versions = _six(state.versions)
        if not least <= versions[2] <= most:
            return f"Node '{state.name}' protocol version ({versions[2]}) is incompatible: [{least}, {most}]"
        if not delegate_least <= versions[5] <= delegate_most:
            return (
                f"Node '{state.name}' delegate protocol version ({versions[5]}) is incompatible: "
                f"[{delegate_least}, {delegate_most}]"
            )
    return None


def _six(versions: bytes) -> bytes:
    return versions[:VERSIONS_LENGTH].ljust(VERSIONS_LENGTH, b"\0")
