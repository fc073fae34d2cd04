"""A token bucket: so many calls per second, and a burst at once. Pure; knows neither clock nor calls."""

from __future__ import annotations


class TokenBucket:
    """Full at `now`. A negative rate is no limit; rate 0 gives the burst once and nothing after it."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = max(burst, 0)
        self._tokens = float(self._burst)
        self._filled = now

    def take(self, now: float) -> bool:
        """Take one token; False if there is none."""
        if self._rate < 0:
            return True
        self._fill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def limit(self, rate: float, burst: int, now: float) -> None:
        """Other limits from `now` on; what is in the bucket stays, as far as it fits."""
        if self._rate >= 0:
            self._fill(now)
            self._tokens = min(self._tokens, float(max(burst, 0)))
        else:
            self._tokens = float(max(burst, 0))
        self._rate, self._burst, self._filled = rate, max(burst, 0), now

    def _fill(self, now: float) -> None:
        elapsed = max(0.0, now - self._filled)
        self._tokens = min(float(self._burst), self._tokens + elapsed * self._rate)
        self._filled = max(self._filled, now)
