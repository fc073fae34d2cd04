"""Reads the gossip vectors and puts our messages in their shape. Shared by the tests of `wire` and `swim`."""

import json
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pyconsul_agent.wire.gossip import PushPull, UserMessage
from pyconsul_agent.wire.msgpack import plain

FOLDER = Path(__file__).resolve().parents[2] / "conformance" / "vectors" / "gossip"


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


class Gcm:
    """The AES step that drivers inject."""

    def __init__(self, key):
        self._aes = AESGCM(key)

    def seal(self, nonce, plain, aad):
        return self._aes.encrypt(nonce, plain, aad)

    def open(self, nonce, sealed, aad):
        try:
            return self._aes.decrypt(nonce, sealed, aad)
        except InvalidTag:
            return None


def as_json(value):
    """Plain wire values as the vectors write them: bytes as {"hex": ..}, Vsn as a list of numbers."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: list(item) if key == "Vsn" else as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value


def fields_of(message):
    """The fields of one of our messages in the shape of the vectors."""
    if isinstance(message, UserMessage):
        return {"data": message.data.hex()}
    if isinstance(message, PushPull):
        return {
            "Join": message.join,
            "Nodes": len(message.states),
            "UserStateLen": len(message.user_state),
            "states": [fields_of(state) for state in message.states],
            "user": message.user_state.hex(),
        }
    return as_json(plain(message))


def normal(value):
    """A vector's value with Vsn as numbers and without what is not a field (tags, coordinate)."""
    if isinstance(value, dict):
        result = {}
        for key, item in value.items():
            if key in ("tags", "coordinate", "type"):
                continue
            if key == "Vsn" and isinstance(item, dict):
                item = list(bytes.fromhex(item["hex"]))
            result[key] = normal(item)
        return result
    if isinstance(value, list):
        return [normal(item) for item in value]
    return value
