"""One DNS question over UDP, with nothing but the standard library: what `dig` does for the article's check.

The decoder is for answers of an agent under test; it raises ValueError for anything that is no DNS message.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct
from dataclasses import dataclass

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "TXT": 16, "AAAA": 28, "SRV": 33, "OPT": 41}
NAMES = {number: name for name, number in TYPES.items()}
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
POINTERS_MAX = 32


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record; `data` is dig's text for A, AAAA, SRV, CNAME and PTR, hex for the rest."""

    name: str
    type: str
    ttl: int
    data: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: `flags` as dig prints them (qr aa tc rd ra)."""

    status: str
    flags: frozenset[str]
    answers: list[Record]
    authority: list[Record]
    additional: list[Record]

    def data(self) -> list[str]:
        """What `dig +short` prints."""
        return [record.data for record in self.answers]


def ask(server: tuple[str, int], name: str, kind: str = "A", timeout_s: float = 3.0) -> Answer:
    """Send one question with RD set, read its answer. Raises OSError (TimeoutError) or ValueError."""
    number = secrets.randbelow(65536)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    query = struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", TYPES[kind], 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(timeout_s)
        udp.connect(server)
        udp.send(query)
        while True:
            packet = udp.recv(65535)
            if packet[:2] == query[:2]:
                return decode(packet)


def decode(packet: bytes) -> Answer:
    """A response from its bytes. Raises ValueError."""
    try:
        _, bits, questions, *counts = struct.unpack_from(">6H", packet)
        at = 12
        for _ in range(questions):
            at = _name(packet, at)[1] + 4
        sections: list[list[Record]] = []
        for count in counts:
            section = []
            for _ in range(count):
                record, at = _record(packet, at)
                section.append(record)
            sections.append(section)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"no DNS message: {error}") from None
    flags = {name for name, bit in (("qr", 15), ("aa", 10), ("tc", 9), ("rd", 8), ("ra", 7)) if bits >> bit & 1}
    return Answer(RCODES.get(bits & 15, str(bits & 15)), frozenset(flags), *sections)


def _name(packet: bytes, at: int) -> tuple[str, int]:
    """The name at `at` and where it ends there."""
    labels, end = [], 0
    for _ in range(POINTERS_MAX * 4):
        length = packet[at]
        if length >= 0xC0:
            end = end or at + 2
            at = (length & 0x3F) << 8 | packet[at + 1]
        elif length == 0:
            return ".".join([*labels, ""]), end or at + 1
        else:
            labels.append(packet[at + 1 : at + 1 + length].decode("ascii"))
            at += 1 + length
    raise ValueError("a name without end")


def _record(packet: bytes, at: int) -> tuple[Record, int]:
    name, at = _name(packet, at)
    number, _, ttl, length = struct.unpack_from(">HHIH", packet, at)
    at += 10
    raw, kind = packet[at : at + length], NAMES.get(number, str(number))
    if kind in ("A", "AAAA"):
        data = str(ipaddress.ip_address(raw))
    elif kind == "SRV":
        priority, weight, port = struct.unpack_from(">3H", raw)
        data = f"{priority} {weight} {port} {_name(packet, at + 6)[0]}"
    elif kind in ("CNAME", "PTR", "NS"):
        data = _name(packet, at)[0]
    else:
        data = raw.hex()
    return Record(name, kind, ttl, data), at + length
