"""Files of the process itself: its pid file, and where its log goes besides the console."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Iterator

from pyconsul_agent.config.options import DAY_S, Options
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.syslog import SyslogSink
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.interfaces.http.transport import UNIX_MODE
from pyconsul_agent.telemetry.logging import LogStream
from pyconsul_agent.telemetry.sinks import FileSink


@contextlib.contextmanager
def log_sinks(options: Options, logs: LogStream, wall_ns: Callable[[], int]) -> Iterator[None]:
    """Log to `log_file` and syslog too, while inside. Raises ConfigError when they cannot be opened."""
    with contextlib.ExitStack() as opened:
        if options.log_file:
            try:
                file = FileSink(
                    options.log_file,
                    wall_ns=wall_ns,
                    bytes_max=options.log_rotate_bytes,
                    age_s_max=options.log_rotate_duration or DAY_S,
                    files_max=options.log_rotate_max_files,
                )
            except OSError as error:
                raise ConfigError(f"Failed to setup logging: {_text('open', error, options.log_file)}") from error
            opened.callback(file.close)
            logs.add_sink(file)
        if options.enable_syslog:
            try:
                syslog = SyslogSink(options.syslog_facility)
            except (OSError, ValueError) as error:
                raise ConfigError(f"Failed to setup logging: Syslog setup failed: {error}") from error
            opened.callback(syslog.close)
            logs.add_sink(syslog)
        yield


@contextlib.contextmanager
def pid_file(path: str, log: Log) -> Iterator[None]:
    """The decimal pid in `path` while inside; "" is no file. Raises ConfigError, in Consul's words."""
    if not path:
        yield
        return
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
    except OSError as error:
        raise ConfigError(f"Could not open pid file: {_text('open', error, path)}") from error
    try:
        yield
    finally:
        try:
            os.remove(path)
        except OSError as error:
            log.error("could not delete pid file", error=f"Could not remove pid file: {_text('remove', error, path)}")


def socket_owner(options: Options) -> tuple[int, tuple[int, int]]:
    """(mode, (user, group)) of unix sockets; -1 is the process's own. Raises ConfigError in Consul's words."""
    given = options.unix_sockets
    try:
        mode = int(given.mode, 8) if given.mode else UNIX_MODE
        if not 0 <= mode <= 0o7777:
            raise ValueError
    except ValueError:
        raise ConfigError(f"unix_sockets.mode: invalid mode specified: {given.mode}") from None
    if given.group and not given.group.isdecimal():
        raise ConfigError(f"unix_sockets.group: invalid group specified: {given.group}")
    return mode, (_user(given.user), int(given.group) if given.group else -1)


def _user(text: str) -> int:
    """A user's number, or that of a name."""
    if not text:
        return -1
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ConfigError(f"unix_sockets.user: invalid user specified: {text}") from None


def _text(operation: str, error: OSError, path: str) -> str:
    return f"{operation} {path}: {(error.strerror or str(error)).lower()}"
