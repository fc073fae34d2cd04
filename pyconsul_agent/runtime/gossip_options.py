"""What one gossip pool is told at its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pyconsul_agent.serf.admission import Veto
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.swim.config import LAN, SwimConfig
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.wire.gossip import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipOptions:
    """One pool. `advertise` None: the bound address. `bind_port` 0: any free one (tests)."""

    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    bind_host: str = "0.0.0.0"  # noqa: S104 - as Consul; the configuration says otherwise when it should
    bind_port: int = 8301
    advertise: Address | None = None
    swim: SwimConfig = LAN
    serf: SerfConfig = SerfConfig()
    veto: Veto | None = None
    keyring: Keyring | None = None
    verify_incoming: bool = True
    verify_outgoing: bool = True
    snapshot_path: str | None = None
    on_keyring: Callable[[Keyring], None] | None = None
    """Called when a key query changed the ring, to keep its file: before the answer, so it may write that file."""
