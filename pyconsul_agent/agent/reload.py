"""Services and checks of the configuration: loaded at the start, and exchanged for others while the agent runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pyconsul_agent.agent.definitions import CheckFromFile, ServiceFromFile, check_of, service_of
from pyconsul_agent.agent.registry import Registry
from pyconsul_agent.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Definitions:
    """Everything that the configuration defines."""

    services: tuple[ServiceFromFile, ...]
    checks: tuple[CheckFromFile, ...]


def definitions_of(services: Sequence[Mapping[str, Any]], checks: Sequence[Mapping[str, Any]]) -> Definitions:
    """The blocks of the configuration, understood. Raises ConfigError naming the one that is wrong."""
    return Definitions(_each("services", service_of, services), _each("checks", check_of, checks))


def _each(
    name: str, understand: Callable[[Mapping[str, Any]], T], blocks: Sequence[Mapping[str, Any]]
) -> tuple[T, ...]:
    found = []
    for number, block in enumerate(blocks):
        try:
            found.append(understand(block))
        except ConfigError as error:
            raise ConfigError(f"{name}[{number}]: {error}") from None
    return tuple(found)


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
