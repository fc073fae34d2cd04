"""What a node does now and then: several rounds, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping


class Rounds:
    """When each is due. A late round moves the next ones: an interval lies between two of a kind."""

    def __init__(self) -> None:
        self._intervals_s: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self.next_due: float | None = None
        """The first of all, monotonic s; None before `start`."""

    def start(self, intervals_s: Mapping[str, float], now: float) -> None:
        """Begin to count; each is due for the first time after its interval."""
        self._intervals_s = dict(intervals_s)
        self._due = {what: now + interval_s for what, interval_s in intervals_s.items()}
        self.next_due = min(self._due.values(), default=None)

    def take_due(self, what: str, now: float) -> bool:
        """Whether that round is due; if so the next one is set. One that was not started never is."""
        due = self._due.get(what)
        if due is None or now < due:
            return False
        self._due[what] = now + self._intervals_s[what]
        self.next_due = min(self._due.values())
        return True
