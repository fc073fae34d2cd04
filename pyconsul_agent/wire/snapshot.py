"""Raft snapshots as files: meta.json, and the archive of `consul snapshot save`.

An archive is gzip(tar) of three regular files, mode 0600, owner 0: `meta.json`, `state.bin`, `SHA256SUMS` (lines
`<hex>  <name>`). Written and read as a stream; the state is bytes here, its records are `fsm.snapshot`'s matter.

    {"Version":1,"ID":"2-38-1795386374969","Index":38,"Term":2,"Peers":"ka8xMjcuMC4wLjExOjgzMDA=",
     "Configuration":{"Servers":[{"Suffrage":0,"ID":"9f..","Address":"127.0.0.11:8300"}]},
     "ConfigurationIndex":8,"Size":8074}

A reader believes nothing before all checks have passed: exact names, regular files only, bounded sizes, sums of both
files, nothing before, between or after.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.raft import Configuration, Server, SnapshotMeta
from pyconsul_agent.wire.raft import NUMBER_MAX, SERVERS_MAX, decode_peers, encode_peers

META_NAME = "meta.json"
STATE_NAME = "state.bin"
SUMS_NAME = "SHA256SUMS"

META_BYTES_MAX = 1024 * 1024
SUMS_BYTES_MAX = 4096
STATE_BYTES_MAX = 16 * 1024**3
"""Ours; a caller that knows the free disk passes less."""

BLOCK = 512
TAR_SIZE_MAX = 8**11 - 1
INFLATE_BYTES_MAX = 256 * 1024
"""Inflated at once, whatever the input promises."""

PADDING_BYTES_MAX = 64 * 1024
"""Zero bytes after the last member."""

GZIP_MAGIC = b"\x1f\x8b\x08"
GZIP_HEAD_BYTES = 10
READ_FAILED = "failed to read snapshot file: "
READING_FAILED = "failed reading snapshot: "


# --- meta.json --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checksums:
    """What meta.json on disk says of state.bin. Consul writes `crc64`; we add `sha256`, which is quick to compute."""

    crc64: bytes = b""
    sha256: bytes = b""


def encode_meta(meta: SnapshotMeta, sums: Checksums | None = None) -> bytes:
    """meta.json in one line. In an archive without checksums, on disk with."""
    document: dict[str, Any] = {
        "Version": 1,
        "ID": meta.id,
        "Index": meta.index,
        "Term": meta.term,
        "Peers": base64.b64encode(encode_peers(meta.configuration)).decode(),
        "Configuration": {
            "Servers": [
                {"Suffrage": int(server.suffrage), "ID": server.id, "Address": server.address}
                for server in meta.configuration.servers or ()
            ]
        },
        "ConfigurationIndex": meta.configuration_index,
        "Size": meta.size,
    }
    if sums is not None and sums.crc64:
        document["CRC"] = base64.b64encode(sums.crc64).decode()
    if sums is not None and sums.sha256:
        document["SHA256"] = base64.b64encode(sums.sha256).decode()
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


def decode_meta(data: bytes) -> tuple[SnapshotMeta, Checksums]:
    """(what the snapshot covers, its checksums if given). Version 0 has only Peers. Raises DecodeError."""
    try:
        document = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"meta.json is not JSON: {error}"[:200]) from error
    if not isinstance(document, dict):
        raise DecodeError("meta.json is not an object")
    version = _number(document, "Version")
    if version not in (0, 1):
        raise DecodeError(f"unsupported snapshot version {version}")
    index = _number(document, "Index")
    if version == 1:
        configuration, configuration_index = _configuration(document), _number(document, "ConfigurationIndex")
    else:
        configuration, configuration_index = decode_peers(_base64(document, "Peers")), index
    meta = SnapshotMeta(
        id=_string(document, "ID"),
        index=index,
        term=_number(document, "Term"),
        configuration=configuration,
        configuration_index=configuration_index,
        size=_number(document, "Size"),
    )
    return meta, Checksums(_base64(document, "CRC"), _base64(document, "SHA256"))


def _configuration(document: dict[str, Any]) -> Configuration:
    outer = document.get("Configuration")
    rows = (outer.get("Servers") if isinstance(outer, dict) else None) or []
    if not isinstance(rows, list) or len(rows) > SERVERS_MAX or not all(isinstance(row, dict) for row in rows):
        raise DecodeError("meta.json: Servers is not a list of servers")
    return Configuration(
        servers=tuple(
            Server(suffrage=_number(row, "Suffrage"), id=_string(row, "ID"), address=_string(row, "Address"))
            for row in rows
        )
    )


def _number(document: dict[str, Any], name: str) -> int:
    value = document.get(name, 0)
    if type(value) is not int or not 0 <= value <= NUMBER_MAX:
        raise DecodeError(f"meta.json: {name} is not a number in range")
    return value


def _string(document: dict[str, Any], name: str) -> str:
    value = document.get(name, "")
    if not isinstance(value, str):
        raise DecodeError(f"meta.json: {name} is not text")
    return value


def _base64(document: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(document.get(name) or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise DecodeError(f"meta.json: {name} is not base64") from error


# --- CRC-64/ECMA ------------------------------------------------------------------------------------------------

_POLYNOMIAL = 0xC96C5795D7870F42
_ONES = 0xFFFFFFFFFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ _POLYNOMIAL if value & 1 else value >> 1
        table.append(value)
    return tuple(table)


def crc64(data: bytes, previous: int = 0) -> int:
    """Go's crc64.ECMA of `data`, continuing `previous`. About 10 MB/s: only for what Consul wrote.

    >>> hex(crc64(b"123456789"))
    '0x995dc9bbdf1939fa'
    """
    table = _crc_table()
    value = previous ^ _ONES
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ _ONES


# --- writing an archive -----------------------------------------------------------------------------------------


def write_archive(meta: SnapshotMeta, state: Iterable[bytes], modified_unix_s: int) -> Iterator[bytes]:
    """The archive in pieces. `state` must give exactly `meta.size` bytes (ValueError otherwise)."""
    deflate = zlib.compressobj(wbits=31)
    for piece in _tar(meta, state, modified_unix_s):
        if packed := deflate.compress(piece):
            yield packed
    yield deflate.flush()


def _tar(meta: SnapshotMeta, state: Iterable[bytes], modified_unix_s: int) -> Iterator[bytes]:
    meta_json = encode_meta(meta)
    yield _header(META_NAME, len(meta_json), modified_unix_s) + meta_json + _padding(len(meta_json))
    yield _header(STATE_NAME, meta.size, modified_unix_s)
    digest, written = hashlib.sha256(), 0
    for piece in state:
        digest.update(piece)
        written += len(piece)
        yield piece
    if written != meta.size:
        raise ValueError(f"state has {written} bytes, announced were {meta.size}")
    sums = f"{hashlib.sha256(meta_json).hexdigest()}  {META_NAME}\n{digest.hexdigest()}  {STATE_NAME}\n".encode()
    yield _padding(written) + _header(SUMS_NAME, len(sums), modified_unix_s) + sums + _padding(len(sums))
    yield bytes(2 * BLOCK)


def _header(name: str, size: int, modified_unix_s: int) -> bytes:
    if size > TAR_SIZE_MAX:
        raise ValueError(f"{name} is too large for an archive: {size} bytes")
    block = bytearray(BLOCK)
    block[0 : len(name)] = name.encode()
    block[100:108] = b"0000600\x00"
    block[108:116] = b"0000000\x00"
    block[116:124] = b"0000000\x00"
    block[124:136] = b"%011o\x00" % size
    block[136:148] = b"%011o\x00" % modified_unix_s
    block[148:156] = b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\x0000"
    block[329:337] = b"0000000\x00"
    block[337:345] = b"0000000\x00"
    block[148:156] = b"%06o\x00 " % sum(block)
    return bytes(block)


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


# --- reading an archive -----------------------------------------------------------------------------------------


class ArchiveReader:
    """Checks an archive as it arrives: `feed` its bytes, then `finish`.

    The state goes to `write_state` in pieces. It must not be used before `finish` has returned. Errors are
    DecodeError with the text that `consul snapshot restore` shows.
    """

    def __init__(self, write_state: Callable[[bytes], object], *, state_bytes_max: int = STATE_BYTES_MAX) -> None:
        self._write_state = write_state
        self._state_bytes_max = state_bytes_max
        self._inflate = zlib.decompressobj(wbits=31)
        self._head = bytearray()
        self._rest = bytearray()
        self._buffer = bytearray()
        self._member = ""
        self._left = 0
        self._skip = 0
        self._ended = False
        self._after_end = 0
        self._sizes: dict[str, int] = {}
        self._digests = {META_NAME: hashlib.sha256(), STATE_NAME: hashlib.sha256()}
        self._small: dict[str, bytearray] = {META_NAME: bytearray(), SUMS_NAME: bytearray()}

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the archive. Raises DecodeError."""
        if len(self._head) < GZIP_HEAD_BYTES:
            self._head += data
            if len(self._head) < GZIP_HEAD_BYTES:
                return
            if not self._head.startswith(GZIP_MAGIC):
                raise DecodeError("failed to decompress snapshot: gzip: invalid header")
            data = bytes(self._head)
        while data and not self._inflate.eof:
            plain = self._inflated(data)
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            self._take(plain)
        # What zlib still holds back when a piece of output was exactly full.
        while not self._inflate.eof and (plain := self._inflated(b"")):
            self._take(plain)
        if data:
            self._after_gzip(data)

    def _inflated(self, data: bytes) -> bytes:
        try:
            return self._inflate.decompress(data, INFLATE_BYTES_MAX)
        except zlib.error as error:
            text = str(error)
            checked = "data check" in text or "length check" in text
            reason = "gzip: invalid checksum" if checked else "flate: corrupt input"
            raise DecodeError(reason if checked else self._where() + reason) from error

    def _after_gzip(self, data: bytes) -> None:
        """Bytes behind the end: another gzip member must begin, and even that is one too many."""
        self._rest += data[:GZIP_HEAD_BYTES]
        if len(self._rest) >= GZIP_HEAD_BYTES:
            good = self._rest.startswith(GZIP_MAGIC)
            raise DecodeError("unread uncompressed bytes remain" if good else "gzip: invalid header")

    def _where(self) -> str:
        """What was being read, in the words that precede a reason."""
        if self._ended:
            return ""
        inside = {
            META_NAME: "failed to read snapshot metadata: ",
            STATE_NAME: "failed to read or write snapshot data: ",
            SUMS_NAME: "failed to read snapshot hashes: ",
        }
        return READ_FAILED + (inside[self._member] if self._left else READING_FAILED)

    def finish(self) -> SnapshotMeta:
        """The archive ends here; what it covers, once everything fits. Raises DecodeError."""
        if len(self._head) < GZIP_HEAD_BYTES:
            raise DecodeError(f"failed to decompress snapshot: {'unexpected EOF' if self._head else 'EOF'}")
        if not self._inflate.eof or self._left or self._buffer:
            raise DecodeError(f"{self._where()}unexpected EOF")
        if self._rest:
            raise DecodeError("unexpected EOF")
        self._check_sums()
        try:
            meta, _ = decode_meta(bytes(self._small[META_NAME]))
        except DecodeError as error:
            raise DecodeError(f"{READ_FAILED}failed to decode snapshot metadata: {error}") from error
        if meta.size != self._sizes[STATE_NAME]:
            raise DecodeError(f"{READ_FAILED}state.bin has {self._sizes[STATE_NAME]} bytes, meta.json says {meta.size}")
        return meta

    def _take(self, plain: bytes) -> None:
        self._buffer += plain
        while self._buffer and self._step():
            pass

    def _step(self) -> bool:
        """Consume some of the buffer; False when more is needed."""
        buffer = self._buffer
        if self._ended:
            self._after_end += len(buffer)
            if any(buffer) or self._after_end > PADDING_BYTES_MAX:
                raise DecodeError(f"{READ_FAILED}{READING_FAILED}data after the last member")
            buffer.clear()
            return False
        if self._left:
            piece = bytes(memoryview(buffer)[: self._left])
            del buffer[: len(piece)]
            self._left -= len(piece)
            self._member_bytes(piece)
            return True
        if self._skip:
            count = min(self._skip, len(buffer))
            del buffer[:count]
            self._skip -= count
            return True
        if len(buffer) < BLOCK:
            return False
        block = bytes(memoryview(buffer)[:BLOCK])
        del buffer[:BLOCK]
        if not any(block):
            self._ended = True
        else:
            self._begin_member(block)
        return True

    def _begin_member(self, block: bytes) -> None:
        if sum(block[:148]) + sum(block[156:]) + 8 * 32 != _octal(block[148:156]):
            raise DecodeError(f"{READ_FAILED}{READING_FAILED}archive/tar: invalid tar header")
        name = block[:100].rstrip(b"\x00").decode("utf-8", "replace")
        limits = {META_NAME: META_BYTES_MAX, STATE_NAME: self._state_bytes_max, SUMS_NAME: SUMS_BYTES_MAX}
        prefixed = block[257:262] == b"ustar" and any(block[345:500])
        if name not in limits or prefixed or block[156:157] not in (b"0", b"\x00"):
            raise DecodeError(f'{READ_FAILED}unexpected file "{name}" in snapshot')
        if name in self._sizes:
            raise DecodeError(f'{READ_FAILED}file "{name}" twice in snapshot')
        size = _octal(block[124:136])
        if size > limits[name]:
            raise DecodeError(f'{READ_FAILED}file "{name}" in snapshot is larger than {limits[name]} bytes')
        self._member, self._left, self._skip = name, size, -size % BLOCK
        self._sizes[name] = size

    def _member_bytes(self, piece: bytes) -> None:
        digest = self._digests.get(self._member)
        if digest is not None:
            digest.update(piece)
        if self._member == STATE_NAME:
            self._write_state(piece)
        else:
            self._small[self._member] += piece

    def _check_sums(self) -> None:
        prefix = f"{READ_FAILED}failed checking integrity of snapshot: "
        seen = set()
        for line in self._small[SUMS_NAME].decode("utf-8", "replace").splitlines():
            parts = line.split("  ", 1)
            name = parts[1] if len(parts) == 2 else ""
            digest = self._digests.get(name)
            if digest is None:
                raise DecodeError(f'{prefix}list missing hash for "{name}"')
            if parts[0].lower() != digest.hexdigest() or name not in self._sizes:
                raise DecodeError(f'{prefix}hash check failed for "{name}"')
            seen.add(name)
        for name in self._digests:
            if name not in seen:
                raise DecodeError(f'{prefix}file missing for "{name}"')


def _octal(field: bytes) -> int:
    """A tar number: octal digits, ended by NUL or space. Base 256 and signs are not taken."""
    text = field.rstrip(b"\x00 ").lstrip(b" ")
    if not text or not all(0x30 <= digit <= 0x37 for digit in text):
        raise DecodeError(f"{READ_FAILED}{READING_FAILED}archive/tar: invalid tar header")
    return int(text, 8)


def read_archive(data: bytes, *, state_bytes_max: int = STATE_BYTES_MAX) -> tuple[SnapshotMeta, bytes]:
    """A whole archive that is in memory anyway. Raises DecodeError."""
    state = bytearray()
    reader = ArchiveReader(state.extend, state_bytes_max=state_bytes_max)
    reader.feed(data)
    return reader.finish(), bytes(state)
