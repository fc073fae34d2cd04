"""`config_entries.bootstrap`: config entries as the configuration writes them, for a leader to store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyconsul_agent.errors import ConfigError, RPCError
from pyconsul_agent.interfaces.http.config import entry_of
from pyconsul_agent.server.leader.entries import judged
from pyconsul_agent.structs.config_kinds import ConfigEntry

KEY = "config_entries.bootstrap"


def bootstrap_entries(section: Mapping[str, Any]) -> tuple[ConfigEntry, ...]:
    """The entries of `config_entries`, judged and with their defaults. Raises ConfigError."""
    foreign = sorted(key for key in section if key != "bootstrap")
    if foreign:
        raise ConfigError(f"invalid config key config_entries.{foreign[0]}")
    given = section.get("bootstrap", [])
    rows = given if isinstance(given, list | tuple) else [given]
    entries = []
    for place, row in enumerate(rows):
        try:
            entries.append(judged(entry_of(_single(row))))
        except (ValueError, RPCError) as error:
            raise ConfigError(f"{KEY}[{place}]: {error}") from None
    return tuple(entries)


def _single(value: Any) -> Any:
    """Blocks as HCL makes them, lists of one, as the block itself; lists of entries of an entry stay what they are.

    A list of one block where a list is meant comes back as the block: the decoder makes a list of it again.
    """
    if isinstance(value, Mapping):
        return {key: _single(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return (
            _single(value[0]) if len(value) == 1 and isinstance(value[0], Mapping) else [_single(one) for one in value]
        )
    return value
