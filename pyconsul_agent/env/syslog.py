"""The local syslog as a place for log lines: a sink as in `telemetry.sinks`, which takes lines and never raises."""

from __future__ import annotations

import os
import re
import socket

SYSLOG_PATH = "/dev/log"
SYSLOG_TAG = "consul"
FACILITIES = {
    "KERN": 0, "USER": 1, "MAIL": 2, "DAEMON": 3, "AUTH": 4, "SYSLOG": 5, "LPR": 6, "NEWS": 7, "UUCP": 8, "CRON": 9,
    "AUTHPRIV": 10, "FTP": 11, **{f"LOCAL{number}": 16 + number for number in range(8)},
}  # fmt: skip
_SEVERITIES = {"TRACE": 7, "DEBUG": 7, "INFO": 6, "WARN": 4, "ERR": 3, "ERROR": 3}
_LEVEL = re.compile(r'\[(TRACE|DEBUG|INFO|WARN|ERR|ERROR)\]\s+|"@level":"(\w+)"')


class SyslogSink:
    """Sends each line to the local syslog, which has its own time stamps: what precedes the level is left out.

    Never waits: what a full socket does not take is lost. Raises OSError when there is no syslog, ValueError for an
    unknown facility.
    """

    def __init__(self, facility: str, *, path: str = SYSLOG_PATH) -> None:
        if facility.upper() not in FACILITIES:
            raise ValueError(f"invalid syslog facility: {facility}")
        self.lost = 0
        self._facility = FACILITIES[facility.upper()]
        self._path = path
        self._socket: socket.socket | None = None
        self._connect()

    def __call__(self, text: str) -> None:
        for line in text.splitlines():
            data = self._packet(line)
            try:
                self._send(data)
            except OSError:
                self.lost += 1

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _packet(self, line: str) -> bytes:
        found = _LEVEL.search(line)
        severity, message = _SEVERITIES["INFO"], line.strip()
        if found is not None:
            severity = _SEVERITIES.get((found[1] or found[2]).upper(), severity)
            message = line[found.end() :] if found[1] else message
        return f"<{self._facility * 8 + severity}>{SYSLOG_TAG}[{os.getpid()}]: {message}".encode("utf-8", "replace")

    def _connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.setblocking(False)
        try:
            made.connect(self._path)
        except OSError:
            made.close()
            raise
        self._socket = made

    def _send(self, data: bytes) -> None:
        """Send; a syslog that was started anew is connected to again, once per line."""
        if self._socket is None:
            self._connect()
        assert self._socket is not None
        try:
            self._socket.send(data)
        except BlockingIOError:
            raise
        except OSError:
            self.close()
            self._connect()
            self._socket.send(data)
