"""A blocking client of the legacy RPC (port 8400), for `-rpc-addr`: one socket, one request at a time."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire.ipc import (
    VERSION,
    Handshake,
    LogRecord,
    Messages,
    Monitor,
    RequestHeader,
    ResponseHeader,
    Stop,
    decode_body,
    encode,
)
from pyconsul_agent.wire.msgpack import build

T = TypeVar("T")

DIAL_TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""An agent lists all members in one message."""
ANSWER_VALUES_MAX = 4_000_000
READ_BYTES = 64 * 1024


class IPCError(Exception):
    """What went wrong, in Go's words or the agent's own."""


class DialFailed(IPCError):
    """Nobody could be reached at the address."""


class IPCClient:
    """One connection, greeted. Use as a context manager, or call `close`."""

    def __init__(self, address: str) -> None:
        """Dial `host:port`, or a unix socket whose path begins with `/`. Raises DialFailed and IPCError."""
        self._messages = Messages(bytes_max=ANSWER_BYTES_MAX, values_max=ANSWER_VALUES_MAX)
        self._seq = 0
        self._socket = _dial(address)
        try:
            self.call("handshake", Handshake(version=VERSION))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> IPCClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def call(self, command: str, body: object | None = None) -> None:
        """A command whose answer has no body. Raises IPCError."""
        self._send(command, body)
        self._header()

    def ask(self, command: str, form: type[T], body: object | None = None) -> T:
        """A command whose answer has a body. Raises IPCError."""
        self._send(command, body)
        error = self._error_of_header()
        try:
            answer = decode_body(form, self._value())
        except DecodeError as problem:
            raise IPCError(str(problem)) from None
        if error:
            raise IPCError(error)
        return answer

    def stats(self) -> Mapping[str, Mapping[str, str]]:
        """The agent's statistics. Raises IPCError."""
        self._send("stats", None)
        self._header()
        try:
            return build(dict[str, dict[str, str]], self._value())
        except DecodeError as problem:
            raise IPCError(str(problem)) from None

    def monitor(self, level: str) -> Iterator[str]:
        """The agent's log, backlog first, until the agent goes away. Raises IPCError before the first line only."""
        self.call("monitor", Monitor(log_level=level))
        return self._lines()

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                self._header()
                yield decode_body(LogRecord, self._value()).log
            except (IPCError, DecodeError):
                return

    def stop(self) -> None:
        """End the monitor that was asked for last; lines that are under way are not waited for."""
        self._send("stop", Stop(stop=self._seq))

    def _send(self, command: str, body: object | None) -> None:
        self._seq += 1
        header = RequestHeader(command=command, seq=self._seq)
        try:
            self._socket.sendall(encode(header) if body is None else encode(header, body))
        except OSError as error:
            raise IPCError(f"write: {_reason(error)}") from None

    def _header(self) -> None:
        if error := self._error_of_header():
            raise IPCError(error)

    def _error_of_header(self) -> str:
        try:
            return decode_body(ResponseHeader, self._value()).error
        except DecodeError as error:
            raise IPCError(str(error)) from None

    def _value(self) -> Any:
        try:
            while (value := self._messages.next_value()) is None:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise IPCError("EOF")
                self._messages.feed(data)
        except OSError as error:
            raise IPCError(f"read: {_reason(error)}") from None
        return value[0]


def _dial(address: str) -> socket.socket:
    path = address.removeprefix("unix://")
    try:
        if path.startswith("/"):
            return _dial_unix(path)
        host, separator, port = address.rpartition(":")
        if not separator or not port:
            raise DialFailed(f"dial tcp: address {address}: missing port in address")
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=DIAL_TIMEOUT_S)
    except socket.gaierror:
        raise DialFailed(f"dial tcp: lookup {address.rpartition(':')[0]}: no such host") from None
    except TimeoutError:
        raise DialFailed(f"dial tcp {address}: i/o timeout") from None
    except OSError as error:
        network = f"unix {path}" if path.startswith("/") else f"tcp {address}"
        raise DialFailed(f"dial {network}: connect: {_reason(error)}") from None
    except ValueError:
        raise DialFailed(f"dial tcp: address {address}: invalid port") from None
    connection.settimeout(None)
    return connection


def _dial_unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _reason(error: OSError) -> str:
    if error.errno == errno.ECONNRESET:
        return "connection reset by peer"
    return os.strerror(error.errno).lower() if error.errno is not None else str(error)
