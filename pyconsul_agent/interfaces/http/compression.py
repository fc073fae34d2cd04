"""gzip for answers: when a client takes it, and how. Knows no connection."""

from __future__ import annotations

import gzip
import zlib

GZIP_BYTES_MIN = 1400
"""A shorter body fits into one packet as it is."""


def compressed_whole(body: bytes) -> bytes:
    """A body that is complete."""
    return gzip.compress(body, compresslevel=1, mtime=0)


class GzipStream:
    """Compresses chunk by chunk, each flushed so that it arrives at once."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(1, zlib.DEFLATED, 31)

    def pack(self, chunk: bytes) -> bytes:
        """The bytes to send for `chunk`."""
        return self._packer.compress(chunk) + self._packer.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        """The end of the stream."""
        return self._packer.flush()


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    for part in header.split(","):
        name, _, parameters = part.strip().partition(";")
        if name.strip().lower() == "gzip":
            quality = parameters.replace(" ", "").lower().removeprefix("q=")
            try:
                return not parameters or float(quality) > 0
            except ValueError:
                return False
    return False
