"""HTTP on the wire: aiohttp's low-level server behind a seam.

Everything above this file sees frozen requests and plain responses, so that the engine can be exchanged. The header
block must be complete within 10 s and each part of a body within 60 s; bodies are counted while they are read; a
client over its connection limit is told so and closed; a handler whose client went away is cancelled.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections import Counter
from typing import Any, cast

from aiohttp import web
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
IDLE_TIMEOUT_S = 120.0
BODY_TIMEOUT_S = 60.0
WRITE_TIMEOUT_S = 60.0
GZIP_BYTES_MIN = 1400
CONNECTIONS_PER_CLIENT = 200
CONNECTIONS_MAX = 16_384

TOO_MANY = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: 81\r\nConnection: close\r\n\r\n"
    b"Your IP is issuing too many concurrent connections, please rate limit your calls\n"
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

    def set_connections_per_client(self, limit: int) -> None:
        """Another limit for new connections (reload)."""
        self._limit = limit

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

    @property
    def log(self) -> Log:
        """Where connections report to."""
        return self._log

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        target = self._pipeline.locate(incoming.raw_path, incoming.method)
        if isinstance(target, Response):
            return await self._send(incoming, target)
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
        limit = target.route.body_bytes_max if target.route is not None else 0
        if limit is None:
            limit = SNAPSHOT_BYTES_MAX
        declared = incoming.content_length
        if declared is not None and declared > limit:
            return _too_large(declared, limit)
        parts: list[bytes] = []
        size = 0
        async with asyncio.timeout(None) as deadline:
            loop = asyncio.get_running_loop()
            deadline.reschedule(loop.time() + BODY_TIMEOUT_S)
            async for chunk in incoming.content.iter_any():
                deadline.reschedule(loop.time() + BODY_TIMEOUT_S)
                size += len(chunk)
                if size > limit:
                    return _too_large(size, limit)
                parts.append(chunk)
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


def _too_large(size: int, limit: int) -> Response:
    return text_response(
        f"Request body({size} bytes) too large, max size: {limit} bytes. "
        "See https://www.consul.io/docs/agent/options.html#kv_max_value_size.",
        status=413,
    )


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

    async def _prepare_headers(self) -> None:
        explicit = "Content-Type" in self._headers  # type: ignore[attr-defined]
        await super()._prepare_headers()  # type: ignore[misc]
        self._headers.pop("Server", None)  # type: ignore[attr-defined]
        if not explicit:
            self._headers.pop("Content-Type", None)  # type: ignore[attr-defined]


class _Answer(_Headers, web.Response):
    """A whole response."""


class _StreamAnswer(_Headers, web.StreamResponse):
    """A response in parts."""


class _Connection(RequestHandler):
    """One connection: counted per client, with Go's words for requests that are no HTTP."""

    __slots__ = ("_client", "_owner")

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

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._client:
            self._owner.release(self._client)
            self._client = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._manager is not None:
            super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be parsed, or a handler's bug, without a word of ours in it."""
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
        answer = _Answer(status=status, body=text.encode(), headers={"Content-Type": TEXT})
        answer.force_close()
        return answer
