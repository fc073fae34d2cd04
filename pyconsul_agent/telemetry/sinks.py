"""Where log lines end: a stream that is never buffered, and a file that is rotated.

A sink takes whole lines and must not raise: an agent does not die of a full disk under its log. Losses are counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TextIO

DEFAULT_FILE_NAME = "consul.log"
FILE_MODE = 0o640


class StreamSink:
    """Writes to a text stream and flushes at once (`docker logs` shows a line when it is written)."""

    def __init__(self, stream: TextIO) -> None:
        self.lost = 0
        self._stream = stream

    def __call__(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except UnicodeEncodeError:
            self._ascii(text)
        except (OSError, ValueError):
            self.lost += 1

    def _ascii(self, text: str) -> None:
        """A console that cannot show the text, or lone surrogates of bytes that were not UTF-8."""
        try:
            self._stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
            self._stream.flush()
        except (OSError, ValueError):
            self.lost += 1


class FileSink:
    """Appends to a file; past `bytes_max` or `age_s_max` it is set aside as `<stem>-<ns><extension>`.

    `path` ending in `/` means `consul.log` in that folder. Zero is no limit; `files_max` 0 keeps every old file, a
    negative number none. Raises OSError from the constructor when the file cannot be opened.
    """

    def __init__(
        self,
        path: str,
        *,
        wall_ns: Callable[[], int],
        bytes_max: int = 0,
        age_s_max: float = 0.0,
        files_max: int = 0,
    ) -> None:
        self.lost = 0
        self.path = f"{path}{DEFAULT_FILE_NAME}" if path.endswith("/") else path
        self._wall_ns = wall_ns
        self._bytes_max = bytes_max
        self._age_ns_max = int(age_s_max * 1e9)
        self._files_max = files_max
        self._descriptor = -1
        self._open()

    def __call__(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        try:
            if self._is_due(len(data)):
                self._rotate()
            os.write(self._descriptor, data)
            self._size += len(data)
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Close the file; later lines are lost."""
        os.close(self._descriptor)
        self._descriptor = -1

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
        self._size = os.fstat(self._descriptor).st_size
        self._opened_ns = self._wall_ns()

    def _is_due(self, more: int) -> bool:
        if self._bytes_max > 0 and self._size and self._size + more > self._bytes_max:
            return True
        return 0 < self._age_ns_max <= self._wall_ns() - self._opened_ns

    def _rotate(self) -> None:
        stem, extension = os.path.splitext(self.path)
        os.rename(self.path, f"{stem}-{self._wall_ns()}{extension}")
        old, self._descriptor = self._descriptor, -1
        os.close(old)
        self._open()
        self._prune(stem, extension)

    def _prune(self, stem: str, extension: str) -> None:
        """Delete the oldest files that were set aside; their names sort by time."""
        if self._files_max == 0:
            return
        folder, prefix = os.path.dirname(stem) or ".", f"{os.path.basename(stem)}-"
        old = sorted(
            name
            for name in os.listdir(folder)
            if name.startswith(prefix)
            and name.endswith(extension)
            and name[len(prefix) : len(name) - len(extension)].isdigit()
        )
        keep = max(self._files_max, 0)
        for name in old[: len(old) - keep]:
            os.remove(os.path.join(folder, name))
