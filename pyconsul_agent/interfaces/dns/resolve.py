"""The records that answer a DNS question. Pure: look-ups and chased names are handed in.

The rules are those of Consul 1.10. Sockets, time and RPC are not known here.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct

from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.structs.catalog import Node, ServiceAddress
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck
from pyconsul_agent.wire.dns import AAAA, ANY, CNAME, NS, PTR, SOA, SRV, TXT, A, Record, text_data

NODE_TYPES = frozenset({A, AAAA, ANY, TXT})
ADDRESS_TYPES = frozenset({ANY, SRV, NS, TXT})
"""Types that take an address of either family; besides them A takes IPv4 and AAAA IPv6."""

NAME_SERVERS_MAX = 3
CHASED_WITHOUT_EDNS_MAX = 5
ADDRESS_CACHE_MAX = 4096

_UNFIT_FOR_DNS = re.compile(r"[^A-Za-z0-9\-]")
_SRV = Struct("!3H")
_SOA = Struct("!5I")

Chased = Mapping[str, Sequence[Record]]
"""Host name with a final dot -> the records that it leads to."""


# --- addresses ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=ADDRESS_CACHE_MAX)
def packed_address(address: str) -> bytes | None:
    """Octets of a numeric address, IPv4-mapped ones as IPv4; None for a host name."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return None
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped.packed
    return ip.packed


def address_records(owner: str, packed: bytes, type_: int, ttl: int) -> list[Record]:
    """The address as A or AAAA record, if the type asked for takes it."""
    own = A if len(packed) == 4 else AAAA
    return [Record(owner, own, ttl, (packed,))] if type_ == own or type_ in ADDRESS_TYPES else []


def _chosen(default: str, tagged: Mapping[str, str], type_: int, *, wan: bool) -> str:
    """The address for a question type, of those that are tagged with a family."""
    v4, v6 = tagged.get("lan_ipv4", ""), tagged.get("lan_ipv6", "")
    if wan:
        default = tagged.get("wan") or default
        v4, v6 = tagged.get("wan_ipv4") or v4, tagged.get("wan_ipv6") or v6
    if type_ == A:
        return v4 or default
    return v6 or default if type_ == AAAA else v6 or v4 or default


def _is_wan(datacenter: str, config: DNSConfig) -> bool:
    return config.translate_wan_addresses and datacenter != config.datacenter


def node_address(node: Node, type_: int, datacenter: str, config: DNSConfig) -> str:
    """A node's address, translated."""
    return _chosen(node.address, node.tagged_addresses or {}, type_, wan=_is_wan(datacenter, config))


def service_address(row: CheckServiceNode, type_: int, datacenter: str, config: DNSConfig) -> tuple[str, int]:
    """An instance's own address (may be empty) and port, translated."""
    service = row.service
    assert service is not None, "rows of Health.ServiceNodes have a service"
    tagged: Mapping[str, ServiceAddress] = service.tagged_addresses or {}
    wan = _is_wan(datacenter, config)
    texts = {tag: entry.address for tag, entry in tagged.items()}
    port = tagged["wan"].port if wan and "wan" in tagged and tagged["wan"].port else service.port
    return _chosen(service.address, texts, type_, wan=wan), port


def fqdn(host: str) -> str:
    """With its final dot."""
    return host if host.endswith(".") else f"{host}."


# --- nodes ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Built:
    """Records of an answer."""

    answers: list[Record]
    additional: list[Record]


def node_host(node: Node, type_: int, datacenter: str, config: DNSConfig) -> str | None:
    """The host name to chase when a node's address is one."""
    address = node_address(node, type_, datacenter, config)
    return fqdn(address) if packed_address(address) is None else None


def node_records(
    node: Node, owner: str, type_: int, datacenter: str, config: DNSConfig, chased: Chased
) -> list[Record]:
    """Address records of a node, or the CNAME and where it leads."""
    address = node_address(node, type_, datacenter, config)
    packed = packed_address(address)
    if packed is not None:
        return address_records(owner, packed, type_, config.node_ttl_s)
    host = fqdn(address)
    return [Record(owner, CNAME, config.node_ttl_s, (host,)), *chased.get(host, ())]


def meta_records(node: Node, owner: str, ttl: int) -> list[Record]:
    """The node's metadata as TXT records. Raises CannotPack for a pair that is too long."""
    return [Record(owner, TXT, ttl, text_data(meta_text(key, value))) for key, value in (node.meta or {}).items()]


def meta_text(key: str, value: str) -> str:
    """A pair of node metadata in the form of RFC 1464; keys beginning with `rfc1035-` give the bare value."""
    if key.lower().startswith("rfc1035-"):
        return value
    core = key.replace("`", "``").replace("=", "`=")
    start = len(core) - len(core.lstrip(" "))
    core = core.lstrip(" ")
    end = len(core) - len(core.rstrip(" "))
    return f"{'` ' * start}{core.rstrip(' ')}{'` ' * end}={value.replace('`', '``')}"


def node_answer(node: Node, owner: str, type_: int, datacenter: str, config: DNSConfig, chased: Chased) -> Built:
    """The answer to a question for a node, of one of NODE_TYPES."""
    addresses = node_records(node, owner, type_, datacenter, config, chased) if type_ != TXT else []
    if type_ in (ANY, TXT):
        return Built([*addresses, *meta_records(node, owner, config.node_ttl_s)], [])
    return Built(addresses, meta_records(node, owner, config.node_ttl_s) if config.node_meta_txt else [])


# --- services -------------------------------------------------------------------------------------------------------


def healthy(rows: Iterable[CheckServiceNode], *, only_passing: bool) -> list[CheckServiceNode]:
    """Instances without a critical check, or with passing ones only."""
    kept: list[CheckServiceNode] = []
    for row in rows:
        checks = row.checks or ()
        if not any(check.status == "critical" or (only_passing and check.status != "passing") for check in checks):
            kept.append(row)
    return kept


def service_ttl(service: str, config: DNSConfig) -> int:
    """Time to live of a service's records, seconds: of the exact name, else of the longest pattern `prefix*`."""
    ttls = config.service_ttl_s
    if service in ttls:
        return ttls[service]
    patterns = [key for key in ttls if key.endswith("*") and service.startswith(key[:-1])]
    return ttls[max(patterns, key=len)] if patterns else 0


def weight(row: CheckServiceNode) -> int:
    """The weight of an instance by the state of its checks, cut to 16 bits."""
    service = row.service
    assert service is not None, "rows of Health.ServiceNodes have a service"
    state = _aggregate([check for check in row.checks or () if check.service_name in ("", service.service)])
    weights = service.weights
    if state in ("passing", "warning"):
        if weights is None:
            return 1
        return (weights.passing if state == "passing" else weights.warning) & 0xFFFF
    return 0 if state == "critical" else 1


def _aggregate(checks: Sequence[HealthCheck]) -> str:
    """The worst state of the checks; maintenance counts as critical, a state of no standard name as ""."""
    worst = "passing"
    for check in checks:
        if check.check_id == "_node_maintenance" or check.check_id.startswith("_service_maintenance:"):
            return "critical"
        if check.status not in ("passing", "warning", "critical"):
            return ""
        if check.status == "critical" or (check.status == "warning" and worst == "passing"):
            worst = check.status
    return worst


@dataclass(frozen=True, slots=True)
class Asked:
    """What every instance's records depend on. `name` is the question's, with its letter case."""

    name: str
    type: int
    datacenter: str
    ttl: int
    has_edns: bool
    config: DNSConfig


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an instance is: octets of an address with the name for it in SRV answers, or a host name."""

    target: str
    packed: bytes | None


def _place(row: CheckServiceNode, asked: Asked) -> _Place:
    node, config = row.node, asked.config
    assert node is not None, "rows of Health.ServiceNodes have a node"
    own, _ = service_address(row, asked.type, asked.datacenter, config)
    at_node = node_address(node, asked.type, asked.datacenter, config)
    address = own or at_node
    packed = packed_address(address)
    if packed is None:
        host = fqdn(address)
        node_packed = packed_address(at_node)
        if own and host == asked.name and node_packed is not None:
            return _Place(_node_name(node, asked), node_packed)
        return _Place(host, None)
    if not own and at_node == node.address:
        return _Place(_node_name(node, asked), packed)
    return _Place(f"{packed.hex()}.addr.{asked.datacenter}.{config.domain}", packed)


def _node_name(node: Node, asked: Asked) -> str:
    return f"{node.node}.node.{asked.datacenter}.{asked.config.domain}"


def hosts(rows: Iterable[CheckServiceNode], asked: Asked) -> list[str]:
    """Host names that must be chased before the records of these instances can be built, each once."""
    places = (_place(row, asked) for row in rows)
    return list(dict.fromkeys(place.target for place in places if place.packed is None))


def _beyond(host: str, asked: Asked, chased: Chased) -> list[Record]:
    """What a host name leads to, as it is given with a service."""
    found = [record._replace(ttl=asked.ttl) for record in chased.get(host, ()) if record.type in (CNAME, A, AAAA)]
    return found if asked.has_edns else found[:CHASED_WITHOUT_EDNS_MAX]


def service_answer(rows: Sequence[CheckServiceNode], asked: Asked, chased: Chased) -> Built:
    """The answer to a question for a service, of healthy instances in the order that they are to be given."""
    return _srv_answer(rows, asked, chased) if asked.type == SRV else _address_answer(rows, asked, chased)


def _address_answer(rows: Sequence[CheckServiceNode], asked: Asked, chased: Chased) -> Built:
    answers: list[Record] = []
    alias: list[Record] = []
    seen: set[Record] = set()
    given = 0
    for row in rows:
        place = _place(row, asked)
        if place.packed is None:
            if not alias:
                first = Record(asked.name, CNAME, asked.ttl, (place.target,))
                alias = [first, *_beyond(place.target, asked, chased)]
            continue
        for record in address_records(asked.name, place.packed, asked.type, asked.ttl):
            if record in seen:
                continue
            seen.add(record)
            answers.append(record)
            given += 1
        if given and given == asked.config.a_record_limit:
            break
    return Built(answers or alias, [])


def _srv_answer(rows: Sequence[CheckServiceNode], asked: Asked, chased: Chased) -> Built:
    built = Built([], [])
    seen: set[tuple[str, str, int]] = set()
    for row in rows:
        node = row.node
        assert node is not None, "rows of Health.ServiceNodes have a node"
        address, port = service_address(row, SRV, asked.datacenter, asked.config)
        key = (node.node, address, port)
        if key in seen:
            continue
        seen.add(key)
        place = _place(row, asked)
        fixed = _SRV.pack(1, weight(row), port & 0xFFFF)
        built.answers.append(Record(asked.name, SRV, asked.ttl, (fixed, place.target)))
        if place.packed is None:
            built.additional += _beyond(place.target, asked, chased)
        else:
            built.additional += address_records(place.target, place.packed, SRV, asked.ttl)
        if asked.config.node_meta_txt:
            built.additional += meta_records(node, _node_name(node, asked), asked.ttl)
    return built


# --- the zone itself, and reverse names -----------------------------------------------------------------------------


def soa(config: DNSConfig, unix_seconds: int) -> Record:
    """The zone's SOA record; its serial is the time."""
    numbers = _SOA.pack(
        unix_seconds & 0xFFFFFFFF,
        config.soa_refresh_s,
        config.soa_retry_s,
        config.soa_expire_s,
        config.soa_min_ttl_s,
    )
    data = (f"ns.{config.domain}", f"hostmaster.{config.domain}", numbers)
    return Record(config.domain, SOA, config.soa_min_ttl_s, data)


def name_servers(rows: Iterable[CheckServiceNode]) -> list[Node]:
    """The servers to name, at most NAME_SERVERS_MAX of those whose names are fit for it."""
    nodes = [row.node for row in rows if row.node is not None and not _UNFIT_FOR_DNS.search(row.node.node)]
    return nodes[:NAME_SERVERS_MAX]


def name_server_records(nodes: Sequence[Node], config: DNSConfig, chased: Chased) -> Built:
    """NS records and their glue."""
    built = Built([], [])
    for node in nodes:
        name = f"{node.node}.node.{config.datacenter}.{config.domain}".lower()
        built.answers.append(Record(config.domain, NS, config.node_ttl_s, (name,)))
        built.additional += node_records(node, name, ANY, config.datacenter, config, chased)
    return built


def pointer(owner: str, name: str, kind: str, datacenter: str, config: DNSConfig) -> Record:
    """The PTR record of a reverse name."""
    return Record(owner, PTR, 0, (f"{name}.{kind}.{datacenter}.{config.domain}",))


def same_address(text: str, address: str) -> bool:
    """Whether a catalog's address is this one."""
    packed = packed_address(text)
    return packed is not None and packed == packed_address(address)


_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def whole_seconds(text: str) -> int | None:
    """Go's duration text ("1m30s", "0s") in whole seconds, cut; None for text that is no duration."""
    if text == "0":
        return 0
    parts = re.findall(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", text[:64])
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return int(sum(float(number) * _UNITS_S[unit] for number, unit in parts))
