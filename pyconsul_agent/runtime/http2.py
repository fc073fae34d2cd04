"""One HTTP/2 connection under gRPC, either side: reading, writing within the peer's windows, keepalive and limits.

What frames mean is `h2`'s; what streams are for is `grpc_server`'s and `grpc_client`'s. A peer pays for frames that
move nothing (pings, settings, resets, updates) from a budget that time and our own messages refill, so that floods end
the connection while the window update and ping that real clients send after each message do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    SettingsAcknowledged,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import FrameTooLargeError, ProtocolError
from h2.settings import SettingCodes, Settings

from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConnectionLost, DecodeError
from pyconsul_agent.runtime.mux import close_writer

READ_BYTES = 4096
"""Of one turn: so many small frames take a few milliseconds."""
PREFACE_BYTES = 24
FRAME_HEADER_BYTES = 9
FRAME_BYTES_MAX = 16384
HEADER_BYTES_MAX = 16 * 1024
STREAMS_MAX = 4096
"""Open streams of one connection that the peer may have."""
FRAMES_BURST = 4096.0
FRAMES_PER_S = 200.0
FRAMES_PER_MESSAGE = 4.0
CONNECTION_WINDOW_BYTES = 1024 * 1024
"""What servers may send a client ahead, of all streams together."""
SEND_TIMEOUT_S = 60.0
"""How long a peer may take to make room for one message."""
SILENCE_S = 60.0
PING_TIMEOUT_S = 20.0
PING_DATA = b"consulpy"


class HTTP2Connection:
    """A connection over a pair of streams. `on_event` gets what concerns streams, in order."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        clock: Clock,
        on_event: Callable[[Event], None],
        *,
        is_client: bool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._clock = clock
        self._on_event = on_event
        self.h2 = H2Connection(H2Configuration(client_side=is_client, header_encoding=None))
        limits = {
            SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES_MAX,
            SettingCodes.MAX_CONCURRENT_STREAMS: 0 if is_client else STREAMS_MAX,
            SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_BYTES_MAX,
            SettingCodes.ENABLE_PUSH: 0,
        }
        self.h2.local_settings = Settings(client=is_client, initial_values=limits)
        self.h2.decoder.max_header_list_size = HEADER_BYTES_MAX
        self._budget = FRAMES_BURST
        self._budget_at = clock.monotonic()
        self._lengths = _Lengths(0 if is_client else PREFACE_BYTES)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._flushing = asyncio.Lock()
        self.closed = False
        self._said_why = False
        self.greeted = asyncio.Event()
        """Set by the peer's SETTINGS, and when the connection is over."""

    # --- reading ----------------------------------------------------------------------------------------------

    async def run(self, busy: Callable[[], bool]) -> None:
        """Read until the connection is over. Without a stream (`busy`), a client ends it after a while of silence.

        Raises DecodeError when the peer breaks the protocol or a limit, ConnectionLost when it does not answer.
        """
        try:
            self.h2.initiate_connection()
            if self.h2.config.client_side:
                self.h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES)
            await self.flush()
            while data := await self._read(busy):
                await self._take(data)
                # A peer that sends without a pause must leave others their turn.
                await asyncio.sleep(0)
        finally:
            self._end()

    async def _read(self, busy: Callable[[], bool]) -> bytes:
        try:
            async with timeout(SILENCE_S):
                return await self._reader.read(READ_BYTES)
        except TimeoutError:
            if self.h2.config.client_side and not busy():
                return b""
        self.h2.ping(PING_DATA)
        await self.flush()
        try:
            async with timeout(PING_TIMEOUT_S):
                return await self._reader.read(READ_BYTES)
        except TimeoutError:
            raise ConnectionLost("keepalive timeout") from None

    async def _take(self, data: bytes) -> None:
        try:
            self._lengths.feed(data)
            events = self.h2.receive_data(data)
        except ProtocolError as error:
            await self._farewell()
            raise DecodeError(f"HTTP/2: {type(error).__name__}: {error}") from error
        self._pay(events)
        if self._budget < 0:
            self.h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            await self._farewell()
            raise DecodeError("HTTP/2: too many frames without use")
        for event in events:
            self._dispatch(event)
        await self.flush()

    def _dispatch(self, event: Event) -> None:
        match event:
            case WindowUpdated(stream_id=number):
                self._wake(number)
            case RemoteSettingsChanged():
                self.greeted.set()
                for number in list(self._waiting):
                    self._wake(number)
            case SettingsAcknowledged() | PingAckReceived():
                pass
            case _:
                if isinstance(event, StreamReset):
                    self._wake(event.stream_id)
                self._on_event(event)

    def _pay(self, events: Sequence[Event]) -> None:
        now = self._clock.monotonic()
        self._budget = min(FRAMES_BURST, self._budget + (now - self._budget_at) * FRAMES_PER_S)
        self._budget_at = now
        self._budget -= sum(1 for event in events if not (isinstance(event, DataReceived) and event.data))

    async def _farewell(self) -> None:
        """Send what says why, to a peer that may not read."""
        self._said_why = True
        try:
            await self.flush()
        except ConnectionLost:
            return

    # --- writing ----------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write what is to be written. Raises ConnectionLost when the peer does not take it."""
        if data := self.h2.data_to_send():
            if self._writer.transport.is_closing():
                raise ConnectionLost("connection closed")
            self._writer.write(data)
        try:
            async with self._flushing, timeout(SEND_TIMEOUT_S):
                await self._writer.drain()
        except TimeoutError:
            self.abort()
            raise ConnectionLost("write timeout") from None
        except OSError as error:
            raise ConnectionLost(str(error)) from error

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send a piece of a body as the windows allow. Raises ConnectionLost, also when the stream was reset."""
        at = 0
        try:
            async with timeout(SEND_TIMEOUT_S):
                while at < len(data):
                    room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
                    if room <= 0:
                        await self._room(stream)
                        continue
                    piece = data[at : at + room]
                    at += len(piece)
                    self.h2.send_data(stream, piece, end_stream=end and at == len(data))
                    await self.flush()
        except ProtocolError as error:
            raise ConnectionLost(f"stream closed: {error}") from error
        except TimeoutError:
            raise ConnectionLost("the peer does not read") from None
        self._budget = min(FRAMES_BURST, self._budget + FRAMES_PER_MESSAGE)
        self._pass_on()

    async def _room(self, stream: int) -> None:
        if self.closed:
            raise ConnectionLost("connection closed")
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        try:
            await self._waiting[stream]
        finally:
            self._waiting.pop(stream, None)

    def _wake(self, stream: int) -> None:
        """The window of a stream, or with 0 of the connection, has grown (or the stream is over)."""
        if stream == 0:
            self._pass_on()
            return
        waiting = self._waiting.get(stream)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _pass_on(self) -> None:
        """Room of the connection goes to one that waits for it; who has sent passes on what is left."""
        if not self._waiting or self.h2.outbound_flow_control_window <= 0:
            return
        for number, waiting in self._waiting.items():
            if not waiting.done() and self._window(number) > 0:
                waiting.set_result(None)
                return

    def _window(self, stream: int) -> int:
        try:
            return self.h2.local_flow_control_window(stream)
        except ProtocolError:
            return 1  # reset: the sender finds out by itself

    def reset(self, stream: int, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Give a stream up; what says so leaves with the next flush."""
        try:
            self.h2.reset_stream(stream, code)
        except ProtocolError:
            return  # it is over already

    def credit(self, stream: int, size: int) -> None:
        """`size` bytes of a stream have been used: the peer may send as many again."""
        if size and not self.closed:
            try:
                self.h2.acknowledge_received_data(size, stream)
            except ProtocolError:
                return  # the connection is being closed

    # --- end --------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Cut it."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Say goodbye and close."""
        if not self._writer.transport.is_closing() and not self._said_why:
            self.h2.close_connection()
            self._writer.write(self.h2.data_to_send())
        await close_writer(self._writer)

    def _end(self) -> None:
        self.closed = True
        self.greeted.set()
        for waiting in list(self._waiting.values()):
            if not waiting.done():
                waiting.set_exception(ConnectionLost("connection closed"))


class _Lengths:
    """Refuses frames by their announced length: h2 looks at it only when it has buffered all of them."""

    def __init__(self, skip: int) -> None:
        self._skip = skip
        self._head = bytearray()

    def feed(self, data: bytes) -> None:
        """Raises FrameTooLargeError."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            step = FRAME_HEADER_BYTES - len(self._head)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == FRAME_HEADER_BYTES:
                self._skip = int.from_bytes(self._head[:3], "big")
                if self._skip > FRAME_BYTES_MAX:
                    raise FrameTooLargeError(f"frame of {self._skip} bytes")
                self._head.clear()


def text_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as text, of a repeated one the last."""
    return {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in headers}
