"""All meters of an agent, to be handed to its parts."""

from __future__ import annotations

from pyconsul_agent.telemetry.meters import RPCMeter
from pyconsul_agent.telemetry.net_meters import DNSMeter, GossipMeter
from pyconsul_agent.telemetry.registry import Registry
from pyconsul_agent.telemetry.server_meters import DutyMeter, FSMMeter, RaftMeter


class Instruments:
    """Meters on one registry; without one, meters that nobody reads, for parts that are used alone."""

    def __init__(self, registry: Registry | None = None, *, node: str = "") -> None:
        if registry is None:
            registry = Registry(wall_ns=lambda: 0, filter_default=False)
        self.rpc = RPCMeter(registry)
        self.raft = RaftMeter(registry)
        self.fsm = FSMMeter(registry)
        self.duties = DutyMeter(registry)
        self.gossip = GossipMeter(registry)
        self.dns = DNSMeter(registry, node=node)
