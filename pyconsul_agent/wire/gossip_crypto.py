"""Encryption of gossip: the layout of a sealed block, of packets and of streams; the AES-GCM step itself is injected.

| thing  | layout |
|--------|--------|
| block  | version u8 (0 or 1), nonce 12, ciphertext, tag 16 |
| packet | [label header] block; authenticated with it: the label |
| stream | `0a`, length of the block u32 big endian, block; authenticated with it: those 5 bytes and the label |

Version 1 seals the bytes as they are; version 0 pads them to 16 (PKCS#7) first: read, never sent by agents that speak
protocol 2. Which keys exist is `swim.keyring`'s matter. Protocol: docs/protocol/gossip.md, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire.gossip import MessageType
from pyconsul_agent.wire.gossip_packet import label_header, split_label

NONCE_LENGTH, TAG_LENGTH, PADDING_BLOCK = 12, 16, 16
OVERHEAD = {0: 1 + NONCE_LENGTH + TAG_LENGTH + PADDING_BLOCK, 1: 1 + NONCE_LENGTH + TAG_LENGTH}
"""Bytes a block is longer than what is in it (version 0: at most), which is also its least length."""
STREAM_HEADER_LENGTH = 5
STREAM_BLOCK_MAX = 20 * 1024 * 1024

NO_KEY_FITS = "No installed keys could decrypt the message"
REMOTE_IS_PLAIN = "Encryption is configured but remote state is not encrypted"
REMOTE_IS_SEALED = "Remote state is encrypted and encryption is not configured"


class Cipher(Protocol):
    """AES-GCM with one key."""

    def seal(self, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        """Ciphertext and tag. `nonce` is 12 bytes, never used twice with this key."""

    def open(self, nonce: bytes, sealed: bytes, aad: bytes) -> bytes | None:
        """The plain bytes, or None if key, nonce, `aad` or the bytes do not fit each other."""


class StreamRefused(DecodeError):
    """A stream that is answered with an error message whose text is `reason`."""


def seal_block(plain: bytes, cipher: Cipher, nonce: bytes, aad: bytes, version: int = 1) -> bytes:
    """One sealed block."""
    assert len(nonce) == NONCE_LENGTH
    if version == 0:
        missing = PADDING_BLOCK - len(plain) % PADDING_BLOCK
        plain += bytes((missing,)) * missing
    return bytes((version,)) + nonce + cipher.seal(nonce, plain, aad)


def open_block(block: bytes, ciphers: Sequence[Cipher], aad: bytes) -> bytes:
    """The plain bytes of a block, by the first key that fits. Raises DecodeError."""
    if not block:
        raise DecodeError("cannot decrypt an empty payload")
    version = block[0]
    least = OVERHEAD.get(version)
    if least is None:
        raise DecodeError(f"unsupported encryption version {version}")
    if len(block) < least:
        raise DecodeError("payload is too small to decrypt")
    nonce, sealed = block[1 : 1 + NONCE_LENGTH], block[1 + NONCE_LENGTH :]
    for cipher in ciphers:
        plain = cipher.open(nonce, sealed, aad)
        if plain is not None:
            return _without_padding(plain) if version == 0 else plain
    raise DecodeError(NO_KEY_FITS)


def _without_padding(plain: bytes) -> bytes:
    missing = plain[-1] if plain else 0
    if not 1 <= missing <= PADDING_BLOCK or missing > len(plain):
        raise DecodeError("bad padding")
    return plain[:-missing]


def seal_packet(plain: bytes, cipher: Cipher | None, nonce: bytes, label: bytes = b"", version: int = 1) -> bytes:
    """A datagram ready to send: label header and, with a cipher, the sealed block (else `plain`)."""
    if cipher is not None:
        plain = seal_block(plain, cipher, nonce, label, version)
    return label_header(label) + plain if label else plain


def open_packet(data: bytes, ciphers: Sequence[Cipher], *, label: bytes = b"", verify_incoming: bool = True) -> bytes:
    """A datagram without label and encryption. Raises DecodeError: other label, no key fits, empty.

    With keys, a datagram that does not decrypt is taken as plain only if `verify_incoming` is false.
    """
    theirs, rest = split_label(data)
    if theirs != label:
        raise DecodeError("packet has another label")
    if ciphers:
        try:
            rest = open_block(rest, ciphers, label)
        except DecodeError:
            if verify_incoming:
                raise
    if not rest:
        raise DecodeError("empty packet")
    return rest


def seal_stream(message: bytes, cipher: Cipher, nonce: bytes, label: bytes = b"", version: int = 1) -> bytes:
    """A whole stream message sealed (no label header: that is sent once, in clear, by the side that opened it)."""
    length = len(message) + OVERHEAD[1]
    if version == 0:
        length += PADDING_BLOCK - len(message) % PADDING_BLOCK
    header = bytes((MessageType.ENCRYPT,)) + length.to_bytes(4, "big")
    return header + seal_block(message, cipher, nonce, header + label, version)


def stream_block_length(header: bytes) -> int:
    """Length of the block announced by the 5 bytes before it. Raises DecodeError above 20 MiB."""
    length = int.from_bytes(header[1:STREAM_HEADER_LENGTH], "big")
    if length > STREAM_BLOCK_MAX:
        raise DecodeError(f"Remote node state is larger than limit ({length})")
    return length


def open_stream_block(header: bytes, block: bytes, ciphers: Sequence[Cipher], label: bytes = b"") -> bytes:
    """The message in a stream's sealed block. Raises StreamRefused or DecodeError."""
    if not ciphers:
        raise StreamRefused(REMOTE_IS_SEALED)
    try:
        return open_block(block, ciphers, header + label)
    except DecodeError as error:
        raise StreamRefused(error.reason) from error
