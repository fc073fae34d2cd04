"""The servers that gossip knows: of this datacenter by raft address and id, of others in the order to ask them.

Pure bookkeeping, fed with member events; it implements `forward.ServerLookup`.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyconsul_agent.errors import DialError
from pyconsul_agent.runtime.rpc_pool import ServerAddress
from pyconsul_agent.serf.consul import ServerInfo, parse_server
from pyconsul_agent.structs.member import Member, MemberEventKind, MemberStatus
from pyconsul_agent.structs.raft import Server

ALIVE = (MemberStatus.ALIVE, MemberStatus.LEAVING)


class ServerDirectory:
    """Known servers. `own_name` is this server's node name: it is never offered for forwarding."""

    def __init__(self, datacenter: str, own_name: str) -> None:
        self._datacenter = datacenter
        self._own_name = own_name
        self._lan: dict[str, ServerInfo] = {}
        self._wan: dict[str, list[ServerInfo]] = {}

    # --- feeding ----------------------------------------------------------------------------------------------

    def lan_event(self, kind: MemberEventKind, member: Member) -> ServerInfo | None:
        """Take a LAN event; the server that it is about, if it is one of this datacenter."""
        info = parse_server(member)
        if info is None or info.datacenter != self._datacenter:
            return None
        if kind in (MemberEventKind.JOIN, MemberEventKind.UPDATE):
            self._lan[info.name] = info
        else:
            self._lan.pop(info.name, None)
        return info

    def wan_event(self, kind: MemberEventKind, member: Member) -> ServerInfo | None:
        """Take a WAN event; the server that it is about."""
        info = parse_server(member)
        if info is None:
            return None
        servers = self._wan.setdefault(info.datacenter, [])
        kept = [server for server in servers if server.name != info.name]
        if kind in (MemberEventKind.JOIN, MemberEventKind.UPDATE):
            kept.append(info)
        elif kind is MemberEventKind.FAILED:
            # A failed server keeps its datacenter known, though nobody is there to ask.
            kept.append(info)
        self._wan[info.datacenter] = kept
        if not kept:
            del self._wan[info.datacenter]
        return info

    # --- looking up -------------------------------------------------------------------------------------------

    def server_at(self, raft_address: str) -> ServerAddress | None:
        """The other server of this datacenter with that raft address."""
        for info in self._lan.values():
            if info.name != self._own_name and address_of(info) == raft_address:
                return _address(info)
        return None

    def by_id(self, server_id: str) -> ServerInfo | None:
        """The live server of this datacenter with that id."""
        for info in self._lan.values():
            if info.id == server_id:
                return info
        return None

    def name_at(self, raft_address: str) -> str:
        """The node name behind a raft address, the address itself if it is unknown."""
        for info in self._lan.values():
            if address_of(info) == raft_address:
                return info.name
        return raft_address

    def dial_address(self, server: Server) -> tuple[str, int]:
        """Where raft should dial a peer: the address that gossip knows for its id, else the configuration's.

        Raises DialError when that is no `ip:port` (peers.json is written by hand).
        """
        found = [info for info in self._lan.values() if info.id == server.id]
        if found:
            # Of two with one ID (a copied data directory) the one that raft knows: what the other has stored is not
            # what this peer promised.
            info = next((info for info in found if address_of(info) == server.address), found[0])
            return info.address, info.port
        host, _, port = server.address.rpartition(":")
        if not (port.isascii() and port.isdigit()):
            raise DialError(f"raft address of {server.id} has no port: {server.address}")
        return host.strip("[]"), int(port)

    @property
    def lan_servers(self) -> list[ServerInfo]:
        """The live servers of this datacenter, self included."""
        return list(self._lan.values())

    def servers_in(self, datacenter: str) -> list[ServerInfo]:
        """The servers of another datacenter that have not left."""
        return list(self._wan.get(datacenter, ()))

    def has_datacenter(self, datacenter: str) -> bool:
        """Whether any server of it is known."""
        return datacenter in self._wan

    def datacenters(self) -> list[str]:
        """Every known datacenter, this one first."""
        others = sorted(name for name in self._wan if name != self._datacenter)
        return [self._datacenter, *others]

    def route(self, datacenter: str) -> ServerAddress | None:
        """The server of a datacenter to ask now."""
        for info in self._wan.get(datacenter, ()):
            if info.status in ALIVE and info.short_name != self._own_name:
                return _address(info)
        return None

    def failed(self, server: ServerAddress) -> None:
        """A call to it failed: the next one goes to another."""
        servers = self._wan.get(server.datacenter, [])
        for position, info in enumerate(servers):
            if info.name == server.name:
                servers.append(servers.pop(position))
                return


def address_of(info: ServerInfo) -> str:
    """`ip:port` of a server's RPC port, as raft writes it."""
    return f"[{info.address}]:{info.port}" if ":" in info.address else f"{info.address}:{info.port}"


def _address(info: ServerInfo) -> ServerAddress:
    return ServerAddress(info.name, info.address, info.port, info.datacenter)


def servers_of(members: Iterable[Member], datacenter: str) -> list[tuple[Member, ServerInfo]]:
    """The servers of a datacenter among members of any status."""
    found = ((member, parse_server(member)) for member in members)
    return [(member, info) for member, info in found if info is not None and info.datacenter == datacenter]


def servers_by_id(members: Iterable[Member], datacenter: str) -> dict[str, ServerInfo]:
    """The servers of a datacenter by raft ID; of two names with one ID (a renamed server) the live one counts."""
    found: dict[str, ServerInfo] = {}
    for _, info in servers_of(members, datacenter):
        if info.id and (info.id not in found or info.status in ALIVE):
            found[info.id] = info
    return found
