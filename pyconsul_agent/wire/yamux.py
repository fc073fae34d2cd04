"""A yamux session without I/O: streams, flow control, keep-alive (docs/protocol/rpc.md#yamux).

Bytes of the peer go in by `receive`, bytes for the peer come out of `take_output`, what happened comes out of
`take_events`. The session knows neither sockets nor what the streams carry. A protocol error of the peer never
raises: it ends the session with a `SessionEnded` event, and whoever drives it closes the connection.

Output is made lazily and in this order: session frames, window updates (which carry SYN, ACK and FIN), then data of
the streams in turn. A stream that was opened here sends SYN and its first data together, because Consul's servers
stop accepting streams while they wait for the first byte of a new one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pyconsul_agent.wire.yamux_frames import (
    ACK,
    FIN,
    HEADER,
    RST,
    SYN,
    VERSION,
    Event,
    FrameType,
    GoAwayCode,
    GoneAway,
    SessionEnded,
    StreamAcked,
    StreamData,
    StreamDrained,
    StreamFinished,
    StreamOpened,
    StreamReset,
    encode_header,
)

WINDOW_BYTES = 256 * 1024
WINDOW_MAX = 2**32 - 1
ACCEPT_BACKLOG = 256
"""Streams of the peer that wait for `accept`; one more is answered with RST."""
CHUNK_BYTES = 32 * 1024
"""Largest data frame that is sent, so that streams take turns."""
OUTPUT_BYTES = 128 * 1024
UNREAD_BYTES_MAX = 32 * 1024 * 1024
"""Received on all streams together and not consumed. Whoever serves its streams stays far below."""
CONTROL_FRAMES_MAX = 4096
"""Session frames that wait to be sent; a peer that provokes more and does not read is cut off."""
PING_ANSWERS_MAX = 16
"""Ping answers that wait to be sent; older ones are dropped."""

KEEPALIVE_S = 30.0
PING_TIMEOUT_S = 10.0
OPEN_TIMEOUT_S = 75.0
CLOSE_TIMEOUT_S = 300.0


@dataclass(slots=True)
class _Stream:
    id: int
    send_window: int = WINDOW_BYTES
    receive_window: int = WINDOW_BYTES
    unread: int = 0
    """Announced by the peer's frames and not yet consumed."""
    queue: deque[memoryview] = field(default_factory=deque)
    queued: int = 0
    scheduled: bool = False
    must_syn: bool = False
    must_ack: bool = False
    delta: int = 0
    accepted: bool = True
    finish_wanted: bool = False
    finish_sent: bool = False
    peer_finished: bool = False


class Session:
    """One side of a yamux connection. Times are monotonic seconds.

    The connecting side (`is_client`) uses odd stream numbers and refuses streams of its peer; the accepting side
    serves whatever number the peer chooses, as Consul does.
    """

    def __init__(
        self,
        *,
        is_client: bool,
        now: float,
        keepalive_s: float = KEEPALIVE_S,
        ping_timeout_s: float = PING_TIMEOUT_S,
    ) -> None:
        self._is_client = is_client
        self._next_id = 1 if is_client else 2
        self._keepalive_s = keepalive_s
        self._ping_timeout_s = ping_timeout_s
        self._streams: dict[int, _Stream] = {}
        self._backlog = 0
        self._unread = 0
        self._opening: dict[int, float] = {}
        self._closing: dict[int, float] = {}
        self._events: list[Event] = []
        self._ended: str | None = None
        self._peer_went_away = False
        self._went_away = False
        # input
        self._partial = bytearray()
        self._payload_left = 0
        self._payload_stream: _Stream | None = None
        self._payload_finishes = False
        # output
        self._control: deque[bytes] = deque()
        self._ping_answers: deque[int] = deque(maxlen=PING_ANSWERS_MAX)
        self._updates: dict[int, None] = {}
        self._ready: deque[int] = deque()
        # keep-alive
        self._next_ping = now + keepalive_s
        self._ping_value = 0
        self._ping_outstanding: tuple[int, float] | None = None

    # --- what the user of the session does ------------------------------------------------------------------------

    @property
    def ended(self) -> str | None:
        """Why the session is over, None while it lives."""
        return self._ended

    @property
    def stream_count(self) -> int:
        """Streams that are not completely closed."""
        return len(self._streams)

    @property
    def can_open(self) -> bool:
        """Whether `open` may be called now. It may later, too, unless the peer went away or the session ended."""
        return self._ended is None and not self._peer_went_away and len(self._opening) < ACCEPT_BACKLOG

    @property
    def accepts_new_streams(self) -> bool:
        """False once the peer went away or the session ended: dial anew."""
        return self._ended is None and not self._peer_went_away

    def open(self, first: bytes, now: float) -> int:
        """Open a stream and send its first bytes (never none, see the module). ValueError unless `can_open`."""
        if not self.can_open:
            raise ValueError("the session takes no new stream")
        if not first:
            raise ValueError("a stream must be opened with data")
        number = self._next_id
        self._next_id += 2
        stream = _Stream(number, must_syn=True)
        self._streams[number] = stream
        self._opening[number] = now + OPEN_TIMEOUT_S
        self._updates[number] = None
        self.send(number, first)
        return number

    def accept(self, number: int) -> None:
        """Take a stream that the peer opened out of the backlog and acknowledge it."""
        stream = self._streams.get(number)
        if stream is None or stream.accepted:
            return
        stream.accepted = True
        stream.must_ack = True
        self._backlog -= 1
        self._updates[number] = None

    def send(self, number: int, data: bytes) -> None:
        """Queue bytes; they leave as far as the peer's window allows. Nothing happens if the stream is gone."""
        stream = self._streams.get(number)
        if stream is None or stream.finish_wanted or not data:
            return
        stream.queue.append(memoryview(data))
        stream.queued += len(data)
        self._schedule(stream)

    def unsent(self, number: int) -> int:
        """Bytes queued and not yet framed."""
        stream = self._streams.get(number)
        return 0 if stream is None else stream.queued

    def consume(self, number: int, count: int) -> None:
        """Say that `count` received bytes were used up, which opens the window for more."""
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.unread -= count
        self._unread -= count
        delta = WINDOW_BYTES - stream.unread - stream.receive_window
        if delta >= WINDOW_BYTES // 2 and not stream.peer_finished:
            stream.receive_window += delta
            stream.delta += delta
            self._updates[number] = None

    def finish(self, number: int) -> None:
        """Send no more than what is queued (FIN after it)."""
        stream = self._streams.get(number)
        if stream is None or stream.finish_wanted:
            return
        if stream.must_syn and not stream.queued:
            self._forget(stream)
            return
        stream.finish_wanted = True
        if not stream.queued:
            self._updates[number] = None

    def reset(self, number: int) -> None:
        """Drop the stream at once in both directions. A stream that the peer has not seen yet is simply forgotten."""
        stream = self._streams.get(number)
        if stream is None:
            return
        self._forget(stream)
        if not stream.must_syn:
            self._push(encode_header(FrameType.WINDOW_UPDATE, RST, number, 0))

    def go_away(self) -> None:
        """Ask the peer to open no new streams; those it opens all the same are reset."""
        if not self._went_away:
            self._went_away = True
            self._push(encode_header(FrameType.GO_AWAY, 0, 0, GoAwayCode.NORMAL))

    def end(self, reason: str = "session shutdown") -> None:
        """End the session from this side."""
        if self._ended is None:
            self._ended = reason
            self._streams.clear()
            self._opening.clear()
            self._closing.clear()
            self._updates.clear()
            self._ready.clear()
            self._control.clear()
            self._ping_answers.clear()
            self._events.append(SessionEnded(reason))

    # --- what its driver does -------------------------------------------------------------------------------------

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Take bytes of the peer, cut anywhere."""
        view = memoryview(data)
        position, size = 0, len(view)
        while position < size and self._ended is None:
            if self._payload_left:
                count = min(self._payload_left, size - position)
                self._on_payload(view[position : position + count])
                position += count
                continue
            if not self._partial and size - position >= HEADER.size:
                header = HEADER.unpack_from(view, position)
                position += HEADER.size
            else:
                count = min(HEADER.size - len(self._partial), size - position)
                self._partial += view[position : position + count]
                position += count
                if len(self._partial) < HEADER.size:
                    return
                header = HEADER.unpack(self._partial)
                self._partial.clear()
            version, kind, flags, number, length = header
            self._on_header(version, kind, flags, number, length, now)

    def take_events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    @property
    def has_output(self) -> bool:
        """Whether `take_output` would return something."""
        return bool(self._control or self._ping_answers or self._updates or self._ready)

    def take_output(self, now: float, limit: int = OUTPUT_BYTES) -> bytes:
        """Bytes for the peer, about `limit` at most; call again until it returns none."""
        out = bytearray()
        while self._ping_answers:
            out += encode_header(FrameType.PING, ACK, 0, self._ping_answers.popleft())
        while self._control:
            out += self._control.popleft()
        while self._updates and len(out) < limit:
            number = next(iter(self._updates))
            del self._updates[number]
            self._emit_update(self._streams[number], out, now)
        while self._ready and len(out) < limit:
            stream = self._streams[self._ready.popleft()]
            stream.scheduled = False
            self._emit_data(stream, out)
            self._schedule(stream)
            if stream.finish_wanted and not stream.queued:
                self._emit_update(stream, out, now)
        return bytes(out)

    def next_deadline(self) -> float | None:
        """When `tick` must be called next."""
        if self._ended is not None:
            return None
        deadline = self._next_ping if self._ping_outstanding is None else self._ping_outstanding[1]
        for deadlines in (self._opening, self._closing):
            if deadlines:
                deadline = min(deadline, next(iter(deadlines.values())))
        return deadline

    def tick(self, now: float) -> None:
        """Act on deadlines that have passed."""
        if self._ended is not None:
            return
        if self._ping_outstanding is not None:
            if now >= self._ping_outstanding[1]:
                self.end("keepalive timeout")
                return
        elif now >= self._next_ping:
            self._push(encode_header(FrameType.PING, SYN, 0, self._ping_value))
            self._ping_outstanding = (self._ping_value, now + self._ping_timeout_s)
            self._ping_value = (self._ping_value + 1) & 0xFFFFFFFF
        if self._opening and now >= next(iter(self._opening.values())):
            self.end("stream open timeout")
            return
        # A dict keeps insertion order and all deadlines of one kind are equally long: the first is the earliest.
        while self._closing:
            number, deadline = next(iter(self._closing.items()))
            if now < deadline:
                break
            self.reset(number)

    # --- output ---------------------------------------------------------------------------------------------------

    def _push(self, frame: bytes) -> None:
        if self._ended is not None:
            return
        if len(self._control) >= CONTROL_FRAMES_MAX:
            self.end("too many frames wait to be sent")
        else:
            self._control.append(frame)

    def _schedule(self, stream: _Stream) -> None:
        if not stream.scheduled and not stream.must_syn and stream.queued and stream.send_window:
            stream.scheduled = True
            self._ready.append(stream.id)

    def _emit_update(self, stream: _Stream, out: bytearray, now: float) -> None:
        """A window update with all that the stream has to say, and data right behind a SYN."""
        flags = (SYN if stream.must_syn else 0) | (ACK if stream.must_ack else 0)
        must_finish = stream.finish_wanted and not stream.queued and not stream.finish_sent
        if must_finish:
            flags |= FIN
        if flags or stream.delta:
            out += encode_header(FrameType.WINDOW_UPDATE, flags, stream.id, stream.delta)
        is_new, stream.must_syn, stream.must_ack, stream.delta = stream.must_syn, False, False, 0
        if is_new:
            self._emit_data(stream, out)
            self._schedule(stream)
            if stream.finish_wanted and not stream.queued:
                self._emit_update(stream, out, now)
        if must_finish:
            stream.finish_sent = True
            if stream.peer_finished:
                self._forget(stream)
            else:
                self._closing[stream.id] = now + CLOSE_TIMEOUT_S

    def _emit_data(self, stream: _Stream, out: bytearray) -> None:
        """One data frame, as much as window and chunk size allow."""
        count = min(stream.queued, stream.send_window, CHUNK_BYTES)
        out += encode_header(FrameType.DATA, 0, stream.id, count)
        stream.queued -= count
        stream.send_window -= count
        while count:
            piece = stream.queue[0]
            if len(piece) <= count:
                out += piece
                count -= len(piece)
                stream.queue.popleft()
            else:
                out += piece[:count]
                stream.queue[0] = piece[count:]
                count = 0
        if not stream.queued:
            self._events.append(StreamDrained(stream.id))

    def _forget(self, stream: _Stream) -> None:
        number = stream.id
        del self._streams[number]
        self._unread -= stream.unread
        self._opening.pop(number, None)
        self._closing.pop(number, None)
        self._updates.pop(number, None)
        if stream.scheduled:
            self._ready.remove(number)
        if not stream.accepted:
            self._backlog -= 1

    # --- input ----------------------------------------------------------------------------------------------------

    def _on_header(self, version: int, kind: int, flags: int, number: int, length: int, now: float) -> None:
        if version != VERSION:
            self.end(f"invalid protocol version {version}")
        elif kind == FrameType.DATA or kind == FrameType.WINDOW_UPDATE:
            self._on_stream_frame(kind, flags, number, length)
        elif kind == FrameType.PING:
            self._on_ping(flags, length, now)
        elif kind == FrameType.GO_AWAY:
            self._on_go_away(length)
        else:
            self.end(f"invalid frame type {kind}")

    def _on_ping(self, flags: int, value: int, now: float) -> None:
        if flags & SYN:
            self._ping_answers.append(value)
        elif self._ping_outstanding is not None and value == self._ping_outstanding[0]:
            self._ping_outstanding = None
            self._next_ping = now + self._keepalive_s

    def _on_go_away(self, code: int) -> None:
        if code != GoAwayCode.NORMAL:
            self.end(f"remote end went away with code {code}")
            return
        self._peer_went_away = True
        self._events.append(GoneAway())

    def _on_stream_frame(self, kind: int, flags: int, number: int, length: int) -> None:
        if flags & SYN:
            self._on_syn(number)
        stream = self._streams.get(number)
        if stream is not None:
            if flags & ACK and self._opening.pop(number, None) is not None:
                self._events.append(StreamAcked(number))
            if flags & RST:
                self._forget(stream)
                self._events.append(StreamReset(number))
                stream = None
        if self._ended is not None:
            return
        finishes = bool(flags & FIN) and stream is not None
        if finishes and stream is not None and stream.peer_finished:
            self.end("second FIN on a stream")
        elif kind == FrameType.WINDOW_UPDATE:
            self._on_window_update(stream, length, finishes)
        else:
            self._on_data(stream, length, finishes)

    def _on_syn(self, number: int) -> None:
        if number == 0 or number in self._streams:
            self.end("duplicate stream" if number else "stream 0 cannot be opened")
        elif self._is_client or self._went_away or self._backlog >= ACCEPT_BACKLOG:
            self._push(encode_header(FrameType.WINDOW_UPDATE, RST, number, 0))
        else:
            self._streams[number] = _Stream(number, accepted=False)
            self._backlog += 1
            self._events.append(StreamOpened(number))

    def _on_window_update(self, stream: _Stream | None, delta: int, finishes: bool) -> None:
        if stream is None:
            return
        stream.send_window += delta
        if stream.send_window > WINDOW_MAX:
            self.end("send window overflow")
            return
        self._schedule(stream)
        if finishes:
            self._on_finish(stream)

    def _on_data(self, stream: _Stream | None, length: int, finishes: bool) -> None:
        """The header of a data frame. The window is checked here: a peer's length is not waited for."""
        if stream is not None:
            if length > stream.receive_window:
                self.end("receive window exceeded")
                return
            stream.receive_window -= length
            stream.unread += length
            self._unread += length
            if self._unread > UNREAD_BYTES_MAX:
                self.end("too many bytes wait to be read")
                return
        self._payload_stream, self._payload_left, self._payload_finishes = stream, length, finishes
        if not length and finishes and stream is not None:
            self._on_finish(stream)

    def _on_payload(self, piece: memoryview) -> None:
        self._payload_left -= len(piece)
        stream = self._payload_stream
        if stream is None or self._streams.get(stream.id) is not stream:
            return
        if not stream.peer_finished:
            self._events.append(StreamData(stream.id, bytes(piece)))
        if not self._payload_left and self._payload_finishes:
            self._on_finish(stream)

    def _on_finish(self, stream: _Stream) -> None:
        stream.peer_finished = True
        self._events.append(StreamFinished(stream.id))
        if stream.finish_sent:
            self._forget(stream)
