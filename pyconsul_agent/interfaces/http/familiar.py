"""GET requests whose header block has come before: only their first line is new, and only that is read.

A client's requests differ in their targets, hardly ever in their headers. The parser takes a quarter of the time of a
small read; here a request is taken apart by one expression if, byte for byte, its header block is one that the parser
has taken in full, and its first line has none but plain characters. Everything else is the parser's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pyconsul_agent.interfaces.http.head import Head

REQUEST_BYTES_MAX = 1024
BLOCKS_MAX = 256
SEEN_MAX = 2048

_LINE = re.compile(rb"GET (/[A-Za-z0-9/_.~%?&=,:@+*!$'()-]*) HTTP/1\.1\r\n")
_PRIVATE = ("x-consul-token", "authorization", "cookie")
"""Blocks with these are not kept: whoever can ask how long an answer took must not learn of them."""
_FRAMED = ("content-length", "transfer-encoding", "expect", "upgrade")


class Familiar:
    """Header blocks by their bytes."""

    def __init__(self, head_bytes_max: int) -> None:
        self._bytes_max = min(REQUEST_BYTES_MAX, head_bytes_max)
        self._blocks: dict[bytes, Mapping[str, str]] = {}
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self._blocks)

    def read(self, data: bytes) -> tuple[Head, str] | None:
        """A request in one piece and its raw target; its head is complete but for `target`. None: ask the parser."""
        line = _LINE.match(data)
        if line is None or len(data) > self._bytes_max:
            return None
        headers = self._blocks.get(data[line.end() :])
        if headers is None:
            return None
        head = Head()
        head.method, head.hosts, head.headers = "GET", 1, headers
        return head, line[1].decode("ascii")

    def learn(self, data: bytes, head: Head) -> None:
        """The parser has read `data`, which was one whole request and nothing else; kept from the second time on."""
        line = _LINE.match(data)
        if line is None or len(data) > self._bytes_max or head.body or head.hosts != 1 or not head.keep_alive:
            return
        if any(name in head.headers for name in _PRIVATE) or any(name in head.headers for name in _FRAMED):
            return
        block = data[line.end() :]
        mark = hash(block)
        if mark in self._seen:
            if len(self._blocks) >= BLOCKS_MAX:
                self._blocks.clear()
            self._blocks[block] = head.headers
            return
        if len(self._seen) >= SEEN_MAX:
            self._seen.clear()
        self._seen.add(mark)
