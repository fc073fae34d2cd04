"""Who may be in the pool: the configured networks, the versions, and the rules of the agent above.

Swim asks before it takes a node or a whole list of nodes for members.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from pyconsul_agent.serf.table import member_of, tags_of
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.swim.effects import Node
from pyconsul_agent.wire.gossip import VERSIONS_LENGTH, NodeState
from pyconsul_agent.wire.serf import META_BYTES_MAX

Veto = Callable[[Sequence[Member]], str | None]
"""Why these members may not be in the pool; None if they may. Must be pure."""


class Admission:
    """The rules of one pool."""

    def __init__(self, networks: Sequence[str] | None, veto: Veto | None) -> None:
        """`networks`: CIDRs that members may be in; None: any address. Raises ValueError when one is none."""
        self._veto = veto
        self._networks = (
            None if networks is None else [ipaddress.ip_network(network, strict=False) for network in networks]
        )

    def alive_veto(self, node: Node) -> str | None:
        """Why this one node may not be known here."""
        if len(node.versions) < VERSIONS_LENGTH:
            return "Vsn is not present"
        return self.merge_veto([node])

    def merge_veto(self, nodes: Sequence[Node]) -> str | None:
        """Why a whole remote list is refused."""
        members = []
        for node in nodes:
            if len(node.meta or b"") > META_BYTES_MAX:
                return f"Encoded length of tags exceeds limit of {META_BYTES_MAX} bytes"
            status = MemberStatus.LEFT if node.state is NodeState.LEFT else MemberStatus.NONE
            members.append(member_of(node, status))
        return None if self._veto is None else self._veto(members)

    def address_allowed(self, address: str) -> bool:
        """Whether the configuration lets members have this address."""
        if self._networks is None:
            return True
        ip = ipaddress.ip_address(address)
        return any(ip in network for network in self._networks if network.version == ip.version)


def same_identity(old_meta: bytes | None, new_meta: bytes | None) -> bool:
    """Whether both carry the same node id."""
    old = tags_of(old_meta or b"").get("id", "")
    return bool(old) and old == tags_of(new_meta or b"").get("id", "")
