"""Gossip over TCP: one message each way, read from bytes that arrive in pieces.

| message   | layout after the type byte |
|-----------|----------------------------|
| push/pull | map {Nodes, UserStateLen, Join}, Nodes x node state map, UserStateLen raw bytes |
| user      | map {UserMsgLen}, raw bytes |
| others    | one map |

All of it may be inside compress (9), and that inside encrypt (10). A stream has no length of its own, so the reader
parses as bytes come: counts are checked before they are used and lists grow only as entries arrive. Protocol:
docs/protocol/gossip.md, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import wire
from pyconsul_agent.wire.gossip import (
    FORM_OF,
    UNPACK_ERRORS,
    ErrorReply,
    MessageType,
    PacketMessage,
    PushNodeState,
    PushPull,
    StreamMessage,
    UserMessage,
    bounded_unpacker,
    checked,
    encode_message,
    encode_state,
)
from pyconsul_agent.wire.gossip_crypto import (
    REMOTE_IS_PLAIN,
    REMOTE_IS_SEALED,
    STREAM_HEADER_LENGTH,
    Cipher,
    StreamRefused,
    open_stream_block,
    seal_stream,
    stream_block_length,
)
from pyconsul_agent.wire.gossip_packet import STREAM_OUTPUT_MAX, compress_message, decompress_buffer, label_header
from pyconsul_agent.wire.msgpack import encode

NODES_MAX = 1_048_576
USER_STATE_MAX = 20 * 1024 * 1024
STREAM_BYTES_MAX = STREAM_OUTPUT_MAX
"""Bytes of one message, as sent and as decompressed."""
COMPRESS_BELOW = 64 * 1024
"""Larger messages go out uncompressed: peers take both, and our LZW would hold the event loop."""

_SINGLE_TYPES = frozenset({MessageType.PING, MessageType.ACK, MessageType.ERROR})


@dataclass(frozen=True, slots=True)
class PushPullHeader:
    """What a push/pull announces."""

    nodes: int = wire("Nodes", 0)
    user_state_length: int = wire("UserStateLen", 0)
    join: bool = wire("Join", False)


@dataclass(frozen=True, slots=True)
class UserStreamHeader:
    """What a user message on a stream announces."""

    length: int = wire("UserMsgLen", 0)


# --- writing --------------------------------------------------------------------------------------------------


def encode_stream(message: StreamMessage) -> bytes:
    """A stream message without wrappers."""
    if isinstance(message, PushPull):
        header = PushPullHeader(len(message.states), len(message.user_state), message.join)
        return b"".join((b"\x06", encode(header), *map(encode_state, message.states), message.user_state))
    if isinstance(message, UserMessage):
        return b"\x08" + encode(UserStreamHeader(len(message.data))) + message.data
    single: PacketMessage = message
    return encode_message(single)


def wrap_stream(
    message: bytes, cipher: Cipher | None, nonce: bytes, *, label: bytes = b"", opens: bool, compress: bool = True
) -> bytes:
    """The bytes to write for an encoded stream message; `opens` when we opened the stream (label header goes first)."""
    if compress and len(message) < COMPRESS_BELOW:
        message = compress_message(message)
    if cipher is not None:
        message = seal_stream(message, cipher, nonce, label)
    return label_header(label) + message if opens else message


# --- reading --------------------------------------------------------------------------------------------------


class StreamReader:
    """Reads one message from the pieces of a stream.

    `feed` returns the message once it is complete, else None. It raises StreamRefused when the peer is to be answered
    with an error message, DecodeError when it is not. Bytes after the message are ignored.
    """

    def __init__(
        self, ciphers: Sequence[Cipher] = (), *, label: bytes = b"", verify_incoming: bool = True, opened: bool = False
    ) -> None:
        """`opened`: we opened the stream, so the peer's answer has no label header."""
        self._ciphers = tuple(ciphers)
        self._label = label
        self._verify = verify_incoming
        self._label_done = opened
        self._head = bytearray()  # bytes seen before it was known what they are, or of a sealed block
        self._body: _Body | None = None
        self._size = 0

    def feed(self, data: bytes) -> StreamMessage | None:
        """Take the next bytes."""
        self._size += len(data)
        if self._size > STREAM_BYTES_MAX:
            raise DecodeError(f"stream message is longer than {STREAM_BYTES_MAX} bytes")
        if self._body is not None:
            return self._body.feed(data)
        self._head += data
        if not self._label_done and not self._take_label():
            return None
        if not self._head:
            return None
        if self._head[0] == MessageType.ENCRYPT:
            return self._feed_sealed()
        if self._ciphers and self._verify:
            raise StreamRefused(REMOTE_IS_PLAIN)
        self._body = _Body()
        message = self._body.feed(bytes(self._head))
        self._head.clear()
        return message

    def _take_label(self) -> bool:
        head = self._head
        if not head:
            return False
        if head[0] != MessageType.HAS_LABEL:
            label, end = b"", 0
        else:
            if len(head) < 2 or len(head) < 2 + head[1]:
                return False
            end = 2 + head[1]
            label = bytes(head[2:end])
            if not label:
                raise DecodeError("label header without a label")
        if label != self._label:
            raise DecodeError("stream has another label")
        del head[:end]
        self._label_done = True
        return True

    def _feed_sealed(self) -> StreamMessage | None:
        if not self._ciphers:
            raise StreamRefused(REMOTE_IS_SEALED)
        if len(self._head) < STREAM_HEADER_LENGTH:
            return None
        header = bytes(self._head[:STREAM_HEADER_LENGTH])
        end = STREAM_HEADER_LENGTH + stream_block_length(header)
        if len(self._head) < end:
            return None
        plain = open_stream_block(header, bytes(self._head[STREAM_HEADER_LENGTH:end]), self._ciphers, self._label)
        self._head.clear()
        return decode_stream(plain)


def decode_stream(data: bytes) -> StreamMessage:
    """A whole stream message without encryption. Raises DecodeError, also when cut short."""
    message = _Body().feed(data) if data else None
    if message is None:
        raise DecodeError("stream message cut short")
    return message


class _Body:
    """The parser behind the wrappers: a type byte, then msgpack values and raw bytes as the type demands."""

    def __init__(self, may_compress: bool = True) -> None:
        self._may_compress = may_compress
        self._kind: int | None = None
        self._unpacker: Any = bounded_unpacker(STREAM_BYTES_MAX)
        self._header: PushPullHeader | UserStreamHeader | None = None
        self._states: list[PushNodeState] = []
        self._raw = bytearray()

    def feed(self, data: bytes) -> StreamMessage | None:
        if self._kind is None and data:
            self._kind = data[0]
            data = data[1:]
        self._feed_unpacker(data)
        match self._kind:
            case MessageType.PUSH_PULL:
                return self._push_pull()
            case MessageType.USER:
                return self._user()
            case MessageType.COMPRESS if self._may_compress:
                return self._compressed()
            case kind if kind in _SINGLE_TYPES:
                value = self._next()
                return None if value is None else checked(FORM_OF[int(kind)], value.value)
        raise DecodeError(f"invalid stream message type {self._kind}")

    def _feed_unpacker(self, data: bytes) -> None:
        try:
            self._unpacker.feed(data)
        except UNPACK_ERRORS as error:
            raise DecodeError("stream message is too long") from error

    def _next(self) -> _Value | None:
        try:
            return _Value(self._unpacker.unpack())
        except msgpack.OutOfData:
            return None
        except UNPACK_ERRORS as error:
            raise DecodeError(f"malformed msgpack: {type(error).__name__}: {error}"[:200]) from error

    def _push_pull(self) -> PushPull | None:
        header = self._header
        if header is None:
            value = self._next()
            if value is None:
                return None
            header = self._header = checked(PushPullHeader, value.value)
            if not 0 <= header.nodes <= NODES_MAX:
                raise DecodeError(f"push/pull announces {header.nodes} nodes")
            _check_raw_length(header.user_state_length)
        assert isinstance(header, PushPullHeader)
        while len(self._states) < header.nodes:
            value = self._next()
            if value is None:
                return None
            self._states.append(checked(PushNodeState, value.value))
        if not self._raw_complete(header.user_state_length):
            return None
        return PushPull(header.join, tuple(self._states), bytes(self._raw))

    def _user(self) -> UserMessage | None:
        header = self._header
        if header is None:
            value = self._next()
            if value is None:
                return None
            header = self._header = checked(UserStreamHeader, value.value)
            _check_raw_length(header.length)
        assert isinstance(header, UserStreamHeader)
        return UserMessage(bytes(self._raw)) if self._raw_complete(header.length) else None

    def _compressed(self) -> StreamMessage | None:
        value = self._next()
        if value is None:
            return None
        inner = _Body(may_compress=False).feed(decompress_buffer(value.value, STREAM_OUTPUT_MAX))
        if inner is None:
            raise DecodeError("compressed stream message cut short")
        return inner

    def _raw_complete(self, length: int) -> bool:
        missing = length - len(self._raw)
        if missing > 0:
            self._raw += self._unpacker.read_bytes(missing)
        return len(self._raw) >= length


@dataclass(frozen=True, slots=True)
class _Value:
    """One unpacked value, so that nil is not taken for nothing."""

    value: Any


def _check_raw_length(length: int) -> None:
    if not 0 <= length <= USER_STATE_MAX:
        raise DecodeError(f"user state of {length} bytes is announced")


def error_reply(error: StreamRefused) -> bytes:
    """The message (not wrapped yet) that answers a stream that was refused."""
    return encode_message(ErrorReply(error.reason))
