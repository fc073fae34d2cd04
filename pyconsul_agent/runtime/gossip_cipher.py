"""Gossip encryption at work: AES-GCM by `cryptography`, keys by `swim.keyring`, layout by `wire.gossip_crypto`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.wire.gossip_crypto import NONCE_LENGTH, Cipher, open_packet, seal_packet
from pyconsul_agent.wire.gossip_stream import StreamReader, wrap_stream

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class AESCipher:
    """`wire.gossip_crypto.Cipher` with one key of 16, 24 or 32 bytes."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # only pools with a key pay for it

        self._aes: AESGCM = AESGCM(key)

    def seal(self, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        """Ciphertext and tag."""
        return self._aes.encrypt(nonce, plain, aad)

    def open(self, nonce: bytes, sealed: bytes, aad: bytes) -> bytes | None:
        """The plain bytes, or None."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._aes.decrypt(nonce, sealed, aad)
        except InvalidTag:
            return None


class GossipSeal:
    """Puts encryption on what leaves and takes it off what comes; does nothing without a keyring."""

    def __init__(
        self,
        keyring: Keyring | None,
        token_bytes: Callable[[int], bytes],
        *,
        verify_incoming: bool = True,
        verify_outgoing: bool = True,
    ) -> None:
        self._token_bytes = token_bytes
        self._verify_incoming = verify_incoming
        self._verify_outgoing = verify_outgoing
        self._ciphers: tuple[Cipher, ...] = ()
        self.set_keyring(keyring)

    @property
    def is_on(self) -> bool:
        """Whether there is a key."""
        return bool(self._ciphers)

    def set_keyring(self, keyring: Keyring | None) -> None:
        """Use these keys from now on, the first one to encrypt."""
        self.keyring = keyring
        self._ciphers = tuple(AESCipher(key) for key in keyring.keys) if keyring is not None else ()

    def _outgoing(self) -> Cipher | None:
        return self._ciphers[0] if self._ciphers and self._verify_outgoing else None

    def _nonce(self, cipher: Cipher | None) -> bytes:
        return self._token_bytes(NONCE_LENGTH) if cipher is not None else b""

    def packet(self, data: bytes) -> bytes:
        """A datagram to send."""
        cipher = self._outgoing()
        return data if cipher is None else seal_packet(data, cipher, self._nonce(cipher))

    def unpack(self, data: bytes) -> bytes:
        """What a datagram holds. Raises DecodeError."""
        return open_packet(data, self._ciphers, verify_incoming=self._verify_incoming)

    def stream(self, message: bytes, *, opens: bool, compress: bool = True) -> bytes:
        """A stream message to write."""
        cipher = self._outgoing()
        return wrap_stream(message, cipher, self._nonce(cipher), opens=opens, compress=compress)

    def reader(self, *, opened: bool) -> StreamReader:
        """Reads one stream message."""
        return StreamReader(self._ciphers, verify_incoming=self._verify_incoming, opened=opened)
