"""The agent's files in its data directory: node id, services, checks, TTL states. Names are SHA-256 of the ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pyconsul_agent.env.base import Env, Files
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.structs.catalog import CheckType, NodeService
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.wire import gojson, msgpack

_UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
FILES_MAX = 65_536
LOCK_FILE = "agent.lock"


def lock_data_dir(files: Files, data_dir: str) -> Callable[[], None]:
    """Make the data directory and take it for this process until the returned function is called.

    Two agents on one directory would both vote with one server's log. Raises ConfigError, also when it is unusable.
    """
    try:
        files.make_dirs(data_dir, mode=0o700)
        return files.lock(f"{data_dir}/{LOCK_FILE}")
    except BlockingIOError:
        raise ConfigError(f"data_dir {data_dir} is in use by another agent") from None
    except OSError as error:
        raise ConfigError(f"data_dir {data_dir} cannot be used: {(error.strerror or str(error)).lower()}") from None


def node_id(env: Env, data_dir: str, configured: str) -> str:
    """The node's id: configured, else kept in `node-id`, else new (and kept). Raises ConfigError."""
    if configured:
        return checked_node_id(configured.lower())
    if not data_dir:
        return env.uuid()
    path = f"{data_dir}/node-id"
    if env.files.exists(path):
        return checked_node_id(env.files.read(path).decode("utf-8", "replace").strip().lower())
    fresh = env.uuid()
    env.files.make_dirs(data_dir, mode=0o700)
    env.files.write_atomic(path, fresh.encode(), mode=0o600)
    return fresh


def checked_node_id(text: str) -> str:
    """`text` if it is a UUID. Raises ConfigError with Consul's text."""
    if len(text) != 36:
        raise ConfigError("failed to setup node ID: specified NodeID is invalid: uuid string is wrong length")
    if not _UUID.match(text):
        raise ConfigError("failed to setup node ID: specified NodeID is invalid: uuid is improperly formatted")
    return text


@dataclass(frozen=True, slots=True)
class SavedService:
    """A persisted service."""

    service: NodeService
    token: str


@dataclass(frozen=True, slots=True)
class SavedCheck:
    """A persisted check; no definition means that it has no runner (maintenance)."""

    check: HealthCheck
    definition: CheckType | None
    token: str


@dataclass(frozen=True, slots=True)
class TTLState:
    """What a TTL check said last, and until when (unix seconds) that counts."""

    check_id: str
    status: str
    output: str
    expires: int


class Persistence:
    """Writes and reads the definitions that came over HTTP. Without a data directory it keeps nothing."""

    def __init__(self, files: Files, data_dir: str, log: Log) -> None:
        self._files = files
        self._dir = data_dir
        self._log = log

    def save_service(self, service: NodeService, token: str) -> None:
        """Keep a service."""
        body = {"Token": token, "Service": gojson.render(service), "Source": "remote"}
        if service.locally_registered_as_sidecar:
            body["LocallyRegisteredAsSidecar"] = True
        self._write("services", service.id, body)

    def remove_service(self, identity: str) -> None:
        """Forget a service."""
        self._remove("services", identity)

    def save_check(self, check: HealthCheck, definition: CheckType | None, token: str) -> None:
        """Keep a check."""
        kind = None if definition is None else gojson.render(definition)
        self._write(
            "checks",
            check.check_id,
            {"Check": gojson.render(check), "ChkType": kind, "Token": token, "Source": "remote"},
        )

    def remove_check(self, identity: str) -> None:
        """Forget a check and its TTL state."""
        self._remove("checks", identity)
        self._remove("checks/state", identity)

    def save_state(self, state: TTLState) -> None:
        """Keep what a TTL check said."""
        body = {"CheckID": state.check_id, "Status": state.status, "Output": state.output, "Expires": state.expires}
        self._write("checks/state", state.check_id, body)

    def load_state(self, check_id: str, now_unix: int) -> TTLState | None:
        """What a TTL check said, unless that has expired."""
        path = self._path("checks/state", check_id)
        if not self._dir or not self._files.exists(path):
            return None
        try:
            body = json.loads(self._files.read(path))
            state = TTLState(str(body["CheckID"]), str(body["Status"]), str(body["Output"]), int(body["Expires"]))
        except (ValueError, KeyError, TypeError) as error:
            self._log.warn("Unreadable check state ignored", path=path, error=str(error))
            return None
        if now_unix >= state.expires:
            self._files.remove(path)
            return None
        return state

    def services(self) -> list[SavedService]:
        """Every service that was kept; unreadable files are told and left alone."""
        return [
            SavedService(
                replace(
                    _from_json(NodeService, body["Service"]),
                    locally_registered_as_sidecar=body.get("LocallyRegisteredAsSidecar") is True,
                ),
                str(body.get("Token", "")),
            )
            for body in self._load("services", "Service")
        ]

    def checks(self) -> list[SavedCheck]:
        """Every check that was kept."""
        return [
            SavedCheck(
                _from_json(HealthCheck, body["Check"]),
                None if body.get("ChkType") is None else _from_json(CheckType, body["ChkType"]),
                str(body.get("Token", "")),
            )
            for body in self._load("checks", "Check")
        ]

    def _load(self, folder: str, wanted: str) -> Iterator[dict[str, Any]]:
        path = f"{self._dir}/{folder}"
        if not self._dir or not self._files.is_dir(path):
            return
        for name in sorted(self._files.list_dir(path))[:FILES_MAX]:
            file = f"{path}/{name}"
            if name.endswith("tmp") or self._files.is_dir(file):
                continue
            try:
                body = json.loads(self._files.read(file))
                if not isinstance(body, dict) or not isinstance(body.get(wanted), dict):
                    raise ValueError(f"no {wanted}")
            except (ValueError, OSError) as error:
                self._log.error("Unreadable definition ignored", path=file, error=str(error))
                continue
            yield body

    def _path(self, folder: str, identity: str) -> str:
        return f"{self._dir}/{folder}/{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()}"

    def _write(self, folder: str, identity: str, body: dict[str, Any]) -> None:
        if not self._dir:
            return
        self._files.make_dirs(f"{self._dir}/{folder}", mode=0o700)
        self._files.write_atomic(self._path(folder, identity), gojson.dump(body), mode=0o600)

    def _remove(self, folder: str, identity: str) -> None:
        path = self._path(folder, identity)
        if self._dir and self._files.exists(path):
            self._files.remove(path)


def _from_json(form: type[Any], value: Any) -> Any:
    """A struct from its JSON view: the msgpack builder, fed with plain values under their Go names."""
    return msgpack.build(form, _as_wire(value))


def _as_wire(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_as_wire(item) for item in value]
    if isinstance(value, dict):
        return {key.encode("utf-8", "surrogateescape"): _as_wire(item) for key, item in value.items()}
    return value


__all__ = ["Persistence", "SavedCheck", "SavedService", "TTLState", "checked_node_id", "lock_data_dir", "node_id"]
