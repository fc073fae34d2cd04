"""The RPC vectors: recorded calls, every struct and primitive, yamux frames, snapshot streams, connections."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgpack

import pyconsul_agent.structs
from conformance import vectors_rpc_connections, vectors_rpc_subscribe
from conformance.case import Case, Mismatch, Skip, holds, load, same
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs import methods, methods_mesh
from pyconsul_agent.structs.requests import SnapshotRequest, SnapshotResponse
from pyconsul_agent.wire import netrpc
from pyconsul_agent.wire.gotime import decode_time, encode_time
from pyconsul_agent.wire.msgpack import TEXT_ERRORS, Single, decode, encode, pack, plain, unpack
from pyconsul_agent.wire.netrpc import MessageReader, RequestHeader, ResponseHeader
from pyconsul_agent.wire.snapshot import read_archive
from pyconsul_agent.wire.yamux import Session
from pyconsul_agent.wire.yamux_frames import (
    ACK,
    FIN,
    HEADER,
    RST,
    SYN,
    StreamAcked,
    StreamData,
    StreamDrained,
    StreamFinished,
    StreamOpened,
    encode_header,
)

Vector = dict[str, Any]

METHODS = methods.METHODS | methods_mesh.METHODS
OUR_NAMES = {
    "coordinate.Coordinate": "VivaldiCoordinate",
    "raft-autopilot.Server": "AutopilotServer",
    "raft-autopilot.ServerHealth": "AutopilotStability",
    "raft-autopilot.ServerState": "AutopilotServerState",
    "raft-autopilot.ServerStats": "AutopilotServerStats",
    "raft-autopilot.State": "AutopilotState",
    "State": "AutopilotState",
    "acl.Policy": "ParsedPolicy",
}
FLATTENED = {
    "RaftIndex": "Node",
    "EnterpriseMeta": "Node",
    "ACLAuthMethodEnterpriseFields": "ACLAuthMethod",
    "ACLAuthMethodEnterpriseMeta": "ACLToken",
    "acl.EnterprisePolicyRules": "acl.PolicyRules",
    "acl.EnterpriseRule": "acl.KeyRule",
}
"""Structs that travel only as part of others, each with one that it is part of."""
PLAIN = {"bool": bool, "string": str}
FRAME_TYPES = {"data": 0, "window_update": 1, "ping": 2, "go_away": 3}
FLAGS = {"SYN": SYN, "ACK": ACK, "FIN": FIN, "RST": RST}
WHOLE_SESSIONS = ("start_of_session", "one_stream_from_open_to_close_after_an_rpc_error")


@cache
def structs() -> dict[str, type]:
    """Every struct that has code, by our name."""
    found = {}
    for module in pkgutil.iter_modules(pyconsul_agent.structs.__path__):
        for name, kind in inspect.getmembers(importlib.import_module(f"pyconsul_agent.structs.{module.name}")):
            if inspect.isclass(kind) and dataclasses.is_dataclass(kind):
                found[name] = kind
    return found


def struct_of(name: str) -> Any:
    """The form that Consul calls `name`, None if it has no code."""
    return PLAIN.get(name) or structs().get(OUR_NAMES.get(name, name.removeprefix("acl.")))


# --- recorded calls -------------------------------------------------------------------------------------------


def raw(message: Vector) -> tuple[bytes, bytes]:
    """(header, body) of half a pair."""
    return bytes.fromhex(message["header_hex"]), bytes.fromhex(message["body_hex"])


def headers(pair: Vector) -> None:
    """Both headers and bodies, both ways, as they are packed."""
    for kind, form in (("request", RequestHeader), ("response", ResponseHeader)):
        header_bytes, body = raw(pair[kind])
        header: Any = decode(form, header_bytes)
        recorded = pair[kind]["header"]
        same(encode(header), header_bytes, f"{kind} header")
        same((header.seq, header.method), (recorded["Seq"], recorded["ServiceMethod"]), f"{kind} header")
        value = msgpack.unpackb(body, raw=True, strict_map_key=False)
        same(pack(value), body, f"{kind} body")
    request, answer = decode(RequestHeader, raw(pair["request"])[0]), raw(pair["response"])
    error = decode(ResponseHeader, answer[0]).error
    same(error, pair["response"]["header"]["Error"], "error")
    ours = netrpc.encode_error(request, error) if error else netrpc.encode_response(request, answer[1])
    same(ours, b"".join(answer), "our response")
    header_bytes, body = raw(pair["request"])
    same(netrpc.encode_request(request.seq, request.method, body), header_bytes + body, "our request")


def bodies(pair: Vector) -> None:
    """Both bodies in their types, both ways; a reply to an error is empty."""
    method = METHODS[pair["method"]]
    both_ways(method.request, raw(pair["request"])[1], "request")
    if not pair["response"]["header"]["Error"]:
        both_ways(method.reply, raw(pair["response"])[1], "reply")


def both_ways(form: Any, data: bytes, what: str) -> None:
    """Decoding and encoding again gives the same bytes, and every field recorded is one of ours."""
    try:
        value = decode(form, data)
    except DecodeError as error:
        raise Mismatch(f"{what}: {error}") from error
    if encode(value) != data:
        same(unpack(encode(value)), unpack(data), what)
        raise Mismatch(f"{what}: {encode(value).hex()} is not {data.hex()}")


def cut(pairs: list[Vector]) -> None:
    """A whole conversation is cut into its messages, however it arrives."""
    for kind, form in (("request", RequestHeader), ("response", ResponseHeader)):
        messages = [raw(pair[kind]) for pair in pairs]
        stream = b"".join(header + body for header, body in messages)
        for step in (7, 4096, len(stream)):
            reader: Any = MessageReader(form)
            got = []
            for start in range(0, len(stream), step):
                reader.feed(stream[start : start + step])
                while (message := reader.next()) is not None:
                    got.append((encode(message[0]), message[1]))
            same(got, messages, f"{kind}s in pieces of {step}")
            holds(not reader.in_message, "a message is left open")


def pair_cases(folder: Path) -> Iterator[Case | Skip]:
    """Recorded calls."""
    for path in sorted(folder.glob("pairs-*.json")):
        pairs = load(folder, path.stem)
        yield Case(f"{path.stem} cut", partial(cut, pairs))
        for pair in pairs:
            name = f"{path.stem} {pair['id']} {pair['method']}"
            yield Case(f"{name} headers", partial(headers, pair))
            if pair["method"] in METHODS:
                yield Case(f"{name} bodies", partial(bodies, pair))
            else:
                yield Skip(name, f"method {pair['method']}")


# --- encodings ------------------------------------------------------------------------------------------------


def struct(vector: Vector, form: Any) -> None:
    """A struct, both ways: all fields, in order, as the original packs them."""
    data = bytes.fromhex(vector["hex"])
    ours = shown(plain(decode(form, data)))
    recorded = without_nil_elements(vector["decoded"], ours)
    same(ours, recorded, "decoded")
    if recorded == vector["decoded"]:
        both_ways(form, data, vector["name"])


def without_nil_elements(recorded: Any, ours: Any) -> Any:
    """`recorded` with what we read for nil elements of lists: an empty row. Only where a generator stopped are there
    any, since no row of Consul's can be nil.
    """
    if isinstance(recorded, dict) and isinstance(ours, dict):
        return {key: without_nil_elements(value, ours.get(key)) for key, value in recorded.items()}
    if isinstance(recorded, list) and isinstance(ours, list) and len(recorded) == len(ours):
        return [
            mine if value is None and isinstance(mine, dict) else without_nil_elements(value, mine)
            for value, mine in zip(recorded, ours, strict=True)
        ]
    return recorded


def packed(vector: Vector) -> None:
    """A value without a type of its own, both ways."""
    data = bytes.fromhex(vector["hex"])
    value = unpack(data)
    same(shown(value), vector["decoded"], "decoded")
    same(pack(value), data, "encoded")


def shown(value: Any) -> Any:
    """Plain values as the vectors show them: text, or {"$hex": ..} for what is none."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"$hex": value.hex()}
    if isinstance(value, str):  # carried through unread
        return shown(value.encode(errors=TEXT_ERRORS)) if not value.isprintable() else value
    if isinstance(value, Single):
        return value.value
    if isinstance(value, dict):
        return {shown(key): shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    return value


def primitive(vector: Vector) -> None:
    """A scalar, a length class, a time, both ways; and cut out of a stream as one body."""
    data = bytes.fromhex(vector.get("hex", "")) or long_text(vector)
    name = vector["name"]
    if name.startswith("rpc."):
        form: Any = ResponseHeader if "Response" in name else RequestHeader
        header = decode(form, data)
        same(header.method, vector["decoded"]["ServiceMethod"], "method")
        same(encode(header), data, "encoded")
    elif name.startswith("time "):
        same(pack(encode_time(decode_time(unpack(data)))), data, "encoded")
    elif name.startswith("float32"):
        same(unpack(data), vector["decoded"], "decoded")
    else:
        same(pack(unpack(data)), data, "encoded")
        holds("decoded" not in vector or shown(unpack(data)) == vector["decoded"], f"decoded is {unpack(data)!r}")
    reader: Any = MessageReader(RequestHeader)
    reader.feed(netrpc.encode_request(1, "A.B", data) + b"\x82")
    same(reader.next(), (RequestHeader(1, "A.B"), data), "cut out")
    same((reader.next(), reader.buffered), (None, 1), "left")


def long_text(vector: Vector) -> bytes:
    """A recorded text of which only the head was kept."""
    return bytes.fromhex(vector["prefix_hex"]).ljust(vector["total_bytes"], b"a")


def layout(name: str, fields: list[list[str]]) -> None:
    """A struct has exactly the fields of the schema, under their names, beside those marked as our own."""
    ours = sorted(
        field.metadata["wire"] for field in dataclasses.fields(struct_of(name)) if not field.metadata.get("own")
    )
    same(ours, [field[0] for field in fields], "fields")


def flattened(owner: str, fields: list[list[str]]) -> None:
    """The fields of a struct that is embedded in another are among the other's."""
    ours = {field.metadata["wire"] for field in dataclasses.fields(struct_of(owner))}
    holds({field[0] for field in fields} <= ours, f"{owner} has only {sorted(ours)}")


def config_primitive(vector: Vector) -> None:
    """A struct that carries config entries, both ways."""
    both_ways(struct_of(vector["name"].split()[0]), bytes.fromhex(vector["hex"]), vector["name"])


def encoding_cases(folder: Path) -> Iterator[Case | Skip]:
    """Structs, primitives, and the schema of both."""
    for vector in load(folder, "encoding-structs"):
        name, form = vector["name"], struct_of(vector["name"])
        title = f"struct {name or 'without a name'} {vector['variant']}"
        if not name:
            yield Case(title, partial(packed, vector))
        elif form is None:
            yield Skip(title, name)
        else:
            yield Case(title, partial(struct, vector, form))
    for vector in load(folder, "encoding-primitives"):
        if "Config" in vector["name"]:
            yield Case(f"primitive {vector['name']}", partial(config_primitive, vector))
        else:
            yield Case(f"primitive {vector['name']}", partial(primitive, vector))
    schema = load(folder, "schema")
    for name, fields in schema["types"].items():
        if name in FLATTENED:
            yield Case(f"schema {name}", partial(flattened, FLATTENED[name], fields))
        elif struct_of(name) is None:
            yield Skip(f"schema {name}", name)
        else:
            yield Case(f"schema {name}", partial(layout, name, fields))


# --- yamux, snapshots -----------------------------------------------------------------------------------------


def frame_headers(frames: list[Vector]) -> None:
    """Every recorded header is what we encode."""
    for recorded in frames:
        flags = sum(FLAGS[flag] for flag in recorded["flags"])
        header = encode_header(FRAME_TYPES[recorded["type"]], flags, recorded["stream_id"], recorded["length"])
        same(header.hex(), recorded["header_hex"], "header")


def frames_of(data: bytes) -> list[tuple[int, int, int, int]]:
    """(type, flags, stream, length) of each frame in `data`."""
    frames = []
    while data:
        _, kind, flags, stream, length = HEADER.unpack_from(data)
        frames.append((kind, flags, stream, length))
        data = data[12 + (length if kind == 0 else 0) :]
    return frames


def drain(session: Session, now: float = 0.0) -> bytes:
    """All that a session has to send."""
    return b"".join(iter(lambda: session.take_output(now), b""))


def name_of(kind: int) -> str:
    """A frame type's name."""
    return next(name for name, value in FRAME_TYPES.items() if value == kind)


def client_is_understood(frames: list[Vector]) -> None:
    """Our server takes what a recorded client sent and gives the same control frames back."""
    server = Session(is_client=False, now=0.0)
    sent: dict[int, bytes] = {}
    answered: list[tuple[int, int, int, int]] = []
    for recorded in frames:
        if recorded["dir"] != "client_to_server":
            continue
        payload = bytes.fromhex(recorded.get("payload_hex", ""))
        if payload:
            sent[recorded["stream_id"]] = sent.get(recorded["stream_id"], b"") + payload
        server.receive(bytes.fromhex(recorded["header_hex"]) + payload, 0.0)
        take_events(server, sent)
        answered += frames_of(drain(server))
    holds(not any(sent.values()), "data did not arrive")
    control = {
        (recorded["type"], tuple(recorded["flags"]), recorded["stream_id"], recorded["length"])
        for recorded in frames
        if recorded["dir"] == "server_to_client" and recorded["type"] == "window_update" and recorded["flags"]
    }
    ours = {
        (name_of(kind), tuple(flag for flag, bit in FLAGS.items() if flags & bit), stream, length)
        for kind, flags, stream, length in answered
    }
    holds(control <= ours, f"not sent: {control - ours}")


def take_events(server: Session, sent: dict[int, bytes]) -> None:
    """Serve the streams of a recorded client; take off `sent` what arrived."""
    for event in server.take_events():
        match event:
            case StreamOpened(number):
                server.accept(number)
            case StreamData(number, data):
                holds(sent[number].startswith(data), f"stream {number} brought other bytes")
                sent[number] = sent[number][len(data) :]
                server.consume(number, len(data))
            case StreamFinished(number):
                server.finish(number)
            case StreamAcked() | StreamDrained():
                pass
            case other:
                raise Mismatch(f"unexpected {other}")


def snapshot_conversation(vector: Vector) -> None:
    """The headers of a snapshot connection, both ways, and the archive that it carries."""
    forms: dict[str, Any] = {"request": SnapshotRequest, "response": SnapshotResponse}
    for kind, form in forms.items():
        data = bytes.fromhex(vector[kind]["header_hex"])
        same(shown(plain(decode(form, data))), vector[kind]["header"], f"{kind} header")
        both_ways(form, data, f"{kind} header")
        archive(bytes.fromhex(vector[kind].get("stream_hex", "")), vector["response"]["header"]["Error"])


def archive(stream: bytes, error: str) -> None:
    """What a snapshot connection carries is whole, or refused as the original refused it."""
    if not stream:
        return
    try:
        meta, state = read_archive(stream)
    except DecodeError as refusal:
        holds(error.startswith("failed to decompress snapshot"), f"refused with {refusal}, recorded is {error!r}")
    else:
        holds(not error and meta.index > 0 and len(state) == meta.size, f"taken as {meta}, recorded is {error!r}")


def cases(folder: Path) -> Iterator[Case | Skip]:
    """Every vector of RPC."""
    yield from pair_cases(folder)
    yield from encoding_cases(folder)
    for name, frames in load(folder, "yamux-frames").items():
        if name != "note":
            yield Case(f"yamux headers of {name}", partial(frame_headers, frames))
        if name in WHOLE_SESSIONS:
            yield Case(f"yamux client of {name}", partial(client_is_understood, frames))
    for vector in load(folder, "snapshot-rpc")["conversations"]:
        yield Case(f"snapshot {vector['name']}", partial(snapshot_conversation, vector))
    yield from vectors_rpc_connections.cases(folder)
    yield from vectors_rpc_subscribe.cases(folder)
