"""Every family of HTTP routes that an agent offers, with the few things that each needs."""

from __future__ import annotations

from collections.abc import Callable

from pyconsul_agent.agent.cache import Cache
from pyconsul_agent.agent.events import Events
from pyconsul_agent.agent.registry import Registry
from pyconsul_agent.app.metrics import Metrics
from pyconsul_agent.app.settings import http_defaults
from pyconsul_agent.client.node import ClientNode
from pyconsul_agent.config.options import Options
from pyconsul_agent.interfaces.http.acl import ACLs
from pyconsul_agent.interfaces.http.agent import AgentEndpoints
from pyconsul_agent.interfaces.http.agent_services import AgentServices
from pyconsul_agent.interfaces.http.catalog import Catalog
from pyconsul_agent.interfaces.http.config import ConfigEntries
from pyconsul_agent.interfaces.http.connect import Connect
from pyconsul_agent.interfaces.http.coordinate import Coordinates
from pyconsul_agent.interfaces.http.event import EventEndpoints
from pyconsul_agent.interfaces.http.facts import Facts
from pyconsul_agent.interfaces.http.health import Health
from pyconsul_agent.interfaces.http.intention import Intentions
from pyconsul_agent.interfaces.http.keyring import Keyring
from pyconsul_agent.interfaces.http.kv import KV
from pyconsul_agent.interfaces.http.operator import Operator
from pyconsul_agent.interfaces.http.query import PreparedQueries
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.interfaces.http.session import Sessions
from pyconsul_agent.interfaces.http.snapshot import Snapshot
from pyconsul_agent.interfaces.http.status import Status
from pyconsul_agent.interfaces.http.txn import Transactions
from pyconsul_agent.interfaces.http.ui_internal import InternalUI
from pyconsul_agent.server.node import ServerNode


def routes(
    options: Options,
    delegate: ServerNode | ClientNode,
    registry: Registry,
    cache: Cache,
    events: Events,
    metrics: Metrics,
    own: AgentEndpoints,
    uuid: Callable[[], str],
) -> list[Route]:
    """Every route. `own` are the endpoints about the agent itself, whose answers a reload changes."""
    defaults = http_defaults(options)
    families = (
        Status(delegate, defaults),
        KV(delegate, defaults, value_bytes_max=options.limits.kv_max_value_size),
        Sessions(delegate, defaults),
        Catalog(delegate, defaults, cache),
        Health(delegate, defaults, cache),
        AgentServices(registry, defaults),
        own,
        Transactions(
            delegate,
            defaults,
            value_bytes_max=options.limits.kv_max_value_size,
            body_bytes_max=options.limits.txn_max_req_len,
        ),
        Coordinates(delegate, defaults, enabled=not options.disable_coordinates),
        EventEndpoints(delegate, events, uuid, defaults),
        Operator(delegate, defaults),
        Keyring(delegate, defaults),
        PreparedQueries(delegate, defaults, cache),
        InternalUI(delegate, defaults),
        Facts(metrics, defaults),
        Snapshot(delegate, defaults),
        ConfigEntries(delegate, defaults),
        Connect(delegate, defaults),
        Intentions(delegate, defaults),
        ACLs(),
    )
    return [route for family in families for route in family.routes()]
