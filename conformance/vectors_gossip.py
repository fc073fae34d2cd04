"""The gossip vectors against `wire`: messages, wrappers, encryption, compression, captured datagrams and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from conformance.case import Case, Mismatch, Skip, holds, load, same
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire.gossip import ErrorReply, MessageType, PushPull, UserMessage, decode_message, encode_message
from pyconsul_agent.wire.gossip_crypto import StreamRefused, open_packet, seal_packet, seal_stream
from pyconsul_agent.wire.gossip_packet import (
    add_crc,
    compress_message,
    label_header,
    open_crc,
    open_packet_body,
    pack_compounds,
    split_label,
    unpack_compound,
)
from pyconsul_agent.wire.gossip_stream import StreamReader, encode_stream, error_reply
from pyconsul_agent.wire.lzw import compress, decompress
from pyconsul_agent.wire.msgpack import plain

Vector = dict[str, Any]

CAPTURES = ("captured_consul", "captured_serf", "captured_encrypted")
LZW_BYTES_MAX = 1 << 24


class Gcm:
    """The AES step that drivers inject."""

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)

    def seal(self, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        """Ciphertext and tag."""
        return self._aes.encrypt(nonce, plain, aad)

    def open(self, nonce: bytes, sealed: bytes, aad: bytes) -> bytes | None:
        """The plain text, None if the key does not fit."""
        try:
            return self._aes.decrypt(nonce, sealed, aad)
        except InvalidTag:
            return None


def as_json(value: Any) -> Any:
    """Plain wire values as the vectors write them: bytes as {"hex": ..}, Vsn as a list of numbers."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: list(item) if key == "Vsn" else as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value


def fields_of(message: Any) -> Any:
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


def normal(value: Any) -> Any:
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


def read_stream(data: bytes, *keys: bytes, **options: Any) -> Any:
    """The message in `data`, fed in three pieces."""
    reader = StreamReader([Gcm(key) for key in keys], **options)
    third = max(1, len(data) // 3)
    message = None
    for piece in (data[:third], data[third : 2 * third], data[2 * third :]):
        if piece and message is None:
            message = reader.feed(piece)
    return message


# --- messages.json --------------------------------------------------------------------------------------------


def single_message(vector: Vector) -> None:
    """A message without wrappers, both ways."""
    data = bytes.fromhex(vector["hex"])
    message = decode_message(data)
    same(fields_of(message), normal(vector["decoded"]), "decoded")
    same(encode_message(message), data, "encoded")


def compound(vector: Vector) -> None:
    """Several messages in one packet, both ways."""
    data = bytes.fromhex(vector["hex"])
    parts = [bytes.fromhex(part) for part in vector["decoded"]["parts"]]
    same(unpack_compound(data), (parts, 0), "parts")
    same(pack_compounds(parts), [data], "packed")


def checksum(vector: Vector) -> None:
    """A CRC in front, both ways; a wrong one is refused."""
    data = bytes.fromhex(vector["hex"])
    if vector["decoded"].get("drop"):
        refused(lambda: open_packet_body(data))
        return
    inner = bytes.fromhex(vector["decoded"]["inner"])
    same(open_crc(data), inner, "inside")
    same(add_crc(inner), data, "with CRC")


def compressed(vector: Vector) -> None:
    """A compressed packet, both ways."""
    data, inner = bytes.fromhex(vector["hex"]), bytes.fromhex(vector["decoded"]["inner"])
    same(compress_message(inner), data, "compressed")
    same(open_packet_body(data).messages, unpack_compound(inner)[0], "inside")


def labelled(vector: Vector) -> None:
    """A label in front, both ways; another label is refused."""
    data, decoded = bytes.fromhex(vector["hex"]), vector["decoded"]
    label, inner = decoded["label"].encode(), bytes.fromhex(decoded["inner"])
    same(split_label(data), (label, inner), "split")
    same(label_header(label) + inner, data, "labelled")
    same(open_packet(data, [], label=label), inner, "opened")
    refused(lambda: open_packet(data, []))


def push_pull(vector: Vector) -> None:
    """A push/pull stream, plain or compressed, both ways."""
    data, decoded = bytes.fromhex(vector["hex"]), vector["decoded"]
    message = read_stream(data)
    if decoded["type"] == MessageType.COMPRESS:
        inner = bytes.fromhex(decoded["inner"])
        same(encode_stream(message), inner, "encoded")
        same(compress_message(encode_stream(message)), data, "compressed")
        return
    same(fields_of(message), normal(decoded), "decoded")
    same(encode_stream(message), data, "encoded")


WRAPPERS: dict[str, Callable[[Vector], None]] = {
    "compound": compound,
    "crc": checksum,
    "compressed": compressed,
    "label": labelled,
    "pushpull": push_pull,
}


def check_of(vector: Vector) -> Callable[[Vector], None]:
    """Which comparison a vector of messages.json needs: by the first word of its name."""
    return WRAPPERS.get(vector["name"].partition("-")[0], single_message)


def refused(action: Callable[[], object]) -> None:
    """The action must raise DecodeError."""
    try:
        action()
    except DecodeError:
        return
    raise Mismatch("accepted what must be refused")


# --- encryption, compression ----------------------------------------------------------------------------------


def sealed(vector: Vector) -> None:
    """An encrypted packet or stream, both ways."""
    decoded, data, cipher = vector["decoded"], bytes.fromhex(vector["hex"]), Gcm(bytes.fromhex(vector["key"]))
    inner, nonce, label = bytes.fromhex(decoded["inner"]), bytes.fromhex(decoded["nonce"]), decoded["label"].encode()
    if vector["layer"] == "packet":
        wrong = Gcm(bytes(range(31, -1, -1)))
        same(open_packet(data, [wrong, cipher], label=label), inner, "opened")
        same(seal_packet(inner, cipher, nonce, label, decoded["version"]), data, "sealed")
        return
    same(label_header(label) + seal_stream(inner, cipher, nonce, label, decoded["version"]), data, "sealed")
    same(StreamReader([cipher], label=label).feed(data), decode_message(inner), "opened")


def lzw(vector: Vector) -> None:
    """Plain to compressed and back."""
    inner, packed = bytes.fromhex(vector["decoded"]["plain_hex"]), bytes.fromhex(vector["hex"])
    same(compress(inner), packed, "compressed")
    same(decompress(packed, LZW_BYTES_MAX), inner, "plain")


def error_answer(vector: Vector) -> None:
    """What a real agent answered to a stream under the wrong key: we read it, and answer the same."""
    keys = [bytes.fromhex(vector["key"])] if vector["key"] else []
    answer = read_stream(bytes.fromhex(vector["hex"]), *keys, opened=True)
    same(answer, ErrorReply(vector["decoded"]["fields"]["Error"]), "answer")
    try:
        read_stream(bytes.fromhex(vector["request_hex"]), *keys)
    except StreamRefused as refusal:
        same(decode_message(error_reply(refusal)), answer, "our answer")
    else:
        raise Mismatch("accepted a stream that must be refused")


# --- captured -------------------------------------------------------------------------------------------------


def captured(vector: Vector, keys: list[bytes]) -> None:
    """A datagram or stream of a real agent: read, and its single messages written again."""
    data, expected = bytes.fromhex(vector["hex"]), vector["decoded"]
    if vector["layer"] == "stream":
        captured_stream(read_stream(data, *keys), expected)
        return
    if keys:
        data = open_packet(data, [Gcm(key) for key in keys])
    parts = open_packet_body(data)
    holds(not parts.truncated and not parts.errors, f"parts are damaged: {parts.truncated} {parts.errors}")
    same(len(parts.messages), len(expected["messages"]), "number of messages")
    for body, want in zip(parts.messages, expected["messages"], strict=True):
        message = decode_message(body)
        same(body[0], want["type"], "type")
        if body[0] == MessageType.USER:
            same(message.data[0], want["serf"]["serf_type"], "serf type")
        else:
            same(fields_of(message), normal(want["fields"]), "fields")
        same(encode_message(message), body, "encoded")


def captured_stream(message: Any, expected: Vector) -> None:
    """The message of a captured stream."""
    if expected["name"] != "push-pull":
        same(fields_of(message), normal(expected["fields"]), "fields")
        return
    fields = fields_of(message)
    same({key: fields[key] for key in ("Join", "Nodes", "UserStateLen")}, expected["header"], "header")
    same(fields["states"], normal(expected["states"]), "states")
    same(message.user_state[0], expected["user"]["serf_type"], "type of the user state")


def captures(folder: Path) -> Iterator[tuple[Vector, list[bytes]]]:
    """Every captured vector with the keys of its file."""
    for name in CAPTURES:
        document = load(folder, name)
        keys = [bytes.fromhex(key) for key in document.get("keys", ())]
        for vector in document["vectors"]:
            yield vector, keys


def cases(folder: Path) -> Iterator[Case | Skip]:
    """Every vector of the wire."""
    for vector in load(folder, "messages")["vectors"]:
        if vector["layer"] in ("packet", "stream"):
            yield Case(vector["name"], partial(check_of(vector), vector))
    tables = {"encryption": sealed, "lzw": lzw, "captured_errors": error_answer}
    for file, check in tables.items():
        for number, vector in enumerate(load(folder, file)["vectors"]):
            yield Case(f"{file} {vector.get('name', number)}", partial(check, vector))
    for vector, keys in captures(folder):
        yield Case(f"captured {vector['name']}", partial(captured, vector, keys))
