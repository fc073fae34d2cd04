"""The recorded gRPC subscription: its client's bytes against our server, whose answers must be the recorded ones.

The catalog of the recording is made again, command by command at the same raft indexes, and then replaced as a
snapshot restore does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hpack import Decoder

from conformance.case import Case, load, same
from conformance.vectors_rpc_connections import World
from pyconsul_agent.server.directory import ServerDirectory
from pyconsul_agent.server.streaming import Streaming
from pyconsul_agent.state import registration
from pyconsul_agent.state.store import Store, Txn
from pyconsul_agent.structs.catalog import NodeService, Weights
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.requests import RegisterRequest
from pyconsul_agent.wire.subscribe import EVENT, REQUEST
from tests.memory_net import Clock, MemoryNet, Recorder, run

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
DECODED_BYTES_MAX = 1 << 20

REDIS1 = NodeService(
    id="redis1", service="redis", tags=("primary", "v1"), address="10.1.0.9", meta={"k": "v"}, port=8000,
    weights=Weights(passing=10, warning=1),
)  # fmt: skip
REDIS2 = NodeService(id="redis2", service="redis", port=8001, weights=Weights(passing=1, warning=1))
REDIS_CHECK = HealthCheck(
    node="ext1", check_id="service:redis1", name="Redis", status="passing", notes="n", output="o",
    service_id="redis1", service_name="redis", service_tags=("primary", "v1"),
)  # fmt: skip
LONE = NodeService(id="redis", service="redis", port=1, weights=Weights(passing=1, warning=1))


def _register(**what: Any) -> Callable[[Txn], None]:
    request = RegisterRequest(datacenter="dc1", **what)
    return lambda txn: registration.register(txn, request)


def _node_check(name: str, status: str) -> HealthCheck:
    return HealthCheck(node="ext1", check_id=name, name=name.upper(), status=status)


BEFORE = (
    (18, _register(node="ext1", address="10.1.0.2")),
    (19, _register(node="ext1", address="10.1.0.1", service=REDIS1, check=REDIS_CHECK)),
    (20, _register(node="ext1", address="10.1.0.1",
                   checks=(_node_check("c1", "warning"), _node_check("c2", "critical")))),
)  # fmt: skip
DURING = (
    (67, _register(node="ext1", address="10.1.0.1", service=REDIS2)),
    (72, lambda txn: registration.deregister(txn, "ext1", "", "c1")),
    (73, lambda txn: registration.deregister(txn, "ext1", "redis2", "")),
    (74, lambda txn: registration.deregister(txn, "ext1", "redis1", "")),
)
AFTER = ((86, _register(node="e", address="1.1.1.1", service=LONE)),)


def commit(store: Store, commands: Any) -> None:
    """Apply commands at their indexes."""
    for index, command in commands:
        with store.begin(index) as txn:
            command(txn)


def copy_of(store: Store) -> Store:
    """A store with the same rows, as a snapshot would bring it."""
    fresh = Store()
    rows = {table.name: dict(table.rows) for table in store.tables.all()}
    for table in fresh.tables.all():
        for key, row in rows[table.name].items():
            table.put(key, row)
    return fresh


def streaming_world(store: Store) -> tuple[World, Streaming]:
    """A server port with subscriptions to `store`."""
    clock: Any = Clock()
    log: Any = Recorder()
    net: Any = MemoryNet("127.0.0.1", {})
    streaming = Streaming(net, clock, log, store, ServerDirectory("dc1", "s1"), datacenter="dc1")
    return World(grpc=streaming.serve), streaming


def frames_of(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of every frame."""
    while data:
        length = int.from_bytes(data[:3], "big")
        yield data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]
        data = data[9 + length :]


def said(data: bytes) -> dict[int, list[Any]]:
    """Per stream the headers, as text, and the body's pieces; without what concerns the connection only."""
    decoder = Decoder()
    decoder.max_header_list_size = DECODED_BYTES_MAX
    streams: dict[int, list[Any]] = {}
    for kind, flags, stream, payload in frames_of(data):
        if kind == HEADERS:
            headers = [tuple(map(_text, pair)) for pair in decoder.decode(payload)]
            streams.setdefault(stream, []).append((headers, flags & 1))
        elif kind == DATA:
            streams.setdefault(stream, []).append(payload)
    return {stream: _joined(parts) for stream, parts in streams.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _joined(parts: list[Any]) -> list[Any]:
    """Bodies without the bounds of frames, which may lie anywhere."""
    joined: list[Any] = []
    for part in parts:
        if isinstance(part, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


async def replay(frames: list[dict[str, Any]]) -> bytes:
    """What our server answers to the recorded client."""
    store = Store()
    commit(store, BEFORE)
    world, streaming = streaming_world(store)
    received = bytearray()
    sent = [frame for frame in frames if frame["dir"] == "client_to_server"]
    starts = [at for at, frame in enumerate(sent) if frame["type"] == "HEADERS"]
    async with world:
        reader, writer = await world.dial()

        async def read() -> None:
            while data := await reader.read(65536):
                received.extend(data)

        def send(part: list[dict[str, Any]]) -> None:
            writer.write(b"".join(bytes.fromhex(frame["frame_hex"]) for frame in part))

        reading = asyncio.create_task(read())
        writer.write(b"\x08" + PREFACE)
        send(sent[: starts[1]])
        await asyncio.sleep(1)
        for command in DURING:
            commit(store, [command])
            await asyncio.sleep(1)
        store.restore(copy_of(store))
        await asyncio.sleep(1)
        send(sent[starts[1] : starts[2]])
        await asyncio.sleep(1)
        send(sent[starts[2] :])
        await asyncio.sleep(1)
        commit(store, AFTER)
        await asyncio.sleep(1)
        writer.close()
        await asyncio.sleep(1)
        reading.cancel()
        await streaming.close()
    return bytes(received)


def conversation(frames: list[dict[str, Any]]) -> None:
    """Every stream says the recorded things, and every ping is answered."""
    data = run(replay(frames))
    recorded = b"".join(bytes.fromhex(frame["frame_hex"]) for frame in frames if frame["dir"] == "server_to_client")
    ours, theirs = said(data), said(recorded)
    same(sorted(ours), sorted(theirs), "streams")
    for stream, parts in theirs.items():
        same(ours[stream], parts, f"stream {stream}")
    first = next(frames_of(data))
    same(first[0], SETTINGS, "type of the first frame")
    asked = [
        frame["frame_hex"][18:]
        for frame in frames
        if frame["dir"] == "client_to_server" and frame["type"] == "PING" and not frame["flags"]
    ]
    answered = [payload.hex() for kind, flags, _, payload in frames_of(data) if kind == PING and flags & 1]
    same(answered, asked, "answers to pings")


def message(frame: dict[str, Any]) -> None:
    """A message comes back as its bytes."""
    data = bytes.fromhex(frame["grpc_message_hex"])
    codec: Any = REQUEST if frame["dir"] == "client_to_server" else EVENT
    same(codec.encode(codec.decode(data)), data, "message")


def cases(folder: Path) -> Iterator[Case]:
    """The messages both ways, and the whole conversation."""
    frames = load(folder, "grpc-subscribe")["frames"]
    for number, frame in enumerate(frames):
        if "grpc_message_hex" in frame:
            yield Case(f"grpc-subscribe message {number}", partial(message, frame))
    yield Case("grpc-subscribe conversation", partial(conversation, frames))
