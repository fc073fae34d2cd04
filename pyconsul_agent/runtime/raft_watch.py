"""Tells subscribers who leads, when that changes."""

from __future__ import annotations

from collections.abc import Callable

from pyconsul_agent.raft.core import Raft
from pyconsul_agent.raft.types import Role


class LeadershipWatch:
    """Compares the core with what was told before; called after each Ready."""

    def __init__(self) -> None:
        self.leadership: list[Callable[[bool, int], None]] = []
        """Called with (is_leader, term)."""
        self.leader: list[Callable[[str, str], None]] = []
        """Called with (address, id), both "" when no leader is known."""
        self._leading_in: int | None = None
        self._leader = ("", "")

    def look(self, raft: Raft, *, able: bool) -> None:
        """Call back for what changed. Losing one term's leadership is told even if another's was won at once.

        While this server is not `able`, its own leadership is not told.
        """
        leads = raft.role is Role.LEADER
        leading_in = raft.term if leads and able else None
        if leading_in != self._leading_in:
            before, self._leading_in = self._leading_in, leading_in
            for callback in self.leadership if before is not None else ():
                callback(False, before or 0)
            for callback in self.leadership if leading_in is not None else ():
                callback(True, leading_in or 0)
        leader = ("", "") if leads and not able else (raft.leader_address, raft.leader_id)
        if leader != self._leader:
            self._leader = leader
            for tell in self.leader:
                tell(*leader)

    def end(self) -> None:
        """The server stops: whoever leads must know."""
        before, self._leading_in = self._leading_in, None
        for callback in self.leadership if before is not None else ():
            callback(False, before or 0)
