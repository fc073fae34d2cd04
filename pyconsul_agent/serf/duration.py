"""Go's text form of a span of time, as member tags carry it ("30m", "1h0m0s")."""

from __future__ import annotations

import re

_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,9})?)(ns|us|µs|ms|s|m|h)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def go_duration_s(text: str) -> float:
    """Seconds, 0.0 for anything that is not a positive span.

    >>> go_duration_s("1h0m30s"), go_duration_s("soon")
    (3630.0, 0.0)
    """
    if len(text) > 64 or not _WHOLE.fullmatch(text):
        return 0.0
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))
