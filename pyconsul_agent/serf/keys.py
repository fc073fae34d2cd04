"""Key management over queries: every member changes or lists its gossip keys when one asks (gossip.md 11).

Pure: the ring is `swim.keyring`'s value, encrypting with it and keeping its file is the driver's.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.swim.keyring import Keyring, KeyringError
from pyconsul_agent.wire.serf import KeyRequest, KeyResponse, decode_as, encode

INSTALL, USE, REMOVE, LIST = "install-key", "use-key", "remove-key", "list-keys"
KEY_PREFIX = "_serf_"

NO_KEYRING = "No keyring to modify (encryption not enabled)"
EMPTY_KEYRING = "Keyring is empty (encryption not enabled)"

_CHANGES: Mapping[str, Callable[[Keyring, bytes], Keyring]] = {
    KEY_PREFIX + INSTALL: Keyring.add,
    KEY_PREFIX + USE: Keyring.use,
    KEY_PREFIX + REMOVE: Keyring.remove,
}
KEY_QUERIES = frozenset({*_CHANGES, KEY_PREFIX + LIST})


def key_text(key: bytes) -> str:
    """A key as operators see it."""
    return base64.b64encode(key).decode("ascii")


def carry_out(name: str, payload: bytes, keyring: Keyring | None) -> tuple[KeyResponse, Keyring | None]:
    """The answer to key query `name`, and the ring that results."""
    try:
        key = decode_as(KeyRequest, payload).key or b""
    except DecodeError as error:
        return KeyResponse(message=f"Failed to decode key request: {error.reason}"), keyring
    if name not in _CHANGES:
        if keyring is None:
            return KeyResponse(message=EMPTY_KEYRING), None
        keys = tuple(key_text(key) for key in keyring.keys)
        return KeyResponse(result=True, keys=keys, primary_key=keys[0]), keyring
    if keyring is None:
        return KeyResponse(message=NO_KEYRING), None
    try:
        return KeyResponse(result=True), _CHANGES[name](keyring, key)
    except KeyringError as error:
        return KeyResponse(message=str(error)), keyring


def fitting(response: KeyResponse, bytes_max: int) -> bytes:
    """The encoded answer; a list of keys is cut, and says so, until it fits."""
    data = encode(response)
    keys = response.keys or ()
    for count in range(len(keys) - 1, -1, -1):
        if len(data) <= bytes_max:
            break
        message = f"truncated key list response, showing first {count} of {len(keys)} keys"
        data = encode(KeyResponse(result=True, message=message, keys=keys[:count], primary_key=response.primary_key))
    return data


@dataclass(slots=True)
class KeyOutcome:
    """What the pool answered. Counts are of nodes, per key text; `error` is "" when all of them agreed."""

    nodes: int
    answers: int = 0
    errors: int = 0
    messages: dict[str, str] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    primary_keys: dict[str, int] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether everybody answered."""
        return self.answers >= self.nodes

    @property
    def error(self) -> str:
        """The error of the whole operation."""
        if self.errors:
            return f"{self.errors}/{self.nodes} nodes reported failure"
        if self.answers != self.nodes:
            return f"{self.answers}/{self.nodes} nodes reported success"
        return ""

    def count(self, node: str, payload: bytes) -> None:
        """Add the answer of one node."""
        self.answers += 1
        try:
            response = decode_as(KeyResponse, payload)
        except DecodeError as error:
            self.errors += 1
            self.messages[node] = f"Failed to decode key query response: {error.reason}"
            return
        if not response.result:
            self.errors += 1
        if response.message or not response.result:
            self.messages[node] = response.message
        for key in response.keys or ():
            self.keys[key] = self.keys.get(key, 0) + 1
        self.primary_keys[response.primary_key] = self.primary_keys.get(response.primary_key, 0) + 1
