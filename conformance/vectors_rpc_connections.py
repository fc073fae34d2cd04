"""The server port against recorded connections, in memory and virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from conformance.case import Case, load, same
from pyconsul_agent.env.base import open_stream
from pyconsul_agent.errors import LeadershipLost, RPCError
from pyconsul_agent.runtime.rpc_pool import RPCPool
from pyconsul_agent.runtime.rpc_server import RPCServer
from pyconsul_agent.wire import msgpack, netrpc
from pyconsul_agent.wire.yamux_frames import HEADER
from tests.memory_net import Clock, MemoryNet, Recorder, run

LENIENT = {"open then FIN without data"}  # the original closes the connection; we close only the stream
GRPC_SETTINGS = bytes.fromhex("000006040000000000000500004000")


class Service:
    """Answers a few methods; `Test.Block` waits for ever and counts who stopped waiting."""

    def __init__(self) -> None:
        self.blocked = 0
        self.cancelled = 0
        self.running = 0
        self.running_max = 0
        self.peers: list[Any] = []

    async def serve(self, method_name: str, body: bytes, peer: Any) -> bytes:
        """The answer to a call."""
        self.peers.append(peer)
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            return await self._serve(method_name, body)
        finally:
            self.running -= 1

    async def _serve(self, name: str, body: bytes) -> bytes:
        match name:
            case "Status.Ping":
                return b"\x80"
            case "Status.Leader":
                return msgpack.encode("127.0.0.1:8300")
            case "Test.Echo":
                return body
            case "Test.Slow":
                await asyncio.sleep(1.0)
                return body
            case "Test.Block":
                self.blocked += 1
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
            case "Test.Lost":
                raise LeadershipLost
            case "Test.Crash":
                raise ZeroDivisionError("secret")
        raise RPCError(netrpc.unknown_method(name, {"Status", "KVS", "Test"}))


class World:
    """A server on 127.0.0.1:8300 and a host that calls it."""

    def __init__(self, limits: Any = None, **handlers: Any) -> None:
        self.network: dict[Any, Any] = {}
        self.log: Any = Recorder()
        self.service = Service()
        self.clock: Any = Clock()
        near: Any = MemoryNet("127.0.0.1", self.network)
        self.server = RPCServer(near, self.clock, self.log, self.service, limits=limits, **handlers)
        self.net: Any = MemoryNet("127.0.0.2", self.network)

    async def __aenter__(self) -> World:
        await self.server.start("127.0.0.1", 8300)
        self.pool = RPCPool(self.net, self.clock, self.log)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.close()
        await self.server.close()
        await asyncio.sleep(0.1)
        open_ones = [end for link in self.net.transports for end in (link, link.peer) if not end.is_closing()]
        assert not open_ones, [vars(end) for end in open_ones]

    async def dial(self) -> Any:
        """(reader, writer) of a new connection to the server."""
        return await open_stream(self.net, "127.0.0.1", 8300)


def streams_of(data: bytes) -> dict[int, list[Any]]:
    """What a yamux side said, without the frame boundaries: per stream (and 0 for the session)."""
    said: dict[int, list[Any]] = {}
    while data:
        _, kind, flags, stream, length = HEADER.unpack_from(data)
        if kind == 0:
            said.setdefault(stream, []).append(data[12 : 12 + length])
            data = data[12 + length :]
        else:
            said.setdefault(stream, []).append((kind, flags, length))
            data = data[12:]
    return {stream: joined(parts) for stream, parts in said.items()}


def joined(parts: list[Any]) -> list[Any]:
    """Neighbouring pieces of data as one."""
    result: list[Any] = []
    for part in parts:
        if isinstance(part, bytes) and result and isinstance(result[-1], bytes):
            result[-1] += part
        else:
            result.append(part)
    return result


async def read_all(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """What comes within three seconds, and whether the connection was closed after it."""
    data = b""
    try:
        async with asyncio.timeout(3):
            while piece := await reader.read(65536):
                data += piece
        return data, True
    except TimeoutError:
        return data, False
    except ConnectionResetError:
        return data, True


async def perform(scenario: dict[str, Any]) -> tuple[bytes, bool]:
    """Send what the recorded client sent; what our server answers and whether it closed."""

    async def grpc(reader: Any, writer: Any, peer: Any) -> None:
        writer.write(GRPC_SETTINGS)
        await reader.read()

    async with World(grpc=grpc) as world:
        reader, writer = await world.dial()
        writer.write(bytes.fromhex(scenario["first_byte"]))
        for step in scenario["client_sends"]:
            if step == "<wait for reply>":
                await asyncio.sleep(0.1)
            elif step.startswith("<data frame of"):
                writer.write(HEADER.pack(0, 0, 0, 1, 300000) + bytes(300000))
            else:
                writer.write(bytes.fromhex(step))
        if not scenario["first_byte"]:
            await asyncio.sleep(4.9)
            same(world.server.connection_count, 1, "connections after 4.9 silent seconds")
        data, closed = await read_all(reader)
        writer.close()
    return data, closed


def conversation(scenario: dict[str, Any]) -> None:
    """The server says the same and closes the connection in the same cases."""
    data, closed = run(perform(scenario))
    expected = bytes.fromhex("".join(part for part in scenario["server_sends"] if not part.startswith("<")))
    expects_close = any(part.startswith("<tcp") for part in scenario["server_sends"])
    same(closed, expects_close and scenario["name"] not in LENIENT, "closed")
    if scenario["first_byte"] != "04":
        same(data, expected, "answer")
    elif not closed:
        same(streams_of(data), streams_of(expected), "answer")
    # A session that is closed may lose its last frames.


def cases(folder: Path) -> Iterator[Case]:
    """Every recorded connection."""
    for scenario in load(folder, "connection-behaviour")["scenarios"]:
        yield Case(f"connection {scenario['name']}", partial(conversation, scenario))
