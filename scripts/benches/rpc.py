"""A call's round trip on loopback: asked of a server over its port, and through a client agent.

    scripts/bench rpc [--rounds 5] [--calls 2000] [--against REV]

One load generator speaks yamux and msgpack to the server port of each make, one call after the other on one stream:
Status.Ping and KVS.Get. Through a client agent: GET of a key over one connection, which is HTTP, the client's part and
the call to the server of the same make. Times are medians of a round; ratios are ours / theirs, round by round, and
must stay below 1.5.
"""

from __future__ import annotations

import http.client
import socket
import statistics
import struct
import time
from collections.abc import Callable

from pyconsul_agent.structs.base import Duration
from pyconsul_agent.structs.methods import KVS_GET, STATUS_PING, Empty
from pyconsul_agent.structs.requests import IndexedDirEntries, KeyRequest
from pyconsul_agent.wire import msgpack, netrpc
from pyconsul_agent.wire.netrpc import FirstByte, MessageReader, ResponseHeader
from scripts.benches.frame import HTTP_PORT, OURS, Busy, Make, Server, fleet, makes, parser, spread

RPC_PORT = 8300
LIMIT = 1.5
FRAME = struct.Struct(">BBHLL")
DATA, WINDOW, PING = 0, 1, 2
SYN, ACK, GONE = 1, 2, 4 | 8
WINDOW_BYTES = 64 * 1024
"""So often the peer is told what was read; it may send four times as much."""
KEY = b"bench/rpc"


class Calls:
    """One yamux stream to a server port, used by one caller. Not more of yamux than that needs."""

    def __init__(self, address: str) -> None:
        self._socket = socket.create_connection((address, RPC_PORT), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(bytes([FirstByte.YAMUX]) + FRAME.pack(0, WINDOW, SYN, 1, 0))
        self._reader = MessageReader(ResponseHeader)
        self._buffer = bytearray()
        self._unread = 0
        self._seq = 0

    def call(self, method: str, body: bytes) -> bytes:
        """The reply to one call. Raises RuntimeError with the server's error."""
        self._seq += 1
        request = netrpc.encode_request(self._seq, method, body)
        self._socket.sendall(FRAME.pack(0, DATA, 0, 1, len(request)) + request)
        while (answer := self._reader.next()) is None:
            self._take()
        header, reply = answer
        if header.error or header.seq != self._seq:
            raise RuntimeError(f"{method}: {header}")
        return reply

    def _take(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the server has closed")
        self._buffer += data
        while len(self._buffer) >= FRAME.size:
            _, kind, flags, number, length = FRAME.unpack_from(self._buffer)
            if kind == DATA:
                if len(self._buffer) < FRAME.size + length:
                    return
                self._reader.feed(bytes(self._buffer[FRAME.size : FRAME.size + length]))
                self._unread += length
                del self._buffer[:length]
            elif kind == PING and flags & SYN:
                self._socket.sendall(FRAME.pack(0, PING, ACK, 0, length))
            if flags & GONE and number:
                raise ConnectionError("the server has ended the stream")
            del self._buffer[: FRAME.size]
        if self._unread >= WINDOW_BYTES:
            self._socket.sendall(FRAME.pack(0, WINDOW, 0, 1, self._unread))
            self._unread = 0

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def times(once: Callable[[], object], count: int) -> list[float]:
    """Sorted seconds of `count` calls, one after the other; a tenth more come before and do not count."""
    for _ in range(count // 10):
        once()
    taken: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        once()
        taken.append(time.perf_counter() - began)
    return sorted(taken)


def measure(server: Server, client: Server, count: int) -> dict[str, list[float]]:
    """Sorted seconds by subject."""
    get = msgpack.encode(KeyRequest(datacenter="dc1", key=KEY, max_query_time=Duration(0)))
    calls = Calls(server.address)
    try:
        entries = msgpack.decode(IndexedDirEntries, calls.call(KVS_GET.name, get)).entries
        assert entries and entries[0].key == KEY
        found = {
            "Status.Ping": times(lambda: calls.call(STATUS_PING.name, msgpack.encode(Empty())), count),
            "KVS.Get": times(lambda: calls.call(KVS_GET.name, get), count),
        }
    finally:
        calls.close()
    for name, agent in (("GET at the server", server), ("GET at the client", client)):
        connection = http.client.HTTPConnection(agent.address, HTTP_PORT, timeout=10)

        def ask(connection: http.client.HTTPConnection = connection) -> None:
            connection.request("GET", f"/v1/kv/{KEY.decode()}")
            answer = connection.getresponse()
            assert answer.read().startswith(b"[") and answer.status == 200

        found[name] = times(ask, count)
        connection.close()
    return found


def main(arguments: list[str]) -> int:
    """Measure each make in turn; the exit code is 1 when a call takes more than LIMIT times as long as Consul's."""
    options = parser(__doc__, rounds=5, seconds=0)
    options.add_argument("--calls", type=int, default=2000)
    chosen = options.parse_args(arguments)
    rounds: dict[str, list[dict[str, list[float]]]] = {}
    with makes(chosen) as found, fleet(chosen) as agents:
        pairs: list[tuple[Make, Server, Server]] = []
        for make in found:
            (server,) = agents.cluster(make)
            client = agents.client(make, [server])
            status, _ = server.request("PUT", f"/v1/kv/{KEY.decode()}", b"x" * 64)
            assert status == 200
            pairs.append((make, server, client))
        busy, own = Busy(), sum(each.cpu_s() for _, *both in pairs for each in both) + time.process_time()
        for number in range(chosen.rounds):
            for make, server, client in pairs if number % 2 else pairs[::-1]:
                rounds.setdefault(make.label, []).append(measure(server, client, chosen.calls))
        used = sum(each.cpu_s() for _, *both in pairs for each in both) + time.process_time() - own
        others = busy.others(used)
    missed = False
    for name in rounds[OURS][0]:
        for label, measured in rounds.items():
            p50, p99 = ([each[name][len(each[name]) * part // 100] for each in measured] for part in (50, 99))
            ours = [each[name][len(each[name]) // 2] for each in rounds[OURS]]
            line = f"rpc {name:<18} {label:<8} p50 {statistics.median(p50) * 1e6:6.0f} us p99 " \
                   f"{statistics.median(p99) * 1e6:6.0f} us"  # fmt: skip
            if label != OURS:
                ratios = [mine / theirs for mine, theirs in zip(ours, p50, strict=True)]
                line += f"  ours/{label} {spread(ratios)}"
                missed = missed or (label == "consul" and statistics.median(ratios) > LIMIT)
            print(line, flush=True)
    print(f"others used {others * 100:.0f}% of the machine; limit {LIMIT}: {'missed' if missed else 'kept'}")
    return int(missed)
