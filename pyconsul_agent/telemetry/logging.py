"""The log of an agent: records, the three renderings, levels, monitor streams. Implements `env.log.Log`.

::

    Logger (structlog's bound logger) -> processors: drop what nobody wants, stamp, deliver
        -> LogStream: console sink (held back until the banner is out) + monitors + backlog

| format  | line                                                                                         |
|---------|----------------------------------------------------------------------------------------------|
| modern  | `2026-11-22T22:14:11.882Z [INFO]  agent.server: New leader elected: payload=server3`         |
| json    | `{"@level":"info","@message":...,"@module":...,"@timestamp":...,<pairs>}`, keys sorted        |
| classic | `    2026/11/22 22:14:11 [INFO] consul: New leader elected: server3`                          |

Whatever comes from a peer or a user is escaped before it is printed: one record can never forge another one's line.
This room knows no clock and no file descriptor: both are handed to `LogStream`.
"""

from __future__ import annotations

import logging as stdlib_logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from json import dumps
from typing import Any, Literal

import structlog

from pyconsul_agent.telemetry.events import DEBUG, ERROR, INFO, TRACE, WARN, Line, Role, Texts, expand, subsystem_of

Format = Literal["modern", "classic", "json"]

BACKLOG_RECORDS_MAX = 512
"""Records kept for a legacy monitor that starts late (0.5's own number)."""

MONITOR_LINES_MAX = 512
"""Lines waiting for one monitor; a slower reader loses lines, and the loss is counted."""

HELD_RECORDS_MAX = 4096
"""Records held back before the banner."""

VALUE_CHARACTERS_MAX = 16 * 1024
"""Longer messages and values are cut: one peer's name must not fill the disk."""

_NAMES = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR")
_CLASSIC_NAMES = ("TRACE", "DEBUG", "INFO", "WARN", "ERR")
_LEVELS = {"TRACE": TRACE, "DEBUG": DEBUG, "INFO": INFO, "WARN": WARN, "ERR": ERROR, "ERROR": ERROR}


def parse_level(text: str) -> int | None:
    """The level that users name, in any letter case; None when there is none of that name."""
    return _LEVELS.get(text.upper())


@dataclass(frozen=True, slots=True)
class Record:
    """What happened, with the lines of both renderings."""

    wall_ns: int
    texts: Texts


# --- rendering -----------------------------------------------------------------------------------------------------

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES |= {9: "\\t", 10: "\\n", 13: "\\r", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_ESCAPES |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def escape(text: str) -> str:
    """`text` on one line, without control characters and without characters that turn the direction of text."""
    if len(text) > VALUE_CHARACTERS_MAX:
        text = f"{text[:VALUE_CHARACTERS_MAX]}..."
    return text.translate(_ESCAPES)


def render_modern(record: Record, level: int, zone: tzinfo | None = None) -> list[str]:
    """The lines of `record` at or above `level`, without line ends; a multi-line value makes further lines."""
    return [_modern_line(record.wall_ns, line, zone) for line in record.texts.modern if line.level >= level]


def render_json(record: Record, level: int, zone: tzinfo | None = None) -> list[str]:
    """One JSON object per line, keys sorted, as Go's encoder writes it (`<`, `>` and `&` escaped)."""
    return [_json_line(record.wall_ns, line, zone) for line in record.texts.modern if line.level >= level]


def render_classic(record: Record, level: int, zone: tzinfo | None = None) -> list[str]:
    """The lines as 0.5 printed them, without the four blanks of the console (monitors get them bare)."""
    stamp = _local(record.wall_ns, zone).strftime("%Y/%m/%d %H:%M:%S")
    return [
        f"{stamp} [{_CLASSIC_NAMES[line.level]}] {_classic_text(line)}"
        for line in record.texts.classic
        if line.level >= level
    ]


RENDERERS: Mapping[Format, Callable[[Record, int, tzinfo | None], list[str]]] = {
    "modern": render_modern,
    "json": render_json,
    "classic": render_classic,
}


def _local(wall_ns: int, zone: tzinfo | None) -> datetime:
    """The instant in `zone`; None means this machine's zone. Microseconds are cut, not rounded."""
    instant = datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC).replace(microsecond=wall_ns // 1000 % 1_000_000)
    return instant.astimezone(zone)


def _offset(instant: datetime) -> str:
    offset = instant.utcoffset() or timedelta()
    if not offset:
        return "Z"
    minutes = int(offset.total_seconds()) // 60
    return f"{'+' if minutes >= 0 else '-'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def _modern_line(wall_ns: int, line: Line, zone: tzinfo | None) -> str:
    instant = _local(wall_ns, zone)
    stamp = f"{instant:%Y-%m-%dT%H:%M:%S}.{instant.microsecond // 1000:03d}{_offset(instant)}"
    bracketed = f"[{_NAMES[line.level]}]"
    text = f"{stamp} {bracketed:<7} {line.module}: {escape(line.message)}"
    if not line.pairs:
        return text
    return f"{text}:{''.join(_modern_pair(key, value) for key, value in line.pairs)}"


def _modern_pair(key: str, value: object) -> str:
    text = plain_text(value)
    if "\n" in text.rstrip("\n"):
        block = "".join(f"\n  | {escape(part)}" for part in text.rstrip("\n").split("\n"))
        return f"\n  {escape(key)}={block}\n  "
    text = escape(text)
    quoted = any(character in text for character in ' "=')
    return f' {escape(key)}="{text}"' if quoted else f" {escape(key)}={text}"


def _classic_text(line: Line) -> str:
    message = escape(line.message)
    if not message.startswith(f"{line.module}: "):
        message = f"{line.module}: {message}"
    if not line.pairs:
        return message
    return (
        f"{message} ({' '.join(_modern_pair(k, plain_text(v).replace(chr(10), ' ')).strip() for k, v in line.pairs)})"
    )


def _json_line(wall_ns: int, line: Line, zone: tzinfo | None) -> str:
    instant = _local(wall_ns, zone)
    values: dict[str, object] = {key: _json_value(value) for key, value in line.pairs}
    values["@level"] = _NAMES[line.level].lower()
    values["@message"] = line.message[:VALUE_CHARACTERS_MAX]
    values["@module"] = line.module
    values["@timestamp"] = f"{instant:%Y-%m-%dT%H:%M:%S}.{instant.microsecond:06d}{_offset(instant)}"
    text = dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character, escaped in _JSON_ESCAPES:
        text = text.replace(character, escaped)
    return text


_JSON_ESCAPES = [(c, f"\\u{ord(c):04x}") for c in ("<", ">", "&", "\u2028", "\u2029", "\x7f")]


def _json_value(value: object) -> object:
    return value if isinstance(value, bool | int) else plain_text(value)[:VALUE_CHARACTERS_MAX]


def plain_text(value: object) -> str:
    """A pair's value as Go's `%v` shows it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if value is None:
        return "<nil>"
    if isinstance(value, list | tuple):
        return f"[{' '.join(plain_text(item) for item in value)}]"
    return str(value)


# --- the stream ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Monitor:
    """One subscriber's queue. `wake` is called after each line; `take` empties the queue.

    `dropped` counts the lines that this reader was too slow for.
    """

    format: Format
    level: int
    wake: Callable[[], None]
    lines: deque[str] = field(default_factory=deque)
    dropped: int = 0

    def take(self) -> list[str]:
        """Every waiting line, oldest first."""
        lines = list(self.lines)
        self.lines.clear()
        return lines

    def offer(self, lines: Iterable[str]) -> None:
        """Queue `lines`; those that do not fit are lost and counted."""
        for line in lines:
            if len(self.lines) >= MONITOR_LINES_MAX:
                self.dropped += 1
            else:
                self.lines.append(line)
                self.wake()


class LogStream:
    """Where records go: the console, monitors, and a short backlog.

    `write(text)` gets whole lines with their line ends and must put them out at once; it must not raise.
    `write_warning` is for the classic console's `==> WARNING` lines (0.5: stderr).
    """

    def __init__(
        self,
        *,
        write: Callable[[str], None],
        wall_ns: Callable[[], int],
        format: Format = "modern",
        level: int = INFO,
        role: Role = "server",
        held: bool = False,
        write_warning: Callable[[str], None] | None = None,
        zone: tzinfo | None = None,
    ) -> None:
        self.format = format
        self.level = level
        self.role = role
        self.held_dropped = 0
        self.on_event: Callable[[str, Mapping[str, Any]], None] | None = None
        """Hears every user-visible event with its fields."""
        self._write = write
        self._write_warning = write_warning or write
        self._wall_ns = wall_ns
        self._zone = zone
        self._held: deque[Record] | None = deque() if held else None
        self._backlog: deque[Record] = deque(maxlen=BACKLOG_RECORDS_MAX)
        self._monitors: list[Monitor] = []
        self._extra_sinks: list[Callable[[str], None]] = []

    def logger(self, name: str = "agent") -> Logger:
        """The root logger."""
        return Logger(None, [self._drop_unwanted, self._deliver], {"module": name})

    def set_level(self, level: int) -> None:
        """Change the console's level (reload). Monitors keep their own."""
        self.level = level

    def add_sink(self, write: Callable[[str], None]) -> None:
        """A further place for every console log line (a log file, syslog); same duties as `write`."""
        self._extra_sinks.append(write)

    def release(self) -> None:
        """End the held-back mode: the banner is out, print what waited."""
        held, self._held = self._held, None
        for record in held or ():
            self._print(record)

    def monitor(self, *, format: Format, level: int, wake: Callable[[], None], with_backlog: bool = False) -> Monitor:
        """Subscribe. `with_backlog`: the last records are offered first, as the legacy RPC did."""
        monitor = Monitor(format, level, wake)
        if with_backlog:
            for record in self._backlog:
                monitor.offer(RENDERERS[format](record, level, self._zone))
        self._monitors.append(monitor)
        return monitor

    def unmonitor(self, monitor: Monitor) -> None:
        """Unsubscribe; unknown monitors are fine (closing twice)."""
        if monitor in self._monitors:
            self._monitors.remove(monitor)

    def emit(self, texts: Texts) -> None:
        """Stamp and deliver."""
        if self.format == "classic":
            for line in texts.console:
                if not line.held_only or self._held is not None:
                    (self._write_warning if line.is_warning else self._write)(f"{line.text}\n")
        record = Record(self._wall_ns(), texts)
        self._backlog.append(record)
        for monitor in self._monitors:
            monitor.offer(RENDERERS[monitor.format](record, monitor.level, self._zone))
        if self._held is None:
            self._print(record)
        elif len(self._held) < HELD_RECORDS_MAX:
            self._held.append(record)
        else:
            self.held_dropped += 1

    def _print(self, record: Record) -> None:
        indent = "    " if self.format == "classic" else ""
        lines = RENDERERS[self.format](record, self.level, self._zone)
        if lines:
            text = "".join(f"{indent}{line}\n" for line in lines)
            self._write(text)
            for sink in self._extra_sinks:
                sink(text)

    def _lowest_level(self) -> int:
        return min((self.level, *(monitor.level for monitor in self._monitors)))

    def _drop_unwanted(self, logger: object, method: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
        if method != "event" and _LEVELS[method.upper()] < self._lowest_level():
            raise structlog.DropEvent
        return fields

    def _deliver(self, logger: object, method: str, fields: MutableMapping[str, Any]) -> str:
        message, pairs = fields["event"], fields["pairs"]
        if method == "event":
            if self.on_event is not None:
                self.on_event(message, pairs)
            self.emit(expand(message, self.role, pairs))
        else:
            level, module = _LEVELS[method.upper()], fields["module"]
            items = tuple(pairs.items())
            self.emit(
                Texts((Line(level, module, message, items),), (Line(level, subsystem_of(module), message, items),))
            )
        raise structlog.DropEvent  # delivered: structlog has no logger of its own to call


class Logger(structlog.BoundLoggerBase):
    """structlog's bound logger with the methods of `env.log.Log`; its context is the logger's name."""

    def event(self, name: str, /, **fields: object) -> None:
        """Log an event of `telemetry.events`. Unknown names and missing fields raise KeyError."""
        self._proxy_to_logger("event", name, pairs=fields)

    def trace(self, message: str, /, **pairs: object) -> None:
        self._proxy_to_logger("trace", message, pairs=pairs)

    def debug(self, message: str, /, **pairs: object) -> None:
        self._proxy_to_logger("debug", message, pairs=pairs)

    def info(self, message: str, /, **pairs: object) -> None:
        self._proxy_to_logger("info", message, pairs=pairs)

    def warn(self, message: str, /, **pairs: object) -> None:
        self._proxy_to_logger("warn", message, pairs=pairs)

    def error(self, message: str, /, **pairs: object) -> None:
        self._proxy_to_logger("error", message, pairs=pairs)

    def named(self, name: str) -> Logger:
        """A child logger."""
        return Logger(None, self._processors, {"module": f"{self._context['module']}.{name}"})


class StdlibBridge(stdlib_logging.Handler):
    """Carries what libraries say through stdlib logging (asyncio, aiohttp) into our stream."""

    def __init__(self, log: Logger) -> None:
        super().__init__(level=stdlib_logging.WARNING)
        self._log = log

    def emit(self, record: stdlib_logging.LogRecord) -> None:
        """Called by stdlib logging."""
        say = self._log.error if record.levelno >= stdlib_logging.ERROR else self._log.warn
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            text = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            say(text, library=record.name, error=f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}")
        else:
            say(text, library=record.name)
