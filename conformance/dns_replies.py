"""Queries of the recorded DNS cases as packets, and replies in the form in which the cases expect them."""

from __future__ import annotations

import ipaddress
import json
import struct
import time
from collections import Counter
from typing import Any

import dnslib

from pyconsul_agent.wire import dns

TYPES = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "NULL": 10, "PTR": 12, "HINFO": 13, "MX": 15, "TXT": 16, "AAAA": 28,
    "SRV": 33, "NAPTR": 35, "OPT": 41, "DS": 43, "DNSKEY": 48, "TSIG": 250, "IXFR": 251, "AXFR": 252, "ANY": 255,
    "CAA": 257,
}  # fmt: skip
CLASSES = {"IN": 1, "CH": 3, "HS": 4, "NONE": 254, "ANY": 255}
TYPE_NAMES = {number: name for name, number in TYPES.items()}
CLASS_NAMES = {number: name for name, number in CLASSES.items()}
RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")
FLAGS = {"qr": 15, "aa": 10, "tc": 9, "rd": 8, "ra": 7, "z": 6, "ad": 5, "cd": 4}
SECTIONS = ("answer", "authority", "additional")
SERIAL_SLACK_S = 5

Json = dict[str, Any]


# --- queries --------------------------------------------------------------------------------------------------------


def packet(spec: Json, id_: int = 7) -> bytes:
    """The bytes that a query step sends, under `id_`."""
    if "raw" in spec:
        return struct.pack("!H", id_) + bytes.fromhex(spec["raw"])[2:]
    bits = spec.get("opcode", 0) << 11
    for flag in spec.get("flags", ["rd"]):
        bits |= 1 << FLAGS[flag]
    if "questions" in spec:
        questions = [dns.pack(dns.Message(0, 0, _question(one)))[12:] for one in spec["questions"]]
        return struct.pack("!6H", id_, bits, len(questions), 0, 0, 0) + b"".join(questions)
    sections = [[record_of(one) for one in spec.get(section, [])] for section in SECTIONS]
    if "edns" in spec:
        sections[2].append(opt_of(spec["edns"]))
    return dns.pack(dns.Message(id_, bits, _question(spec), *sections), compress=False)


def _number(table: dict[str, int], key: str | int) -> int:
    return key if isinstance(key, int) else table[key]


def _question(spec: Json) -> tuple[str, int, int]:
    return spec["name"], _number(TYPES, spec.get("type", "A")), _number(CLASSES, spec.get("class", "IN"))


def record_of(spec: Json) -> dns.Record:
    """A record of a case."""
    type_, data = _number(TYPES, spec["type"]), spec["data"]
    parts: tuple[bytes | str, ...]
    match spec["type"]:
        case "A" | "AAAA":
            parts = (ipaddress.ip_address(data).packed,)
        case "NS" | "CNAME" | "PTR":
            parts = (data,)
        case "TXT":
            parts = (b"".join(dns.text_data(text)[0] for text in data),)
        case "SRV":
            parts = (struct.pack("!3H", data["priority"], data["weight"], data["port"]), data["target"])
        case "MX":
            parts = (struct.pack("!H", data["preference"]), data["exchange"])
        case "SOA":
            numbers = [data[key] for key in ("serial", "refresh", "retry", "expire", "minimum")]
            parts = (data["mname"], data["rname"], struct.pack("!5I", *numbers))
        case _:
            parts = (bytes.fromhex(data),)
    return dns.Record(spec["name"], type_, spec.get("ttl", 0), parts, _number(CLASSES, spec.get("class", "IN")))


def opt_of(edns: Json) -> dns.Record:
    """An OPT record of a case."""
    data = b""
    if "ecs" in edns:
        ecs = edns["ecs"]
        raw = ipaddress.ip_address(ecs["address"]).packed
        family = ecs.get("family", 2 if len(raw) == 16 else 1)
        body = struct.pack("!HBB", family, ecs["source"], ecs.get("scope", 0)) + raw[: (ecs["source"] + 7) // 8]
        data += struct.pack("!HH", dns.ECS_OPTION, len(body)) + body
    for option in edns.get("options", []):
        body = bytes.fromhex(option["data"])
        data += struct.pack("!HH", option["code"], len(body)) + body
    ttl = edns.get("version", 0) << 16 | (0x8000 if edns.get("do") else 0)
    return dns.Record(".", dns.OPT, ttl, (data,), edns.get("udp_size", 4096))


# --- replies --------------------------------------------------------------------------------------------------------


def normalised(reply: bytes, spec: Json, id_: int = 7, *, ports: dict[int, str] | None = None) -> Json:
    """A reply in the form of `expect`. What is not DNS raises DecodeError, or an error of the other library."""
    message = dns.parse_message(reply)
    if message.question is None or message.question[1:] != (0, 0):
        dnslib.DNSRecord.parse(reply)  # another library can read it, too
    bits = message.flags
    out: Json = {
        "size": len(reply),
        "rcode": RCODES[bits & 15],
        "flags": [name for name, bit in FLAGS.items() if bits >> bit & 1],
        "compressed": len(dns.pack(message, compress=False)) > len(reply),
    }
    if message.id != id_:
        out["id"] = "not the id of the query"
    if bits & dns.OPCODE:
        out["opcode"] = (bits & dns.OPCODE) >> 11
    asked = [{"name": spec.get("name"), "type": spec.get("type", "A"), "class": spec.get("class", "IN")}]
    question = []
    if message.question is not None:
        name, type_, cls = message.question
        question = [{"name": name, "type": TYPE_NAMES.get(type_, type_), "class": CLASS_NAMES.get(cls, cls)}]
    if question != asked:
        out["question"] = question
    for section, records in zip(SECTIONS, (message.answers, message.authority, message.additional), strict=True):
        rows: list[Json] = []
        for record in records:
            if record.type == dns.OPT:
                out["edns"] = {**opt_json(record), "position": f"{section}[{len(rows)}]"}
            else:
                rows.append(record_json(record, ports or {}))
        if rows:
            out[section] = rows
    return out


def opt_json(record: dns.Record) -> Json:
    """An OPT record in the form of `edns`."""
    out: Json = {
        "udp_size": record.cls,
        "ext_rcode": record.ttl >> 24,
        "version": record.ttl >> 16 & 0xFF,
        "do": bool(record.ttl & 0x8000),
    }
    raw = b"".join(part for part in record.data if isinstance(part, bytes))
    at = 0
    while at < len(raw):
        code, size = struct.unpack_from("!HH", raw, at)
        body = raw[at + 4 : at + 4 + size]
        at += 4 + size
        if code != dns.ECS_OPTION:
            out.setdefault("options", []).append({"code": code, "data": body.hex()})
            continue
        family, source, scope = struct.unpack_from("!HBB", body)
        address = ipaddress.ip_address(body[4:].ljust(16 if family == 2 else 4, b"\0"))
        out["ecs"] = {"family": family, "source": source, "scope": scope}
        out["ecs"] |= {"address": str(address), "octets": len(body) - 4}
    return out


def record_json(record: dns.Record, ports: dict[int, str]) -> Json:
    """A record in the form of the sections of `expect`."""
    type_ = TYPE_NAMES.get(record.type, record.type)
    first: Any = record.data[0] if record.data else b""
    data: Any
    match type_:
        case "A" | "AAAA":
            data = str(ipaddress.ip_address(first))
        case "NS" | "CNAME" | "PTR":
            data = first
        case "TXT":
            data, at = [], 0
            while at < len(first):
                data.append(first[at + 1 : at + 1 + first[at]].decode("utf-8", "backslashreplace"))
                at += 1 + first[at]
        case "SRV":
            priority, weight, port = struct.unpack("!3H", first)
            data = {"priority": priority, "weight": weight, "port": ports.get(port, port), "target": record.data[1]}
        case "MX":
            data = {"preference": struct.unpack("!H", first)[0], "exchange": record.data[1]}
        case "SOA":
            data = _soa(record)
        case _:
            data = first.hex()
    cls = CLASS_NAMES.get(record.cls, record.cls)
    return {"name": record.name, "type": type_, "class": cls, "ttl": record.ttl, "data": data}


def _soa(record: dns.Record) -> Json:
    mname, rname, numbers = record.data
    assert isinstance(numbers, bytes)
    data: Json = {"mname": mname, "rname": rname}
    data |= zip(("serial", "refresh", "retry", "expire", "minimum"), struct.unpack("!5I", numbers), strict=True)
    if abs(data["serial"] - time.time()) <= SERIAL_SLACK_S:
        data["serial"] = "$NOW"
    return data


# --- comparison -----------------------------------------------------------------------------------------------------


def text(value: object) -> str:
    """One text per value, whatever the order of its members."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def differences(
    want: Json, got: Json, match: Json | None = None, pools: dict[str, list[Json]] | None = None
) -> list[str]:
    """Lines on how a reply differs from the expected one; `-` wanted, `+` got."""
    match, lines = match or {}, []
    for key in sorted({*want, *got}):
        mode = match.get(key)
        if mode == "any":
            continue
        if isinstance(mode, dict):
            lines += _not_a_sample(key, want, got, (pools or {})[mode["sample"]])
        elif key in SECTIONS:
            wanted = Counter(text(row) for row in want.get(key, []))
            found = Counter(text(row) for row in got.get(key, []))
            lines += [f"{key}: - {row}" for row in (wanted - found).elements()]
            lines += [f"{key}: + {row}" for row in (found - wanted).elements()]
        elif want.get(key) != got.get(key):
            lines += [f"{key}: - {text(want.get(key))}", f"{key}: + {text(got.get(key))}"]
    if match.get("glue"):
        targets = {row["data"]["target"].lower() for row in got.get("answer", []) if row["type"] == "SRV"}
        owners = {row["name"].lower() for row in got.get("additional", [])}
        lines += [f"additional: glue and targets differ: {name}" for name in sorted(targets ^ owners)]
    return lines


def _not_a_sample(key: str, want: Json, got: Json, pool: list[Json]) -> list[str]:
    """The records must be as many as wanted, all different and all from the pool."""
    strange = Counter(map(text, got.get(key, []))) - Counter(map(text, pool))
    lines = [f"{key}: not of the sample: {row}" for row in strange]
    if len(want.get(key, [])) != len(got.get(key, [])):
        lines.append(f"{key}: {len(got.get(key, []))} records, not {len(want.get(key, []))}")
    return lines
