"""HTTP/1 on the wire: an asyncio protocol around the httptools parser, behind a seam.

Everything above this file sees frozen requests and plain responses. The head of a request must be complete within 10 s
and each part of its body within 60 s of the last; bodies are counted while they are read; a client over its connection
limit is told so and closed; a handler whose client went away is cancelled; answers wait while a client does not read.
Requests of one connection are answered in order, one at a time.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import Counter, deque
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

import httptools

from pyconsul_agent.env.base import Clock, Listener, Net
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError, RPCError
from pyconsul_agent.interfaces.http.body import BodyStream, cut_off
from pyconsul_agent.interfaces.http.compression import (
    GZIP_BYTES_MIN,
    GzipStream,
    accepts_gzip,
    compressed_whole,
)
from pyconsul_agent.interfaces.http.known import Answer, Known
from pyconsul_agent.interfaces.http.message import TEXT, Query, Request, Response, text_response
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Target

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 256
UNIX = "unix://"
UNIX_MODE = 0o600
HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 60.0
IDLE_TIMEOUT_S = 120.0
WRITE_TIMEOUT_S = 60.0
LINGER_S = 0.5
LINGER_BYTES_MAX = 8 * 1024 * 1024
EOF_GRACE_S = 0.5
"""How long an answer may still take when the client has closed its sending half, or all of it."""
CONNECTIONS_PER_CLIENT = 200
CONNECTIONS_MAX = 16_384
PIPELINED_MAX = 16
STREAMED_BYTES_MAX = 1 << 34
"""Of a body that its handler takes as it arrives; snapshots go to the disk, which bounds them further."""
STREAMED_METHODS = frozenset({"PUT", "POST"})
UNROUTED_BYTES_MAX = 512 * 1024
"""A body sent to a path that nobody serves is read, so that its 404 can be."""

REPEATED = frozenset({200, 404})
"""Statuses of answers that may be given again."""

TOO_MANY = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: 81\r\nConnection: close\r\n\r\n"
    b"Your IP is issuing too many concurrent connections, please rate limit your calls\n"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS = {status.value: status.phrase for status in HTTPStatus}
REASONS[413] = "Request Entity Too Large"

_ODD_METHOD = re.compile(rb"^([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) (\S{1,8192}) HTTP/1\.[01]\r?\n")


class HTTPServer:
    """Listens on any number of addresses and feeds one pipeline. `clock` dates the answers."""

    def __init__(
        self,
        net: Net,
        clock: Clock,
        pipeline: Pipeline,
        log: Log,
        *,
        connections_per_client: int = CONNECTIONS_PER_CLIENT,
        head_bytes_max: int = 0,
    ) -> None:
        """`head_bytes_max` 0 is HEAD_BYTES_MAX."""
        self.pipeline = pipeline
        self.log = log
        self._net = net
        self._clock = clock
        self.head_bytes_max = head_bytes_max or HEAD_BYTES_MAX
        self._limit = CONNECTIONS_MAX
        self.set_connections_per_client(connections_per_client)
        self._listeners: list[Listener] = []
        self._clients: Counter[str] = Counter()
        self._total = 0
        self._connections: dict[_Connection, None] = {}  # a set that keeps its order: a simulation must repeat
        self.stopped = False
        self._date = (0, b"")
        self.known: Known[_Head] = Known()

    async def start(
        self,
        addresses: list[tuple[str, int]],
        *,
        tls: ssl.SSLContext | None = None,
        unix_mode: int = UNIX_MODE,
        unix_owner: tuple[int, int] = (-1, -1),
    ) -> None:
        """Listen on TCP, or for a host `unix:///path` on that socket. Raises NetError when one cannot be had."""
        self.stopped = False
        for host, port in addresses:
            if host.startswith(UNIX):
                path = host.removeprefix(UNIX)
                listener = await self._net.listen_unix(
                    lambda: _Connection(self), path, mode=unix_mode, owner=unix_owner
                )
            else:
                listener = await self._net.listen(lambda: _Connection(self), host, port, tls=tls)
            self._listeners.append(listener)

    async def stop(self) -> None:
        """Stop listening and end every connection; requests in flight are cancelled."""
        self.stopped = True
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        ending = [connection.end() for connection in list(self._connections)]
        await asyncio.gather(*(task for task in ending if task is not None), return_exceptions=True)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return [listener.local for listener in self._listeners]

    def admit(self, connection: _Connection, client: str) -> bool:
        """Count a new connection of `client`; False when it has too many."""
        if self._clients[client] >= self._limit or self._total >= CONNECTIONS_MAX:
            return False
        self._clients[client] += 1
        self._total += 1
        self._connections[connection] = None
        return True

    def release(self, connection: _Connection, client: str) -> None:
        """A counted connection has ended."""
        self._connections.pop(connection, None)
        self._total -= 1
        self._clients[client] -= 1
        if self._clients[client] <= 0:
            del self._clients[client]

    def set_connections_per_client(self, limit: int) -> None:
        """Another limit from now on (reload); 0 is none for each, but the bound on all of them stays."""
        self._limit = limit if limit > 0 else CONNECTIONS_MAX

    def repeated(self, head: _Head) -> bytes | None:
        """The answer given before, if it would be the same now, with today's date."""
        answer, target = head.answer, head.target
        if answer is None or not isinstance(target, Target) or target.route is None:
            return None
        if self.pipeline.stamp(target.route) != answer.stamp:
            return None
        return b"%s%s%s" % (answer.before, self.date(), answer.after)

    def date(self) -> bytes:
        """The Date header's value, made once a second."""
        second = self._clock.wall_ns() // 1_000_000_000
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]


class _Head:
    """A request while it is read. Nothing but `answer` changes afterwards."""

    __slots__ = (
        "answer",
        "body",
        "body_limit",
        "head_size",
        "headers",
        "hosts",
        "http10",
        "keep_alive",
        "length",
        "method",
        "repeatable",
        "size",
        "stream",
        "target",
        "url",
    )

    def __init__(self) -> None:
        self.url = b""
        self.answer: Answer | None = None
        self.repeatable = False
        self.headers: dict[str, str] = {}
        self.head_size = 0
        self.hosts = 0
        self.http10 = False
        self.body: list[bytes] = []
        self.size = 0
        self.method = ""
        self.keep_alive = True
        self.length: int | None = None
        self.body_limit = 0
        self.stream: BodyStream | None = None
        self.target: Target | Response = Response(400)


class _Refused(Exception):
    """The request cannot be taken; the response says why and the connection ends."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def _bad(text: str = "400 Bad Request", status: int = 400) -> _Refused:
    return _Refused(Response(status, text.encode(), TEXT, close=True, bare=True))


_OTHER_VERSION = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} \S{1,8192} HTTP/(?!1\.[01])\d\.\d\r?\n")
"""A request line in order, but of a version that the parser does not take."""
_BAD_VERSION = _bad("505 HTTP Version Not Supported: unsupported protocol version", 505)


def _body_limit(target: Target, method: str, declared: int | None) -> int:
    """How long a request's body may be."""
    route = target.route
    if route is None:
        return UNROUTED_BYTES_MAX
    if route.body_bytes_max is None:
        return STREAMED_BYTES_MAX if method in STREAMED_METHODS else UNROUTED_BYTES_MAX
    return route.body_bytes_max if declared is not None else max(route.body_bytes_max, route.chunked_bytes_max)


class _Connection(asyncio.Protocol):
    """One connection. httptools calls the `on_...` methods while `data_received` feeds it."""

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._client = ""
        self._admitted = False
        self._head = _Head()
        self._head_bytes = 0
        self._reading_body = False
        self._between = True
        """No byte of a further request has come."""
        self._complete = 0
        self._waiting: deque[_Head | Response] = deque()
        self._task: asyncio.Task[None] | None = None
        self._refused = False
        self._last = False
        """The request in work is the last one, whatever it says."""
        self._dropped = 0
        self._closing = False
        self._paused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._ending: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0  # uvloop gives a handle without `when()` for a time that has come

    # --- asyncio ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._server.stopped:  # accepted before the listener was closed
            self._closing = True
            self._transport.abort()
            return
        peer = transport.get_extra_info("peername")
        self._client = peer[0] if isinstance(peer, tuple) else ""
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
        self._writable.set()
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
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._refused:
            self._drop(len(data))
            return
        alone = self._between and self._task is None and not self._waiting
        self._complete = 0
        if alone and (head := self._server.known.get(data)) is not None:
            self._answer_known(head)
            return
        if not self._reading_body:
            if self._head_bytes == 0 and not self._waiting and self._task is None:
                self._expect(HEAD_TIMEOUT_S)
            self._head_bytes += len(data)
        else:
            self._expect(BODY_TIMEOUT_S)
        try:
            self._parser.feed_data(data)
            if alone and self._between and self._complete == 1 and self._server.known.again(data):
                self._learn(data)
            if not self._reading_body and self._head_bytes > self._server.head_bytes_max:
                raise _bad("431 Request Header Fields Too Large", 431)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__ or error.__cause__
            if not isinstance(cause, _Refused):
                raise
            self._refuse(cause.response)
        except _Refused as refused:
            self._refuse(refused.response)
        except httptools.HttpParserUpgrade:
            self._refuse(_bad().response)
        except httptools.HttpParserInvalidMethodError:
            self._refuse(self._odd_method(data))
        except httptools.HttpParserError as error:
            self._server.log.debug("Malformed request", from_=self._client, error=str(error)[:200])
            if str(error).startswith("Expected CRLF") and self._take_bare_lines(data):
                return
            if _OTHER_VERSION.match(data):
                self._refuse(_BAD_VERSION.response)
            else:
                named = "header token" in str(error)
                self._refuse(_bad("400 Bad Request: invalid header name" if named else "400 Bad Request").response)

    def _take_bare_lines(self, data: bytes) -> bool:
        """Read a request with bare line ends, as Go does, but as the last one: nothing can be smuggled behind it."""
        whole = None if self._waiting or self._task is not None or self._last else _with_crlf(data)
        if whole is None or self._head_bytes != len(data):
            return False
        self._last = True
        self._head_bytes = 0
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(whole)
        return True

    def _learn(self, data: bytes) -> None:
        """One whole request came in one piece; the like of it need not be parsed again."""
        head, target = self._head, self._head.target
        if isinstance(target, Target) and head.keep_alive and "expect" not in head.headers:
            head.repeatable = self._server.pipeline.repeatable(target, self._request(head, target))
            if head.repeatable:
                self._server.known.learn(data, head)

    def _answer_known(self, head: _Head) -> None:
        """A request seen before: the answer is the same, or it is asked for as the first time."""
        answer = self._server.repeated(head) if self._writable.is_set() else None
        if answer is None or self._transport is None:
            self._queue(head)
            return
        self._transport.write(answer)
        if isinstance(head.target, Target) and head.target.route is not None:
            again, pattern = self._server.pipeline.again, head.target.route.pattern
            again[pattern] = again.get(pattern, 0) + 1
        self._expect(IDLE_TIMEOUT_S)

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
        stream = self._head.stream
        if stream is None or stream.complete:
            return False
        stream.fail(error)
        self._refused = True
        return True

    def _odd_method(self, data: bytes) -> Response:
        """A well-formed request line with a method that nobody knows gets the answer of its route."""
        line = _ODD_METHOD.match(data)
        if line is None:
            self._server.log.debug("Malformed request", from_=self._client, error="no request line")
            return _bad().response
        head = _Head()
        head.method, head.keep_alive = line.group(1).decode("ascii"), False
        head.target = self._server.pipeline.locate(line.group(2).decode("utf-8", "surrogateescape"), head.method)
        self._queue(head)
        return Response(0)

    # --- httptools --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._head = _Head()
        self._between = False

    def on_url(self, url: bytes) -> None:
        self._head.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._head.headers
        self._head.head_size += len(name) + len(value)
        if len(headers) >= HEADERS_MAX or self._head.head_size > self._server.head_bytes_max:
            raise _bad("431 Request Header Fields Too Large", 431)
        key = name.decode("latin-1").lower()
        if key == "host":
            self._head.hosts += 1
        headers.setdefault(key, value.decode("utf-8", "surrogateescape"))

    def on_headers_complete(self) -> None:
        head = self._head
        self._head_bytes = 0
        head.method = self._parser.get_method().decode("ascii")
        head.keep_alive = self._parser.should_keep_alive() and not self._last
        version = self._parser.get_http_version()
        head.http10 = version == "1.0"
        if version == "1.1" and head.hosts == 0:
            raise _bad("400 Bad Request: missing required Host header")
        if head.hosts > 1:
            raise _bad("400 Bad Request: too many Host headers")
        if version not in ("1.0", "1.1"):
            raise _BAD_VERSION
        self._framing(head)
        head.target = self._server.pipeline.locate(head.url.decode("utf-8", "surrogateescape"), head.method)
        if isinstance(head.target, Target):
            head.body_limit = _body_limit(head.target, head.method, head.length)
        if head.length is not None and head.length > head.body_limit:
            raise _Refused(self._too_large(head, head.length))
        expect = head.headers.get("expect")
        if expect is not None:
            if expect.lower() != "100-continue":
                raise _Refused(Response(417, close=True))
            if self._transport is not None and self._task is None:
                self._transport.write(CONTINUE)
        self._reading_body = True
        self._expect(BODY_TIMEOUT_S)
        if self._is_streamed(head):
            head.stream = BodyStream(self._pause_body, self._resume_body)
            self._queue(head)

    def _is_streamed(self, head: _Head) -> bool:
        """Whether the handler takes the body as it arrives; a request that is refused anyway never gets that far."""
        target = head.target
        if head.method not in STREAMED_METHODS or not isinstance(target, Target) or target.route is None:
            return False
        refused = self._server.pipeline.refuse(target, head.method, self._client)
        return target.route.body_bytes_max is None and refused is None

    def _pause_body(self) -> None:
        self._stop_timer()
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume_body(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            if self._reading_body:
                self._expect(BODY_TIMEOUT_S)

    def _framing(self, head: _Head) -> None:
        """How the body's end is known. Both ways at once would let two readers disagree."""
        length, coding = head.headers.get("content-length"), head.headers.get("transfer-encoding")
        if coding is not None:
            if length is not None:
                raise _bad()
            if coding.lower() != "chunked":
                raise _bad("Unsupported transfer encoding", 501)
        if length is not None:
            if not length.isascii() or not length.isdigit():
                raise _bad()
            head.length = int(length)

    def on_body(self, body: bytes) -> None:
        head = self._head
        head.size += len(body)
        if head.size > head.body_limit:
            if head.stream is not None:
                head.stream.fail(RPCError(f"request body is larger than {head.body_limit} bytes"))
                self._refused = True
                return
            raise _Refused(self._too_large(head, head.size))
        if head.stream is not None:
            head.stream.feed(body)
        else:
            head.body.append(body)

    def _too_large(self, head: _Head, size: int) -> Response:
        """The answer to a body over its limit. The rules of the route come first: a wrong method is told as such."""
        target = head.target
        if isinstance(target, Response) or target.route is None:
            return target if isinstance(target, Response) else Response(404, close=True)
        pipeline = self._server.pipeline
        refusal = pipeline.refuse(target, head.method, self._client)
        return refusal or pipeline.dressed(_too_large(size, head.body_limit, target.route.body_setting))

    def on_message_complete(self) -> None:
        self._reading_body = False
        self._between = True
        self._complete += 1
        if self._head.stream is None:
            self._queue(self._head)
            return
        self._head.stream.finish()
        self._stop_timer()

    # --- answering --------------------------------------------------------------------------------------------

    def _queue(self, item: _Head | Response) -> None:
        idle = self._task is None and not self._waiting
        if idle and self._complete <= 1 and isinstance(item, _Head) and self._answer_at_once(item):
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
                item = self._waiting.popleft()
                if isinstance(item, _Head) and item.stream is not None and not item.stream.complete:
                    self._expect(BODY_TIMEOUT_S)  # the handler waits for the body, so somebody must watch it
                keep = await self._answer(item)
                if not keep:
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

    async def _answer(self, item: _Head | Response) -> bool:
        """Answer one request; whether the connection goes on."""
        if isinstance(item, Response):
            await self._send(item, keep_alive=False, accepts="", method="GET")
            return False
        target = item.target
        if isinstance(target, Response):
            response = target
        else:
            response = await self._server.pipeline.answer(target, self._request(item, target))
        response.http10 = item.http10
        if item.stream is not None and not item.stream.complete:
            self._refused = response.close = True
            item.stream.discard()
        keep_alive = item.keep_alive and not response.close
        accepts = item.headers.get("accept-encoding", "")
        await self._send(response, keep_alive=keep_alive, accepts=accepts, method=item.method)
        return keep_alive

    def _answer_at_once(self, item: _Head) -> bool:
        """Answer without a task if that is possible. Only for a connection that has nothing else under way."""
        target = item.target
        if item.method != "GET" or not isinstance(target, Target) or not item.keep_alive:
            return False
        if target.route is None or not target.route.state:
            return False
        if not self._writable.is_set() or self._closing:
            return False
        found = self._server.pipeline.at_once(target, self._request(item, target))
        if found is None:
            return False
        response, stamp = found
        if response.close or response.stream is not None:
            return False
        response.http10 = item.http10
        made = self._write(response, keep_alive=True, accepts=item.headers.get("accept-encoding", ""), method="GET")
        if stamp is not None and item.repeatable and made is not None and response.status in REPEATED:
            answer = Answer(stamp, *made)
            if self._server.known.admits(answer, item.answer):
                item.answer = answer
        self._expect(IDLE_TIMEOUT_S)
        return True

    def _request(self, item: _Head, target: Target) -> Request:
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

    async def _send(self, response: Response, *, keep_alive: bool, accepts: str, method: str) -> None:
        if self._transport is None or self._closing:
            if (close := getattr(response.stream, "aclose", None)) is not None:
                await close()
            return
        self._write(response, keep_alive=keep_alive, accepts=accepts, method=method)
        if response.stream is not None:
            packed = bool(accepts) and accepts_gzip(accepts) and "Content-Encoding" not in response.headers
            await self._send_stream(response, packed)
        if not self._writable.is_set():
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self._writable.wait()

    def _write(self, response: Response, *, keep_alive: bool, accepts: str, method: str) -> tuple[bytes, bytes] | None:
        """Write an answer, or the head of a stream; the bytes before and after the date if all was written."""
        assert self._transport is not None
        wants_gzip = bool(accepts) and accepts_gzip(accepts)
        body = response.body if method != "HEAD" else b""
        extra = b""
        if response.stream is not None:
            extra = b"Transfer-Encoding: chunked\r\n"
            if wants_gzip and "Content-Encoding" not in response.headers:
                extra += b"Content-Encoding: gzip\r\n"
        else:
            if wants_gzip and len(response.body) >= GZIP_BYTES_MIN:
                packed = compressed_whole(response.body)
                extra = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(packed)
                body = packed if body else b""
            else:
                extra = b"Content-Length: %d\r\n" % len(response.body)
        if not keep_alive:
            extra += b"Connection: close\r\n"
        head = _head_of(response)
        made = None
        if response.bare:
            self._transport.write(b"%s%s\r\n%s" % (head, extra, b"" if response.stream is not None else body))
        else:
            before, after = head + b"Date: ", b"\r\n%s\r\n%s" % (extra, b"" if response.stream is not None else body)
            self._transport.write(b"%s%s%s" % (before, self._server.date(), after))
            made = (before, after) if response.stream is None else None
        return made

    async def _send_stream(self, response: Response, compressed: bool) -> None:
        assert response.stream is not None and self._transport is not None
        packer = GzipStream() if compressed else None
        try:
            async for chunk in response.stream:
                data = packer.pack(chunk) if packer is not None else chunk
                if data:
                    self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))
                if not self._writable.is_set():
                    async with asyncio.timeout(WRITE_TIMEOUT_S):
                        await self._writable.wait()
                if self._closing:
                    return
            tail = packer.finish() if packer is not None else b""
            if tail:
                self._transport.write(b"%x\r\n%s\r\n" % (len(tail), tail))
            self._transport.write(b"0\r\n\r\n")
        finally:
            close = getattr(response.stream, "aclose", None)
            if close is not None:
                await close()

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
        """Something must come within `timeout_s`. One timer a connection, moved lazily."""
        self._deadline = self._loop.time() + timeout_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._late)
            self._timer_due = self._deadline
        elif self._timer_due > self._deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._late)
            self._timer_due = self._deadline

    def _stop_timer(self) -> None:
        self._deadline = float("inf")

    def _cancel_timers(self) -> None:
        self._closing = True
        for timer in (self._timer, self._ending):
            if timer is not None:
                timer.cancel()

    def _late(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._closing:
            return
        if now < self._deadline:
            if self._deadline != float("inf"):
                self._timer = self._loop.call_at(self._deadline, self._late)
                self._timer_due = self._deadline
            return
        if self._reading_body and self._fail_body(RPCError("failed to read the request body: i/o timeout")):
            return
        if self._reading_body or self._head_bytes:
            self._refuse(Response(408, b"408 Request Timeout", TEXT, close=True))
        else:
            self._close()


def _status_line(response: Response) -> str:
    """Version, code and reason. What is no HTTP is told its reason there as well, as Go does."""
    reason = REASONS.get(response.status, "")
    if response.bare and response.body.startswith(b"%d " % response.status):
        reason = response.body[4:].decode("latin-1")
    return f"HTTP/1.{0 if response.http10 else 1} {response.status} {reason}\r\n"


def _with_crlf(data: bytes) -> bytes | None:
    """A request whose header lines end in bare LF, every one of them, with proper line ends; None if it is not one."""
    head, end, body = data.partition(b"\n\n")
    if not end or b"\r" in head:
        return None
    return head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body


def _head_of(response: Response) -> bytes:
    """Status line and headers, without those that tell date, length and connection."""
    lines = [_status_line(response)]
    if response.content_type:
        lines.append(f"Content-Type: {response.content_type}\r\n")
    lines += [f"{name}: {value}\r\n" for name, value in response.headers.items()]
    head = "".join(lines)
    if head.count("\n") != len(lines) or head.count("\r") != len(lines):
        # Whatever a user configured, a value cannot end its line.
        head = "".join(line[:-2].replace("\r", " ").replace("\n", " ") + "\r\n" for line in lines)
    return head.encode("utf-8", "surrogateescape")


def _too_large(size: int, limit: int, setting: str) -> Response:
    response = text_response(
        f"Request body({size} bytes) too large, max size: {limit} bytes. "
        f"See https://www.consul.io/docs/agent/options.html#{setting}.",
        status=413,
    )
    response.close = True
    return response
