"""A small client of the HTTP API for commands: http.client, so that a command starts in milliseconds.

Errors carry the texts of Consul's Go client, because scripts match on them: `Get "http://127.0.0.1:8500/v1/...":
dial tcp 127.0.0.1:8500: connect: connection refused`, `Unexpected response code: 403 (Permission denied)`.
"""

from __future__ import annotations

import base64
import errno
import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TextIO
from urllib.parse import quote, quote_plus

from pyconsul_agent.cli.command import SetupError
from pyconsul_agent.cli.flags import Value
from pyconsul_agent.wire.gotypes import parse_bool

DEFAULT_ADDRESS = "127.0.0.1:8500"
ERROR_BODY_BYTES_MAX = 64 * 1024
PIECE_BYTES = 64 * 1024
PATH_SAFE = "/:@!$&'()*+,;=~-._"


class APIError(Exception):
    """A request that failed; the text is the Go client's. `status` is 0 for transport errors."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, whatever its status. `index` is its X-Consul-Index, 0 without one."""

    status: int
    body: bytes
    index: int = 0

    def json(self) -> Any:
        """The body decoded. Raises APIError."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise APIError(f"invalid JSON in response: {error}") from None

    def expect_ok(self) -> Response:
        """Itself, or APIError for any status but 200."""
        if self.status != 200:
            text = self.body.decode("utf-8", "replace").rstrip("\n") if not self.body.endswith(b"\n\n") else ""
            text = text or self.body.decode("utf-8", "replace")
            raise APIError(f"Unexpected response code: {self.status} ({text})", self.status)
        return self


class Readable(Protocol):
    """What can be sent as a body."""

    def read(self, size: int = -1) -> bytes: ...


class Download:
    """An answer whose body comes in pieces."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer

    def header(self, name: str) -> str:
        """A header, empty if absent."""
        return self._answer.getheader(name) or ""

    def pieces(self) -> Iterator[bytes]:
        """The body. Raises APIError when it ends early."""
        try:
            while piece := self._answer.read(PIECE_BYTES):
                yield piece
        except (OSError, http.client.HTTPException):
            raise APIError("unexpected EOF") from None


def _set_sent(connection: http.client.HTTPConnection) -> None:
    """Make http.client believe that the request is complete, so that the answer can be read."""
    setattr(connection, "_HTTPConnection__state", "Request-sent")  # noqa: B010 -- the name is mangled


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class API:
    """Where requests go and what they carry."""

    scheme: str
    host: str
    headers: Mapping[str, str]
    shared_query: Mapping[str, str]
    unix_path: str = ""
    tls: Any = None

    def url(self, path: str, query: Mapping[str, str | Sequence[str]] | None = None) -> str:
        """The full URL as the Go client prints it; query sorted by key."""
        return f"{self.scheme}://{self.host}{self._target(path, query)}"

    def get(
        self,
        path: str,
        query: Mapping[str, str | Sequence[str]] | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Response:
        """GET; any status."""
        return self.request("GET", path, query, progress=progress)

    def put(
        self, path: str, query: Mapping[str, str | Sequence[str]] | None = None, body: bytes | None = None
    ) -> Response:
        """PUT; any status."""
        return self.request("PUT", path, query, body)

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | Sequence[str]] | None = None,
        body: bytes | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Response:
        """One request. Raises APIError for transport errors. `progress` hears how many bytes more have come."""
        connection, answer = self._start(method, path, query, body)
        try:
            index = answer.getheader("X-Consul-Index", "")
            received = answer.read() if progress is None else b"".join(_counted(answer, progress))
            return Response(answer.status, received, int(index) if index.isdigit() else 0)
        except (OSError, http.client.HTTPException) as error:
            raise APIError(self._describe(method, path, query, error)) from None
        finally:
            connection.close()

    def stream(self, path: str, query: Mapping[str, str | Sequence[str]] | None = None) -> Iterator[bytes]:
        """GET an endless answer line by line. Raises APIError."""
        connection, answer = self._start("GET", path, query, None)
        try:
            if answer.status != 200:
                Response(answer.status, answer.read(ERROR_BODY_BYTES_MAX)).expect_ok()
            while line := answer.readline():
                yield line
        except (OSError, http.client.HTTPException) as error:
            raise APIError(self._describe("GET", path, query, error)) from None
        finally:
            connection.close()

    @contextmanager
    def download(self, path: str) -> Iterator[Download]:
        """GET an answer of any size. Raises APIError, also for any status but 200."""
        connection, answer = self._start("GET", path, None, None)
        try:
            if answer.status != 200:
                Response(answer.status, answer.read(ERROR_BODY_BYTES_MAX)).expect_ok()
            yield Download(answer)
        except http.client.HTTPException as error:
            raise APIError(self._describe("GET", path, None, error)) from None
        finally:
            connection.close()

    def upload(self, path: str, file: Readable) -> Response:
        """PUT a file of any size; any status. Raises APIError."""
        connection = self._connection()
        try:
            try:
                connection.request("PUT", self._target(path, None), body=file, headers=dict(self.headers))
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:
                    raise
                # The server has closed its side before it had all: it has answered, if the answer is still there.
                _set_sent(connection)
            answer = connection.getresponse()
            return Response(answer.status, answer.read(ERROR_BODY_BYTES_MAX))
        except (OSError, http.client.HTTPException) as error:
            raise APIError(self._describe("PUT", path, None, error)) from None
        finally:
            connection.close()

    def _target(self, path: str, query: Mapping[str, str | Sequence[str]] | None) -> str:
        merged: dict[str, str | Sequence[str]] = {**self.shared_query, **(query or {})}
        pairs = [f"{quote_plus(key)}={quote_plus(value)}" for key in sorted(merged) for value in _several(merged[key])]
        target = quote(path, safe=PATH_SAFE)
        return f"{target}?{'&'.join(pairs)}" if pairs else target

    def _start(
        self, method: str, path: str, query: Mapping[str, str | Sequence[str]] | None, body: bytes | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connection()
        try:
            connection.request(method, self._target(path, query), body=body, headers=dict(self.headers))
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise APIError(self._describe(method, path, query, error)) from None

    def _connection(self) -> http.client.HTTPConnection:
        try:
            if self.unix_path:
                return _UnixConnection(self.unix_path)
            if self.scheme == "https":
                return http.client.HTTPSConnection(self.host, context=self.tls)
            return http.client.HTTPConnection(self.host)
        except http.client.InvalidURL as error:
            raise APIError(f"invalid address {self.host!r}: {error}") from None

    def _describe(
        self, method: str, path: str, query: Mapping[str, str | Sequence[str]] | None, error: Exception
    ) -> str:
        return f'{method.capitalize()} "{self.url(path, query)}": {self._reason(error)}'

    def _reason(self, error: Exception) -> str:
        if isinstance(error, http.client.RemoteDisconnected):
            return "EOF"
        if "WRONG_VERSION_NUMBER" in str(error) or "record layer failure" in str(error):
            return "http: server gave HTTP response to HTTPS client"
        if isinstance(error, socket.gaierror):
            host = self.host.rpartition(":")[0] or self.host
            return f"dial tcp: lookup {host}: no such host"
        if isinstance(error, OSError) and error.errno is not None and not hasattr(error, "verify_message"):
            text = os.strerror(error.errno).lower()
            if self.unix_path:
                return f"dial unix {self.unix_path}: connect: {text}"
            dialing = error.errno in _DIAL_ERRORS
            return f"dial tcp {self._dialed()}: connect: {text}" if dialing else f"read tcp: {text}"
        return str(error)

    def _dialed(self) -> str:
        has_port = self.host.rpartition("]")[2].count(":") == 1
        return self.host if has_port else f"{self.host}:{443 if self.scheme == 'https' else 80}"


def _counted(answer: http.client.HTTPResponse, progress: Callable[[int], object]) -> Iterator[bytes]:
    while piece := answer.read(PIECE_BYTES):
        progress(len(piece))
        yield piece


def _several(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


_DIAL_ERRORS = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EADDRNOTAVAIL}


# --- flags and environment -----------------------------------------------------------------------------------------


def api_of(values: Mapping[str, Value], environ: Mapping[str, str], err: TextIO) -> API:
    """The client for a command's flags and environment. Raises SetupError."""

    def setting(flag: str, variable: str) -> str:
        return str(values.get(flag) or "") or environ.get(variable, "")

    address = setting("http-addr", "CONSUL_HTTP_ADDR") or DEFAULT_ADDRESS
    secure = _boolean("CONSUL_HTTP_SSL", environ, err, default=False, bad=False)
    verify = _boolean("CONSUL_HTTP_SSL_VERIFY", environ, err, default=True, bad=False)
    scheme, unix_path = "https" if secure else "http", ""
    prefix, separator, rest = address.partition("://")
    if separator and prefix in ("http", "https"):
        scheme, address = prefix, rest.rstrip("/")
    elif separator and prefix == "unix":
        unix_path, address = rest, rest
    elif separator:
        raise SetupError(f"Unknown protocol scheme: {prefix}")
    headers: dict[str, str] = {}
    token = _token(setting("token", "CONSUL_HTTP_TOKEN"), setting("token-file", "CONSUL_HTTP_TOKEN_FILE"))
    if token:
        headers["X-Consul-Token"] = token
    credentials = environ.get("CONSUL_HTTP_AUTH", "")
    if credentials:
        user, _, password = credentials.partition(":")
        headers["Authorization"] = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    return API(
        scheme=scheme,
        host=address,
        headers=headers,
        shared_query=_shared_query(values, environ),
        unix_path=unix_path,
        tls=_tls(setting, verify=verify) if scheme == "https" and not unix_path else None,
    )


def _shared_query(values: Mapping[str, Value], environ: Mapping[str, str]) -> dict[str, str]:
    query: dict[str, str] = {}
    if values.get("datacenter"):
        query["dc"] = str(values["datacenter"])
    if values.get("stale"):
        query["stale"] = ""
    namespace = str(values.get("namespace") or "") or environ.get("CONSUL_NAMESPACE", "")
    if namespace:
        query["ns"] = namespace
    return query


def _boolean(name: str, environ: Mapping[str, str], err: TextIO, *, default: bool, bad: bool) -> bool:
    text = environ.get(name, "")
    if not text:
        return default
    try:
        return parse_bool(text)
    except ValueError as error:
        import datetime

        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        # compat: 1.10.11 reads its environment twice, and says so.
        err.write(f'{now} [WARN]  consul-api: could not parse {name}: error="{error}"\n' * 2)
        return bad


def _token(token: str, path: str) -> str:
    """The token; a token file is read last and so always wins."""
    if not path:
        return token
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip() or token
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise SetupError(f"Error loading token file: open {path}: {reason}") from None


def _tls(setting: Any, *, verify: bool) -> Any:
    import ssl

    from pyconsul_agent.env.tls import client_context

    ca_file, ca_path = setting("ca-file", "CONSUL_CACERT"), setting("ca-path", "CONSUL_CAPATH")
    try:
        context = client_context(ca_file or None, ca_path or None)
    except OSError as error:
        where = ca_file or ca_path
        raise SetupError(f"Error loading CA File: open {where}: {(error.strerror or str(error)).lower()}") from None
    certificate, key = setting("client-cert", "CONSUL_CLIENT_CERT"), setting("client-key", "CONSUL_CLIENT_KEY")
    if certificate:
        try:
            context.load_cert_chain(certificate, key or None)
        except OSError as error:
            raise SetupError(f"open {certificate}: {(error.strerror or str(error)).lower()}") from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
