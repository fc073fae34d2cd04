"""Raft RPCs as they travel on port 8300 after the mode byte 0x01, and what log entries carry.

Request: one type byte, then one msgpack map. Reply: an error text (empty for none), then one object, which is nil when
the request was refused before a response was made. No length prefixes: decoders are fed bytes as they come and keep
what belongs to the next message; after an InstallSnapshot request the raw bytes of the snapshot follow (`take`).

    00 87a7456e7472696573c0a64c6561646572ae3132372e302e302e313a38333030...    AppendEntries (a heartbeat)
    a0 85a74c6173744c6f67cd012c...                                            no error, AppendEntries response

This room does not know what any message is good for.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeVar, cast

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Configuration,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    LogEntry,
    RaftRequest,
    RaftResponse,
    RequestPreVoteRequest,
    RequestPreVoteResponse,
    RequestVoteRequest,
    RequestVoteResponse,
    Server,
    Suffrage,
    TimeoutNowRequest,
    TimeoutNowResponse,
)
from pyconsul_agent.wire import msgpack
from pyconsul_agent.wire.gotime import encode_time
from pyconsul_agent.wire.stream import ValueScanner

MODE_RAFT = 0x01
"""First byte of a connection that carries raft RPCs."""

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
REPLY_BYTES_MAX = 1024 * 1024
NUMBER_MAX = 2**63 - 1
"""Indexes, terms and sizes beyond this are refused: no log gets there, and storage keeps signed numbers."""

SERVERS_MAX = 4096
"""Servers in one configuration."""

REQUEST_TYPES: tuple[type[RaftRequest], ...] = (
    AppendEntriesRequest,
    RequestVoteRequest,
    InstallSnapshotRequest,
    TimeoutNowRequest,
    RequestPreVoteRequest,
)
"""Position is the type byte."""

RESPONSE_OF: dict[type[RaftRequest], type[RaftResponse]] = {
    AppendEntriesRequest: AppendEntriesResponse,
    RequestVoteRequest: RequestVoteResponse,
    InstallSnapshotRequest: InstallSnapshotResponse,
    TimeoutNowRequest: TimeoutNowResponse,
    RequestPreVoteRequest: RequestPreVoteResponse,
}

MessageT = TypeVar("MessageT")


# --- messages ---------------------------------------------------------------------------------------------------


def encode_request(message: RaftRequest) -> bytes:
    """Type byte and map."""
    return bytes((REQUEST_TYPES.index(type(message)),)) + msgpack.encode(message)


class RequestEncoder:
    """`encode_request` that encodes a batch of entries once, though it goes to several peers.

    A batch is known again by its first and last entry: entries of one log that are the very same objects have the same
    ones between them, since what replaces an entry replaces all that follow.
    """

    def __init__(self) -> None:
        self._batches: dict[int, tuple[LogEntry, LogEntry, bytes]] = {}
        """By the index of the first entry."""

    def encode(self, message: RaftRequest) -> bytes:
        """Type byte and map."""
        if type(message) is not AppendEntriesRequest or not message.entries:
            return encode_request(message)
        before = msgpack.pack({"Addr": message.addr})[1:] if message.addr else b""
        fields: dict[str, object] = {"ID": message.id} if message.id else {}
        fields["Leader"] = message.leader
        fields["LeaderCommitIndex"] = message.leader_commit_index
        fields["PrevLogEntry"] = message.prev_log_entry
        fields["PrevLogTerm"] = message.prev_log_term
        fields["ProtocolVersion"] = message.protocol_version
        fields["Term"] = message.term
        count = len(fields) + 1 + bool(before)
        # Type byte 0; a map of fewer than 16 has its length in its first byte.
        head = bytes((0, 0x80 | count)) + before
        return b"".join((head, _ENTRIES_KEY, self._entries(message.entries), msgpack.pack(fields)[1:]))

    def _entries(self, entries: tuple[LogEntry, ...]) -> bytes:
        first, last = entries[0], entries[-1]
        known = self._batches.get(first.index)
        if known is not None and known[0] is first and known[1] is last:
            return known[2]
        data = encode_entries(entries)
        if len(data) <= BATCH_BYTES_MAX:
            if len(self._batches) >= BATCHES_MAX:
                del self._batches[next(iter(self._batches))]
            self._batches[first.index] = (first, last, data)
        return data


_ENTRIES_KEY = b"\xa7Entries"
BATCHES_MAX = 8
BATCH_BYTES_MAX = 256 * 1024
"""Batches that are kept encoded. Peers at the same place get the same batch within one turn of the loop."""


def encode_reply(error: str, message: RaftResponse | None) -> bytes:
    """Error text and object; both are always there."""
    return msgpack.pack(error) + (b"\xc0" if message is None else msgpack.encode(message))


class RequestDecoder:
    """Requests out of a byte stream: `feed`, then `next` until None."""

    def __init__(self, bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._scanner = ValueScanner(bytes_max)
        self._begun = False

    @property
    def pending(self) -> bool:
        """Whether part of a message is waiting for its rest."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes as they arrived."""
        self._buffer += data

    def next(self) -> RaftRequest | None:
        """The next complete request, None until there is one. Raises DecodeError: the connection is lost."""
        buffer = self._buffer
        if not buffer:
            return None
        if buffer[0] >= len(REQUEST_TYPES):
            raise DecodeError(f"unknown raft RPC type {buffer[0]}")
        if not self._begun:
            self._scanner.begin(1)
            self._begun = True
        end = self._scanner.end(buffer)
        if end is None:
            return None
        form = REQUEST_TYPES[buffer[0]]
        body = bytes(memoryview(buffer)[1:end])
        del buffer[:end]
        self._begun = False
        return _checked(form, msgpack.decode(form, body))

    def take(self, count: int) -> bytes:
        """Up to `count` raw bytes that came after the last request (a snapshot's stream)."""
        assert not self._begun, "raw bytes taken in the middle of a message"
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return data


class ReplyDecoder:
    """Replies out of a byte stream, in the order of the requests."""

    def __init__(self, bytes_max: int = REPLY_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._scanner = ValueScanner(bytes_max)
        self._begun = False
        self._error_end: int | None = None

    @property
    def pending(self) -> bool:
        """Whether part of a reply is waiting for its rest."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes as they arrived."""
        self._buffer += data

    def next(self, request: type[RaftRequest]) -> tuple[str, RaftResponse | None] | None:
        """(error text, object) answering a request of that type, None until complete. Raises DecodeError."""
        if not self._begun:
            self._scanner.begin(0)
            self._begun = True
        if self._error_end is None:
            self._error_end = self._scanner.end(self._buffer)
            if self._error_end is None:
                return None
            self._scanner.begin(self._error_end)
        end = self._scanner.end(self._buffer)
        if end is None:
            return None
        view = memoryview(self._buffer)
        error_bytes, body = bytes(view[: self._error_end]), bytes(view[self._error_end : end])
        view.release()
        del self._buffer[:end]
        self._begun, self._error_end = False, None
        error = msgpack.decode(str, error_bytes)
        if body == b"\xc0":
            return error, None
        form = RESPONSE_OF[request]
        return error, _checked(form, msgpack.decode(form, body))


def _checked(form: type[MessageT], message: MessageT) -> MessageT:
    for name in _numbers(cast(Any, form)):
        number = getattr(message, name)
        if not 0 <= number <= NUMBER_MAX:
            _check_number(number, name)
    if isinstance(message, AppendEntriesRequest):
        for entry in message.entries or ():
            _check_entry(entry)
    return message


@cache
def _numbers(form: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(form) if field.type == "int")


def _check_number(value: int, name: str) -> None:
    if not 0 <= value <= NUMBER_MAX:
        raise DecodeError(f"{name} out of range: {value}")


def _check_entry(entry: LogEntry) -> None:
    if 0 <= entry.index <= NUMBER_MAX and 0 <= entry.term <= NUMBER_MAX and 0 <= entry.type <= 0xFF:
        return
    _check_number(entry.index, "index")
    _check_number(entry.term, "term")
    raise DecodeError(f"log entry type out of range: {entry.type}")


# --- log entries ------------------------------------------------------------------------------------------------


def encode_entry(entry: LogEntry) -> bytes:
    """One log entry as a map, as peers and BoltDB files hold it."""
    return msgpack.encode(entry)


def decode_entry(data: bytes) -> LogEntry:
    """The log entry in `data`. Raises DecodeError."""
    entry = msgpack.decode(LogEntry, data)
    _check_entry(entry)
    return entry


def encode_entries(entries: tuple[LogEntry, ...]) -> bytes:
    """A batch, as an array. Written out, not by way of `msgpack.plain`: this is what a leader sends all the time."""
    return msgpack.pack(
        [
            {
                "AppendedAt": encode_time(entry.appended_at),
                "Data": entry.data,
                "Extensions": entry.extensions,
                "Index": entry.index,
                "Term": entry.term,
                "Type": int(entry.type),
            }
            for entry in entries
        ]
    )


def decode_entries(data: bytes) -> tuple[LogEntry, ...]:
    """The batch in `data`. Raises DecodeError."""
    entries = tuple(msgpack.decode(list[LogEntry], data))
    for entry in entries:
        _check_entry(entry)
    return entries


# --- configurations ---------------------------------------------------------------------------------------------


def encode_configuration(configuration: Configuration) -> bytes:
    """The data of a configuration entry."""
    return msgpack.encode(configuration)


def decode_configuration(data: bytes) -> Configuration:
    """The configuration in `data`. Raises DecodeError."""
    configuration = msgpack.decode(Configuration, data)
    if len(configuration.servers or ()) > SERVERS_MAX:
        raise DecodeError(f"configuration of over {SERVERS_MAX} servers")
    return configuration


def encode_peers(configuration: Configuration) -> bytes:
    """The voters' addresses as an array: the form of raft protocol 0 and 1, still sent along with snapshots."""
    return msgpack.pack(
        [
            server.address.encode("utf-8", msgpack.TEXT_ERRORS)
            for server in configuration.servers or ()
            if server.suffrage == Suffrage.VOTER
        ]
    )


def decode_peers(data: bytes) -> Configuration:
    """A configuration of an old peer list: all voters, ID equal to the address. Raises DecodeError."""
    addresses = msgpack.decode(list[str], data)
    if len(addresses) > SERVERS_MAX:
        raise DecodeError(f"peer list of over {SERVERS_MAX} servers")
    return Configuration(servers=tuple(Server(id=address, address=address) for address in addresses))


# --- chunks of large commands -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """An entry's `extensions` when its data is one piece of a larger command (protobuf).

    | field | type   | meaning                                             |
    |-------|--------|-----------------------------------------------------|
    | 1     | uint64 | random number of the operation                      |
    | 2     | uint32 | which piece, from 0                                 |
    | 3     | uint32 | how many pieces                                     |
    | 4     | bytes  | extensions of the whole command (last piece's count)|
    """

    op_num: int
    sequence_num: int
    num_chunks: int
    next_extensions: bytes = b""


def encode_chunk_info(info: ChunkInfo) -> bytes:
    """Zero fields are left out, as protobuf has it."""
    out = bytearray()
    for tag, value in ((0x08, info.op_num), (0x10, info.sequence_num), (0x18, info.num_chunks)):
        if value:
            out.append(tag)
            _put_varint(out, value)
    if info.next_extensions:
        out.append(0x22)
        _put_varint(out, len(info.next_extensions))
        out += info.next_extensions
    return bytes(out)


def decode_chunk_info(data: bytes) -> ChunkInfo:
    """The ChunkInfo in `data`; unknown fields are skipped. Raises DecodeError."""
    numbers = {1: 0, 2: 0, 3: 0}
    rest = b""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _varint(data, position)
            if field in numbers:
                numbers[field] = value & (0xFFFFFFFFFFFFFFFF if field == 1 else 0xFFFFFFFF)
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, position = _varint(data, position)
        if size is None or field == 0 or size > len(data) - position:
            raise DecodeError("malformed chunk info", offset=position)
        if field == 4 and kind == 2:
            rest = data[position : position + size]
        position += size
    return ChunkInfo(numbers[1], numbers[2], numbers[3], rest)


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise DecodeError("malformed varint", offset=position)
