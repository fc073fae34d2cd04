"""A request and a response as handlers see them: plain values, no sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from pyconsul_agent.structs.base import value
from pyconsul_agent.wire import gojson

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


class BadQuery(ValueError):
    """The query string has a broken escape or a semicolon."""


class Query:
    """A query string: names with their values in the order sent. Bytes that are not UTF-8 are kept as surrogates."""

    __slots__ = ("pairs",)

    def __init__(self, raw: str) -> None:
        self.pairs: list[tuple[str, str]] = []
        for part in raw.split("&") if raw else ():
            if not part:
                continue
            if ";" in part:
                raise BadQuery(part)
            name, _, value = part.partition("=")
            self.pairs.append((_unescape(name), _unescape(value)))

    def __contains__(self, name: str) -> bool:
        for key, _ in self.pairs:  # noqa: SIM110 -- mostly there are none, and `any` would make a generator for it
            if key == name:
                return True
        return False

    def get(self, name: str) -> str:
        """The first value of `name`, empty if absent."""
        for key, text in self.pairs:
            if key == name:
                return text
        return ""

    def all(self, name: str) -> list[str]:
        """Every value of `name`."""
        return [value for key, value in self.pairs if key == name]

    def encode(self) -> str:
        """As Go's url.Values.Encode prints it: sorted by name."""
        return "&".join(
            f"{_escape(key)}={_escape(value)}" for key, value in sorted(self.pairs, key=lambda pair: pair[0])
        )


def _unescape(text: str) -> str:
    text = text.replace("+", " ")
    return percent_decode(text) if "%" in text else text


def percent_decode(text: str) -> str:
    """`text` with its percent escapes resolved. Raises BadQuery when one is broken."""
    position = text.find("%")
    while position >= 0:
        digits = text[position + 1 : position + 3]
        if len(digits) != 2 or any(digit not in _HEX for digit in digits):
            raise BadQuery(text)
        position = text.find("%", position + 1)
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


_HEX = frozenset("0123456789abcdefABCDEF")
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


def _escape(text: str) -> str:
    return "".join(
        character
        if character in _SAFE
        else "+"
        if character == " "
        else "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
        for character in text
    )


@value
class Request:
    """`path` is percent-decoded and clean; `headers` has lower-case names; `remote` is the client's ip."""

    method: str
    path: str
    query: Query
    headers: Mapping[str, str]
    body: bytes
    remote: str
    body_length: int | None = None
    """The declared Content-Length, None when chunked or absent."""
    body_stream: AsyncIterator[bytes] | None = None
    """The body as it arrives, for routes that ask for it so; `body` is empty then."""


@dataclass(slots=True)
class Response:
    """What goes back. With `stream`, the body is what it yields and `body` is ignored."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None
    close: bool = False
    bare: bool = False
    """Without a Date, as Go answers what is no HTTP; the body is the status line's text too."""
    http10: bool = False
    """For a request of HTTP/1.0, which Go answers in kind."""


class HTTPError(Exception):
    """Ends a handler with this status and text."""

    def __init__(self, status: int, text: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}

    def response(self) -> Response:
        """The answer that it stands for."""
        return text_response(self.text, status=self.status, headers=self.headers)


def bad_request(text: str) -> HTTPError:
    """Consul's "bad request" class of errors: 400, the text prefixed."""
    return HTTPError(400, f"Bad request: {text}")


def text_response(text: str, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Plain text, no newline added. Bytes that were not UTF-8 come back as they were."""
    return Response(status, text.encode("utf-8", "surrogateescape"), TEXT, dict(headers or {}))


def json_response(
    shown: object, request: Request, *, status: int = 200, headers: dict[str, str] | None = None, pretty: bool = False
) -> Response:
    """`shown` as Go-exact JSON, indented when the request or the agent asks for it."""
    body = gojson.encode(shown, pretty=pretty or "pretty" in request.query)
    return Response(status, body, JSON, dict(headers) if headers else {})
