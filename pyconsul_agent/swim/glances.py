"""Looking at further members between the probes: plain pings that nobody is suspected for.

A probe a second and member leaves a dead one unseen for seconds when chance sends everybody elsewhere. So each probe
goes with a few pings to random others; who does not answer one is probed at once (`Prober`). Our choice: memberlist has
none of this, its members see only pings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyconsul_agent.swim.awareness import Awareness
from pyconsul_agent.swim.config import SwimConfig
from pyconsul_agent.swim.effects import Node
from pyconsul_agent.swim.members import Membership
from pyconsul_agent.swim.timing import extra_pings


@dataclass(frozen=True, slots=True)
class _Glance:
    """A ping that waits for its answer."""

    node: Node
    sent_at: float
    ends_at: float


class Glances:
    """The extra pings of one member. Few wait at a time: an interval's worth, times the local health at most."""

    def __init__(
        self,
        config: SwimConfig,
        *,
        members: Membership,
        awareness: Awareness,
        ping: Callable[[Node], int],
    ) -> None:
        """`ping` sends one to a member and tells its sequence number."""
        self._config = config
        self._members = members
        self._awareness = awareness
        self._ping = ping
        self._waiting: dict[int, _Glance] = {}

    def next_deadline(self) -> float | None:
        """When `unanswered` has something to tell."""
        return min(glance.ends_at for glance in self._waiting.values()) if self._waiting else None

    def start(self, now: float, but: str) -> None:
        """Ping as many members as this pool's size asks for; `but` is probed anyway."""
        count = extra_pings(len(self._members), self._config.extra_pings_max)
        if not count:
            return
        ends_at = now + self._awareness.scaled(self._config.probe_timeout_s)
        for node in self._members.choose(count, lambda node: not node.is_gone and node.name != but):
            self._waiting[self._ping(node)] = _Glance(node, now, ends_at)

    def acknowledged(self, sequence_number: int, now: float) -> bool:
        """Whether an ack was for one of these."""
        glance = self._waiting.pop(sequence_number, None)
        if glance is None:
            return False
        self._members.note_answer(glance.node, now)
        return True

    def unanswered(self, now: float) -> Iterator[tuple[Node, float]]:
        """Whose time is over, as they are known now, and when they were pinged."""
        if not self._waiting:
            return
        for number in [number for number, glance in self._waiting.items() if glance.ends_at <= now]:
            glance = self._waiting.pop(number)
            node = self._members.nodes.get(glance.node.name)
            if node is not None and not node.is_gone and node.endpoint == glance.node.endpoint:
                yield node, glance.sent_at

    def forget(self) -> None:
        """We were deaf: silence proves nothing."""
        self._waiting.clear()
