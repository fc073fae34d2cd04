"""Recovery of a cluster that lost its quorum: the operator's `raft/peers.json` becomes the configuration.

As Consul does it: the newest snapshot and the whole log, uncommitted entries included, become one new snapshot
with the configuration of the file; the log is emptied and the file removed. Every surviving server must do so with the
same file while all are stopped. A peers.json found before the first start (no `peers.info` yet) is a relic and removed.
"""

from __future__ import annotations

import json
from typing import Any

from pyconsul_agent.env.base import Files, Worker
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConfigError, RaftError, StorageError
from pyconsul_agent.runtime.raft_apply import StateMachine
from pyconsul_agent.runtime.raft_storage import RaftStorage
from pyconsul_agent.structs.raft import Configuration, EntryType, Server, SnapshotMeta, Suffrage

PEERS_INFO = """\
If this cluster has lost more servers than it can do without, stop all that are left, write the file peers.json beside
this one on each of them, with the same content, and start them:

    [{"id": "<node id>", "address": "<ip>:8300", "non_voter": false}, ...]

It is taken over at the next start and then removed. Entries that were not committed yet count as committed then.
"""
READ_BYTES = 16 * 1024 * 1024


def requested_configuration(files: Files, directory: str) -> Configuration | None:
    """What `<directory>/peers.json` asks for, None if nothing. Raises ConfigError when it cannot be used."""
    info, peers = f"{directory}/peers.info", f"{directory}/peers.json"
    if not files.exists(info):
        files.make_dirs(directory)
        if files.exists(peers):
            files.remove(peers)
        files.write_atomic(info, PEERS_INFO.encode())
        return None
    return parse_peers(files.read(peers)) if files.exists(peers) else None


def finished(files: Files, directory: str) -> None:
    """The recovery is durable: remove the request."""
    files.remove(f"{directory}/peers.json")
    files.sync_dir(directory)


def parse_peers(data: bytes) -> Configuration:
    """peers.json: objects (protocol 3) or plain addresses (protocol 2). Raises ConfigError."""
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"peers.json: not JSON: {error}") from error
    if not isinstance(rows, list):
        raise ConfigError("peers.json: not a list")
    servers = tuple(_server(row) for row in rows)
    for names in ([server.id for server in servers], [server.address for server in servers]):
        if not all(names) or len(set(names)) != len(names):
            raise ConfigError("peers.json: IDs and addresses must be there and differ")
    if not any(server.suffrage == Suffrage.VOTER for server in servers):
        raise ConfigError("peers.json: at least one voter is needed")
    return Configuration(servers=servers)


def _server(row: Any) -> Server:
    if isinstance(row, str):
        return Server(id=row, address=row)
    if not isinstance(row, dict) or not isinstance(row.get("non_voter", False), bool):
        raise ConfigError("peers.json: each server is an object with id, address and non_voter, or an address")
    id_, address = row.get("id", ""), row.get("address", "")
    if not isinstance(id_, str) or not isinstance(address, str):
        raise ConfigError("peers.json: id and address are texts")
    suffrage = Suffrage.NONVOTER if row.get("non_voter") else Suffrage.VOTER
    return Server(suffrage=suffrage, id=id_, address=address)


async def recover(
    storage: RaftStorage, machine: StateMachine, configuration: Configuration, *, blocking: Worker, log: Log
) -> None:
    """Turn what `storage` holds into one snapshot with `configuration`. Both arguments are used up: start afresh after.

    Raises RaftError when there is nothing to recover, StorageError. Can be repeated after a crash.
    """
    state = await storage.load()
    snapshot = state.snapshot
    if snapshot is None and not state.last_index and not state.hard_state.term:
        raise RaftError("refused to recover cluster with no initial state, this is probably an operator error")
    index, term = 0, 0
    if snapshot is not None:
        source = await storage.open_snapshot(snapshot.id)
        try:
            switch = await blocking(lambda: machine.restore(source.chunks()))
        finally:
            await source.close()
        if switch is not None:
            switch()
        index, term = snapshot.index, snapshot.term
    while index < state.last_index:
        entries = storage.reader.entries(index + 1, state.last_index, READ_BYTES)
        if not entries:
            raise StorageError(f"raft storage: entry {index + 1} is missing")
        for entry in entries:
            if entry.type == EntryType.COMMAND:
                machine.apply(entry)
            index, term = entry.index, entry.term
    meta = SnapshotMeta(index=index, term=term, configuration=configuration, configuration_index=1)
    stored = await storage.create_snapshot(meta, machine.snapshot())
    await storage.commit(clear_log=True)
    log.warn("raft recovered from peers.json", snapshot=stored.id, servers=len(configuration.servers or ()))
