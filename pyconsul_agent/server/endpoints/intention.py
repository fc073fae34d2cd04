"""Intention.*: who may connect to whom, one by one. They are kept in service-intentions entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import INTENTION
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.connect import CONNECT_DISABLED
from pyconsul_agent.server.endpoints.shared import filtered, propose
from pyconsul_agent.server.seams import Endpoint, Proposer, Where
from pyconsul_agent.state import intention
from pyconsul_agent.state.intention_rules import ACTIONS, CONSUL, NAMESPACE
from pyconsul_agent.state.problems import several
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods_mesh as methods
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.catalog import ServiceName
from pyconsul_agent.structs.config_kinds import WILDCARD
from pyconsul_agent.structs.intention import Intention, IntentionMutation, SourceIntention
from pyconsul_agent.structs.intention_requests import (
    IndexedIntentionMatches,
    IndexedIntentions,
    IntentionListRequest,
    IntentionQueryCheckResponse,
    IntentionQueryRequest,
    IntentionRequest,
)
from pyconsul_agent.wire.gotypes import quote

NOT_FOUND = "Intention not found"
CONFIG_ORIGIN, LEGACY_ORIGIN = "config", "legacy"


class Intentions:
    """Reads from the local store, writes through the log. `wall_ns` is the time in nanoseconds since 1970."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        blocking: Blocking,
        *,
        uuid: Callable[[], str],
        wall_ns: Callable[[], int],
        connect_enabled: bool,
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._uuid = uuid
        self._wall_ns = wall_ns
        self._connect_enabled = connect_enabled

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.INTENTION_APPLY, Where.PRIMARY, self.apply, write=True),
            Endpoint(methods.INTENTION_GET, Where.FORWARD, self.get),
            Endpoint(methods.INTENTION_LIST, Where.FORWARD, self.list),
            Endpoint(methods.INTENTION_MATCH, Where.FORWARD, self.match),
            Endpoint(methods.INTENTION_CHECK, Where.FORWARD, self.check),
        ]

    def _refuse_disabled(self) -> None:
        if not self._connect_enabled:
            raise RPCError(CONNECT_DISABLED)

    # --- reads ----------------------------------------------------------------------------------------------------

    async def get(self, request: IntentionQueryRequest) -> IndexedIntentions:
        """One intention by ID or by its two names."""
        self._refuse_disabled()
        exact = request.exact

        def query(watch: WatchSet) -> IndexedIntentions:
            if exact is not None:
                index, row = intention.get_exact(self._store, watch, exact.source_name, exact.destination_name)
            else:
                index, row = intention.get(self._store, watch, request.intention_id)
            if row is None:
                raise RPCError(NOT_FOUND)
            return IndexedIntentions(index=index, intentions=(row,))

        return await self._blocking.run(request, query)

    async def list(self, request: IntentionListRequest) -> IndexedIntentions:
        """Every intention, those of higher precedence first."""
        self._refuse_disabled()

        def query(watch: WatchSet) -> IndexedIntentions:
            index, rows = intention.list_all(self._store, watch)
            moved = intention.in_config_entries(self._store.tables)
            kept = filtered(request.filter, Intention, rows)
            return IndexedIntentions(
                index=index, intentions=kept or (), data_origin=CONFIG_ORIGIN if moved else LEGACY_ORIGIN
            )

        return await self._blocking.run(request, query)

    async def match(self, request: IntentionQueryRequest) -> IndexedIntentionMatches:
        """What applies to each of several sources or destinations."""
        self._refuse_disabled()
        asked = request.match
        if asked is None:
            raise RPCError("Match must be specified on args")

        def query(watch: WatchSet) -> IndexedIntentionMatches:
            index, found = 0, []
            for entry in asked.entries or ():
                index, rows = intention.match(self._store, watch, entry.name, by_source=asked.type == "source")
                found.append(tuple(rows) or None)
            return IndexedIntentionMatches(index=index, matches=tuple(found))

        return await self._blocking.run(request, query)

    async def check(self, request: IntentionQueryRequest) -> IntentionQueryCheckResponse:
        """Whether a source may connect to a destination; without a rule it may, as long as there are no ACLs."""
        self._refuse_disabled()
        asked = request.check
        if asked is None:
            raise RPCError("Check must be specified on args")
        if asked.source_type != CONSUL:
            raise RPCError(f"unsupported SourceType: {quote(asked.source_type)}")
        _, rows = intention.match(self._store, WatchSet(), asked.destination_name, by_source=False)
        for row in rows:
            if row.source_name in (WILDCARD, asked.source_name):
                return IntentionQueryCheckResponse(allowed=row.action == "allow" and not row.permissions)
        return IntentionQueryCheckResponse(allowed=True)

    # --- writes ---------------------------------------------------------------------------------------------------

    async def apply(self, request: IntentionRequest) -> str:
        """Change one intention; returns the ID of one that was created."""
        self._refuse_disabled()
        if request.intention is None:
            raise RPCError("no intention was sent")
        row = request.intention
        if request.op == "create":
            mutation = self._creation(row)
        elif request.op == "update":
            mutation = self._update(row)
        elif request.op == "upsert":
            mutation = self._upsert(row)
        elif request.op == "delete":
            mutation = self._deletion(row)
        else:
            raise RPCError(f"Invalid Intention operation: {request.op}")
        body = IntentionRequest(datacenter=request.datacenter, op=request.op, mutation=mutation, token=request.token)
        await propose(self._proposer, INTENTION, body)
        if mutation.value is not None and mutation.value.legacy_id:
            return mutation.value.legacy_id
        return mutation.id

    def _now(self) -> GoTime:
        seconds, rest = divmod(self._wall_ns(), 1_000_000_000)
        return GoTime(unix_seconds=seconds, nanoseconds=rest)

    def _creation(self, row: Intention) -> IntentionMutation:
        if row.id:
            raise RPCError("ID must be empty when creating a new intention")
        now = self._now()
        row = _checked(replace(row, id=self._uuid(), created_at=now, updated_at=now))
        return IntentionMutation(destination=ServiceName(name=row.destination_name), value=_source(row))

    def _known(self, row: Intention) -> Intention | None:
        try:
            return intention.get(self._store, WatchSet(), row.id)[1]
        except RPCError as error:
            raise RPCError(f"Intention lookup failed: {error}") from None

    def _update(self, row: Intention) -> IntentionMutation:
        known = self._known(row)
        if known is None:
            raise RPCError(f"Cannot modify non-existent intention: '{row.id}'")
        if row.destination_name != known.destination_name:
            raise RPCError("Cannot modify DestinationNS or DestinationName for an intention once it exists.")
        # The state keeps the time of creation that it has.
        now = self._now()
        row = _checked(replace(row, created_at=now, updated_at=now))
        return IntentionMutation(id=row.id, value=_source(row))

    def _upsert(self, row: Intention) -> IntentionMutation:
        if row.id:
            raise RPCError("ID must be empty when writing to an intention by its names")
        value = replace(_source(row), legacy_create_time=GoTime(), legacy_update_time=GoTime())
        return IntentionMutation(
            destination=ServiceName(name=row.destination_name), source=ServiceName(name=row.source_name), value=value
        )

    def _deletion(self, row: Intention) -> IntentionMutation:
        if not row.id:
            return IntentionMutation(
                destination=ServiceName(name=row.destination_name), source=ServiceName(name=row.source_name)
            )
        known = self._known(row)
        if known is None:
            raise RPCError(f"Cannot delete non-existent intention: '{row.id}'")
        return IntentionMutation(id=row.id)


def _checked(row: Intention) -> Intention:
    """An intention of the old API with its type filled in. Raises RPCError with all that is wrong."""
    problems = []
    for side, namespace, name in (
        ("Source", row.source_ns, row.source_name), ("Destination", row.destination_ns, row.destination_name)
    ):  # fmt: skip
        if namespace not in ("", NAMESPACE):
            problems.append(f"{side}NS: Namespaces is a Consul Enterprise feature")
        if not name:
            problems.append(f"{side}Name must be set")
        elif name != WILDCARD and WILDCARD in name:
            problems.append(f"{side}Name: wildcard character '*' cannot be used with partial values")
    if row.action not in ACTIONS:
        problems.append("Action must be set to 'allow' or 'deny'")
    row = replace(row, source_type=row.source_type or CONSUL)
    if row.source_type != CONSUL:
        problems.append("SourceType must be set to 'consul'")
    if problems:
        raise several(problems)
    return row


def _source(row: Intention) -> SourceIntention:
    """An intention as a source of its destination's entry."""
    legacy = bool(row.id)
    return SourceIntention(
        name=row.source_name,
        action=row.action,
        permissions=row.permissions,
        type=row.source_type,
        description=row.description,
        legacy_id=row.id,
        legacy_meta=row.meta if legacy else None,
        legacy_create_time=row.created_at if legacy else None,
        legacy_update_time=row.updated_at if legacy else None,
    )
