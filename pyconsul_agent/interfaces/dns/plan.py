"""What a DNS name asks for: the look-up that must be made, or the answer that needs none. Pure.

The rules are those of Consul 1.10.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.resolve import packed_address
from pyconsul_agent.wire.dns import AAAA, AXFR, DS, NS, SOA, SRV, A, Record

KINDS = frozenset({"service", "connect", "ingress", "node", "query", "addr"})

_LABEL = re.compile(r"(?:\\.|[^\\.])+")


@dataclass(frozen=True, slots=True)
class Refuse:
    """Outside of every zone and no recursor to ask."""


@dataclass(frozen=True, slots=True)
class Recurse:
    """Pass through to the recursors."""


@dataclass(frozen=True, slots=True)
class Reverse:
    """An address, by a name below `arpa.`; `address` is None when the name spells none."""

    address: str | None


@dataclass(frozen=True, slots=True)
class Apex:
    """SOA or NS of the zone."""

    type: int


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Zone transfer."""


@dataclass(frozen=True, slots=True)
class Absent:
    """No name of ours."""


@dataclass(frozen=True, slots=True)
class Literal:
    """An address that is spelled in the name; empty `records` answer with nothing at all."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class NodeLookup:
    """A node, in `datacenter`."""

    node: str
    datacenter: str


@dataclass(frozen=True, slots=True)
class ServiceLookup:
    """Instances of a service, with `tag` unless it is empty."""

    service: str
    tag: str
    datacenter: str
    connect: bool = False
    ingress: bool = False


@dataclass(frozen=True, slots=True)
class QueryLookup:
    """A prepared query, by name or id."""

    query: str
    datacenter: str


Plan = (
    Refuse | Recurse | Reverse | Apex | Unsupported | Absent | Literal | NodeLookup | ServiceLookup | QueryLookup
)  # fmt: skip

_ABSENT = Absent()


def plan(name: str, type_: int, config: DNSConfig) -> Plan:
    """What to do for a question. `name` is lower case with a final dot."""
    if type_ == DS and config.recursors:  # it belongs to the parent zone
        return Recurse()
    if _left_of("arpa.", name) is not None:
        return Reverse(reverse_address(name))
    body = _below_zone(name, config)
    if body is None:
        return Recurse() if config.recursors else Refuse()
    if type_ in (SOA, NS):
        return Apex(type_)
    if type_ == AXFR:
        return Unsupported()
    return _by_kind(body, type_, config)


def in_zone(name: str, config: DNSConfig) -> bool:
    """Whether a lower-case name is below one of the agent's domains."""
    return any(name.endswith(f".{domain}") for domain in (config.domain, config.alt_domain) if domain)


def _below_zone(name: str, config: DNSConfig) -> str | None:
    """The part of the name left of the domain, "" at its apex; None outside."""
    for domain in sorted((config.domain, config.alt_domain), key=len, reverse=True):
        body = _left_of(domain, name) if domain else None
        if body is not None:
            return body
    return None


def _left_of(domain: str, name: str) -> str | None:
    """What of the name is left of a domain, "" when it is the domain itself; None when it is not below it."""
    if name == domain:
        return ""
    body = name[: -len(domain) - 1]
    if not name.endswith(f".{domain}") or (len(body) - len(body.rstrip("\\"))) % 2:  # that dot belongs to a label
        return None
    return body


def _labels(body: str) -> list[str]:
    """Labels of a name in presentation form, where a backslash takes a dot's meaning away."""
    return _LABEL.findall(body) if "\\" in body else body.split(".")


def _by_kind(body: str, type_: int, config: DNSConfig) -> Plan:
    labels = _labels(body)
    for at in range(len(labels) - 1, -1, -1):
        label = labels[at]
        if label in KINDS:
            kind, parts, suffix = label, labels[:at], labels[at + 1 :]
            break
        if type_ == SRV and label.startswith("_"):
            kind, parts, suffix = "service", labels[: at + 1], labels[at + 1 :]
            break
    else:
        return _ABSENT
    if kind == "addr":
        return _literal(parts, body, config)
    if not parts or len(suffix) > 1:
        return _ABSENT
    datacenter = suffix[0] if suffix else config.datacenter
    if kind == "node":
        return NodeLookup(".".join(parts), datacenter)
    if kind == "query":
        return QueryLookup(".".join(parts), datacenter)
    if kind == "service":
        return _service(parts, datacenter)
    return ServiceLookup(parts[-1], "", datacenter, connect=kind == "connect", ingress=kind == "ingress")


def _service(parts: list[str], datacenter: str) -> ServiceLookup:
    if len(parts) == 2 and parts[0].startswith("_") and parts[1].startswith("_"):
        tag = parts[1][1:]
        return ServiceLookup(parts[0][1:], "" if tag == "tcp" else tag, datacenter)
    return ServiceLookup(parts[-1], ".".join(parts[:-1]), datacenter)


def _literal(parts: list[str], body: str, config: DNSConfig) -> Plan:
    if len(parts) != 1:
        return _ABSENT
    digits = parts[0]
    type_ = {4: A, 16: AAAA}.get(len(digits) // 2)
    if type_ is None:
        return Literal(())
    if len(digits) % 2 or not re.fullmatch("[0-9a-f]+", digits):
        return _ABSENT
    return Literal((Record(f"{body}.{config.domain}", type_, config.node_ttl_s, (bytes.fromhex(digits),)),))


def reverse_address(name: str) -> str | None:
    """The address of a name below `in-addr.arpa.` or `ip6.arpa.`, in its usual spelling; None if it spells none."""
    labels = name.split(".")[:-1]
    if labels[-2:] == ["in-addr", "arpa"]:
        address = ".".join(reversed(labels[:-2]))
        return address if packed_address(address) is not None and ":" not in address else None
    if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34 and all(re.fullmatch("[0-9a-f]", x) for x in labels[:-2]):
        return str(ipaddress.IPv6Address(int("".join(reversed(labels[:-2])), 16)))
    return None
