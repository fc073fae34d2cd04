"""Looking for members that failed, and for those of an earlier life that were not seen again.

Nobody knows who else is looking, so each throws dice such that all together make a few attempts a round.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.effects import Reconnect
from pyconsul_agent.serf.table import MemberTable
from pyconsul_agent.wire.gossip import Address

RECONNECTS_SOON_MAX = 32
"""Attempts that a whole pool makes per round, on average, to reach members that failed lately, however many did."""


class Reconnector:
    """One node's part in it."""

    def __init__(self, config: SerfConfig, table: MemberTable, rng: random.Random) -> None:
        self._config = config
        self._table = table
        self._rng = rng

    def any(self) -> list[Reconnect]:
        """A round for all that are missing: as many attempts of the pool as there are."""
        missing = self._table.missing(-math.inf)
        return self._attempt(missing, len(missing))

    def recent(self, now: float) -> list[Reconnect]:
        """A round for those that failed lately."""
        missing = self._table.missing(now - self._config.reconnect_soon_s)
        return self._attempt(missing, min(len(missing), RECONNECTS_SOON_MAX))

    def _attempt(self, missing: Sequence[tuple[str, Address]], attempts: int) -> list[Reconnect]:
        if not missing:
            return []
        table = self._table
        living = len(table.records) - len(table.failed) - len(table.left)
        return [Reconnect(*self._rng.choice(missing))] if self._rng.random() <= attempts / max(living, 1) else []
