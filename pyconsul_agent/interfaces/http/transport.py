"""HTTP on the wire: aiohttp's low-level server behind a seam.

Everything above this file sees frozen requests and plain responses, so that the engine can be exchanged. The header
block must be complete within 10 s and each part of a body within 60 s; bodies are counted while they are read; a
client over its connection limit is told so and closed; a handler whose client went away is cancelled.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import ssl
from collections import Counter
from typing import Any, cast

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_writer import StreamWriter
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict

from pyconsul_agent.env.base import Listener, Net
from pyconsul_agent.env.log import Log
from pyconsul_agent.interfaces.http.message import TEXT, Query, Request, Response, text_response
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Target

HEADER_BYTES_MAX = 64 * 1024
HEADERS_MAX = 256
HEADER_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 120.0
BODY_TIMEOUT_S = 60.0
WRITE_TIMEOUT_S = 60.0
GZIP_BYTES_MIN = 1400
EOF_GRACE_S = 0.5
"""How long an answer may still take when the client has closed its sending half."""
START_BYTES = 2048
"""What is kept of received data, to tell an unknown method from garbage."""
_UNKNOWN_METHOD = re.compile(rb"([A-Za-z]{1,32}) (/[^ \r\n]*) HTTP/1\.[01]\r?\n")
CONNECTIONS_PER_CLIENT = 200
CONNECTIONS_MAX = 16_384

TOO_MANY = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: 81\r\nConnection: close\r\n\r\n"
    b"Your IP is issuing too many concurrent connections, please rate limit your calls\n"
)
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 19\r\n"
    b"Connection: close\r\n\r\n408 Request Timeout"
)


class HTTPServer:
    """Listens on any number of addresses and feeds one pipeline."""

    def __init__(
        self, net: Net, pipeline: Pipeline, log: Log, *, connections_per_client: int = CONNECTIONS_PER_CLIENT
    ) -> None:
        self._net = net
        self._pipeline = pipeline
        self._log = log
        self._limit = connections_per_client
        self._listeners: list[Listener] = []
        self._clients: Counter[str] = Counter()
        self._server: web.Server | None = None

    async def start(self, addresses: list[tuple[str, int]], *, tls: ssl.SSLContext | None = None) -> None:
        """Listen. Raises NetError when an address cannot be had."""
        # aiohttp types its handler for its own request class only.
        self._server = web.Server(cast(Any, self._handle), handler_cancellation=True)
        for host, port in addresses:
            self._listeners.append(await self._net.listen(self._connection, host, port, tls=tls))

    async def stop(self) -> None:
        """Stop listening and end every connection; requests in flight are cancelled."""
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        if self._server is not None:
            await self._server.shutdown(timeout=0)
            self._server = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return [listener.local for listener in self._listeners]

    def _connection(self) -> asyncio.Protocol:
        assert self._server is not None
        return _Connection(self._server, self)

    def admit(self, client: str) -> bool:
        """Count a new connection of `client`; False when it has too many."""
        if self._clients[client] >= self._limit or self._clients.total() >= CONNECTIONS_MAX:
            return False
        self._clients[client] += 1
        return True

    def release(self, client: str) -> None:
        """A counted connection has ended."""
        self._clients[client] -= 1
        if self._clients[client] <= 0:
            del self._clients[client]

    def refuse_method(self, method: str, raw_target: str) -> Response | None:
        """The answer to a method that the HTTP engine does not know, where that is the path's to give."""
        target = self._pipeline.locate(raw_target, method)
        return None if isinstance(target, Response) else self._pipeline.refuse(target, method, "")

    @property
    def log(self) -> Log:
        """Where connections report to."""
        return self._log

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        target = self._pipeline.locate(incoming.raw_path, incoming.method)
        if isinstance(target, Response):
            return await self._send(incoming, target)
        refusal = self._pipeline.refuse(target, incoming.method, incoming.remote or "")
        if refusal is not None:
            return await self._send(incoming, refusal)
        expect = incoming.headers.get("Expect")
        if expect is not None:
            if expect.lower() != "100-continue":
                return await self._send(incoming, Response(417, close=True))
            await incoming.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._body(incoming, target)
        if isinstance(body, Response):
            return await self._send(incoming, body)
        request = Request(
            incoming.method,
            target.path,
            target.query or Query(""),
            {name.lower(): value for name, value in incoming.headers.items()},
            body,
            incoming.remote or "",
            incoming.content_length,
        )
        return await self._send(incoming, await self._pipeline.answer(target, request))

    async def _body(self, incoming: web.BaseRequest, target: Target) -> bytes | Response:
        if not incoming.body_exists:
            return b""
        route = target.route
        if route is None:
            return b""  # nobody will look at it
        limit = SNAPSHOT_BYTES_MAX if route.body_bytes_max is None else route.body_bytes_max
        declared = incoming.content_length
        if declared is not None and declared > limit:
            return self._pipeline.dressed(_too_large(declared, limit, route.body_setting))
        if declared is None:
            limit = max(limit, route.chunked_bytes_max)
        parts: list[bytes] = []
        size = 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S) as deadline:
                async for chunk in incoming.content.iter_any():
                    deadline.reschedule(loop.time() + BODY_TIMEOUT_S)
                    size += len(chunk)
                    if size > limit:
                        return self._pipeline.dressed(_too_large(size, limit, route.body_setting))
                    parts.append(chunk)
        except TimeoutError:
            return Response(408, b"408 Request Timeout", TEXT, close=True, bare=True)
        return b"".join(parts)

    async def _send(self, incoming: web.BaseRequest, response: Response) -> web.StreamResponse:
        headers: CIMultiDict[str] = CIMultiDict(response.headers)
        if response.content_type:
            headers["Content-Type"] = response.content_type
        wants_gzip = _accepts_gzip(incoming.headers.get("Accept-Encoding", ""))
        if response.stream is not None:
            return await self._send_stream(incoming, response, headers, wants_gzip)
        body = response.body
        if wants_gzip and len(body) >= GZIP_BYTES_MIN:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        answer = _Answer(status=response.status, body=body, headers=headers)
        answer.bare = response.bare
        if response.close:
            answer.force_close()
        return answer

    async def _send_stream(
        self, incoming: web.BaseRequest, response: Response, headers: CIMultiDict[str], wants_gzip: bool
    ) -> web.StreamResponse:
        assert response.stream is not None
        answer = _StreamAnswer(status=response.status, headers=headers)
        if wants_gzip and "Content-Encoding" not in headers:
            answer.enable_compression(web.ContentCoding.gzip)
        await answer.prepare(incoming)
        async for chunk in response.stream:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await answer.write(chunk)
        return answer


SNAPSHOT_BYTES_MAX = 1 << 31


def _too_large(size: int, limit: int, setting: str) -> Response:
    response = text_response(
        f"Request body({size} bytes) too large, max size: {limit} bytes. "
        f"See https://www.consul.io/docs/agent/options.html#{setting}.",
        status=413,
    )
    response.close = True
    return response


def _accepts_gzip(header: str) -> bool:
    for part in header.split(","):
        name, _, parameters = part.strip().partition(";")
        if name.strip().lower() == "gzip":
            quality = parameters.replace(" ", "").lower().removeprefix("q=")
            try:
                return not parameters or float(quality) > 0
            except ValueError:
                return False
    return False


class _Headers:
    """Keeps aiohttp from adding headers that Consul does not send."""

    bare = False

    async def _prepare_headers(self) -> None:
        explicit = "Content-Type" in self._headers  # type: ignore[attr-defined]
        await super()._prepare_headers()  # type: ignore[misc]
        self._headers.pop("Server", None)  # type: ignore[attr-defined]
        if self.bare:
            self._headers.pop("Date", None)  # type: ignore[attr-defined]
        if not explicit:
            self._headers.pop("Content-Type", None)  # type: ignore[attr-defined]


class _Answer(_Headers, web.Response):
    """A whole response."""


class _StreamAnswer(_Headers, web.StreamResponse):
    """A response in parts."""


class _Connection(RequestHandler):
    """One connection: counted per client, with Go's words for requests that are no HTTP."""

    __slots__ = ("_client", "_ending", "_owner", "_start", "_start_seen", "_waiting")

    def __init__(self, server: web.Server, owner: HTTPServer) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_TIMEOUT_S,
            tcp_keepalive=False,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._owner = owner
        self._client = ""
        self._start = b""
        self._ending: asyncio.TimerHandle | None = None
        self._waiting: asyncio.TimerHandle | None = None
        self._start_seen = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        client = peer[0] if isinstance(peer, tuple) else ""
        if client and not self._owner.admit(client):
            cast(asyncio.Transport, transport).write(TOO_MANY)
            transport.close()
            self._manager = None
            return
        self._client = client
        super().connection_made(transport)
        self._waiting = asyncio.get_running_loop().call_later(IDLE_TIMEOUT_S, self._give_up)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._ending is not None:
            self._ending.cancel()
        if self._waiting is not None:
            self._waiting.cancel()
        if self._client:
            self._owner.release(self._client)
            self._client = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._manager is not None:
            self._start = data[:START_BYTES]
            fresh = self._current_request is None
            super().data_received(data)
            self._expect_header(fresh)

    def _expect_header(self, fresh: bool) -> None:
        """After data: while a header block is unfinished its time runs, from its first byte."""
        complete = bool(self._messages) or self._current_request is not None
        if self._waiting is not None and (complete or self._start_seen is False):
            self._waiting.cancel()
            self._waiting = None
        if not complete and fresh and self._waiting is None and self.transport is not None:
            self._waiting = asyncio.get_running_loop().call_later(HEADER_TIMEOUT_S, self._give_up)
        self._start_seen = not complete

    def _give_up(self) -> None:
        self._waiting = None
        transport = self.transport
        if transport is not None and self._current_request is None:
            if self._start_seen:
                transport.write(TOO_SLOW)
            transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client will send no more. It may have closed only its half, and still read: give answers a moment."""
        super().eof_received()
        transport = self.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return False
        if self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(EOF_GRACE_S, transport.close)
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be parsed, or a handler's bug, without a word of ours in it."""
        request._version = HttpVersion11
        refusal = None
        if isinstance(exc, HttpProcessingError) and (line := _UNKNOWN_METHOD.match(self._start)):
            refusal = self._owner.refuse_method(line[1].decode(), line[2].decode("utf-8", "surrogateescape"))
        if isinstance(exc, HttpProcessingError):
            self._owner.log.debug("Malformed request", from_=request.remote, error=str(exc.message)[:200])
            text = "400 Bad Request"
        elif isinstance(exc, TimeoutError):
            status, text = 408, "408 Request Timeout"
        else:
            self._owner.log.error("Connection failed", from_=request.remote, error=repr(exc))
            text = "internal error"
        if cast(StreamWriter, request.writer).output_size > 0:
            raise ConnectionError("response already begun")
        if refusal is not None:
            headers = {**refusal.headers, "Content-Type": TEXT}
            answer = _Answer(status=refusal.status, body=refusal.body, headers=headers)
        else:
            answer = _Answer(status=status, body=text.encode(), headers={"Content-Type": TEXT})
            answer.bare = True
        answer.force_close()
        return answer
