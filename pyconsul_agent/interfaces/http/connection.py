"""One HTTP connection: an asyncio protocol between the reader of requests and the pipeline that answers them.

The head of a request must be complete within 10 s and each part of its body within 60 s of the last; a handler whose
client went away is cancelled; answers wait while a client does not read. Requests are answered in order, one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol, cast

from pyconsul_agent.env.base import peer_of
from pyconsul_agent.env.deadlines import Deadlines
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConsulError, RPCError
from pyconsul_agent.interfaces.http.body import BodyStream, cut_off
from pyconsul_agent.interfaces.http.familiar import Familiar
from pyconsul_agent.interfaces.http.head import Head, taken_whole
from pyconsul_agent.interfaces.http.known import Answer, Known
from pyconsul_agent.interfaces.http.message import TEXT, Query, Request, Response
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Target
from pyconsul_agent.interfaces.http.reader import RequestReader
from pyconsul_agent.interfaces.http.rendering import CONTINUE, TOO_MANY, chunks, close_stream, rendered

HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 60.0
IDLE_TIMEOUT_S = 120.0
WRITE_TIMEOUT_S = 60.0
LINGER_S = 0.5
LINGER_BYTES_MAX = 8 * 1024 * 1024
EOF_GRACE_S = 0.5
"""How long an answer may still take when the client has closed its sending half, or all of it."""
PIPELINED_MAX = 16
NEVER = float("inf")

REPEATED = frozenset({200, 404})
"""Statuses of answers that may be given again."""


class Shared(Protocol):
    """What the connections of a server have in common."""

    pipeline: Pipeline
    log: Log
    known: Known[Head]
    familiar: Familiar
    deadlines: Deadlines
    head_bytes_max: int
    stopped: bool

    def admit(self, connection: Connection, client: str) -> bool:
        """Count a new connection of `client`; False when it has too many."""

    def release(self, connection: Connection, client: str) -> None:
        """A counted connection has ended."""

    def repeated(self, head: Head) -> bytes | None:
        """The answer given before, if it would be the same now, with today's date."""

    def date(self) -> bytes:
        """The Date header's value."""


class Connection(asyncio.Protocol):
    """One connection. Ten thousand of them may wait for an answer: what one of them holds meanwhile is worth a look."""

    __slots__ = (
        "_admitted",
        "_client",
        "_closing",
        "_deadline",
        "_drained",
        "_dropped",
        "_ending",
        "_filed",
        "_instant",
        "_loop",
        "_paused",
        "_reader",
        "_refused",
        "_server",
        "_task",
        "_transport",
        "_waiting",
        "_writable",
    )

    def __init__(self, server: Shared) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._client = ""
        self._reader: RequestReader | None = None
        """Only while a request is read: most of the connections, most of the time, wait."""
        self._admitted = False
        self._waiting: list[Head | Response] = []
        self._task: asyncio.Task[None] | None = None
        self._refused = False
        self._dropped = 0
        self._closing = False
        self._paused = False
        self._writable = True
        self._drained: asyncio.Future[None] | None = None
        """Somebody waits until the client has read enough."""
        self._ending: asyncio.TimerHandle | None = None
        self._deadline = NEVER
        self._filed = NEVER
        """The deadline that `server.deadlines` knows of, at `instant`; it may be earlier than the real one."""
        self._instant = 0

    # --- asyncio ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._server.stopped:  # accepted before the listener was closed
            self._closing = True
            self._transport.abort()
            return
        self._client = peer_of(transport)[0]
        self._admitted = self._server.admit(self, self._client)
        if not self._admitted:
            self._closing = True
            self._transport.write(TOO_MANY)
            self._transport.close()
            return
        self._expect(IDLE_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._admitted:
            self._server.release(self, self._client)
        self._cancel_timers()
        self._fail_body(cut_off())
        self.resume_writing()
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def end(self) -> asyncio.Task[None] | None:
        """Close now; the handler in flight, cancelled."""
        self._cancel_timers()
        if self._transport is not None:
            self._transport.abort()
        task = self._task
        if task is not None:
            task.cancel()
        return task

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._closing or self._refused:
            self._drop(len(data))
            return
        reader, first = self._reader, self._task is None and not self._waiting
        alone = first and (reader is None or reader.between)
        if alone and (head := self._server.known.get(data)) is not None:
            self._answer_known(head)
            return
        if reader is None:
            server = self._server
            if alone and (read := server.familiar.read(data)) is not None and self._answer_familiar(data, *read):
                return
            reader = RequestReader(self, server.pipeline, server.log, self._client, server.head_bytes_max)
            self._reader = reader
        if reader.in_body:
            self._expect(BODY_TIMEOUT_S)
        elif first and reader.head_bytes == 0:
            self._expect(HEAD_TIMEOUT_S)
        refusal = reader.feed(data, first=first)
        if refusal is not None:
            self._refuse(refusal)
        elif reader.at_rest:
            if alone and reader.complete == 1:
                self._server.familiar.learn(data, reader.head)
                if self._server.known.again(data):
                    self._learn(data, reader.head)
            self._reader = None

    def _learn(self, data: bytes, head: Head) -> None:
        """One whole request came in one piece; the like of it need not be parsed again."""
        target = head.target
        if isinstance(target, Target) and "expect" not in head.headers:
            head.repeatable = self._server.pipeline.repeatable(target, self._request(head, target))
            if head.repeatable:
                self._server.known.learn(data, head)

    def _answer_known(self, head: Head) -> None:
        """A request seen before: the answer is the same, or it is asked for as the first time."""
        answer = self._server.repeated(head) if self._writable else None
        if answer is None or self._transport is None:
            self._queue(head, alone=True)
            return
        self._transport.write(answer)
        if isinstance(head.target, Target) and head.target.route is not None:
            again, pattern = self._server.pipeline.again, head.target.route.pattern
            again[pattern] = again.get(pattern, 0) + 1
        self._expect(IDLE_TIMEOUT_S)

    def _answer_familiar(self, data: bytes, head: Head, raw_target: str) -> bool:
        """A request of which nothing but the target and the body is new; False if the parser has to look at it."""
        target = head.target = self._server.pipeline.locate(raw_target, head.method)
        if head.length is not None:
            if not taken_whole(target, head.length):
                return False
        elif self._server.known.again(data):
            self._learn(data, head)
        self._queue(head, alone=True)
        return True

    def _drop(self, size: int) -> None:
        """Bytes behind a request that was refused; so many are read that a client is likely to find the answer."""
        self._dropped += size
        if self._dropped > LINGER_BYTES_MAX and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more. It may still read: an answer that is on its way gets a moment."""
        if self._task is None or self._transport is None or self._transport.get_extra_info("sslcontext") is not None:
            return False
        self._fail_body(cut_off())
        self._ending = self._loop.call_later(EOF_GRACE_S, self._close)
        self._refused = True
        return True

    def _fail_body(self, error: ConsulError) -> bool:
        """Tell the handler that takes a body as it arrives that no more comes; whether there is one."""
        stream = None if self._reader is None else self._reader.head.stream
        if stream is None or stream.complete:
            return False
        stream.fail(error)
        self._refused = True
        return True

    # --- what the reader says ---------------------------------------------------------------------------------

    def continues(self) -> None:
        if self._transport is not None and self._task is None:
            self._transport.write(CONTINUE)

    def body_begins(self) -> None:
        self._expect(BODY_TIMEOUT_S)

    def body_stream(self) -> BodyStream:
        return BodyStream(self._pause_body, self._resume_body)

    def body_overflows(self) -> None:
        self._refused = True

    def stream_ends(self) -> None:
        self._stop_timer()

    def received(self, head: Head) -> None:
        self._queue(head, alone=self._reader is not None and self._reader.complete <= 1)

    def _pause_body(self) -> None:
        self._stop_timer()
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume_body(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            if self._reader is not None and self._reader.in_body:
                self._expect(BODY_TIMEOUT_S)

    # --- answering --------------------------------------------------------------------------------------------

    def _queue(self, item: Head | Response, *, alone: bool = False) -> None:
        idle = self._task is None and not self._waiting
        if idle and alone and isinstance(item, Head) and self._answer_at_once(item):
            return
        self._waiting.append(item)
        if self._task is None:
            self._task = self._loop.create_task(self._answer_all())
        elif len(self._waiting) >= PIPELINED_MAX and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _refuse(self, response: Response) -> None:
        """No further request is read; what came before is answered first."""
        self._refused = True
        if response.status:
            response.close = True
            self._queue(response)

    async def _answer_all(self) -> None:
        """Answer what waits, in order, until nothing does."""
        try:
            while self._waiting and not self._closing:
                self._stop_timer()
                item = self._waiting.pop(0)
                if isinstance(item, Head) and item.stream is not None and not item.stream.complete:
                    self._expect(BODY_TIMEOUT_S)  # the handler waits for the body, so somebody must watch it
                response = item.target if isinstance(item, Head) else item
                if isinstance(item, Head) and isinstance(response, Target):
                    response = await self._server.pipeline.answer(response, self._request(item, response))
                assert isinstance(response, Response)
                if not await self._send(item, response):
                    self._linger()
                    return
                if self._paused and self._transport is not None:
                    self._paused = False
                    self._transport.resume_reading()
            if self._refused:
                self._linger()
        except TimeoutError:
            self._server.log.debug("Client does not read its answer", from_=self._client)
            self.end()
        except ConsulError as error:
            # Cut off without the last chunk, an answer is not taken for whole.
            self._server.log.error("Answer not completed", from_=self._client, error=str(error))
            self.end()
        finally:
            self._task = None
            if not self._closing and not self._waiting:
                self._expect(IDLE_TIMEOUT_S)

    def _answer_at_once(self, item: Head) -> bool:
        """Answer without a task if that is possible. Only for a connection that has nothing else under way."""
        target = item.target
        if item.method != "GET" or not isinstance(target, Target) or not item.keep_alive:
            return False
        if target.route is None or not target.route.state:
            return False
        if not self._writable or self._closing:
            return False
        found = self._server.pipeline.at_once(target, self._request(item, target), again=item.repeatable)
        if found is None:
            return False
        response, stamp = found
        if response.close or response.stream is not None:
            return False
        response.http10 = item.http10
        made = self._write(response, keep_alive=True, accepts=item.headers.get("accept-encoding", ""), method="GET")
        if stamp is not None and not response.bare and response.status in REPEATED:
            answer = Answer(stamp, *made)
            if self._server.known.admits(answer, item.answer):
                item.answer = answer
        self._expect(IDLE_TIMEOUT_S)
        return True

    def _request(self, item: Head, target: Target) -> Request:
        return Request(
            item.method,
            target.path,
            target.query or Query(""),
            item.headers,
            item.body[0] if len(item.body) == 1 else b"".join(item.body),
            self._client,
            item.length,
            item.stream,
        )

    async def _send(self, item: Head | Response, response: Response) -> bool:
        """Answer a request, or what was none; whether the connection goes on."""
        keep_alive, accepts, method = False, "", "GET"
        if isinstance(item, Head):
            response.http10 = item.http10
            if item.stream is not None and not item.stream.complete:
                self._refused = response.close = True
                item.stream.discard()
            keep_alive = item.keep_alive and not response.close
            accepts, method = item.headers.get("accept-encoding", ""), item.method
        if self._transport is None or self._closing:
            await close_stream(response)
            return keep_alive
        self._write(response, keep_alive=keep_alive, accepts=accepts, method=method)
        if response.stream is not None:
            await self._send_stream(response, accepts)
        if not self._writable:
            await self._until_writable()
        return keep_alive

    def _write(self, response: Response, *, keep_alive: bool, accepts: str, method: str) -> tuple[bytes, bytes]:
        """Write an answer, or the head of a stream; the bytes before and after the date."""
        assert self._transport is not None
        before, after = rendered(response, keep_alive=keep_alive, accepts=accepts, method=method)
        self._transport.write(before if response.bare else b"%s%s%s" % (before, self._server.date(), after))
        return before, after

    async def _send_stream(self, response: Response, accepts: str) -> None:
        assert self._transport is not None
        async with contextlib.aclosing(chunks(response, accepts)) as pieces:
            async for piece in pieces:
                if piece:
                    self._transport.write(piece)
                await self._until_writable()
                if self._closing:
                    return

    async def _until_writable(self) -> None:
        if not self._writable:
            self._drained = self._loop.create_future()
            try:
                async with timeout(WRITE_TIMEOUT_S):
                    await self._drained
            finally:
                self._drained = None

    def _linger(self) -> None:
        """Close, but let a client that is still sending a refused body find its answer first."""
        if not self._refused or self._transport is None or self._ending is not None:
            self._close()
            return
        self._closing = True
        self._stop_timer()
        self._ending = self._loop.call_later(LINGER_S, self._close)

    def _close(self) -> None:
        self._closing = True
        self._stop_timer()
        if self._transport is not None:
            self._transport.close()

    # --- time -------------------------------------------------------------------------------------------------

    def _expect(self, timeout_s: float) -> None:
        """Something must come within `timeout_s`. What is filed is moved lazily: most deadlines are only put off."""
        self._deadline = self._loop.time() + timeout_s
        if self._filed > self._deadline:
            self._file()

    def _file(self) -> None:
        deadlines = self._server.deadlines
        if self._instant:
            deadlines.remove(self, self._instant)
        self._instant = deadlines.add(self, self._deadline)
        self._filed = self._deadline

    def _stop_timer(self) -> None:
        self._deadline = NEVER

    def _cancel_timers(self) -> None:
        self._closing = True
        self._deadline = NEVER
        if self._instant:
            self._server.deadlines.remove(self, self._instant)
            self._instant = 0
        if self._ending is not None:
            self._ending.cancel()

    def late(self) -> None:
        """The filed deadline has come; it need not be the real one."""
        self._instant, self._filed = 0, NEVER
        if self._closing:
            return
        if self._loop.time() < self._deadline:
            if self._deadline != NEVER:
                self._file()
            return
        reader = self._reader
        in_body = reader is not None and reader.in_body
        if in_body and self._fail_body(RPCError("failed to read the request body: i/o timeout")):
            return
        if in_body or (reader is not None and reader.head_bytes):
            self._refuse(Response(408, b"408 Request Timeout", TEXT, close=True))
        else:
            self._close()
