"""Which address: the private-address rule and the go-sockaddr templates (`{{ GetInterfaceIP "eth0" }}`). Pure.

Private, as go-sockaddr of Consul 1.10 sees it: the networks of RFC 6890 that are not forwarded globally.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from pyconsul_agent.env.base import InterfaceAddress
from pyconsul_agent.errors import ConfigError

PRIVATE_NETWORKS = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
    )
)
_RFC1918 = tuple(ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
_NOT_PUBLIC_V6 = tuple(ip_network(text) for text in ("::1/128", "fe80::/10", "fc00::/16"))
"""The only ones that Consul passes over. `IPv6Address.is_global` is another thing, and changes with the Python."""

_TEMPLATE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_WORD = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|`([^`]*)`|([A-Za-z]\w*)|(-?\d+)|(\|))')
TEMPLATE_CHARACTERS_MAX = 4096

Addresses = list[InterfaceAddress]


def parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """The address of `text`, or None."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def is_private(ip: str) -> bool:
    """Whether `ip` is an IPv4 address of a private network."""
    address = parse_ip(ip)
    return isinstance(address, IPv4Address) and any(address in network for network in PRIVATE_NETWORKS)


def private_ipv4(addresses: Sequence[InterfaceAddress]) -> str:
    """The one private IPv4 address of this host. Raises ConfigError with Consul's texts.

    Of several, the one on the interface of the default route is taken if there is exactly one (0.5 took the first of
    all, 1.10 refuses). A host without any interface but loopback gets 127.0.0.1.
    """
    outside = [address for address in addresses if not address.is_loopback]
    if not outside:
        return "127.0.0.1"
    found = [address for address in outside if is_private(address.ip)]
    if not found:
        raise ConfigError("No private IPv4 address found")
    if len(found) > 1:
        found = [address for address in found if address.is_default_route]
    if len(found) != 1:
        raise ConfigError("Multiple private IPv4 addresses found. Please configure one with 'bind' and/or 'advertise'.")
    return found[0].ip


def public_ipv6(addresses: Sequence[InterfaceAddress]) -> str:
    """The one public IPv6 address. Raises ConfigError with Consul's texts."""
    found = [
        address.ip
        for address in addresses
        if isinstance(ip := parse_ip(address.ip), IPv6Address) and not any(ip in network for network in _NOT_PUBLIC_V6)
    ]
    if not found:
        raise ConfigError("No public IPv6 address found")
    if len(found) > 1:
        raise ConfigError("Multiple public IPv6 addresses found. Please configure one with 'bind' and/or 'advertise'.")
    return found[0]


def expand(text: str, addresses: Sequence[InterfaceAddress]) -> str:
    """`text` with its templates replaced by what they find. Raises ConfigError for templates that are not known."""
    if "{{" not in text:
        return text
    if len(text) > TEMPLATE_CHARACTERS_MAX:
        raise ConfigError("address template is too long")
    return _TEMPLATE.sub(lambda match: _evaluate(match.group(1).strip(), list(addresses)), text)


# --- templates -----------------------------------------------------------------------------------------------------


def _evaluate(expression: str, addresses: Addresses) -> str:
    value: Addresses | str | None = None
    for name, *arguments in _pipeline(expression):
        if value is None:
            source = _SOURCES.get(name)
            if source is None:
                raise ConfigError(f'unable to parse template: function "{name}" not defined')
            value = source(addresses, *arguments)
        else:
            step = _STEPS.get(name)
            if step is None or isinstance(value, str):
                raise ConfigError(f'unable to parse template: function "{name}" not defined')
            value = step(value, *arguments)
    if value is None:
        return ""
    return value if isinstance(value, str) else " ".join(address.ip for address in value)


def _pipeline(expression: str) -> list[list[str]]:
    steps: list[list[str]] = [[]]
    at = 0
    while at < len(expression):
        match = _WORD.match(expression, at)
        if match is None:
            raise ConfigError(f"unable to parse template {expression!r}")
        quoted, raw, word, digits, pipe = match.groups()
        if pipe:
            steps.append([])
        else:
            steps[-1].append(next(part for part in (quoted, raw, word, digits) if part is not None))
        at = match.end()
    if not all(steps):
        raise ConfigError(f"unable to parse template {expression!r}")
    return steps


def _is_public(address: InterfaceAddress) -> bool:
    ip = parse_ip(address.ip)
    return ip is not None and ip.is_global


def _on_interface(addresses: Addresses, *names: str) -> Addresses:
    """Addresses of interfaces whose names match; loopback is skipped as Consul does (measured)."""
    pattern = _regex(names[0] if names else "^$")
    return [a for a in addresses if not a.is_loopback and pattern.search(a.interface)]


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"unable to parse template: bad pattern {pattern!r}: {error}") from None


def _first(found: Addresses) -> Addresses:
    return found[:1]


def _default(addresses: Addresses) -> Addresses:
    return [a for a in addresses if a.is_default_route]


def _private(addresses: Addresses) -> Addresses:
    """Private addresses, those on the default route's interface first."""
    found = [a for a in addresses if not a.is_loopback and is_private(a.ip)]
    return sorted(found, key=lambda a: not a.is_default_route)


def _public(addresses: Addresses) -> Addresses:
    return sorted((a for a in addresses if _is_public(a)), key=lambda a: not a.is_default_route)


_SOURCES: dict[str, Callable[..., Addresses]] = {
    "GetPrivateIP": lambda addresses: _first(_private(addresses)),
    "GetPrivateIPs": _private,
    "GetPublicIP": lambda addresses: _first(_public(addresses)),
    "GetPublicIPs": _public,
    "GetInterfaceIP": lambda addresses, name="^$": _first(_on_interface(addresses, f"^{re.escape(name)}$")),
    "GetInterfaceIPs": lambda addresses, name="^$": _on_interface(addresses, f"^{re.escape(name)}$"),
    "GetAllInterfaces": list,
    "GetPrivateInterfaces": _private,
    "GetPublicInterfaces": _public,
    "GetDefaultInterfaces": _default,
}


def _matches(address: InterfaceAddress, selector: str, pattern: str) -> bool:
    ip = parse_ip(address.ip)
    if selector == "name":
        return _regex(pattern).search(address.interface) is not None
    if selector == "address":
        return _regex(pattern).search(address.ip) is not None
    if selector == "type":
        kinds = {"ipv4": IPv4Address, "ipv6": IPv6Address, "ip": object}
        return isinstance(ip, kinds.get(pattern.lower(), type(None)))
    if selector == "network":
        try:
            network = ip_network(pattern)
        except ValueError:
            raise ConfigError(f"unable to parse template: bad network {pattern!r}") from None
        return ip is not None and ip in network
    if selector == "rfc":
        networks = {"1918": _RFC1918, "6890": PRIVATE_NETWORKS}.get(pattern)
        if networks is not None:
            return ip is not None and any(ip in network for network in networks)
    if selector == "flags":
        flags = {"up", *(("loopback",) if address.is_loopback else ())}
        return set(pattern.lower().split("|")) <= flags
    raise ConfigError(f"unable to parse template: no selector {selector!r} {pattern!r}")


def _include(addresses: Addresses, selector: str = "", pattern: str = "") -> Addresses:
    return [a for a in addresses if _matches(a, selector, pattern)]


def _exclude(addresses: Addresses, selector: str = "", pattern: str = "") -> Addresses:
    return [a for a in addresses if not _matches(a, selector, pattern)]


def _sort(addresses: Addresses, selectors: str = "default") -> Addresses:
    result = list(addresses)
    for selector in reversed(selectors.split(",")):
        descending, name = selector.startswith("-"), selector.lstrip("+-").strip()
        if name == "name":
            result.sort(key=lambda a: a.interface, reverse=descending)
        elif name == "address":
            result.sort(key=lambda a: (":" in a.ip, int(ip_address(a.ip))), reverse=descending)
        elif name == "default":
            result.sort(key=lambda a: not a.is_default_route, reverse=descending)
        elif name == "private":
            result.sort(key=lambda a: not is_private(a.ip), reverse=descending)
        elif name == "type":
            result.sort(key=lambda a: ":" in a.ip, reverse=descending)
        else:
            raise ConfigError(f"unable to parse template: cannot sort by {name!r}")
    return result


def _attribute(addresses: Addresses, name: str = "address") -> str:
    return _join(addresses[:1], name, "")


def _join(addresses: Addresses, name: str = "address", separator: str = " ") -> str:
    if name not in ("address", "name"):
        raise ConfigError(f"unable to parse template: no attribute {name!r}")
    return separator.join(a.ip if name == "address" else a.interface for a in addresses)


def _limit(addresses: Addresses, count: str = "") -> Addresses:
    if not count.isdigit():
        raise ConfigError("unable to parse template: limit needs a number")
    return addresses[: int(count)]


_STEPS: dict[str, Callable[..., Addresses | str]] = {
    "include": _include,
    "exclude": _exclude,
    "sort": _sort,
    "limit": _limit,
    "attr": _attribute,
    "join": _join,
}
