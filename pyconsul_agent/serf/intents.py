"""Coming and going: the join and leave intents that this node sends, believes, passes on and denies.

The rules of what an intent does to the member list are the table's; here is what is said because of them
(docs/protocol/gossip.md 10).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping

from pyconsul_agent.serf.broadcasts import Broadcasts
from pyconsul_agent.serf.effects import IntentSent, SendUser, SerfEffect
from pyconsul_agent.serf.table import LeaveOutcome, MemberTable
from pyconsul_agent.structs.member import MemberStatus
from pyconsul_agent.wire.serf import JoinIntent, LeaveIntent, encode


class SerfState(enum.Enum):
    """Where this node is in its life."""

    ALIVE = "alive"
    LEAVING = "leaving"
    LEFT = "left"


class IntentDesk:
    """Intents of one node, its own and those of others."""

    def __init__(
        self, name: str, table: MemberTable, broadcasts: Broadcasts, emit: Callable[[SerfEffect], None]
    ) -> None:
        self.state = SerfState.ALIVE
        self._name = name
        self._table = table
        self._broadcasts = broadcasts
        self._emit = emit

    # --- what others say ------------------------------------------------------------------------------------------

    def receive_join(self, message: JoinIntent, data: bytes, now: float) -> None:
        """A node says that it is here; `data` is that message as it came, to be passed on."""
        if self._table.join_intent(message, now):
            self._broadcasts.intents.queue(data)

    def receive_leave(self, message: LeaveIntent, data: bytes, now: float) -> None:
        """A node says that it leaves, or somebody says so of a failed one."""
        outcome = self._leave_intent(message, now)
        if outcome is LeaveOutcome.REBROADCAST:
            self._broadcasts.intents.queue(data)
        elif outcome is LeaveOutcome.REFUTE:
            self._deny_leave(now)

    def merge(self, status_ltimes: Mapping[str, int], left_members: Iterable[str], now: float) -> None:
        """What another one believes of all members, from a push/pull: nothing of it is passed on."""
        left = dict.fromkeys(left_members)
        for name in left:
            message = LeaveIntent(ltime=status_ltimes.get(name, 0) + 1, node=name)
            if self._leave_intent(message, now) is LeaveOutcome.REFUTE:
                self._deny_leave(now)
        for name in sorted(status_ltimes.keys() - left.keys()):
            known = JoinIntent(ltime=status_ltimes[name], node=name)
            deny = self.state is SerfState.ALIVE and self._table.is_foreign_word(known)
            self._table.join_intent(known, now)
            if deny:
                self._deny_leave(now)

    def _leave_intent(self, message: LeaveIntent, now: float) -> LeaveOutcome:
        return self._table.leave_intent(message, now, local_is_staying=self.state is SerfState.ALIVE)

    def _deny_leave(self, now: float) -> None:
        """Somebody believes that this node has left. Push/pulls pass that on with a time one higher: top that too."""
        self._table.clock.increment()
        self.announce_join(now)

    # --- what this node says --------------------------------------------------------------------------------------

    def announce_join(self, now: float) -> None:
        """Tell all that this node is here."""
        message = JoinIntent(ltime=self._table.clock.time, node=self._name)
        self._table.join_intent(message, now)
        self._broadcasts.intents.queue(encode(message))

    def announce_leave(self, name: str, now: float, *, prune: bool) -> int:
        """Tell all that a member leaves, this one too; `IntentSent` with the ticket returned follows."""
        message = LeaveIntent(ltime=self._table.clock.time, node=name, prune=prune)
        self._table.clock.increment()
        self._leave_intent(message, now)
        ticket = self._broadcasts.new_ticket()
        if self._is_anybody(MemberStatus.ALIVE):
            self._broadcasts.announce(encode(message), ticket, now)
        else:
            self._emit(IntentSent(ticket, timed_out=False))
        return ticket

    def ask_leavers(self) -> None:
        """Repeat the leave of members that were said to leave and are still here.

        Who never heard of it ignores it, but the member itself denies it; or else one that missed that denial would
        take it for leaving for ever, since in push/pulls a leaving member looks like one that stays. It goes to the
        member itself: as nobody passes on what is no news to it, gossip alone may miss that one time and again.
        """
        for message in self._table.leavers():
            data = encode(message)
            self._broadcasts.intents.queue(data)
            member = self._table.records[message.node].member
            self._emit(SendUser((member.address, member.port), data))

    def stop_waiting_for_nobody(self) -> None:
        """What is still to be sent has nobody to go to: two that leave at once need not wait out their time."""
        if self._broadcasts.is_awaited and not self._is_anybody(MemberStatus.ALIVE, MemberStatus.LEAVING):
            for effect in self._broadcasts.give_up():
                self._emit(effect)

    def _is_anybody(self, *statuses: MemberStatus) -> bool:
        """Whether another member has one of these."""
        return any(record.status in statuses for name, record in self._table.records.items() if name != self._name)
