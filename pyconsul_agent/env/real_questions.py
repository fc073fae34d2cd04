"""A UDP socket that questions come to: read until it is empty, answered on the spot where that can be done.

One wake-up serves many datagrams, with two system calls and little else each: asyncio's own transport reads one per
turn of the loop. A socket on a wildcard address asks the kernel which address each question came to, and answers from
there: resolvers take no reply from elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from pyconsul_agent.env.base import V4_IN_V6, Address, as_ipv4

DRAIN_MAX = 64
"""Datagrams read in one wake-up, so that the rest of the process has its turn."""

HANDED_OVER = 4
"""One that is not answered on the spot counts for so many: the work of answering it follows."""

DATAGRAM_BYTES_MAX = 65536
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104
IPV6_RECVPKTINFO = getattr(socket, "IPV6_RECVPKTINFO", 49)
IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
ANCILLARY_BYTES = 256

Receive = Callable[[bytes, Address, Callable[[bytes], None]], None]


class RealQuestions:
    """`env.base.Datagrams`, made by `Net.questions`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        quick: Callable[[bytes], bytes | None],
        receive: Receive,
    ) -> None:
        self.dropped = 0
        """Datagrams that the operating system did not take."""
        self._loop = loop
        self._socket = sock
        self._quick = quick
        self._receive = receive
        self._local: Address = sock.getsockname()[:2]
        self._closed = False
        everywhere = self._local[0] in WILDCARDS
        if everywhere:
            ask_for_local_address(sock)
        loop.add_reader(sock.fileno(), self._drain_everywhere if everywhere else self._drain)

    @property
    def local(self) -> Address:
        return self._local

    def send(self, data: bytes, to: Address) -> None:
        host, port = to
        if self._socket.family == socket.AF_INET6 and ":" not in host:
            host = V4_IN_V6 + host
        self._send(data, (host, port))

    def _send(self, data: bytes, to: Any, ancillary: Any = None) -> None:
        if self._closed:
            return
        try:
            if ancillary is None:
                self._socket.sendto(data, to)
            else:
                self._socket.sendmsg((data,), ancillary, 0, to)
        except (OSError, ValueError, OverflowError):
            # Full buffers, no route, an address or a port that is none: lost, as a datagram may be.
            self.dropped += 1

    def _drain(self) -> None:
        recvfrom, sendto, quick = self._socket.recvfrom, self._socket.sendto, self._quick
        left = DRAIN_MAX
        while left > 0 and not self._closed:
            left -= 1
            try:
                data, from_ = recvfrom(DATAGRAM_BYTES_MAX)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP answer to something sent earlier; the next read goes on
                continue
            answer = quick(data)
            if answer is None:
                self._hand_over(data, from_, None)
                left -= HANDED_OVER - 1
                continue
            try:
                sendto(answer, from_)
            except OSError:
                self.dropped += 1

    def _drain_everywhere(self) -> None:
        left = DRAIN_MAX
        while left > 0 and not self._closed:
            left -= 1
            try:
                data, ancillary, _, from_ = self._socket.recvmsg(DATAGRAM_BYTES_MAX, ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            back = answer_from(ancillary)
            answer = self._quick(data)
            if answer is None:
                self._hand_over(data, from_, back)
                left -= HANDED_OVER - 1
            else:
                self._send(answer, from_, back)

    def _hand_over(self, data: bytes, from_: Any, ancillary: Any) -> None:
        self._receive(data, (as_ipv4(from_[0]), from_[1]), lambda reply: self._send(reply, from_, ancillary))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()


def ask_for_local_address(sock: socket.socket) -> None:
    """Have the kernel tell with each datagram which address it came to."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def answer_from(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """What to send with the answer so that it leaves from the address that the question came to.

    Linux's `in_pktinfo` is (interface, address to send from, address in the header), `in6_pktinfo` is (address,
    interface). Only link-local addresses need the interface back; for others the route decides.
    """
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) >= 12:
            return [(level, kind, bytes(4) + data[4:8] + bytes(4))]
        if level == socket.IPPROTO_IPV6 and len(data) >= 20:
            interface = data[16:20] if data[0] == 0xFE and data[1] & 0xC0 == 0x80 else bytes(4)
            return [(level, kind, data[:16] + interface)]
    return []
