"""Requests out of bytes: the httptools parser and the rules that it does not know.

httptools calls the `on_...` methods while `feed` runs. What was read goes to a `Sink`, in order.
"""

from __future__ import annotations

from typing import Any, Protocol

import httptools

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RPCError
from pyconsul_agent.interfaces.http.body import BodyStream
from pyconsul_agent.interfaces.http.head import (
    ODD_METHOD,
    OTHER_VERSION,
    STREAMED_METHODS,
    Head,
    Refused,
    bad,
    bad_version,
    body_limit,
    body_too_large,
    framing,
    head_too_large,
    with_crlf,
)
from pyconsul_agent.interfaces.http.message import Response
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Target

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 256


class Sink(Protocol):
    """The connection that a request comes over."""

    def continues(self) -> None:
        """The client waits for a word before it sends the body."""

    def body_begins(self) -> None:
        """A head is complete."""

    def body_stream(self) -> BodyStream:
        """For a body that is taken as it arrives."""

    def body_overflows(self) -> None:
        """A stream was longer than it may be: the handler knows, nothing further is read."""

    def received(self, head: Head) -> None:
        """A request is complete, or one whose body streams begins."""

    def stream_ends(self) -> None:
        """All of a streamed body is there."""


class RequestReader:
    """Reads one connection's requests."""

    __slots__ = (
        "_client",
        "_head_bytes_max",
        "_headers",
        "_last",
        "_log",
        "_parser",
        "_pipeline",
        "_sink",
        "between",
        "complete",
        "head",
        "head_bytes",
        "in_body",
    )

    def __init__(self, sink: Sink, pipeline: Pipeline, log: Log, client: str, head_bytes_max: int) -> None:
        self._sink = sink
        self._pipeline = pipeline
        self._log = log
        self._client = client
        self._head_bytes_max = head_bytes_max
        self._parser: Any = httptools.HttpRequestParser(self)
        self._last = False
        """The request in work is the last one, whatever it says."""
        self.head = Head()
        self._headers: dict[str, str] = {}
        self.head_bytes = 0
        self.in_body = False
        self.between = True
        """No byte of a further request has come."""
        self.complete = 0
        """Requests that the last `feed` completed."""

    @property
    def at_rest(self) -> bool:
        """Whether another reader could go on: no byte of a further request has come, and there may be one."""
        return self.between and not self.head_bytes and self.head.keep_alive

    def feed(self, data: bytes, *, first: bool) -> Response | None:
        """Read on; the answer to what cannot be taken, after which nothing more may be fed.

        `first` says that nothing is in work or waits. A response with status 0 stands for none: a request was handed
        over as the last one.
        """
        self.complete = 0
        if not self.in_body:
            self.head_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if not self.in_body and self.head_bytes > self._head_bytes_max:
                raise head_too_large()
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__ or error.__cause__
            if not isinstance(cause, Refused):
                raise
            return cause.response
        except Refused as refused:
            return refused.response
        except httptools.HttpParserUpgrade:
            return bad().response
        except httptools.HttpParserInvalidMethodError:
            return self._odd_method(data)
        except httptools.HttpParserError as error:
            return self._malformed(data, str(error), first)
        return None

    def _malformed(self, data: bytes, error: str, first: bool) -> Response | None:
        self._log.debug("Malformed request", from_=self._client, error=error[:200])
        if error.startswith("Expected CRLF") and (whole := self._bare_lines(data, first)) is not None:
            return self.feed(whole, first=first)
        if OTHER_VERSION.match(data):
            return bad_version().response
        named = "header token" in error
        return bad("400 Bad Request: invalid header name" if named else "400 Bad Request").response

    def _bare_lines(self, data: bytes, first: bool) -> bytes | None:
        """A request with bare line ends, as Go reads it, but as the last one: nothing can be smuggled behind it."""
        whole = None if not first or self._last else with_crlf(data)
        if whole is None or self.head_bytes != len(data):
            return None
        self._last = True
        self.head_bytes = 0
        self._parser = httptools.HttpRequestParser(self)
        return whole

    def _odd_method(self, data: bytes) -> Response:
        """A well-formed request line with a method that nobody knows gets the answer of its route."""
        line = ODD_METHOD.match(data)
        if line is None:
            self._log.debug("Malformed request", from_=self._client, error="no request line")
            return bad().response
        head = Head()
        head.method, head.keep_alive = line.group(1).decode("ascii"), False
        head.target = self._pipeline.locate(line.group(2).decode("utf-8", "surrogateescape"), head.method)
        self._sink.received(head)
        return Response(0)

    # --- httptools --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.head = Head()
        self.head.headers = self._headers = {}
        self.between = False

    def on_url(self, url: bytes) -> None:
        self.head.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        self.head.head_size += len(name) + len(value)
        if len(headers) >= HEADERS_MAX or self.head.head_size > self._head_bytes_max:
            raise head_too_large()
        key = name.decode("latin-1").lower()
        if key == "host":
            self.head.hosts += 1
        headers.setdefault(key, value.decode("utf-8", "surrogateescape"))

    def on_headers_complete(self) -> None:
        head = self.head
        self.head_bytes = 0
        head.method = self._parser.get_method().decode("ascii")
        head.keep_alive = self._parser.should_keep_alive() and not self._last
        version = self._parser.get_http_version()
        head.http10 = version == "1.0"
        if version == "1.1" and head.hosts == 0:
            raise bad("400 Bad Request: missing required Host header")
        if head.hosts > 1:
            raise bad("400 Bad Request: too many Host headers")
        if version not in ("1.0", "1.1"):
            raise bad_version()
        framing(head)
        head.target = self._pipeline.locate(head.url.decode("utf-8", "surrogateescape"), head.method)
        head.url = b""
        if isinstance(head.target, Target):
            head.body_limit = body_limit(head.target, head.method, head.length)
        if head.length is not None and head.length > head.body_limit:
            raise Refused(self._too_large(head, head.length))
        expect = head.headers.get("expect")
        if expect is not None:
            if expect.lower() != "100-continue":
                raise Refused(Response(417, close=True))
            self._sink.continues()
        self.in_body = True
        self._sink.body_begins()
        if self._is_streamed(head):
            head.stream = self._sink.body_stream()
            self._sink.received(head)

    def _is_streamed(self, head: Head) -> bool:
        """Whether the handler takes the body as it arrives; a request that is refused anyway never gets that far."""
        target = head.target
        if head.method not in STREAMED_METHODS or not isinstance(target, Target) or target.route is None:
            return False
        refused = self._pipeline.refuse(target, head.method, self._client)
        return target.route.body_bytes_max is None and refused is None

    def on_body(self, body: bytes) -> None:
        head = self.head
        head.size += len(body)
        if head.size > head.body_limit:
            if head.stream is not None:
                head.stream.fail(RPCError(f"request body is larger than {head.body_limit} bytes"))
                self._sink.body_overflows()
                return
            raise Refused(self._too_large(head, head.size))
        if head.stream is not None:
            head.stream.feed(body)
        else:
            head.body.append(body)

    def _too_large(self, head: Head, size: int) -> Response:
        """The answer to a body over its limit. The rules of the route come first: a wrong method is told as such."""
        target = head.target
        if isinstance(target, Response) or target.route is None:
            return target if isinstance(target, Response) else Response(404, close=True)
        refusal = self._pipeline.refuse(target, head.method, self._client)
        return refusal or self._pipeline.dressed(body_too_large(size, head.body_limit, target.route.body_setting))

    def on_message_complete(self) -> None:
        self.in_body = False
        self.between = True
        self.complete += 1
        if self.head.stream is None:
            self._sink.received(self.head)
            return
        self.head.stream.finish()
        self._sink.stream_ends()
