"""Session.*: sessions that locks belong to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import SESSION
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.shared import parse_duration_ns, propose
from pyconsul_agent.server.leader.session_ttl import SessionTimers
from pyconsul_agent.server.seams import Endpoint, Proposer, Where
from pyconsul_agent.state import session as sessions
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.requests import (
    IndexedSessions,
    NodeSpecificRequest,
    SessionRequest,
    SessionSpecificRequest,
)
from pyconsul_agent.structs.session import Session
from pyconsul_agent.wire.gotypes import format_duration

ID_TRIES_MAX = 8
TTL_MIN_S = 10.0
TTL_MAX_NS = 24 * 3600 * 1_000_000_000


def checked_session(request: SessionRequest, ttl_min_s: float = TTL_MIN_S) -> Session:
    """The session with its defaults, as it may go into the log. Raises RPCError."""
    session = request.session
    if request.op == "destroy" and not session.id:
        raise RPCError("Must provide ID")
    if request.op == "create" and not session.node:
        raise RPCError("Must provide Node")
    if session.behavior not in ("", sessions.RELEASE, sessions.DELETE):
        raise RPCError(f"Invalid Behavior setting '{session.behavior}'")
    if session.ttl:
        try:
            ttl = parse_duration_ns(session.ttl)
        except ValueError as error:
            raise RPCError(f"Session TTL '{session.ttl}' invalid: {error}") from error
        if ttl != 0 and not duration(ttl_min_s) <= ttl <= TTL_MAX_NS:
            shortest = format_duration(duration(ttl_min_s))
            raise RPCError(f"Invalid Session TTL '{ttl}', must be between [{shortest}=24h0m0s]")
    return replace(session, behavior=session.behavior or sessions.RELEASE)


class Sessions:
    """Reads from the local store, writes through the log; keeps the leader's timers up to date."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        blocking: Blocking,
        timers: SessionTimers,
        *,
        now: Callable[[], float],
        uuid: Callable[[], str],
        ttl_min_s: float = TTL_MIN_S,
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._timers = timers
        self._now = now
        self._uuid = uuid
        self._ttl_min_s = ttl_min_s

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.SESSION_APPLY, Where.FORWARD, self.apply, write=True),
            Endpoint(methods.SESSION_GET, Where.FORWARD, self.get),
            Endpoint(methods.SESSION_LIST, Where.FORWARD, self.list),
            Endpoint(methods.SESSION_NODE_SESSIONS, Where.FORWARD, self.node_sessions),
            Endpoint(methods.SESSION_RENEW, Where.FORWARD, self.renew),
        ]

    async def apply(self, request: SessionRequest) -> str:
        """Create (reply: the new ID) or destroy (reply: empty)."""
        session = checked_session(request, self._ttl_min_s)
        if request.op == "create":
            session = replace(session, id=self._fresh_id())
        result = await propose(self._proposer, SESSION, replace(request, session=session), prefix="apply failed: ")
        if request.op == "create":
            self._timers.touch(session, self._now())
        else:
            self._timers.clear(session.id)
        return result if isinstance(result, str) else ""

    def _fresh_id(self) -> str:
        for _ in range(ID_TRIES_MAX):
            session_id = self._uuid()
            if sessions.get(self._store, WatchSet(), session_id)[1] is None:
                return session_id
        raise RPCError("failed to make a fresh session ID")

    async def get(self, request: SessionSpecificRequest) -> IndexedSessions:
        """One session; none if it is unknown."""
        session_id = request.session_id or request.session

        def query(watch: WatchSet) -> IndexedSessions:
            index, row = sessions.get(self._store, watch, session_id)
            return IndexedSessions(index=index, sessions=None if row is None else (row,))

        return await self._blocking.run(request, query, found=lambda reply: reply.sessions is not None)

    async def list(self, request: SessionSpecificRequest) -> IndexedSessions:
        """All sessions."""

        def query(watch: WatchSet) -> IndexedSessions:
            index, rows = sessions.list_all(self._store, watch)
            return IndexedSessions(index=index, sessions=tuple(rows))

        return await self._blocking.run(request, query)

    async def node_sessions(self, request: NodeSpecificRequest) -> IndexedSessions:
        """Sessions of a node."""

        def query(watch: WatchSet) -> IndexedSessions:
            index, rows = sessions.of_node(self._store, watch, request.node)
            return IndexedSessions(index=index, sessions=tuple(rows))

        return await self._blocking.run(request, query)

    async def renew(self, request: SessionSpecificRequest) -> IndexedSessions:
        """Give a session its full time again; no sessions in the reply if it is unknown, or about to end.

        compat: 1.10 acknowledges a renewal that meets the end of the session's time, and the session ends all the same.
        """
        index, row = sessions.get(self._store, WatchSet(), request.session_id or request.session)
        if row is None or row.id in self._timers.ending:
            return IndexedSessions(index=index, sessions=None)
        self._timers.touch(row, self._now())
        return IndexedSessions(index=index, sessions=(row,))
