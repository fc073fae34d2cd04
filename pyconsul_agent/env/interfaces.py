"""Addresses of this machine's network interfaces, from `getifaddrs(3)`; the default route from /proc."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterator

from pyconsul_agent.env.base import InterfaceAddress

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
ROUTES = "/proc/net/route"
ENTRIES_MAX = 10_000


class _IfAddrs(ctypes.Structure):
    pass


_IfAddrs._fields_ = [
    ("next", ctypes.POINTER(_IfAddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
    ("broadcast", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]


class RealInterfaces:
    """`Interfaces` of the operating system."""

    def addresses(self) -> list[InterfaceAddress]:
        """IPv4 and IPv6 addresses of interfaces that are up, in the kernel's order. Raises OSError."""
        default = default_route_interface()
        return [
            InterfaceAddress(name, ip, bool(flags & IFF_LOOPBACK), is_default_route=name == default)
            for name, flags, ip in entries()
            if flags & IFF_UP
        ]


def entries() -> Iterator[tuple[str, int, str]]:
    """(interface, flags, address)."""
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_IfAddrs)()
    if libc.getifaddrs(ctypes.byref(first)):
        raise OSError(ctypes.get_errno(), "getifaddrs")
    try:
        entry = first
        for _ in range(ENTRIES_MAX):
            if not entry:
                return
            item = entry.contents
            ip = text_of(item.address)
            if ip is not None:
                yield item.name.decode(errors="replace"), item.flags, ip
            entry = item.next
    finally:
        libc.freeifaddrs(first)


def text_of(address: int | None) -> str | None:
    """The text of a `struct sockaddr` of family 2 or 10, else None."""
    if not address:
        return None
    (family,) = struct.unpack("=H", ctypes.string_at(address, 2))
    if family == socket.AF_INET:
        return socket.inet_ntop(family, ctypes.string_at(address + 4, 4))
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, ctypes.string_at(address + 8, 16))
    return None


def default_route_interface(path: str = ROUTES) -> str | None:
    """The interface of the IPv4 default route with the lowest metric; None without one (or without Linux)."""
    best: tuple[int, str] | None = None
    with contextlib.suppress(OSError), open(path, encoding="ascii") as routes:
        for line in list(routes)[1:]:
            # Iface Destination Gateway Flags RefCnt Use Metric Mask ...
            fields = line.split()
            if len(fields) >= 8 and fields[1] == fields[7] == "00000000" and int(fields[3], 16) & 1:
                candidate = (int(fields[6]), fields[0])
                best = candidate if best is None else min(best, candidate)
    return best[1] if best else None
