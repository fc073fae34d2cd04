"""Which gossip keys exist and which one encrypts. Data only: AES is the driver's, the file is the agent's."""

from __future__ import annotations

from dataclasses import dataclass

from pyconsul_agent.errors import ConsulError

KEY_LENGTHS = frozenset({16, 24, 32})
KEYS_MAX = 256
"""Every key is tried on every packet that does not decrypt, so their number is bounded."""


class KeyringError(ConsulError):
    """A key operation that is refused; the text travels to the operator of the whole cluster."""


def check_key(key: bytes) -> None:
    """Raises KeyringError unless the key has a length of AES."""
    if len(key) not in KEY_LENGTHS:
        raise KeyringError("key size must be 16, 24 or 32 bytes")


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys, primary first. Operations return the ring that results; decrypt with every key in this order."""

    keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not self.keys:
            raise KeyringError("Empty primary key not allowed")
        for key in self.keys:
            check_key(key)

    @property
    def primary(self) -> bytes:
        """The key that encrypts."""
        return self.keys[0]

    def add(self, key: bytes) -> Keyring:
        """With `key` at the end; the same ring if it is there already."""
        check_key(key)
        if key in self.keys:
            return self
        if len(self.keys) >= KEYS_MAX:
            raise KeyringError(f"a keyring holds at most {KEYS_MAX} keys")
        return Keyring((*self.keys, key))

    def use(self, key: bytes) -> Keyring:
        """With `key`, which must be installed, as primary; the others keep their order."""
        if key not in self.keys:
            raise KeyringError("Requested key is not in the keyring")
        return Keyring((key, *(other for other in self.keys if other != key)))

    def remove(self, key: bytes) -> Keyring:
        """Without `key`; an unknown one is no error, the primary is refused."""
        if key == self.primary:
            raise KeyringError("Removing the primary key is not allowed")
        return Keyring(tuple(other for other in self.keys if other != key))
