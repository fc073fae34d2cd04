"""What only a person at a terminal sees: colors, and a line that says how far a transfer is.

A pipe, a file, `NO_COLOR` or `TERM=dumb` get the plain bytes that scripts know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, TextIO

RED, GREEN, YELLOW = "31", "32", "33"
STEP_BYTES = 256 * 1024
"""How often progress without a known end is shown."""


def colored(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether colors may go to a stream."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def paint(text: str, color: str) -> str:
    """`text` in a color."""
    return f"\x1b[{color}m{text}\x1b[0m"


class Progress:
    """A line that is written over and over, and gone in the end. Used by `with`; silent where nobody looks.

    `total` is what there will be of `unit`, 0 when that is not known.
    """

    def __init__(self, err: TextIO, what: str, total: int = 0, *, unit: str = "bytes", shown: bool = True) -> None:
        self._err = err
        self._what = what
        self._total = total
        self._unit = unit
        self._shown = shown and err.isatty()
        self._done = 0
        self._last = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last:
            self._err.write("\r\x1b[K")
            self._err.flush()

    def add(self, count: int) -> None:
        """So much more is done."""
        self._done += count
        if not self._shown:
            return
        if self._total:
            text = f"{min(self._done * 100 // self._total, 100)} % of {_amount(self._total, self._unit)}"
        else:
            text = _amount(self._done // STEP_BYTES * STEP_BYTES if self._unit == "bytes" else self._done, self._unit)
        if text != self._last:
            self._last = text
            self._err.write(f"\r{self._what}: {text}\x1b[K")
            self._err.flush()


class Counted:
    """A file whose reading is progress."""

    def __init__(self, file: IO[bytes], progress: Progress) -> None:
        self._file = file
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        """As the file's."""
        data = self._file.read(size)
        self._progress.add(len(data))
        return data


def _amount(count: int, unit: str) -> str:
    return f"{count / (1 << 20):.1f} MiB" if unit == "bytes" else f"{count} {unit}"
