"""A plain HTTP client of the simulated network: one request a connection, no retries, no clever parts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pyconsul_agent.env.base import Net, open_stream
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import NetError

RESPONSE_BYTES_MAX = 4 * 1024 * 1024


class NoAnswer(Exception):
    """Nobody can know what became of the request. `sent` is false when it surely never left."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


async def request(
    net: Net, address: tuple[str, int], method: str, path: str, body: bytes = b"", *, timeout_s: float = 10.0
) -> Answer:
    """Ask, and read to the end. Raises NoAnswer."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {address[0]}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    sent = False
    writer: asyncio.StreamWriter | None = None
    try:
        async with timeout(timeout_s):
            reader, writer = await open_stream(net, *address, timeout_s=timeout_s)
            sent = True
            writer.write(head.encode() + body)
            data = await reader.read(RESPONSE_BYTES_MAX)
            while part := await reader.read(RESPONSE_BYTES_MAX):
                data += part
        return parse(data)
    except (NetError, OSError, ValueError) as error:  # a TimeoutError is an OSError
        raise NoAnswer(repr(error), sent=sent) from error
    finally:
        if writer is not None:
            writer.transport.abort()


def parse(data: bytes) -> Answer:
    """A whole response, with Content-Length or in chunks. Raises ValueError when it was cut off."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        raise ValueError("response cut off in its head")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    elif len(body) != int(headers.get("content-length", "0")):
        raise ValueError("response cut off in its body")
    return Answer(status, headers, body)


def _unchunked(data: bytes) -> bytes:
    body = b""
    while True:
        size, separator, data = data.partition(b"\r\n")
        count = int(size, 16) if separator else -1
        if count < 0 or data[count : count + 2] != b"\r\n":
            raise ValueError("response cut off in its body")
        if not count:
            return body
        body += data[:count]
        data = data[count + 2 :]
