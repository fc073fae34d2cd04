"""What a check's results mean: thresholds and the cutting of outputs. Pure."""

from __future__ import annotations

PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
STATUSES = (PASSING, WARNING, CRITICAL)
OUTPUT_BYTES_MAX = 4096


class Thresholds:
    """Counts consecutive results; a new status shows only when its count is reached.

    The counters start full, so that the first result always shows. Warning counts as success.
    """

    def __init__(self, success_before_passing: int = 0, failures_before_critical: int = 0) -> None:
        self._success_before = success_before_passing
        self._failures_before = failures_before_critical
        self._successes = success_before_passing
        self._failures = failures_before_critical

    def shows(self, status: str) -> bool:
        """Count `status`; whether it may be reported."""
        if status in (PASSING, WARNING):
            self._successes += 1
            self._failures = 0
            return self._successes > self._success_before or self._success_before == 0
        self._failures += 1
        self._successes = 0
        return self._failures > self._failures_before or self._failures_before == 0


def cut_head(output: str, bytes_max: int) -> str:
    """A TTL check's note: its first bytes, with a mark where it was cut."""
    data = output.encode("utf-8", "surrogateescape")
    if len(data) <= bytes_max:
        return output
    head = data[:bytes_max].decode("utf-8", "ignore")
    return f"{head} ... (captured {bytes_max} of {len(data)} bytes)"


def with_capture_note(tail: bytes, total: int, bytes_max: int) -> str:
    """A script's output: its last bytes, with a line in front where it was cut."""
    text = tail.decode("utf-8", "replace")
    if total <= bytes_max:
        return text
    return f"Captured {bytes_max} of {total} bytes\n...\n{text}"


def script_status(exit_code: int) -> str:
    """0 passes, 1 warns, anything else is critical."""
    return {0: PASSING, 1: WARNING}.get(exit_code, CRITICAL)


def http_status(code: int) -> str:
    """2xx passes, 429 warns, anything else is critical."""
    if 200 <= code <= 299:
        return PASSING
    return WARNING if code == 429 else CRITICAL
