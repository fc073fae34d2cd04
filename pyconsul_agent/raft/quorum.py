"""Majorities: pure arithmetic over a configuration. It knows no state and no messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from pyconsul_agent.structs.raft import Configuration, Server, Suffrage

N = TypeVar("N", int, float)


def servers_of(configuration: Configuration) -> tuple[Server, ...]:
    """Its servers; nil counts as none."""
    return configuration.servers or ()


def voters(configuration: Configuration) -> list[Server]:
    """The voting servers, in the order of the configuration."""
    return [server for server in servers_of(configuration) if server.suffrage == Suffrage.VOTER]


def is_voter(configuration: Configuration, server_id: str) -> bool:
    """Whether that server votes."""
    return any(server.id == server_id for server in voters(configuration))


def find(configuration: Configuration, server_id: str) -> Server | None:
    """The server with that ID, voter or not."""
    return next((server for server in servers_of(configuration) if server.id == server_id), None)


def quorum_size(count: int) -> int:
    """How many of `count` voters decide."""
    return count // 2 + 1


def quorum_value(values: Iterable[N]) -> N:
    """The highest value that a majority has reached (at least one value is needed)."""
    ordered = sorted(values, reverse=True)
    return ordered[quorum_size(len(ordered)) - 1]
