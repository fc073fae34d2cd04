"""Every RPC method that this server offers, in one visible list."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.log import Log
from pyconsul_agent.server.blocking import Blocking, Waits
from pyconsul_agent.server.endpoints.catalog import Catalog
from pyconsul_agent.server.endpoints.config_entry import ConfigEntries
from pyconsul_agent.server.endpoints.connect import ConnectCA, DiscoveryChains
from pyconsul_agent.server.endpoints.coordinate import Coordinates
from pyconsul_agent.server.endpoints.federation import FederationStates
from pyconsul_agent.server.endpoints.health import Health
from pyconsul_agent.server.endpoints.intention import Intentions
from pyconsul_agent.server.endpoints.internal import Internal
from pyconsul_agent.server.endpoints.keyring import KeyPool, Keyrings
from pyconsul_agent.server.endpoints.kvs import KeyValues
from pyconsul_agent.server.endpoints.operator import Autopilot, RaftOperator
from pyconsul_agent.server.endpoints.prepared_query import PreparedQueries
from pyconsul_agent.server.endpoints.session import Sessions
from pyconsul_agent.server.endpoints.shared import Near
from pyconsul_agent.server.endpoints.status import Status
from pyconsul_agent.server.endpoints.topology import Topology
from pyconsul_agent.server.endpoints.txn import Txn
from pyconsul_agent.server.leader.federation import Federation, Places
from pyconsul_agent.server.leader.session_ttl import SessionTimers
from pyconsul_agent.server.leader.standing import Standing
from pyconsul_agent.server.seams import Endpoint, Leadership, Membership, MemberView, Proposer, Remote
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.coordinate import DatacenterMap


@dataclass(frozen=True, slots=True)
class Parts:
    """What endpoints are made of; each takes only what it needs."""

    store: Store
    proposer: Proposer
    leadership: Leadership
    membership: Membership
    members: MemberView
    timers: SessionTimers
    clock: Clock
    random: random.Random
    uuid: Callable[[], str]
    last_log: Callable[[], tuple[int, int]]
    datacenters: Callable[[], list[str]]
    wan_coordinates: Callable[[], list[DatacenterMap]]
    other_datacenters: Callable[[], list[str]]
    """The nearest first."""
    remote: Remote
    user_event: Callable[[str, bytes], None]
    ready: Callable[[], bool]
    """Whether this leader has applied what its predecessors committed."""
    standings: Callable[[], Mapping[str, Standing]]
    """How autopilot judges the servers, by id."""
    session_ttl_min_s: float
    connect_enabled: bool
    datacenter: str
    log: Log
    waits: Waits
    lan_keys: KeyPool
    wan_keys: KeyPool | None
    elsewhere: Callable[[str, str, bytes], Awaitable[bytes]]
    places: Places


@dataclass(frozen=True, slots=True)
class Offered:
    """The methods, and what has a life of its own while this server leads."""

    endpoints: list[Endpoint]
    coordinates: Coordinates
    federation: Federation


def offered(parts: Parts) -> Offered:
    """Build every endpoint."""
    near = Near(parts.store, parts.datacenter)
    # Routing, leadership checks and consistency are the dispatcher's; here reads only wait.
    blocking = Blocking(parts.store, parts.leadership, parts.random, waits=parts.waits)
    now = parts.clock.monotonic
    coordinates = Coordinates(parts.store, parts.proposer, blocking, parts.wan_coordinates, parts.log)
    families = (
        Status(parts.leadership, parts.membership, parts.last_log),
        Catalog(parts.store, parts.proposer, blocking, near, parts.datacenters),
        Health(parts.store, blocking, near),
        KeyValues(parts.store, parts.proposer, blocking, now, ready=parts.ready),
        Sessions(
            parts.store,
            parts.proposer,
            blocking,
            parts.timers,
            now=now,
            uuid=parts.uuid,
            ttl_min_s=parts.session_ttl_min_s,
        ),
        Txn(parts.store, parts.proposer, blocking, now, ready=parts.ready),
        Internal(parts.store, blocking, parts.user_event),
        Topology(parts.store, blocking),
        Keyrings(
            parts.lan_keys,
            parts.wan_keys,
            datacenter=parts.datacenter,
            datacenters=parts.datacenters,
            elsewhere=parts.elsewhere,
        ),
        coordinates,
        Autopilot(parts.store, parts.proposer, blocking, parts.standings),
        PreparedQueries(
            parts.store,
            parts.proposer,
            blocking,
            near,
            datacenter=parts.datacenter,
            draw=parts.random,
            uuid=parts.uuid,
            others=parts.other_datacenters,
            remote=parts.remote,
            log=parts.log,
        ),
        RaftOperator(parts.leadership, parts.membership, parts.members),
        ConfigEntries(parts.store, parts.proposer, blocking, connect_enabled=parts.connect_enabled),
        DiscoveryChains(parts.store, blocking, datacenter=parts.datacenter, connect_enabled=parts.connect_enabled),
        ConnectCA(parts.store, blocking, connect_enabled=parts.connect_enabled),
        FederationStates(parts.store, parts.proposer, blocking),
        Intentions(
            parts.store,
            parts.proposer,
            blocking,
            uuid=parts.uuid,
            wall_ns=parts.clock.wall_ns,
            connect_enabled=parts.connect_enabled,
        ),
    )
    federation = Federation(parts.store, parts.proposer, blocking, parts.remote, parts.places, parts.clock, parts.log)
    return Offered([endpoint for family in families for endpoint in family.endpoints()], coordinates, federation)
