"""Snapshots between servers and from client agents: one request per connection (docs/protocol/rpc.md, byte 5).

The caller sends a SnapshotRequest and, for a restore, the archive, and half-closes; the server answers with a
SnapshotResponse and, for a save, the archive. Archives pass in pieces: neither side holds one in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

from pyconsul_agent.env.base import Address, Net, open_stream
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConnectionLost, ConsulError, DecodeError, RPCError
from pyconsul_agent.runtime.mux import close_writer
from pyconsul_agent.runtime.rpc_pool import ServerAddress
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.structs.requests import SnapshotRequest, SnapshotResponse
from pyconsul_agent.structs.snapshot import SAVE, Archive, ArchiveStream, SnapshotAnswer
from pyconsul_agent.wire import msgpack
from pyconsul_agent.wire.netrpc import FirstByte
from pyconsul_agent.wire.stream import ValueScanner

HEAD_BYTES_MAX = 64 * 1024
HEAD_TIMEOUT_S = 30.0
"""From the first byte of a request to the end of its head."""
READ_BYTES = 64 * 1024
STALL_TIMEOUT_S = 60.0
"""How long a peer may send, or take, no byte of an archive."""
ANSWER_TIMEOUT_S = 600.0
"""A restore is answered when it is applied."""
DIAL_TIMEOUT_S = 10.0
LINGER_S = 5.0
LINGER_BYTES_MAX = 64 * 1024 * 1024
"""So much of a refused archive is read that its sender is likely to find the refusal."""

Answer = Callable[[SnapshotRequest, Archive], Awaitable[SnapshotAnswer]]


class SnapshotPort:
    """Serves connections of type 5."""

    def __init__(self, answer: Answer, log: Log) -> None:
        self._answer = answer
        self._log = log

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address) -> None:
        """One connection, its first byte read. Raises DecodeError for a head that is none: closed without answer."""
        async with timeout(HEAD_TIMEOUT_S):
            head, rest = await _head(reader)
        request = msgpack.decode(SnapshotRequest, head)
        body = _pieces(reader, rest)
        try:
            answer = await self._answer(request, body)
        except ConsulError as error:
            self._log.error("snapshot request failed", peer=f"{peer[0]}:{peer[1]}", op=request.op, error=str(error))
            await _write(writer, msgpack.encode(SnapshotResponse(error=str(error))))
            await _linger(reader, writer)
            return
        finally:
            await body.aclose()
        try:
            await _write(writer, msgpack.encode(answer.response))
            async for piece in answer.archive:
                await _write(writer, piece)
        except (ConsulError, TimeoutError) as error:
            # Nothing can be said any more; a connection that is cut is not taken for the end of an archive.
            reason = str(error) or "the receiver takes nothing"
            self._log.error("snapshot not sent", peer=f"{peer[0]}:{peer[1]}", error=reason)
            writer.transport.abort()
        finally:
            await answer.archive.aclose()


async def call(
    net: Net, log: Log, server: ServerAddress, request: SnapshotRequest, archive: Archive, *, local_host: str | None
) -> SnapshotAnswer:
    """Ask one server. `archive` is sent for a restore only. Raises RPCError with the server's own text, NetError."""
    reader, writer = await open_stream(net, server.host, server.port, local_host=local_host, timeout_s=DIAL_TIMEOUT_S)
    tasks = TaskOwner(log)
    failures: list[ConsulError] = []
    handed_over = False
    try:
        sending = tasks.start_task(_send(writer, request, archive, failures), f"snapshot to {server}")
        head, rest = await _response(reader, sending, failures)
        response = msgpack.decode(SnapshotResponse, head)
        if response.error:
            raise RPCError(response.error)
        handed_over = True

        async def close() -> None:
            await tasks.close()
            await close_writer(writer)

        return SnapshotAnswer(response, ArchiveStream(_pieces(reader, rest), close))
    except DecodeError as error:
        raise RPCError(f"failed to decode response: {error}") from error
    except OSError as error:
        raise ConnectionLost(str(error)) from error
    except TimeoutError:
        raise RPCError("failed to decode response: i/o timeout") from None
    finally:
        if not handed_over:
            await tasks.close()
            await close_writer(writer)


async def _send(
    writer: asyncio.StreamWriter, request: SnapshotRequest, archive: Archive, failures: list[ConsulError]
) -> None:
    writer.write(bytes([FirstByte.SNAPSHOT]) + msgpack.encode(request))
    try:
        if request.op != SAVE:
            async for piece in archive:
                await _write(writer, piece)
        if writer.can_write_eof():
            writer.write_eof()
    except ConnectionLost:
        return  # a server that refused has closed its side; its words are still to be read
    except TimeoutError:
        failures.append(RPCError("failed to copy snapshot in: i/o timeout"))
    except ConsulError as error:
        failures.append(error)


async def _response(
    reader: asyncio.StreamReader, sending: asyncio.Task[None], failures: list[ConsulError]
) -> tuple[bytes, bytes]:
    """The head of the answer; it may come before everything is sent. Raises what ended the sending."""
    answered = asyncio.ensure_future(_head(reader))
    try:
        await asyncio.wait({answered, sending}, return_when=asyncio.FIRST_COMPLETED)
        if failures:
            raise failures[0]
        async with timeout(ANSWER_TIMEOUT_S):
            return await answered
    except ConnectionLost as error:
        raise RPCError(f"failed to decode response: {error}") from None
    finally:
        answered.cancel()
        with suppress(asyncio.CancelledError, ConsulError):
            await answered


async def _head(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """One msgpack value from the start of a stream, and the bytes read beyond it. DecodeError, ConnectionLost."""
    buffer, scanner = bytearray(), ValueScanner(HEAD_BYTES_MAX)
    while (end := scanner.end(buffer)) is None:
        try:
            data = await reader.read(READ_BYTES)
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        if not data:
            raise ConnectionLost("EOF")
        buffer += data
    return bytes(buffer[:end]), bytes(buffer[end:])


async def _pieces(reader: asyncio.StreamReader, first: bytes) -> AsyncGenerator[bytes, None]:
    """The rest of a stream, until the sender has half-closed."""
    if first:
        yield first
    while True:
        try:
            async with timeout(STALL_TIMEOUT_S):
                data = await reader.read(READ_BYTES)
        except TimeoutError:
            raise RPCError("failed to read snapshot: i/o timeout") from None
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        if not data:
            return
        yield data


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    try:
        async with timeout(STALL_TIMEOUT_S):
            await writer.drain()
    except OSError as error:
        raise ConnectionLost(str(error)) from error


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let a caller that is still sending find the answer: closing at once would reset the connection under it."""
    if writer.can_write_eof():
        writer.write_eof()
    left = LINGER_BYTES_MAX
    with suppress(TimeoutError, OSError):
        async with timeout(LINGER_S):
            while left > 0 and (data := await reader.read(READ_BYTES)):
                left -= len(data)
