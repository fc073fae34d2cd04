"""Telling others oneself that one is here: after the start, and after refuting that one is suspect or dead.

Gossip leaves out some: in a pool of 30 each rumor misses about one member in a thousand. Mostly the next probe mends
that, but who holds a member for dead does not probe it, so one that missed a refutation may keep its error for as long
as chance keeps the two from speaking. Larger pools send each rumor oftener and seldom miss one. So whoever has a new
incarnation tells it to the members in turn, twice, no faster than it gossips, and is silent again after that. Our
choice: memberlist has none of this; its members see an alive message like any.
"""

from __future__ import annotations

from pyconsul_agent.swim.config import SwimConfig
from pyconsul_agent.swim.effects import Node
from pyconsul_agent.swim.members import Membership, alive_of
from pyconsul_agent.swim.send import Sender
from pyconsul_agent.wire.gossip import NodeState, encode_message


class Introductions:
    """Those of one member. Remembers only whom it told since its last new incarnation: bounded by steps and nodes."""

    def __init__(self, config: SwimConfig, *, members: Membership, sender: Sender) -> None:
        self._config = config
        self._members = members
        self._sender = sender
        self._incarnation = 0
        self._steps_left = 0
        self._told: set[str] = set()

    def step(self) -> None:
        """One gossip interval has passed: tell a few, of the dead too, since they may be none."""
        members = self._members
        incarnation = members.local.incarnation
        if incarnation != self._incarnation:
            if len(members) == 1:
                return  # nobody to tell yet
            self._incarnation = incarnation
            self._steps_left = self._config.introduction_steps
            self._told.clear()
        if not self._steps_left or members.leaving:
            return
        self._steps_left -= 1
        if self._steps_left == self._config.introduction_steps // 2:
            self._told.clear()  # again: packets get lost, and an accusation may have come after the first
        chosen = members.choose(self._config.gossip_nodes, self._listens)
        for node in chosen:
            self._told.add(node.name)
            self._sender.send_to_node([encode_message(alive_of(members.local))], node)
        if not self._steps_left:
            self._told.clear()

    def forget(self) -> None:
        """All have been told of the present incarnation, as after a long time."""
        self._incarnation = self._members.local.incarnation
        self._steps_left = 0
        self._told.clear()

    def _listens(self, node: Node) -> bool:
        return node.state != NodeState.LEFT and node.name not in self._told
