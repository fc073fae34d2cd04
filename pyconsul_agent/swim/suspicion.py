"""One running suspicion: it starts long and shrinks with each independent confirmation (Lifeguard)."""

from __future__ import annotations

from pyconsul_agent.swim.timing import NANOSECONDS, suspicion_span_ns


class Suspicion:
    """From `suspector`, at `started` (s). With `needed` < 1 it runs the least time from the start."""

    def __init__(self, suspector: str, needed: int, least_ns: int, most_ns: int, started: float) -> None:
        self._seen = {suspector}
        self._needed = needed
        self._least_ns = least_ns
        self._most_ns = most_ns
        self._started = started
        self.confirmations = 0
        self.is_hastened = False
        self.deadline = 0.0
        """When the node is to be declared dead (s)."""
        self._set_deadline()

    def _set_deadline(self) -> None:
        span = suspicion_span_ns(self.confirmations, self._needed, self._least_ns, self._most_ns)
        self.deadline = self._started + span / NANOSECONDS

    def confirm(self, suspector: str) -> bool:
        """Count another suspector; False if it tells nothing new."""
        if self.confirmations >= self._needed or suspector in self._seen:
            return False
        self._seen.add(suspector)
        self.confirmations += 1
        self._set_deadline()
        return True

    def hasten(self, least_ns: int) -> None:
        """There is better evidence than confirmations: run the least time, at most `least_ns`."""
        self._needed = 0
        self._least_ns = min(self._least_ns, least_ns)
        self.is_hastened = True
        self._set_deadline()

    def backdate(self, started: float) -> None:
        """It could have begun earlier."""
        self._started = min(self._started, started)
        self._set_deadline()

    def restart(self, now: float) -> None:
        """The suspect answered: what was heard before proves less."""
        self._started = now
        self._set_deadline()

    def postpone(self, seconds: float) -> None:
        """We were deaf for `seconds`: a refutation may have come and must be given time to be read."""
        self._started += seconds
        self._set_deadline()
