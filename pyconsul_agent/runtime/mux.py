"""Runs a yamux session on a connection: bytes in, bytes out, one timer; streams with awaitable reads.

It knows nothing of what the streams carry. Used by both sides, `rpc_server` and `rpc_pool`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import SupportsIndex

from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConnectionLost
from pyconsul_agent.wire import yamux, yamux_frames

READ_BYTES = 128 * 1024
WRITE_TIMEOUT_S = 10.0
"""A peer that takes nothing off the connection for so long is gone."""
CLOSE_TIMEOUT_S = 10.0
BUFFERED_BYTES_MAX = 1024 * 1024
"""More than a reader with STREAM_BUFFER_BYTES ever holds."""
UNSENT_BYTES_MAX = 32 * 1024
"""Of the connection: beyond it nothing is written at once. Less than what makes a writer's `drain` wait."""


class DirectReader(asyncio.StreamReader):
    """A stream reader that hands on what comes as it comes, once it has a `tap`; the end is still read."""

    tap: Callable[[bytes], None] | None = None

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """As the transport does."""
        if self.tap is None:
            super().feed_data(data)
        else:
            self.tap(bytes(data))  # bytes already, as a rule: then no copy


class MuxStream:
    """One stream. One task reads it, one writes it; they may be the same."""

    def __init__(self, connection: MuxConnection, number: int) -> None:
        self._connection = connection
        self.number = number
        self._pieces: deque[bytes] = deque()
        self._finished = False
        self._error: str | None = None
        self._changed = asyncio.Event()
        self.on_lost: Callable[[], object] | None = None
        """Called once when the stream or its session breaks."""

    @property
    def broken(self) -> str | None:
        """Why nothing more comes or goes, None while it works."""
        return self._error

    @property
    def idle(self) -> bool:
        """Whether nothing was received that was not read, and the peer has not finished."""
        return not self._pieces and not self._finished and self._error is None

    async def read(self) -> bytes:
        """What has come, waiting for at least a byte; nothing at the peer's FIN. Raises ConnectionLost."""
        while not self._pieces:
            if self._error is not None:
                raise ConnectionLost(self._error)
            if self._finished:
                return b""
            await self._wait()
        data = b"".join(self._pieces) if len(self._pieces) > 1 else self._pieces[0]
        self._pieces.clear()
        self._connection.session.consume(self.number, len(data))
        self._connection.wake()
        return data

    def write(self, data: bytes) -> None:
        """Queue bytes; `drain` waits for them."""
        self._connection.session.send(self.number, data)
        self._connection.wake()

    async def drain(self, stall_s: float) -> None:
        """Wait until what was written has been sent. Raises ConnectionLost when the peer stalls for `stall_s`."""
        session = self._connection.session
        while left := session.unsent(self.number):
            try:
                async with timeout(stall_s):
                    await self._wait()
            except TimeoutError:
                if session.unsent(self.number) >= left:
                    raise ConnectionLost("the peer does not read its stream") from None
        if self._error is not None:
            raise ConnectionLost(self._error)

    def finish(self) -> None:
        """Send no more (FIN)."""
        self._connection.session.finish(self.number)
        self._connection.discard(self)

    def reset(self) -> None:
        """Drop the stream (RST)."""
        self._connection.session.reset(self.number)
        self._connection.discard(self)

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # called by the connection
    def on_data(self, data: bytes) -> None:
        """Keep received bytes for `read`."""
        self._pieces.append(data)
        self._changed.set()

    def on_finished(self) -> None:
        """The peer sends no more."""
        self._finished = True
        self._changed.set()

    def on_changed(self) -> None:
        """Wake whoever waits."""
        self._changed.set()

    def on_broken(self, reason: str) -> None:
        """Nothing more comes or goes."""
        if self._error is None:
            self._error = reason
            self._changed.set()
            if self.on_lost is not None:
                self.on_lost()


class MuxConnection:
    """A session and its connection. `run` does all the work and returns when it is over."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_client: bool,
        clock: Clock,
        on_stream: Callable[[MuxStream], None] | None = None,
    ) -> None:
        self.session = yamux.Session(is_client=is_client, now=clock.monotonic())
        self._reader = reader
        self._writer = writer
        self._clock = clock
        self._on_stream = on_stream
        self._streams: dict[int, MuxStream] = {}
        self._wake = asyncio.Event()
        self._acked = asyncio.Event()
        self._running = False
        self._dispatching = False
        self._sent_in_turn = False

    async def open(self, first: bytes) -> MuxStream:
        """Open a stream with its first bytes; waits while too many are unacknowledged. Raises ConnectionLost."""
        while not self.session.can_open:
            if not self.session.accepts_new_streams:
                raise ConnectionLost(self.session.ended or "remote end is not accepting connections")
            self._acked.clear()
            await self._acked.wait()
        stream = MuxStream(self, self.session.open(first, self._clock.monotonic()))
        self._streams[stream.number] = stream
        self.wake()
        self._wake.set()  # there may be an earlier deadline
        return stream

    def accept(self, stream: MuxStream) -> None:
        """Acknowledge a stream that the peer opened."""
        self.session.accept(stream.number)
        self.wake()

    def wake(self) -> None:
        """Send what there is to send: at once, or with the rest of this turn of the loop if it sent something before.

        One caller after the other gets the shortest way; of many at once, most share a system call.
        """
        if not self._sent_in_turn and self.session.has_output:
            self._sent_in_turn = True
            asyncio.get_running_loop().call_soon(self._turn_over)
            self._flush()

    def _turn_over(self) -> None:
        self._sent_in_turn = False
        self._flush()

    def _flush(self) -> None:
        """Write as far as the connection takes it; `run` does the rest."""
        session, transport = self.session, self._writer.transport
        while session.has_output:
            if not self._running or transport.is_closing() or transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
                self._wake.set()
                return
            data = session.take_output(self._clock.monotonic())
            if not data:
                return
            self._writer.write(data)
            self._dispatch()

    def discard(self, stream: MuxStream) -> None:
        """Forget a stream; what still comes for it is thrown away."""
        self._streams.pop(stream.number, None)
        self.wake()
        self._wake.set()

    def end(self, reason: str = "session shutdown") -> None:
        """End the session; `run` returns soon and closes the connection."""
        self.session.end(reason)
        self._dispatch()

    def abort(self) -> None:
        """Cut the connection, if it is still open."""
        self.session.end()
        self._dispatch()
        if not self._writer.transport.is_closing():
            self._writer.transport.abort()

    async def run(self) -> str:
        """Serve the connection until either side ends it; returns the reason. The connection is closed then."""
        loop = asyncio.get_running_loop()
        receiving = loop.create_task(self._receive(), name="yamux receive")
        self._running = True
        try:
            await self._send()
        except asyncio.CancelledError:
            self._writer.transport.abort()  # shutting down: no waiting for a peer that does not read
            raise
        finally:
            self._running = False
            receiving.cancel()
            self.end()
            self._writer.close()  # before anything is waited for, since waiting may be cancelled
            await asyncio.gather(receiving, return_exceptions=True)
            await close_writer(self._writer)
        return self.session.ended or ""

    async def _receive(self) -> None:
        """Read on whatever happens to output: windows bound what comes, and pings must be answered."""
        try:
            data = await self._reader.read(BUFFERED_BYTES_MAX)
            if isinstance(self._reader, DirectReader):
                self._reader.tap = self._on_bytes  # nothing is left in the reader, and from now on nothing gets into it
            while data and self.session.ended is None:
                self._on_bytes(data)
                data = await self._reader.read(READ_BYTES)
            self.end("EOF")
        except (OSError, ConnectionLost) as error:
            self.end(f"connection lost: {error}")

    def _on_bytes(self, data: bytes) -> None:
        if self.session.ended is None:
            self.session.receive(data, self._clock.monotonic())
            self._dispatch()
            self.wake()

    async def _send(self) -> None:
        session, transport = self.session, self._writer.transport
        while session.ended is None:
            try:
                if session.has_output or transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
                    async with timeout(WRITE_TIMEOUT_S):
                        await self._writer.drain()
                data = session.take_output(self._clock.monotonic())
                if data:
                    self._writer.write(data)
                    self._dispatch()
                    continue
            except TimeoutError:
                self.end("connection write timeout")
                return
            except (OSError, ConnectionLost) as error:
                self.end(f"connection lost: {error}")
                return
            await self._sleep()

    async def _sleep(self) -> None:
        """Until there is output or a deadline has passed."""
        self._wake.clear()
        if self.session.has_output or self.session.ended is not None:
            return
        deadline = self.session.next_deadline()
        try:
            async with timeout(None if deadline is None else max(0.0, deadline - self._clock.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            self.session.tick(self._clock.monotonic())
            self._dispatch()

    def _dispatch(self) -> None:
        if self._dispatching:
            return  # what an event leads to comes after it
        self._dispatching = True
        try:
            while events := self.session.take_events():
                self._tell(events)
        finally:
            self._dispatching = False

    def _tell(self, events: list[yamux_frames.Event]) -> None:
        for event in events:
            match event:
                case yamux_frames.StreamData(number, data):
                    if (stream := self._streams.get(number)) is not None:
                        stream.on_data(data)
                    else:
                        self.session.consume(number, len(data))
                case yamux_frames.StreamOpened(number):
                    self._on_opened(number)
                case yamux_frames.StreamFinished(number):
                    if (stream := self._streams.get(number)) is not None:
                        stream.on_finished()
                case yamux_frames.StreamDrained(number):
                    if (stream := self._streams.get(number)) is not None:
                        stream.on_changed()
                case yamux_frames.StreamReset(number):
                    if (stream := self._streams.pop(number, None)) is not None:
                        stream.on_broken("stream reset")
                    self._acked.set()
                case yamux_frames.StreamAcked() | yamux_frames.GoneAway():
                    self._acked.set()
                case yamux_frames.SessionEnded(reason):
                    self._on_ended(reason)

    def _on_opened(self, number: int) -> None:
        if self._on_stream is None:
            self.session.reset(number)
            return
        stream = self._streams[number] = MuxStream(self, number)
        self._on_stream(stream)

    def _on_ended(self, reason: str) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.on_broken(reason)
        self._acked.set()
        self._wake.set()


async def close_writer(writer: asyncio.StreamWriter) -> None:
    """Close a connection; a peer that does not take what was written is cut off after a while."""
    writer.close()
    try:
        async with timeout(CLOSE_TIMEOUT_S):
            await writer.wait_closed()
    except (TimeoutError, asyncio.CancelledError) as error:
        writer.transport.abort()
        if isinstance(error, asyncio.CancelledError):
            raise
    except (OSError, ConnectionLost):
        return  # it is closed, which is all that was asked for
