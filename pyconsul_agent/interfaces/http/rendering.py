"""Responses as bytes of HTTP/1. Pure but for the body of a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable
from http import HTTPStatus

from pyconsul_agent.interfaces.http.compression import (
    GZIP_BYTES_MIN,
    GzipStream,
    accepts_gzip,
    compressed_whole,
)
from pyconsul_agent.interfaces.http.message import Response

TOO_MANY = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: 81\r\nConnection: close\r\n\r\n"
    b"Your IP is issuing too many concurrent connections, please rate limit your calls\n"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS = {status.value: status.phrase for status in HTTPStatus}
REASONS[413] = "Request Entity Too Large"

HEADS_MAX = 256
HEAD_BYTES_MAX = 1024
"""Few heads differ; so many are kept, longer ones are not."""
CHANGING = "X-Consul-Index"
"""Heads with this one differ each time that the state has changed, and are not kept."""

_heads: dict[Hashable, bytes] = {}
"""Heads by all that decides their bytes."""


def rendered(response: Response, *, keep_alive: bool, accepts: str, method: str) -> tuple[bytes, bytes]:
    """An answer before and after the value of its Date header; of a stream all but the body.

    A bare response has no date: it is all in the first part. `accepts` is the request's Accept-Encoding.
    """
    body = response.body if method != "HEAD" else b""
    if response.stream is not None:
        extra, body = b"Transfer-Encoding: chunked\r\n", b""
        if accepts and accepts_gzip(accepts) and "Content-Encoding" not in response.headers:
            extra += b"Content-Encoding: gzip\r\n"
    elif len(response.body) >= GZIP_BYTES_MIN and accepts and accepts_gzip(accepts):
        packed = compressed_whole(response.body)
        extra = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(packed)
        body = packed if body else b""
    else:
        extra = b"Content-Length: %d\r\n" % len(response.body)
    if not keep_alive:
        extra += b"Connection: close\r\n"
    head = _head_of(response)
    if response.bare:
        return b"%s%s\r\n%s" % (head, extra, body), b""
    return head, b"\r\n%s\r\n%s" % (extra, body)


async def chunks(response: Response, accepts: str) -> AsyncGenerator[bytes, None]:
    """The body of a stream as it goes onto the wire, its end included; the stream is closed with this generator."""
    assert response.stream is not None
    packed = bool(accepts) and accepts_gzip(accepts) and "Content-Encoding" not in response.headers
    packer = GzipStream() if packed else None
    try:
        async for chunk in response.stream:
            data = packer.pack(chunk) if packer is not None else chunk
            # An empty chunk would end the body; yielded as nothing, it still lets the writer look around.
            yield b"%x\r\n%s\r\n" % (len(data), data) if data else b""
        tail = packer.finish() if packer is not None else b""
        yield (b"%x\r\n%s\r\n" % (len(tail), tail) if tail else b"") + b"0\r\n\r\n"
    finally:
        await close_stream(response)


async def close_stream(response: Response) -> None:
    """Tell whoever yields the body that nobody wants more."""
    if (close := getattr(response.stream, "aclose", None)) is not None:
        await close()


def _status_line(response: Response) -> str:
    """Version, code and reason. What is no HTTP is told its reason there as well, as Go does."""
    reason = REASONS.get(response.status, "")
    if response.bare and response.body.startswith(b"%d " % response.status):
        reason = response.body[4:].decode("latin-1")
    return f"HTTP/1.{0 if response.http10 else 1} {response.status} {reason}\r\n"


def _head_of(response: Response) -> bytes:
    """Status line and headers, with the name of the date, without those that tell length and connection."""
    headers = response.headers
    if response.bare or CHANGING in headers:
        return _made_head(response)
    key = (response.status, response.content_type, response.http10, *headers.items())
    head = _heads.get(key)
    if head is None:
        head = _made_head(response)
        if len(head) <= HEAD_BYTES_MAX:
            if len(_heads) >= HEADS_MAX:
                _heads.clear()
            _heads[key] = head
    return head


def _made_head(response: Response) -> bytes:
    lines = [_status_line(response)]
    if response.content_type:
        lines.append(f"Content-Type: {response.content_type}\r\n")
    lines += [f"{name}: {value}\r\n" for name, value in response.headers.items()]
    head = "".join(lines)
    if head.count("\n") != len(lines) or head.count("\r") != len(lines):
        # Whatever a user configured, a value cannot end its line.
        head = "".join(line[:-2].replace("\r", " ").replace("\n", " ") + "\r\n" for line in lines)
    return (head if response.bare else head + "Date: ").encode("utf-8", "surrogateescape")
