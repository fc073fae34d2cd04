"""The operating system's network errors in our words: one line each, in the style of Go's `net`.

`real` and the simulator raise only these for dialling and listening. An established connection reports its end to
`connection_lost(exc)` or from a stream's `read` as OSError; whoever drives it passes that through `connection_failure`.
"""

from __future__ import annotations

import errno
import os

from pyconsul_agent.errors import ConnectionLost, DialError, DialRefused, NetError, NetTimeout


def endpoint(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reason(error: OSError) -> str:
    """The error's text without number and path, beginning in lower case: `address already in use`."""
    text = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def listen_failure(network: str, where: str, error: OSError, *, step: str = "bind") -> NetError:
    """`listen tcp 127.0.0.1:8500: bind: address already in use`."""
    return NetError(f"listen {network} {where}: {step}: {reason(error)}")


def dial_failure(network: str, where: str, error: OSError, *, step: str = "connect") -> NetError:
    """`dial tcp 127.0.0.1:8500: connect: connection refused`: DialRefused, NetTimeout or DialError.

    A bare TimeoutError is our own deadline: `dial tcp 10.0.0.1:8500: i/o timeout`.
    """
    if isinstance(error, TimeoutError) and not error.errno:
        return NetTimeout(f"dial {network} {where}: i/o timeout")
    text = f"dial {network} {where}: {step}: {reason(error)}"
    if isinstance(error, ConnectionRefusedError):
        return DialRefused(text)
    if error.errno == errno.ETIMEDOUT:
        return NetTimeout(text)
    return DialError(text)


def connection_failure(where: str, error: Exception | None) -> NetError:
    """How an established connection to `where` ended: NetTimeout or ConnectionLost.

    None and EOFError are an end of file.
    """
    if isinstance(error, NetError):
        return error
    if error is None or isinstance(error, EOFError):
        return ConnectionLost(f"{where}: EOF")
    if isinstance(error, TimeoutError):
        return NetTimeout(f"{where}: {reason(error) if error.errno else 'i/o timeout'}")
    return ConnectionLost(f"{where}: {reason(error) if isinstance(error, OSError) else error}")
