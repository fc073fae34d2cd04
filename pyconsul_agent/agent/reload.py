"""Services and checks of the configuration: loaded at the start, and exchanged for others while the agent runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.agent.definitions import CheckFromFile, ServiceFromFile, check_of, service_of
from pyconsul_agent.agent.registry import Registry
from pyconsul_agent.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Definitions:
    """Everything that the configuration defines."""

    services: tuple[ServiceFromFile, ...]
    checks: tuple[CheckFromFile, ...]


def definitions_of(services: Sequence[Mapping[str, Any]], checks: Sequence[Mapping[str, Any]]) -> Definitions:
    """The blocks of the configuration, understood. Raises ConfigError."""
    return Definitions(tuple(map(service_of, services)), tuple(map(check_of, checks)))


def load(registry: Registry, definitions: Definitions) -> None:
    """Services and checks of the configuration, then those kept from before. Raises ConfigError."""
    try:
        for service in definitions.services:
            registry.add_service(service.service, service.checks, token=service.token, from_config=True)
        for check in definitions.checks:
            registry.add_check(check.check, service_id=check.service_id, token=check.token, from_config=True)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    registry.restore()


def examine(registry: Registry, definitions: Definitions) -> None:
    """Raise ConfigError if `load` would; change nothing."""
    try:
        for service in definitions.services:
            registry.admit_all(service.checks)
        known = {service.service.id for service in definitions.services}
        for check in definitions.checks:
            registry.admit_all([check.check])
            if check.service_id and check.service_id not in known:
                raise ValueError(f'ServiceID "{check.service_id}" does not exist')
    except ValueError as error:
        raise ConfigError(str(error)) from None


def exchange(registry: Registry, definitions: Definitions) -> None:
    """Unload everything and load it again; checks that are still there keep status and output.

    For `definitions` that have passed `examine`. The catalog sees only what has changed in the end.
    """
    before = registry.unload()
    load(registry, definitions)
    registry.carry_over(before)
