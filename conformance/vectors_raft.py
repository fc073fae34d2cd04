"""The raft vectors: its RPCs, log entries, commands and snapshots, byte for byte; the state machine is vectors_fsm."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from conformance import vectors_api, vectors_fsm
from conformance.case import Case, Skip, data_of, holds, load, same
from conformance.vectors_rpc import both_ways
from pyconsul_agent.fsm import apply as commands
from pyconsul_agent.fsm import snapshot as records
from pyconsul_agent.fsm.chunking import Assembler
from pyconsul_agent.structs import acl, acl_commands
from pyconsul_agent.structs.acl_requests import ACLRequest
from pyconsul_agent.structs.config_requests import ConfigEntryRequest
from pyconsul_agent.structs.connect_ca import (
    CAConfiguration,
    CAConsulProviderState,
    CALeafRequest,
    CARequest,
    CARoot,
)
from pyconsul_agent.structs.coordinate import Coordinate
from pyconsul_agent.structs.federation import FederationStateRequest
from pyconsul_agent.structs.intention import Intention
from pyconsul_agent.structs.intention_requests import IntentionRequest
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.operator import AutopilotConfig
from pyconsul_agent.structs.prepared_query import PreparedQuery
from pyconsul_agent.structs.raft import AppendEntriesRequest, EntryType, InstallSnapshotRequest
from pyconsul_agent.structs.requests import (
    AutopilotSetConfigRequest,
    DeregisterRequest,
    KVSRequest,
    PreparedQueryRequest,
    RegisterRequest,
    SessionRequest,
    TxnRequest,
)
from pyconsul_agent.structs.session import Session
from pyconsul_agent.structs.system import SystemMetadataEntry, SystemMetadataRequest, TombstoneRequest
from pyconsul_agent.wire import msgpack, raft, snapshot

Vector = dict[str, Any]

SNAPSHOTS = ("snapA", "snapB", "snap_case_rename")
REQUEST_BY_RESPONSE = {"append": 0, "unexpected": 1, "vote": 1, "snapshot": 2}
STEPS = (None, 1)

COMMANDS: dict[int, Any] = {
    commands.REGISTER: RegisterRequest,
    commands.DEREGISTER: DeregisterRequest,
    commands.KVS: KVSRequest,
    commands.SESSION: SessionRequest,
    commands.TOMBSTONE: TombstoneRequest,
    commands.COORDINATES: list[Coordinate],
    commands.PREPARED_QUERY: PreparedQueryRequest,
    commands.TXN: TxnRequest,
    commands.AUTOPILOT: AutopilotSetConfigRequest,
    commands.INTENTION: IntentionRequest,
    commands.CONNECT_CA: CARequest,
    commands.CONNECT_CA_LEAF: CALeafRequest,
    commands.CONFIG_ENTRY: ConfigEntryRequest,
    4: ACLRequest,
    11: acl_commands.ACLTokenBootstrapRequest,
    17: acl_commands.ACLTokenBatchSetRequest,
    18: acl_commands.ACLTokenBatchDeleteRequest,
    19: acl_commands.ACLPolicyBatchSetRequest,
    20: acl_commands.ACLPolicyBatchDeleteRequest,
    23: acl_commands.ACLRoleBatchSetRequest,
    24: acl_commands.ACLRoleBatchDeleteRequest,
    25: acl_commands.ACLBindingRuleBatchSetRequest,
    26: acl_commands.ACLBindingRuleBatchDeleteRequest,
    27: acl_commands.ACLAuthMethodBatchSetRequest,
    28: acl_commands.ACLAuthMethodBatchDeleteRequest,
    commands.FEDERATION_STATE: FederationStateRequest,
    commands.SYSTEM_METADATA: SystemMetadataRequest,
}
RECORDS: dict[int, Any] = {
    records.REGISTER: RegisterRequest,
    records.KVS: DirEntry,
    records.SESSION: Session,
    records.TOMBSTONE: DirEntry,
    records.COORDINATES: list[Coordinate],
    records.QUERY: PreparedQuery,
    records.AUTOPILOT: AutopilotConfig,
    records.INTENTION: Intention,
    records.CA_ROOT: CARoot,
    records.CA_PROVIDER: CAConsulProviderState,
    records.CA_CONFIG: CAConfiguration,
    records.CONFIG_ENTRY: ConfigEntryRequest,
    records.ACL_TOKEN: acl.ACLToken,
    records.ACL_POLICY: acl.ACLPolicy,
    records.ACL_ROLE: acl.ACLRole,
    records.ACL_BINDING_RULE: acl.ACLBindingRule,
    records.ACL_AUTH_METHOD: acl.ACLAuthMethod,
    records.INDEX: records.IndexEntry,
    records.FEDERATION: FederationStateRequest,
    records.SYSTEM: SystemMetadataEntry,
}


# --- RPCs -----------------------------------------------------------------------------------------------------


def decode_all(data: bytes, step: int | None = None) -> tuple[list[Any], raft.RequestDecoder]:
    """Every request of `data`, fed `step` bytes at a time, and the decoder after it."""
    decoder = raft.RequestDecoder()
    requests = []
    for at in range(0, len(data), step or len(data)):
        decoder.feed(data[at : at + (step or len(data))])
        while (request := decoder.next()) is not None:
            requests.append(request)
    return requests, decoder


def decode_reply(data: bytes, request: Any, step: int | None = None) -> Any:
    """(error, response) of the reply `data` to a request of that type."""
    decoder = raft.ReplyDecoder()
    reply = None
    for at in range(0, len(data), step or len(data)):
        same(reply, None, "complete before its last byte")
        decoder.feed(data[at : at + (step or len(data))])
        reply = decoder.next(request)
    holds(not decoder.pending, "bytes are left")
    return reply


def transport_request(case: Vector, step: int | None) -> None:
    """A request from fixed structs, both ways."""
    data, fields = bytes.fromhex(case["hex"]), case["go_struct"]
    (request,), decoder = decode_all(data, step)
    holds(not decoder.pending, "bytes are left")
    same(raft.REQUEST_TYPES.index(type(request)), case["rpc_type"], "type")
    same(raft.encode_request(request), data, "encoded")
    same(request.protocol_version, fields["ProtocolVersion"], "protocol version")
    if isinstance(request, AppendEntriesRequest):
        same(request.term, fields["Term"], "term")
        same(request.leader, base64.b64decode(fields["Leader"]), "leader")


def transport_response(case: Vector, step: int | None) -> None:
    """A reply from fixed structs, both ways."""
    data = bytes.fromhex(case["hex"])
    error, response = decode_reply(data, raft.REQUEST_TYPES[REQUEST_BY_RESPONSE[case["name"].split()[0]]], step)
    same(error, case["error"], "error")
    same(raft.encode_reply(error, response), data, "encoded")


def transport_snapshot(case: Vector) -> None:
    """The bytes behind an InstallSnapshot request are handed over, and no more."""
    stream = bytes.fromhex(case["stream_after_hex"])
    decoder = raft.RequestDecoder()
    decoder.feed(bytes.fromhex(case["hex"]) + stream[:5])
    request = decoder.next()
    assert isinstance(request, InstallSnapshotRequest)
    same(request.size, len(stream), "size")
    servers = raft.decode_configuration(request.configuration or b"")
    same(raft.encode_configuration(servers), request.configuration, "servers")
    same(decoder.take(request.size), stream[:5], "first bytes")
    decoder.feed(stream[5:] + bytes.fromhex(case["hex"]))
    same(decoder.take(request.size - 5), stream[5:], "last bytes")
    same(decoder.next(), request, "next request")


def conversation(messages: list[Vector]) -> None:
    """A recorded connection: every request and reply, both ways, with the snapshots between them."""
    decoder = raft.RequestDecoder()
    for message in messages:
        decoder.feed(bytes.fromhex(message["request_hex"]))
        if "snapshot_gz_b64" in message:
            decoder.feed(gzip.decompress(base64.b64decode(message["snapshot_gz_b64"])))
    for message in messages:
        request: Any = decoder.next()
        same(raft.encode_request(request).hex(), message["request_hex"], "request")
        same(type(request).__name__, message["rpc"] + "Request", "type")
        if "snapshot_gz_b64" in message:
            same(len(decoder.take(request.size)), message["snapshot_len"], "snapshot")
        if message.get("reply_hex"):
            error, response = decode_reply(bytes.fromhex(message["reply_hex"]), type(request))
            same(error, message["reply_error"], "error")
            same(raft.encode_reply(error, response).hex(), message["reply_hex"], "reply")
    holds(not decoder.pending, "bytes are left")


def rpc_cases(folder: Path) -> Iterator[Case]:
    """Raft's own messages."""
    for case in load(folder, "transport"):
        check = transport_request if case["direction"] == "request" else transport_response
        for step in STEPS:
            yield Case(f"transport {case['name']} by {step or 'all'}", partial(check, case, step))
        if case.get("stream_after_hex"):
            yield Case(f"transport {case['name']} with its stream", partial(transport_snapshot, case))
    for number, recorded in enumerate(load(folder, "conversations_c1")):
        yield Case(f"conversation {number}", partial(conversation, recorded["messages"]))


# --- log and commands -----------------------------------------------------------------------------------------


def log_entry(row: Vector) -> None:
    """An entry of a real log, both ways."""
    data = data_of(row["data"])
    packed = msgpack.pack(
        {
            "AppendedAt": bytes.fromhex(row["appended_at_hex"]),
            "Data": data,
            "Extensions": None if row["extensions_hex"] is None else bytes.fromhex(row["extensions_hex"]),
            "Index": row["index"],
            "Term": row["term"],
            "Type": row["log_type"],
        }
    )
    entry = raft.decode_entry(packed)
    same((entry.index, entry.term, entry.type, entry.data), (row["index"], row["term"], row["log_type"], data))
    same(raft.encode_entry(entry), packed, "encoded")
    same(raft.decode_entries(raft.encode_entries((entry,))), (entry,), "in a batch")
    if entry.type == EntryType.CONFIGURATION:
        assert data is not None
        same(raft.encode_configuration(raft.decode_configuration(data)), data, "configuration")


def command(data: bytes) -> None:
    """A command of the state machine, both ways in its type."""
    both_ways(COMMANDS[data[0] & ~commands.IGNORE_UNKNOWN], data[1:], "command")


def log_cases(folder: Path) -> Iterator[Case | Skip]:
    """Entries of the log and the commands in them."""
    for row in load(folder, "log_c1"):
        name = f"log entry {row['index']}"
        yield Case(name, partial(log_entry, row))
        data = data_of(row["data"])
        if row["log_type"] != EntryType.COMMAND or not data or row["extensions_hex"]:
            continue
        if data[0] & ~commands.IGNORE_UNKNOWN in COMMANDS:
            yield Case(f"{name} command", partial(command, data))
        else:
            yield Skip(f"{name} command", f"command {row['msg_type']}")
    for case in load(folder, "fsm_commands_fixed"):
        data = bytes.fromhex(case["hex"])
        if data[0] & ~commands.IGNORE_UNKNOWN in COMMANDS:
            yield Case(f"command {case['name']}", partial(command, data))
        else:
            yield Skip(f"command {case['name']}", f"command {case['name']}")


def chunk_info(case: Vector) -> None:
    """The description of a piece of a large command, both ways."""
    data = bytes.fromhex(case["hex"])
    info = raft.ChunkInfo(
        int(case["op_num"]), case["sequence_num"], case["num_chunks"], bytes.fromhex(case["next_extensions_hex"])
    )
    same(raft.decode_chunk_info(data), info, "decoded")
    same(raft.encode_chunk_info(info), data, "encoded")


def chunk_record(case: Vector) -> None:
    """The pieces that a snapshot keeps, both ways."""
    assembler = Assembler()
    assembler.restore(msgpack.unpack(bytes.fromhex(case["hex"])))
    same(msgpack.pack(assembler.plain()).hex(), case["hex"], "encoded")


# --- snapshots ------------------------------------------------------------------------------------------------


def members_of(archive: bytes) -> list[tuple[str, bytes]]:
    """(name, content) of the files in a snapshot archive."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            found.append((member.name, file.read()))
    return found


def archive(data: bytes, step: int) -> None:
    """A real archive is read in any pieces, and its tar is written again byte for byte."""
    state = bytearray()
    reader = snapshot.ArchiveReader(state.extend)
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    meta = reader.finish()
    tar, original = gzip.decompress(data), dict(members_of(data))
    same(bytes(state), original["state.bin"], "state")
    same(snapshot.encode_meta(meta), original["meta.json"], "meta.json")
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        first = members.next()
        assert first is not None
    ours = gzip.decompress(b"".join(snapshot.write_archive(meta, [bytes(state)], int(first.mtime))))
    # The two lines of SHA256SUMS come in any order.
    sums = sorted(dict(members_of(gzip.compress(ours)))["SHA256SUMS"].splitlines())
    same(sums, sorted(original["SHA256SUMS"].splitlines()), "sums")
    sums_end = len(ours) - 2 * 512 - 512
    same(ours[:sums_end], tar[:sums_end], "tar")


def record_list(stream: bytes, document: Vector) -> None:
    """The records of a snapshot's state, one by one."""
    header = msgpack.pack(document["header"])
    same(stream[: len(header)], header, "header")
    rest = b"".join(bytes.fromhex(record["hex"]) for record in document["records"])
    same(stream[len(header) :], rest, "records")
    ours = [(kind, value) for kind, value in records._parse([stream]) if kind >= 0]
    wanted = [(r["type"], msgpack.unpack(bytes.fromhex(r["hex"])[1:])) for r in document["records"]]
    same(ours, wanted, "parsed")


def record(vector: Vector) -> None:
    """A record of a snapshot, both ways in its type."""
    data = bytes.fromhex(vector["hex"])
    if vector["type"] == records.CHUNKS:
        chunk_record({"hex": data[1:].hex()})
    else:
        both_ways(RECORDS[vector["type"]], data[1:], "record")


def snapshot_cases(folder: Path) -> Iterator[Case | Skip]:
    """Archives, their records one by one."""
    for name in SNAPSHOTS:
        data = (folder / f"{name}.snap").read_bytes()
        for step in (1 << 20, 13):
            yield Case(f"{name} archive in pieces of {step}", partial(archive, data, step))
        document = load(folder, f"{name}.decoded")
        yield Case(f"{name} records", partial(record_list, dict(members_of(data))["state.bin"], document))
        for vector in document["records"]:
            title = f"{name} record at {vector['offset']} {vector['type_name']}"
            if vector["type"] in RECORDS or vector["type"] == records.CHUNKS:
                yield Case(title, partial(record, vector))
            else:
                yield Skip(title, f"record {vector['type_name']}")


def cases(folder: Path) -> Iterator[Case | Skip]:
    """Every vector of raft."""
    yield from rpc_cases(folder)
    yield from log_cases(folder)
    for case in load(folder, "chunking"):
        check = chunk_info if "op_num" in case else chunk_record
        yield Case(f"chunking {case['case']}", partial(check, case))
    yield from snapshot_cases(folder)
    yield from vectors_fsm.cases(folder)
    yield from vectors_api.cases(folder)
