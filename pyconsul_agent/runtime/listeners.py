"""Consul's own user events, and whom a node tells of what gossip brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyconsul_agent.structs.member import UserEvent

NEW_LEADER = "consul:new-leader"
"""Fired by each new leader; the payload is its node name."""
USER_EVENT_PREFIX = "consul:event:"
"""What users fire carries this prefix on the wire."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """The agent above a node: told of user events, and of servers that (re)appeared."""

    user_event: Callable[[UserEvent], None]
    server_appeared: Callable[[], None]
