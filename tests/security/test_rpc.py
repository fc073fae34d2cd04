"""Bad peers on the server port of a running agent: answered, closed or bounded, and others are served as before.

What is malformed before a call is understood is in `tests/integration/test_bad_input.py`.
"""

from __future__ import annotations

import math
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire.msgpack import encode
from pyconsul_agent.wire.netrpc import MessageReader, ResponseHeader, encode_request
from tests.integration.agents import Agent, own

pytestmark = pytest.mark.slow

IP, PEER = own("127.0.2.61"), own("127.0.2.62")
"""Where bad peers come from: limits count per address."""
FRAME = struct.Struct(">BBHII")
DATA, WINDOW, PING = 0, 1, 2
SYN, ACK, FIN = 1, 2, 4
WINDOW_BYTES = 256 * 1024
EMPTY = b"\x80"
RSS_GROWTH_MAX = 48 * 1024 * 1024

QUIET, STORM, TRIES = 150, 150, 4
FLOOR_S = 0.1
"""What is quicker than this is quick enough on processors that the agent, its bad peer and other tests share."""
SLOWER_MAX = 2.0


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> Iterator[Agent]:
    limits = "performance { raft_multiplier = 1 }"
    agent = Agent(tmp_path_factory.mktemp("rpc"), IP, "n1", "-server", "-bootstrap", "-hcl", limits).start()
    agent.wait_leader()
    assert agent.put("/v1/kv/x", b"value")
    for number in range(4):
        assert agent.put(f"/v1/kv/big/{number}", b"v" * 400_000)
    yield agent
    agent.close()
    agent.assert_clean()


@pytest.fixture(scope="module", autouse=True)
def silent(agent) -> Iterator[tuple[float, socket.socket]]:
    """A peer that has made a call and then says nothing any more, as when its host has gone; since when."""
    with Yamux() as peer:
        assert peer.call("Status.Ping", EMPTY) == ("", EMPTY)
        yield time.monotonic(), peer.socket


class Yamux:
    """A session, spoken by hand."""

    def __init__(self) -> None:
        self.socket = socket.create_connection((IP, 8300), timeout=5, source_address=(PEER, 0))
        self.socket.sendall(b"\x04")
        self._readers: dict[int, MessageReader[ResponseHeader]] = {}
        self.stream = 1

    def frame(self, kind: int, flags: int, stream: int, data: bytes | int = b"") -> None:
        length, payload = (data, b"") if isinstance(data, int) else (len(data), data)
        self.socket.sendall(FRAME.pack(0, kind, flags, stream, length) + payload)

    def open(self) -> int:
        self.stream += 2
        self.frame(WINDOW, SYN, self.stream, 0)
        return self.stream

    def answer(self, stream: int) -> tuple[str, bytes]:
        """(error, body) of the next answer on a stream; answers of others are dropped. Raises OSError when closed."""
        reader = self._readers.setdefault(stream, MessageReader(ResponseHeader))
        while (message := reader.next()) is None:
            kind, flags, number, length = self._header()
            payload = self._exactly(length) if kind == DATA else b""
            if kind == PING and flags & SYN:
                self.frame(PING, ACK, 0, length)
            if number == stream:
                reader.feed(payload)
                if flags & FIN:
                    raise OSError("the stream has ended")
        return message[0].error, message[1]

    def call(self, method: str, body: bytes, stream: int | None = None) -> tuple[str, bytes]:
        stream = stream or self.open()
        self.frame(DATA, 0, stream, encode_request(7, method, body))
        return self.answer(stream)

    def _header(self) -> tuple[int, int, int, int]:
        version, kind, flags, stream, length = FRAME.unpack(self._exactly(FRAME.size))
        assert version == 0
        return kind, flags, stream, length

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("closed")
            data += piece
        return data

    def is_closed(self, within_s: float) -> bool:
        """Whether the agent ends the connection in time, whatever it still sends."""
        return ends(self.socket, within_s)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Yamux:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ends(connection: socket.socket, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    try:
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(65536):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


# --- calls ------------------------------------------------------------------------------------------------------------


def coordinate(coord: object) -> bytes:
    fields = {"Datacenter": "dc1", "Node": "n1", "Segment": "", "Coord": coord, "Token": ""}
    return encode(fields)


VEC = [0.0] * 8
POINT = {"Vec": VEC, "Error": 1.5, "Adjustment": 0.0, "Height": 1e-5}
BAD_CALLS = {
    "unknown method": ("KVS.Nope", EMPTY, "rpc: can't find method KVS.Nope"),
    "unknown service": ("Foo.Bar", EMPTY, "rpc: can't find service Foo.Bar"),
    "no dot": ("FooBar", EMPTY, "rpc: service/method request ill-formed: FooBar"),
    "empty name": ("", EMPTY, "rpc: service/method request ill-formed: "),
    "long name": ("K" * 60_000 + ".Get", EMPTY, "rpc: can't find service K"),
    "body is a number": ("KVS.Get", b"\x07", "codec.decoder: "),
    "body is text": ("KVS.Get", b"\xa3abc", "codec.decoder: "),
    "number where text should be": ("KVS.Get", b"\x81\xa3Key\x07", "codec.decoder: "),
    "float where a number should be": (
        "KVS.Get", b"\x82\xa3Key\xa1x\xadMinQueryIndex\xcb" + struct.pack(">d", 1.0), "codec.decoder: "),
    "nil coordinate": ("Coordinate.Update", coordinate(None), "invalid coordinate"),
    "coordinate of nothing": ("Coordinate.Update", coordinate({}), "incompatible coordinate"),
    "NaN coordinate": ("Coordinate.Update", coordinate({**POINT, "Error": math.nan}), "invalid coordinate"),
    "endless coordinate": ("Coordinate.Update", coordinate({**POINT, "Vec": [math.inf] * 8}), "invalid coordinate"),
    "coordinate of 1000 dimensions": (
        "Coordinate.Update", coordinate({**POINT, "Vec": [0.0] * 1000}), "incompatible coordinate"),
    "registration of nothing": ("Catalog.Register", EMPTY, "Must provide node"),
    "nil prepared query": (
        "PreparedQuery.Apply", b"\x82\xa2Op\xa6create\xa5Query\xc0", "Invalid prepared query: Must be bound"),
    "nil session": ("Session.Apply", b"\x81\xa2Op\xa6create", "Must provide Node"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_gets_an_error_and_its_stream_goes_on(agent, name):
    method, body, error = BAD_CALLS[name]
    with Yamux() as peer:
        stream = peer.open()
        told, _ = peer.call(method, body, stream)
        assert told.startswith(error)
        assert peer.call("Status.Ping", EMPTY, stream) == ("", EMPTY)
    assert agent.ask("GET", "/v1/kv/x?raw") == (200, b"value")


def test_a_nil_operation_of_a_transaction_is_an_error_in_its_answer(agent):
    with Yamux() as peer:
        told, body = peer.call("Txn.Apply", b"\x81\xa3Ops\x91\xc0")
    assert (told, b"no operation specified" in body) == ("", True)


def test_a_body_in_single_bytes_is_a_call_like_others(agent):
    with Yamux() as peer:
        stream = peer.open()
        for byte in encode_request(1, "Status.Leader", EMPTY):
            peer.frame(DATA, 0, stream, bytes([byte]))
        assert peer.answer(stream)[0] == ""


def test_half_a_call_holds_nobody_of_its_session_up(agent):
    with Yamux() as peer:
        half = peer.open()
        peer.frame(DATA, 0, half, encode_request(1, "Status.Leader", EMPTY)[:-3])
        assert peer.call("Status.Ping", EMPTY) == ("", EMPTY)


# --- windows ----------------------------------------------------------------------------------------------------------


def test_more_data_than_the_window_ends_the_session(agent):
    with Yamux() as peer:
        stream = peer.open()
        peer.frame(DATA, 0, stream, b"\x82" + b"x" * WINDOW_BYTES * 2)
        assert peer.is_closed(5)


def test_an_answer_that_is_never_read_holds_neither_its_session_nor_memory(agent):
    rss = agent.rss()
    with Yamux() as peer:
        request = encode({"Datacenter": "dc1", "Key": "big/"})
        stalled = [peer.open() for _ in range(20)]
        for stream in stalled:  # 1.6 MB each, of which the window lets 256 KiB out
            peer.frame(DATA, 0, stream, encode_request(1, "KVS.List", request))
        assert peer.call("Status.Ping", EMPTY) == ("", EMPTY)
        assert agent.rss() - rss < RSS_GROWTH_MAX


@pytest.mark.parametrize("delta", [0xFFFFFFFF, 0x80000000, 0])
def test_absurd_windows_end_the_session_or_change_nothing(agent, delta):
    with Yamux() as peer:
        stream = peer.open()
        try:
            for _ in range(3):
                peer.frame(WINDOW, 0, stream, delta)
            assert peer.call("Status.Leader", EMPTY, stream)[0] == ""
        except ConnectionError:
            assert delta


# --- half-open and slow peers -----------------------------------------------------------------------------------------


def test_slow_peers_are_served_and_others_too(agent):
    with ExitStack() as stack:
        crowd = [stack.enter_context(Yamux()) for _ in range(60)]
        for peer in crowd:
            peer.frame(DATA, SYN, 3, encode_request(1, "Status.Leader", EMPTY)[:10])
        assert agent.ask("GET", "/v1/kv/x?raw") == (200, b"value")
        for peer in crowd:
            peer.frame(DATA, 0, 3, encode_request(1, "Status.Leader", EMPTY)[10:])
            assert peer.answer(3)[0] == ""


# --- others -----------------------------------------------------------------------------------------------------------


def bad_frames() -> None:
    send(b"\x04" + FRAME.pack(0, 9, 1, 1, 0))
    send(b"\x04" + FRAME.pack(0, DATA, SYN, 1, 1 << 31))
    send(b"\x00" + b"\x91" * 2000)
    send(b"\x01\x00\x81\xa7Entries\xdb\xff\xff\xff\xff")
    send(bytes([4]) + random.Random(7).randbytes(600))


def bad_calls() -> None:
    with Yamux() as peer:
        stream = peer.open()
        for method, body, _ in BAD_CALLS.values():
            peer.call(method, body, stream)


def floods_of_streams() -> None:
    opens = b"".join(FRAME.pack(0, WINDOW, SYN, number, 0) for number in range(1, 2001, 2))
    send(b"\x04" + opens + FRAME.pack(0, PING, SYN, 0, 7) * 500)


def absurd_windows() -> None:
    send(b"\x04" + FRAME.pack(0, WINDOW, SYN, 1, 0) + FRAME.pack(0, WINDOW, 0, 1, 0xFFFFFFFF) * 500)


def half_open() -> None:
    with socket.create_connection((IP, 8300), timeout=5, source_address=(PEER, 0)) as connection:
        connection.sendall(b"\x04" + FRAME.pack(0, WINDOW, SYN, 1, 0) + FRAME.pack(0, DATA, 0, 1, 100) + b"\x82\xa3")
        time.sleep(0.05)


def slow() -> None:
    with socket.create_connection((IP, 8300), timeout=5, source_address=(PEER, 0)) as connection:
        for byte in b"\x04" + FRAME.pack(0, WINDOW, SYN, 1, 0) + FRAME.pack(0, DATA, 0, 1, 100):
            connection.sendall(bytes([byte]))
            time.sleep(0.002)


def nil_coordinates() -> None:
    with Yamux() as peer:
        stream = peer.open()
        for _ in range(20):
            peer.call("Coordinate.Update", coordinate(None), stream)


def send(data: bytes) -> None:
    with socket.create_connection((IP, 8300), timeout=5, source_address=(PEER, 0)) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            ends(connection, 2)
        except (BrokenPipeError, ConnectionResetError):
            return


STORMS = (bad_frames, bad_calls, floods_of_streams, absurd_windows, half_open, slow, nil_coordinates)
STORM_PAUSE_S = 0.02
"""Between two rounds of a bad peer: this test shares two processors with the agent it looks at."""


@pytest.mark.parametrize("storm", STORMS, ids=lambda storm: storm.__name__)
def test_others_are_served_as_fast_beside_a_bad_peer(agent, storm):
    best = math.inf
    for _ in range(TRIES):
        quiet = p99(agent, QUIET)
        with Repeated(storm):
            stormy = p99(agent, STORM)
        best = min(best, stormy / max(quiet, FLOOR_S))
        if best < SLOWER_MAX:
            return
    raise AssertionError(f"p99 of others is {best:.1f} times as long")


def p99(agent: Agent, count: int) -> float:
    """Of requests of another client, half of them writes."""
    times = []
    for number in range(count):
        begin = time.monotonic()
        if number % 2:
            assert agent.put("/v1/kv/other", b"%d" % number)
        else:
            assert agent.ask("GET", "/v1/kv/x?raw") == (200, b"value")
        times.append(time.monotonic() - begin)
    return sorted(times)[math.ceil(len(times) * 0.99) - 1]


class Repeated:
    """A thread that does it again and again; what goes wrong in it is raised at the end."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._over = threading.Event()
        self._errors: list[BaseException] = []
        self._rounds = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Repeated:
        self._thread.start()
        return self

    def _run(self) -> None:
        try:
            while not self._over.wait(STORM_PAUSE_S):
                self._work()
                self._rounds += 1
        except (OSError, AssertionError, DecodeError) as error:
            self._errors.append(error)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert not self._errors and self._rounds, self._errors


def test_a_peer_that_does_not_answer_pings_is_let_go(agent, silent):
    since, connection = silent
    assert ends(connection, 50 - (time.monotonic() - since))
    assert time.monotonic() - since > 25
