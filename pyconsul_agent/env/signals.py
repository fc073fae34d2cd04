"""Signals of the operating system, by name."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

WORDS = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminated", signal.SIGHUP: "hangup"}
"""As Go prints them."""


def on_signals(caught: Callable[[str], None]) -> Callable[[], None]:
    """Call `caught(word)` for each SIGINT, SIGTERM and SIGHUP from now on; returns what undoes it.

    SIGPIPE is ignored: a peer that closes is an error of its connection, not of the process.
    """
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in WORDS}
    for number, word in WORDS.items():
        loop.add_signal_handler(number, caught, word)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def undo() -> None:
        for number in WORDS:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])

    return undo
