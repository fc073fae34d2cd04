"""Every error that this project raises on purpose.

::

    ConsulError
    ├── DecodeError             bytes of a peer or a file that do not fit their format
    ├── ConfigError             an option, flag or configuration file that cannot be used
    ├── RPCError                an answer to a caller; its text is part of the protocol
    │   ├── NoLeader            "No cluster leader"
    │   ├── NotLeader           "node is not the leader"
    │   ├── NoServers           "No known Consul servers"
    │   ├── NoPathToDatacenter  "No path to datacenter"
    │   ├── PermissionDenied    "Permission denied"
    │   └── RPCRateExceeded     "RPC rate limit exceeded"
    ├── RaftError               a proposal that was not, or may not have been, committed
    │   ├── LeadershipLost      "leadership lost while committing log" (outcome unknown)
    │   ├── LeadershipTransferInProgress  "leadership transfer in progress"
    │   ├── RestoredWhileCommitting  "snapshot restored while committing log"
    │   └── EnqueueTimeout      "timed out enqueuing operation"
    ├── StorageError            the disk failed; the process must stop
    └── NetError                a dial, reset or time-out, mapped from the operating system in `env`
        ├── DialError
        │   └── DialRefused     nobody listens there (evidence of death)
        ├── ConnectionLost
        └── NetTimeout
"""

from __future__ import annotations


class ConsulError(Exception):
    """Root of the tree."""


class DecodeError(ConsulError):
    """Bytes that do not fit their format. `offset` is where, when the codec knows."""

    def __init__(self, reason: str, *, offset: int | None = None) -> None:
        super().__init__(reason if offset is None else f"{reason} (offset {offset})")
        self.reason = reason
        self.offset = offset


class ConfigError(ConsulError):
    """A configuration that cannot be used; the text is one clear line for the operator."""


class RPCError(ConsulError):
    """An error answered to an RPC caller. `str(error)` is the text on the wire; clients match on it."""


class NoLeader(RPCError):
    """No leader was known for as long as the hold time-out."""

    def __init__(self, text: str = "No cluster leader") -> None:
        super().__init__(text)


class NotLeader(RPCError):
    """This server is not, or no longer, the leader; nothing was done."""

    def __init__(self, text: str = "node is not the leader") -> None:
        super().__init__(text)


class NoServers(RPCError):
    """A client agent knows no server."""

    def __init__(self, text: str = "No known Consul servers") -> None:
        super().__init__(text)


class NoPathToDatacenter(RPCError):
    """No server of that datacenter is known."""

    def __init__(self, text: str = "No path to datacenter") -> None:
        super().__init__(text)


class PermissionDenied(RPCError):
    """The token does not allow it."""

    def __init__(self, text: str = "Permission denied") -> None:
        super().__init__(text)


class RPCRateExceeded(RPCError):
    """The client agent's own limit on calls per second."""

    def __init__(self, text: str = "RPC rate limit exceeded") -> None:
        super().__init__(text)


class RaftError(ConsulError):
    """A proposal that was not committed, or whose outcome is unknown."""


class LeadershipLost(RaftError):
    """The leader stepped down while the entry was in flight: it may or may not be committed later."""

    def __init__(self, text: str = "leadership lost while committing log") -> None:
        super().__init__(text)


class LeadershipTransferInProgress(RaftError):
    """The leader is handing over and takes no proposals; nothing was done."""

    def __init__(self, text: str = "leadership transfer in progress") -> None:
        super().__init__(text)


class RestoredWhileCommitting(RaftError):
    """A user restore replaced the log under the entry."""

    def __init__(self, text: str = "snapshot restored while committing log") -> None:
        super().__init__(text)


class EnqueueTimeout(RaftError):
    """The proposal queue stayed full."""

    def __init__(self, text: str = "timed out enqueuing operation") -> None:
        super().__init__(text)


class StorageError(ConsulError):
    """Durable storage failed. Never retried: the process must stop."""


class NetError(ConsulError):
    """A network operation failed; `env` maps the operating system's errors to this family."""


class DialError(NetError):
    """A connection could not be made."""


class DialRefused(DialError):
    """The peer's host answered that nobody listens there."""


class ConnectionLost(NetError):
    """The peer closed or reset the connection in the middle of something."""


class NetTimeout(NetError):
    """The peer did not answer in time."""
