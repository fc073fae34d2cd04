"""How well this node itself is (Lifeguard's local health): a sick node probes slower instead of suspecting others."""

from __future__ import annotations


class Awareness:
    """The health score, 0 (well) to `multiplier_max` - 1."""

    def __init__(self, multiplier_max: int) -> None:
        assert multiplier_max >= 1
        self._most = multiplier_max - 1
        self.score = 0

    def change(self, delta: int) -> None:
        """Add to the score, within its range."""
        self.score = min(max(0, self.score + delta), self._most)

    def scaled(self, span_s: float) -> float:
        """A probe interval at the present health."""
        return span_s * (self.score + 1)
