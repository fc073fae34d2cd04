"""What a subscription to changes of health asks and tells (Consul's `pbsubscribe`)."""

from __future__ import annotations

import enum

from pyconsul_agent.structs.base import struct, wire
from pyconsul_agent.structs.health import CheckServiceNode


class Topic(enum.IntEnum):
    """What may be subscribed to."""

    SERVICE_HEALTH = 1
    """The instances of a service."""
    SERVICE_HEALTH_CONNECT = 2
    """The instances that offer Connect for a service."""


class CatalogOp(enum.IntEnum):
    """What happened to an instance."""

    REGISTER = 0
    DEREGISTER = 1


@struct
class SubscribeRequest:
    """`index` is the last one seen, 0 for a whole snapshot. `key` is the name of the service."""

    topic: int = wire("Topic", default=0)
    key: str = wire("Key", default="")
    token: str = wire("Token", default="")
    index: int = wire("Index", default=0)
    datacenter: str = wire("Datacenter", default="")
    namespace: str = wire("Namespace", default="")


@struct
class ServiceHealthUpdate:
    """An instance that came, changed or (`op` is `CatalogOp.DEREGISTER`) went."""

    op: int = wire("Op", default=0)
    check_service_node: CheckServiceNode | None = wire("CheckServiceNode", default=None)


@struct
class EventBatch:
    """Several events of one index."""

    events: tuple[SubscribeEvent, ...] | None = wire("Events", default=None)


@struct
class SubscribeEvent:
    """One of the four, and its index."""

    index: int = wire("Index", default=0)
    end_of_snapshot: bool = wire("EndOfSnapshot", default=False)
    new_snapshot_to_follow: bool = wire("NewSnapshotToFollow", default=False)
    event_batch: EventBatch | None = wire("EventBatch", default=None)
    service_health: ServiceHealthUpdate | None = wire("ServiceHealth", default=None)
