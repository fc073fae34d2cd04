"""The file of a pool's gossip keys: a JSON list of base64 texts, primary first, mode 0600.

The file that exists wins over the configured key, so that a node which was away while keys were rotated, and whose
configuration still names the first key, does not fall back to it.
"""

from __future__ import annotations

import base64
import binascii
import json

from pyconsul_agent.env.base import Files
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.swim.keyring import Keyring, KeyringError

FILE_BYTES_MAX = 64 * 1024
"""More than 256 keys of 32 bytes take."""
MODE = 0o600


class KeyringFile:
    """`<data_dir>/serf/local.keyring` or `remote.keyring`. An empty `path` keeps the keys in memory only."""

    def __init__(self, files: Files, path: str, log: Log) -> None:
        self._files = files
        self._path = path
        self._log = log

    def load(self, configured: Keyring | None) -> Keyring | None:
        """The keys to start with; a configured one is written if there is no file. Raises ConfigError or OSError."""
        if not self._path:
            return configured
        if self._files.exists(self._path):
            kept = self._read()
            if configured is not None and (kept is None or configured.primary not in kept.keys):
                self._log.warn("keyring doesn't include key provided with -encrypt, using keyring", keyring=self._path)
            return kept
        if configured is not None:
            self._files.make_dirs(self._path.rpartition("/")[0])
            self._files.write_atomic(self._path, json.dumps(_texts(configured)).encode(), mode=MODE)
        return configured

    def save(self, keyring: Keyring) -> None:
        """Keep what a key operation made of the ring. Rare and small, so it is durable before the operator hears of it.

        A failure is logged: the pool has changed its keys already.
        """
        if not self._path:
            return
        try:
            self._files.write_atomic(self._path, json.dumps(_texts(keyring), indent=2).encode(), mode=MODE)
        except OSError as error:
            self._log.error("Failed to write keyring file", path=self._path, error=str(error))

    def _read(self) -> Keyring | None:
        if self._files.size(self._path) > FILE_BYTES_MAX:
            raise ConfigError(f"keyring file {self._path} is too large")
        try:
            texts = json.loads(self._files.read(self._path))
            if not isinstance(texts, list):
                raise ValueError("not a list")
            keys = tuple(base64.b64decode(text, validate=True) for text in texts)
            return Keyring(keys) if keys else None
        except (ValueError, TypeError, RecursionError, binascii.Error, KeyringError) as error:
            raise ConfigError(f"failed to load keyring file {self._path}: {error}") from None


def _texts(keyring: Keyring) -> list[str]:
    return [base64.b64encode(key).decode("ascii") for key in keyring.keys]
