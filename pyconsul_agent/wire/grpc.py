"""gRPC on top of HTTP/2: messages in the body, status in the trailers."""

from __future__ import annotations

import enum
from urllib.parse import unquote_to_bytes

from pyconsul_agent.errors import DecodeError, RPCError

PREFIX_BYTES = 5
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""What gRPC's clients take by default."""
STATUS_TEXT_MAX = 1024


class Status(enum.IntEnum):
    """The codes that are used here; others pass as numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


_NAMES = {
    0: "OK", 1: "Canceled", 2: "Unknown", 3: "InvalidArgument", 8: "ResourceExhausted", 10: "Aborted",
    12: "Unimplemented", 13: "Internal", 14: "Unavailable",
}  # fmt: skip


class GRPCError(RPCError):
    """A call that ended with a status other than OK."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"rpc error: code = {_NAMES.get(status, f'Code({status})')} desc = {text}")
        self.status = status
        self.text = text


class NotOffered(RPCError):
    """No server that could be asked speaks gRPC."""


def encode_message(data: bytes) -> bytes:
    """A message with its prefix."""
    return b"\0" + len(data).to_bytes(4, "big") + data


class MessageCutter:
    """Cuts a body into messages. After an error the stream cannot be used any more."""

    def __init__(self, bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes that are no whole message yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now. Raises GRPCError for a compressed one or one that is too large."""
        self._buffer += data
        whole = []
        while len(self._buffer) >= PREFIX_BYTES:
            length = int.from_bytes(self._buffer[1:PREFIX_BYTES], "big")
            if self._buffer[0]:
                raise GRPCError(Status.UNIMPLEMENTED, "grpc: Decompressor is not installed for grpc-encoding")
            if length > self._bytes_max:
                text = f"grpc: received message larger than max ({length} vs. {self._bytes_max})"
                raise GRPCError(Status.RESOURCE_EXHAUSTED, text)
            end = PREFIX_BYTES + length
            if len(self._buffer) < end:
                break
            whole.append(bytes(self._buffer[PREFIX_BYTES:end]))
            del self._buffer[:end]
        return whole


def encode_status_text(text: str) -> str:
    """`grpc-message`: printable ASCII as it is, the rest as %XX."""
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")[:STATUS_TEXT_MAX]
    )


def decode_status(headers: dict[str, str]) -> tuple[int, str]:
    """Status and text of trailers. Raises DecodeError when there is none."""
    number = headers.get("grpc-status", "")
    if not (number.isascii() and number.isdigit() and len(number) < 6):
        raise DecodeError("no grpc-status")
    return int(number), unquote_to_bytes(headers.get("grpc-message", "")[:STATUS_TEXT_MAX]).decode("utf-8", "replace")
