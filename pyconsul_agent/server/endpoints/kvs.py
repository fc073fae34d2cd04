"""KVS.*: the key-value store."""

from __future__ import annotations

from collections.abc import Callable

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import KVS
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.seams import Endpoint, Proposer, Read, Where
from pyconsul_agent.state import kv
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.methods import KVS_APPLY, KVS_GET, KVS_LIST, KVS_LIST_KEYS
from pyconsul_agent.structs.requests import IndexedDirEntries, IndexedKeyList, KeyListRequest, KeyRequest, KVSRequest


def check_entry(verb: str, entry: DirEntry) -> None:
    """Raises RPCError for an operation that must not reach the log."""
    if not entry.key and verb != "delete-tree":
        raise RPCError("Must provide key")


def held_by_another(store: Store, entry: DirEntry) -> bool:
    """Whether an acquisition is in vain for that reason. An unknown session has its own error, from the state."""
    row = store.tables.kvs.get(entry.key)
    if row is None or row.session in ("", entry.session):
        return False
    try:
        return kv.find_session(store, entry.session) is not None
    except RPCError:
        return False


class KeyValues:
    """Reads from the local store, writes through the log."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        blocking: Blocking,
        now: Callable[[], float],
        *,
        ready: Callable[[], bool],
    ) -> None:
        """`ready` says whether this leader has applied what its predecessors committed."""
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._now = now
        self._ready = ready

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(KVS_APPLY, Where.FORWARD, self.apply, write=True),
            Endpoint(KVS_GET, Where.FORWARD, self.get),
            Endpoint(KVS_LIST, Where.FORWARD, self.list),
            Endpoint(KVS_LIST_KEYS, Where.FORWARD, self.list_keys),
        ]

    async def apply(self, request: KVSRequest) -> bool:
        """One write; the reply is whether a conditional one was done, False for the others."""
        check_entry(request.op, request.dir_ent)
        if request.op == "lock" and await self._refuses(request.dir_ent):
            return False  # without an entry of its own in the log
        return await propose(self._proposer, KVS, request, prefix="raft apply failed: ") is True

    async def _refuses(self, entry: DirEntry) -> bool:
        """Whether the lock cannot be had now. True is final; the proposal follows a False at once, if the log has room.

        While another holds it, the end of the holder's session, and so the delay, may be on its way to the log or not
        applied yet: who was still behind it at the barrier is refused, who is not has the delay before him.
        compat: 1.10 asks for the delay at once; an acquisition that meets the end of the session gets the lock.
        """
        if not self._ready() or held_by_another(self._store, entry):
            await self._proposer.barrier()
        if self._store.lock_delays.remaining_s(entry.key, self._now()) > 0:
            return True
        return held_by_another(self._store, entry)

    def get(self, request: KeyRequest) -> Read[IndexedDirEntries]:
        """One key; no entries if it is not there."""

        def query(watch: WatchSet) -> IndexedDirEntries:
            index, row = kv.get(self._store, watch, request.key)
            return IndexedDirEntries(index=index, entries=None if row is None else (row,))

        return self._blocking.run(request, query, found=lambda reply: reply.entries is not None)

    def list(self, request: KeyRequest) -> Read[IndexedDirEntries]:
        """All keys with a prefix."""

        def query(watch: WatchSet) -> IndexedDirEntries:
            index, rows = kv.list_prefix(self._store, watch, request.key)
            return IndexedDirEntries(index=index, entries=tuple(rows) or None)

        return self._blocking.run(request, query)

    def list_keys(self, request: KeyListRequest) -> Read[IndexedKeyList]:
        """Names of all keys with a prefix, cut at the separator if one is given."""

        def query(watch: WatchSet) -> IndexedKeyList:
            index, keys = kv.list_keys(self._store, watch, request.prefix, request.seperator)
            names = tuple(key.decode("utf-8", "surrogateescape") for key in keys)
            return IndexedKeyList(index=index, keys=names or None)

        return self._blocking.run(request, query)
