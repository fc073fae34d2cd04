"""What Consul makes of serf: the tags by which agents know each other, the names in the WAN pool, who may join.

Pure functions on members. Protocol: docs/protocol/gossip.md, section 14.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyconsul_agent.structs.member import Member, MemberStatus

ROLE_SERVER, ROLE_CLIENT = "consul", "node"
ACLS_OFF, ACLS_ON, ACLS_LEGACY = "0", "1", "2"
UNIQUE_ID_BUILD = (0, 8, 5)
"""From this build on two members of one joining list may not share an id."""

_BUILD = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_FEATURE_PREFIX, _SEGMENT_PREFIX = "ft_", "sl_"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTags:
    """What both kinds of agent say of themselves. `build` is "<version>:<revision>", the colon is always there."""

    datacenter: str
    node_id: str
    build: str
    segment: str = ""
    acls: str = ACLS_OFF
    protocol: int = 2
    protocol_min: int = 2
    protocol_max: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTags(AgentTags):
    """What a server says besides. `wan_join_port` 0: no WAN pool."""

    port: int
    raft_protocol: int = 3
    bootstrap: bool = False
    expect: int = 0
    read_replica: bool = False
    use_tls: bool = False
    wan_join_port: int = 0


def server_tags(options: ServerTags, *, wan: bool = False) -> dict[str, str]:
    """Tags of a server in its LAN pool, or in the WAN pool."""
    tags = _agent_tags(options, ROLE_SERVER)
    tags |= {
        "raft_vsn": str(options.raft_protocol),
        "port": str(options.port),
        "acls": options.acls,
        "ft_fs": "1",
        "ft_si": "1",
    }
    if options.bootstrap or options.expect == 1:
        tags["bootstrap"] = "1"
    elif options.expect:
        tags["expect"] = str(options.expect)
    if options.read_replica:
        tags |= {"nonvoter": "1", "read_replica": "1"}
    if options.use_tls:
        tags["use_tls"] = "1"
    if options.wan_join_port > 0 and not wan:
        tags["wan_join_port"] = str(options.wan_join_port)
    return tags


def client_tags(options: AgentTags, *, reconnect_timeout: str = "") -> dict[str, str]:
    """Tags of a client. `reconnect_timeout` is Go's text ("30m") or empty."""
    tags = _agent_tags(options, ROLE_CLIENT) | {"acls": options.acls}
    if reconnect_timeout:
        tags["rc_tm"] = reconnect_timeout
    return tags


def _agent_tags(options: AgentTags, role: str) -> dict[str, str]:
    return {
        "role": role,
        "dc": options.datacenter,
        "segment": options.segment,
        "id": options.node_id,
        "vsn": str(options.protocol),
        "vsn_min": str(options.protocol_min),
        "vsn_max": str(options.protocol_max),
        "build": options.build,
    }


# --- reading members ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A member that is a server. `address` is its gossip IP, `port` its RPC port, `wan_join_port` 0 when unknown."""

    name: str
    id: str
    address: str
    port: int
    datacenter: str
    segment: str = ""
    wan_join_port: int = 0
    bootstrap: bool = False
    expect: int = 0
    build: tuple[int, int, int] = (0, 0, 0)
    protocol: int = 0
    raft_version: int = 0
    acls: str = ""
    is_read_replica: bool = False
    use_tls: bool = False
    status: MemberStatus = MemberStatus.NONE
    features: dict[str, int] = field(default_factory=dict)

    @property
    def short_name(self) -> str:
        """The node name, also of a member of the WAN pool."""
        return short_name(self.name, self.datacenter)


def parse_server(member: Member) -> ServerInfo | None:
    """`member` as a server; None when it is none, or says something that a server cannot say."""
    tags = member.tags
    build = parse_build(tags.get("build", ""))
    port, protocol = _number(tags.get("port")), _number(tags.get("vsn"))
    if tags.get("role") != ROLE_SERVER or build is None or port is None or protocol is None:
        return None
    optional: dict[str, int] = {}
    for name in ("expect", "raft_vsn", "wan_join_port"):
        number = _number(tags[name]) if name in tags else 0
        if number is None:
            return None
        optional[name] = number
    features: dict[str, int] = {}
    for name, text in tags.items():
        if name.startswith(_FEATURE_PREFIX):
            number = _number(text)
            if number is None:
                return None
            features[name.removeprefix(_FEATURE_PREFIX)] = number
        elif name.startswith(_SEGMENT_PREFIX) and _number(text.rpartition(":")[2]) is None:
            return None
    return ServerInfo(
        name=member.name,
        id=tags.get("id", ""),
        address=member.address,
        port=port,
        datacenter=tags.get("dc", ""),
        segment=tags.get("segment", ""),
        wan_join_port=optional["wan_join_port"],
        bootstrap="bootstrap" in tags,
        expect=optional["expect"],
        build=build,
        protocol=protocol,
        raft_version=optional["raft_vsn"],
        acls=tags.get("acls", ""),
        is_read_replica="read_replica" in tags or "nonvoter" in tags,
        use_tls="use_tls" in tags,
        status=member.status,
        features=features,
    )


def client_datacenter(member: Member) -> str | None:
    """The datacenter of a client agent; None when `member` is none."""
    return member.tags.get("dc", "") if member.tags.get("role") == ROLE_CLIENT else None


def parse_build(text: str) -> tuple[int, int, int] | None:
    """The first "1.2.3" in a build tag.

    >>> parse_build("1.10.11:abcdef")
    (1, 10, 11)
    """
    found = _BUILD.search(text)
    if found is None:
        return None
    major, minor, patch = (int(part) for part in found.group().split("."))
    return major, minor, patch


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and _NUMBER.fullmatch(text) else None


# --- names in the WAN pool ------------------------------------------------------------------------------------------


def wan_name(node: str, datacenter: str) -> str:
    """A server's name in the WAN pool; one that has the suffix already keeps it."""
    suffix = "." + datacenter
    return node if node.endswith(suffix) else node + suffix


def short_name(name: str, datacenter: str) -> str:
    """Inverse of `wan_name`."""
    return name.removesuffix("." + datacenter)


# --- who may join -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LanRules:
    """Who may be in the LAN pool of agent `name`. Call it with the list of members that want to merge."""

    name: str
    node_id: str
    datacenter: str
    segment: str = ""

    def __call__(self, members: Sequence[Member]) -> str | None:
        """The reason to refuse the whole list, or None."""
        seen: dict[str, str] = {}
        for member in members:
            node_id = member.tags.get("id", "")
            if node_id:
                if member.status is MemberStatus.LEFT:
                    continue
                reason = self._id_conflict(member, node_id, seen)
                if reason is not None:
                    return reason
            reason = self._wrong_place(member)
            if reason is not None:
                return reason
        return None

    def _id_conflict(self, member: Member, node_id: str, seen: dict[str, str]) -> str | None:
        text = f"Member '{member.name}' has conflicting node ID '{node_id}' with"
        if node_id == self.node_id and member.name != self.name:
            return f"{text} this agent's ID"
        build = parse_build(member.tags.get("build", ""))
        if build is None or build < UNIQUE_ID_BUILD:
            return None
        other = seen.setdefault(node_id, member.name)
        return f"{text} member '{other}'" if other != member.name else None

    def _wrong_place(self, member: Member) -> str | None:
        server, client_dc = parse_server(member), client_datacenter(member)
        datacenter = server.datacenter if server is not None else client_dc
        if datacenter is None:
            return None
        if datacenter != self.datacenter:
            return f"Member '{member.name}' part of wrong datacenter '{datacenter}'"
        segment = member.tags.get("segment", "")
        if segment != self.segment:
            return f"Member '{member.name}' part of wrong segment '{segment}' (expected '{self.segment}')"
        return None


def wan_rules(members: Sequence[Member]) -> str | None:
    """The reason why these may not be in the WAN pool: all must be servers."""
    for member in members:
        if parse_server(member) is None:
            return f"Member '{member.name}' is not a server"
    return None
