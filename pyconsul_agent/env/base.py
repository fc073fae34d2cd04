"""The door to the operating system, as protocols. `real` opens it; `sim.env` is its simulated double.

Time. Timers are asyncio's own (`asyncio.sleep`, `asyncio.timeout`, `loop.call_at`): the real loop runs them in real
time, `sim.loop` in virtual time. Code that needs to *read* a clock asks `env.clock`; `clock.monotonic()` has the same
base as `loop.time()`.

Network. Both ends are asyncio protocols and transports, so that asyncio streams and aiohttp's server run unchanged on
simulated links. Errors of the operating system leave this room as `errors.NetError` and its children.

Files. Small files only (keyrings, persisted services, snapshots of serf); the raft log has its own seam,
`runtime.raft_storage`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pyconsul_agent.errors import NetError

T = TypeVar("T")
ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)

Address = tuple[str, int]
"""(ip, port), numeric."""


class Clock(Protocol):
    """Reads clocks; never waits."""

    def monotonic(self) -> float:
        """Seconds, never backwards; the base of `loop.time()`."""

    def lag(self, due: float) -> float:
        """How late this process is for what was due at `due` (monotonic s), 0.0 when it is not.

        Asked before a peer is judged: a loop that stood still has not read what came meanwhile.
        """

    def boottime(self) -> float:
        """Seconds, never backwards, counting the time that the machine was suspended. For leases and TTLs."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970 UTC. For display and certificates only; may jump."""


class Datagrams(Protocol):
    """A bound UDP socket."""

    @property
    def local(self) -> Address: ...

    def send(self, data: bytes, to: Address) -> None:
        """Send or drop; never waits, never raises for the network's sake."""

    def close(self) -> None: ...


class Listener(Protocol):
    """A listening stream socket."""

    @property
    def local(self) -> Address: ...

    async def close(self) -> None:
        """Stop accepting. Accepted connections live on."""


class Net(Protocol):
    """Connections of one host."""

    async def listen(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, *, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Accept TCP connections. Raises NetError when the port cannot be had."""

    async def connect(
        self,
        factory: Callable[[], ProtocolT],
        host: str,
        port: int,
        *,
        local_host: str | None = None,
        timeout_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> tuple[asyncio.Transport, ProtocolT]:
        """Dial TCP (no-delay and keep-alive on). Raises DialRefused, NetTimeout or DialError."""

    async def datagrams(
        self,
        receive: Callable[[bytes, Address], None],
        host: str,
        port: int,
        *,
        connected: tuple[Address, Callable[[NetError], None]] | None = None,
    ) -> Datagrams:
        """Bind UDP; `receive(data, from_)` is called from a drain loop. Raises NetError when the port cannot be had.

        `connected=(peer, failed)` hears that peer only, and calls `failed` when the peer's host says that nobody
        listens there.
        """

    async def questions(
        self,
        quick: Callable[[bytes], bytes | None],
        receive: Callable[[bytes, Address, Callable[[bytes], None]], None],
        host: str,
        port: int,
    ) -> Datagrams:
        """Bind UDP for a server that answers. Raises NetError when the port cannot be had.

        Each datagram goes to `quick`, and what that returns is sent back at once; None leaves the datagram to
        `receive(data, from_, reply)`. Either way the answer leaves from the address that the datagram came to.
        """

    async def listen_unix(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        path: str,
        *,
        mode: int,
        owner: tuple[int, int] = (-1, -1),
    ) -> Listener:
        """Listen at `path`; `owner` is user and group, -1 for the process's own. Raises NetError."""

    async def connect_unix(
        self, factory: Callable[[], ProtocolT], path: str
    ) -> tuple[asyncio.Transport, ProtocolT]: ...


class Files(Protocol):
    """The file system. Paths are text; missing files raise FileNotFoundError, other failures OSError."""

    def exists(self, path: str) -> bool: ...
    def is_dir(self, path: str) -> bool: ...
    def is_file(self, path: str) -> bool:
        """Whether `path` is, or leads to, a regular file: no folder, pipe, socket or device."""

    def list_dir(self, path: str) -> list[str]: ...
    def make_dirs(self, path: str, *, mode: int = 0o700) -> None: ...
    def read(self, path: str, *, bytes_max: int = -1) -> bytes:
        """The whole file, or its first `bytes_max` bytes."""

    def write_atomic(
        self, path: str, data: bytes, *, mode: int = 0o600, sync: bool = True, sync_folder: bool = True
    ) -> None:
        """Replace `path` by `data`: temporary file, fsync, rename, fsync of the directory.

        Without `sync` nobody sees half of it either, but a power failure may take it away. Without `sync_folder` it may
        until the folder is synced: once is enough for many files.
        """

    def lock(self, path: str) -> Callable[[], None]:
        """Lock the file `path` (made when missing) for this process until the returned function is called.

        The lock ends with the process, however that ends. Raises BlockingIOError while somebody else holds it.
        """

    def append(self, path: str, data: bytes, *, sync: bool = False) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def remove(self, path: str) -> None: ...
    def remove_tree(self, path: str) -> None: ...
    def sync_dir(self, path: str) -> None: ...
    def size(self, path: str) -> int: ...


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a child ended. `output` is stdout and stderr merged, cut to the limit given (its end is kept).

    `output_total` is how many bytes it wrote.
    """

    exit_code: int
    output: bytes
    truncated: bool
    timed_out: bool = False
    output_total: int = 0


class Process(Protocol):
    """Child processes, each in a process group of its own that is killed as a whole."""

    async def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        output_bytes_max: int,
        environment: dict[str, str] | None = None,
        stdin: bytes | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> ProcessResult:
        """Run a program to its end. `on_output` is told everything it writes, as it comes."""
        ...


class Resolver(Protocol):
    """Names to addresses."""

    async def resolve(self, host: str) -> list[str]:
        """Numeric addresses of `host`, IPv4 first. Raises NetError."""


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address of a network interface that is up."""

    interface: str
    ip: str
    is_loopback: bool
    is_default_route: bool = False


class Interfaces(Protocol):
    """This host's network interfaces."""

    def addresses(self) -> list[InterfaceAddress]: ...


class Worker(Protocol):
    """One thread that runs jobs in the order in which they were handed over."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]:
        """Run `work` on the thread (simulation: after a drawn delay, on the loop); its exceptions come back.

        Waits for a place when the bounded queue is full. A caller that is cancelled stops waiting, but work that has
        begun runs to its end.
        """

    async def close(self) -> None:
        """Finish what was handed over, then end the thread. Safe to call twice."""


class Blocking(Protocol):
    """Work that would stop the loop: fsync, SQLite, look-ups. Calling it uses one shared thread."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]:
        """As `Worker.__call__`, on the shared thread. Not for work that can take seconds."""

    def worker(self, name: str, *, queue_max: int = 64) -> Worker:
        """A thread of its own, for a component whose work must keep its order and not wait for others."""

    async def close(self) -> None:
        """Close the shared thread and every worker."""


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """This process. `heap_objects` are blocks of the allocator; `tasks` are asyncio's."""

    resident_bytes: int = 0
    virtual_bytes: int = 0
    heap_objects: int = 0
    freed_objects: int = 0
    gc_runs: int = 0
    gc_pause_ns: int = 0
    gc_pauses_ns: tuple[int, ...] = ()
    """The latest ones since the question before."""
    tasks: int = 0


class Host(Protocol):
    """What this program knows of its own process."""

    def process(self) -> ProcessFacts:
        """This process now. Quick."""

    def close(self) -> None:
        """Stop observing the process."""


class NoHost:
    """Nothing is known of the process: it is a simulated one."""

    def process(self) -> ProcessFacts:
        return ProcessFacts()

    def close(self) -> None:
        """Nothing was begun."""


@dataclass(frozen=True, slots=True)
class Env:
    """Everything through which an agent touches the world. Handed to `app`, which hands on only the parts needed."""

    clock: Clock
    random: random.Random
    token_bytes: Callable[[int], bytes]
    net: Net
    files: Files
    process: Process
    resolver: Resolver
    interfaces: Interfaces
    blocking: Blocking
    environ: dict[str, str]
    hostname: str
    host: Host = field(default_factory=NoHost)

    def uuid(self) -> str:
        """A random UUID, lower case, of the operating system's randomness."""
        raw = bytearray(self.token_bytes(16))
        raw[6] = raw[6] & 0x0F | 0x40
        raw[8] = raw[8] & 0x3F | 0x80
        text = raw.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


# --- asyncio streams over any Net -----------------------------------------------------------------------------

V4_IN_V6 = "::ffff:"
STREAM_BUFFER_BYTES = 256 * 1024

StreamHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Writer(asyncio.StreamWriter):
    """A writer whose `write` never raises because the connection has ended: on every loop, `drain` is what tells.

    uvloop raises RuntimeError where asyncio stays silent, from the moment on at which the peer's reset was read. The
    reader's task need not have run since, so no caller can know it before.
    """

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.BaseProtocol,
        reader: asyncio.StreamReader | None,
        loop: asyncio.AbstractEventLoop,
        *,
        stands_for: asyncio.StreamWriter | None = None,
    ) -> None:
        """`stands_for` is kept: from Python 3.12 on a writer that nobody holds closes its connection."""
        super().__init__(transport, protocol, reader, loop)
        self._stands_for = stands_for

    def __del__(self) -> None:
        """Nothing: who got the writer closes it, and a transport that nobody closed warns by itself."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio."""
        try:
            super().write(data)
        except RuntimeError:
            if not self.transport.is_closing():
                raise

    def writelines(self, data: Iterable[bytes | bytearray | memoryview]) -> None:
        """See asyncio."""
        self.write(b"".join(data))  # asyncio's own of 3.12 and 3.13.0 minds neither a slow peer nor a lost one


def as_ipv4(host: str) -> str:
    """The address of an IPv4 peer as an IPv6 socket tells it, as IPv4; any other as it is. Go shows it so.

    How Python shows and judges such an address (`::ffff:127.0.0.1`) changed in 3.13.
    """
    return host.removeprefix(V4_IN_V6) if "." in host else host


def peer_of(connection: asyncio.BaseTransport | asyncio.StreamWriter) -> Address:
    """Who is at the other end, ("", 0) if it has no address or has gone."""
    name = connection.get_extra_info("peername")
    if not isinstance(name, tuple):
        return "", 0
    return as_ipv4(str(name[0])), int(name[1])


async def open_stream(
    net: Net,
    host: str,
    port: int,
    *,
    local_host: str | None = None,
    timeout_s: float = 10.0,
    limit: int = STREAM_BUFFER_BYTES,
    kind: type[asyncio.StreamReader] = asyncio.StreamReader,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Dial and wrap in asyncio streams, the reader being of a `kind`. Raises as `Net.connect`."""
    loop = asyncio.get_running_loop()
    reader = kind(limit=limit, loop=loop)
    transport, protocol = await net.connect(
        lambda: asyncio.StreamReaderProtocol(reader, loop=loop), host, port, local_host=local_host, timeout_s=timeout_s
    )
    return reader, Writer(transport, protocol, reader, loop)


def stream_protocol(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
    reader: asyncio.StreamReader,
    kind: type[asyncio.StreamReaderProtocol] = asyncio.StreamReaderProtocol,
) -> asyncio.BaseProtocol:
    """For `Net.listen`: calls `connected` with `reader` and a `Writer`, in a task if it is a coroutine."""
    loop = asyncio.get_running_loop()

    def with_writer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None] | None:
        transport = writer.transport
        return connected(reader, Writer(transport, transport.get_protocol(), reader, loop, stands_for=writer))

    return kind(reader, with_writer, loop=loop)


async def serve_streams(
    net: Net, handler: StreamHandler, host: str, port: int, *, limit: int = STREAM_BUFFER_BYTES
) -> Listener:
    """Listen and call `handler(reader, writer)` in a task per connection; the handler owns the writer's closing."""
    return await net.listen(lambda: stream_protocol(handler, asyncio.StreamReader(limit=limit)), host, port)
