"""A request while it is read: its head, the rules of its framing, and the answers to what cannot be taken. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pyconsul_agent.interfaces.http.body import BodyStream
from pyconsul_agent.interfaces.http.known import Answer
from pyconsul_agent.interfaces.http.message import TEXT, Response, text_response
from pyconsul_agent.interfaces.http.pipeline import Target

STREAMED_BYTES_MAX = 1 << 34
"""Of a body that its handler takes as it arrives; snapshots go to the disk, which bounds them further."""
STREAMED_METHODS = frozenset({"PUT", "POST"})
UNROUTED_BYTES_MAX = 512 * 1024
"""A body sent to a path that nobody serves is read, so that its 404 can be."""

ODD_METHOD = re.compile(rb"^([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) (\S{1,8192}) HTTP/1\.[01]\r?\n")
"""A request line in order, but with a method that the parser does not know."""
OTHER_VERSION = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} \S{1,8192} HTTP/(?!1\.[01])\d\.\d\r?\n")
"""A request line in order, but of a version that the parser does not take."""

_UNREAD = Response(400)
"""The target of a request whose head is not complete; nobody is answered with it."""


class Head:
    """A request while it is read. Nothing but `answer` changes afterwards."""

    __slots__ = (
        "answer",
        "body",
        "body_limit",
        "head_size",
        "headers",
        "hosts",
        "http10",
        "keep_alive",
        "length",
        "method",
        "repeatable",
        "size",
        "stream",
        "target",
        "url",
    )

    def __init__(self) -> None:
        self.url = b""
        self.answer: Answer | None = None
        self.repeatable = False
        self.headers: Mapping[str, str] = {}
        self.head_size = 0
        self.hosts = 0
        self.http10 = False
        self.body: list[bytes] = []
        self.size = 0
        self.method = ""
        self.keep_alive = True
        self.length: int | None = None
        self.body_limit = 0
        self.stream: BodyStream | None = None
        self.target: Target | Response = _UNREAD


class Refused(Exception):
    """The request cannot be taken; the response says why and the connection ends."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def bad(text: str = "400 Bad Request", status: int = 400) -> Refused:
    """What is no HTTP, or none that can be taken."""
    return Refused(Response(status, text.encode(), TEXT, close=True, bare=True))


def bad_version() -> Refused:
    """Another version of HTTP."""
    return bad("505 HTTP Version Not Supported: unsupported protocol version", 505)


def head_too_large() -> Refused:
    """More headers, or longer ones, than are taken."""
    return bad("431 Request Header Fields Too Large", 431)


def framing(head: Head) -> None:
    """Set how the body's end is known. Both ways at once would let two readers disagree. Raises Refused."""
    length, coding = head.headers.get("content-length"), head.headers.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise bad()
        if coding.lower() != "chunked":
            raise bad("Unsupported transfer encoding", 501)
    if length is not None:
        if not length.isascii() or not length.isdigit():
            raise bad()
        head.length = int(length)


def body_limit(target: Target, method: str, declared: int | None) -> int:
    """How long a request's body may be."""
    route = target.route
    if route is None:
        return UNROUTED_BYTES_MAX
    if route.body_bytes_max is None:
        return STREAMED_BYTES_MAX if method in STREAMED_METHODS else UNROUTED_BYTES_MAX
    return route.body_bytes_max if declared is not None else max(route.body_bytes_max, route.chunked_bytes_max)


def taken_whole(target: Target | Response, length: int) -> bool:
    """Whether a body of this length goes to a route that takes it in one piece and within its limit."""
    if isinstance(target, Response) or target.route is None:
        return False
    limit = target.route.body_bytes_max
    return limit is not None and length <= limit


def body_too_large(size: int, limit: int, setting: str) -> Response:
    """The answer to a body over the limit that `setting` sets."""
    response = text_response(
        f"Request body({size} bytes) too large, max size: {limit} bytes. "
        f"See https://www.consul.io/docs/agent/options.html#{setting}.",
        status=413,
    )
    response.close = True
    return response


def with_crlf(data: bytes) -> bytes | None:
    """A request whose header lines end in bare LF, every one of them, with proper line ends; None if it is not one."""
    head, end, body = data.partition(b"\n\n")
    if not end or b"\r" in head:
        return None
    return head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body
