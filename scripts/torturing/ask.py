"""One HTTP request a connection, no retries: what became of a request is part of what is recorded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from pyconsul_agent.sim.http_client import Answer as Parsed
from pyconsul_agent.sim.http_client import NoAnswer, parse

__all__ = ["Answer", "NoAnswer", "ask"]
HTTP_PORT = 8500
CONNECT_S = 3.0
READ_BYTES = 1 << 20


class Answer:
    """Header names are lower case."""

    def __init__(self, parsed: Parsed) -> None:
        self.status, self.headers, self.body = parsed.status, parsed.headers, parsed.body

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self.body)

    @property
    def index(self) -> int:
        """X-Consul-Index."""
        return int(self.headers.get("x-consul-index", "0"))


async def ask(ip: str, method: str, path: str, body: bytes = b"", *, timeout_s: float = 10.0) -> Answer:
    """Raises NoAnswer, which says whether the request may have arrived."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    sent = False
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(ip, HTTP_PORT)
            sent = True
            writer.write(head.encode() + body)
            data = bytearray()
            while part := await reader.read(READ_BYTES):
                data += part
        return Answer(parse(bytes(data)))
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError
        raise NoAnswer(repr(error), sent=sent) from error
    finally:
        if writer is not None:
            writer.transport.abort()
