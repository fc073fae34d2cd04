"""Settings of the DNS interface, as `app` maps them from the agent's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class DNSConfig:
    """Times are seconds. Domains are lower case with a final dot; `alt_domain` may be empty."""

    node_name: str = ""
    datacenter: str = "dc1"
    domain: str = "consul."
    alt_domain: str = ""
    token: str = ""
    recursors: tuple[tuple[str, int], ...] = ()
    recursion_for: tuple[IPv4Network | IPv6Network, ...] | None = None
    """Networks whose questions may go to the recursors; None: any."""
    recursor_timeout_s: float = 2.0
    allow_stale: bool = True
    max_stale_s: float = 87600 * 3600.0
    node_ttl_s: int = 0
    service_ttl_s: Mapping[str, int] = field(default_factory=dict)
    enable_truncate: bool = False
    only_passing: bool = False
    udp_answer_limit: int = 3
    a_record_limit: int = 0
    disable_compression: bool = False
    node_meta_txt: bool = True
    soa_refresh_s: int = 3600
    soa_retry_s: int = 600
    soa_expire_s: int = 86400
    soa_min_ttl_s: int = 0
    translate_wan_addresses: bool = False
    use_cache: bool = False
    cache_max_age_s: float = 0.0
    """How old a cached answer of a prepared query may be; 0: as old as it is."""
