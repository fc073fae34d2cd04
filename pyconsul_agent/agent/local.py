"""What this agent is responsible for: its services and checks as they should stand in the catalog, and how far they do.

Pure: no clock, no I/O. A change marks an entry out of sync; `compare` takes what the servers hold and marks the
difference; `plan` says which registrations would bring the catalog in line; the driver performs them and reports back.

A removed entry stays, marked deleted, until the servers have confirmed its removal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pyconsul_agent.structs.catalog import Node, NodeService
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.requests import DeregisterRequest, RegisterRequest

SERVER_SERVICE = "consul"
SERF_CHECK = "serfHealth"
"""These two belong to the leader; no agent ever removes them."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """This node as it registers itself."""

    name: str
    id: str
    address: str
    datacenter: str
    tagged_addresses: Mapping[str, str]
    meta: Mapping[str, str]


@dataclass(slots=True)
class ServiceEntry:
    """A local service. `from_config` entries are not persisted."""

    service: NodeService
    token: str = ""
    in_sync: bool = False
    deleted: bool = False
    from_config: bool = False


@dataclass(slots=True)
class CheckEntry:
    """A local check. `deferred` while a change of output alone waits for its timer."""

    check: HealthCheck
    token: str = ""
    in_sync: bool = False
    deleted: bool = False
    from_config: bool = False
    deferred: bool = False
    critical_since: float | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """One request to the servers and what it would bring into sync."""

    request: RegisterRequest | DeregisterRequest
    node: bool = False
    services: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()

    @property
    def removes(self) -> bool:
        """Whether it is a deregistration."""
        return isinstance(self.request, DeregisterRequest)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The agent's own tokens: `user` for registrations, `agent` for node info and removals."""

    user: str = ""
    agent: str = ""


class LocalState:
    """Services and checks of this node. `changed` is called when something has fallen out of sync."""

    def __init__(
        self, node: NodeInfo, *, changed: Callable[[], None], discard_output: bool = False, tokens: Tokens | None = None
    ) -> None:
        self.node = node
        self.services: dict[str, ServiceEntry] = {}
        self.checks: dict[str, CheckEntry] = {}
        self.node_in_sync = False
        self._changed = changed
        self._discard_output = discard_output
        self._tokens = tokens or Tokens()
        self._watchers: list[Callable[[str], None]] = []

    # --- reading ----------------------------------------------------------------------------------------------

    def live_services(self) -> dict[str, NodeService]:
        """Services that are not on their way out, by id."""
        return {key: entry.service for key, entry in self.services.items() if not entry.deleted}

    def live_checks(self) -> dict[str, HealthCheck]:
        """Checks that are not on their way out, by id."""
        return {key: entry.check for key, entry in self.checks.items() if not entry.deleted}

    def service(self, identity: str) -> NodeService | None:
        """A live service."""
        entry = self.services.get(identity)
        return None if entry is None or entry.deleted else entry.service

    def check(self, identity: str) -> HealthCheck | None:
        """A live check."""
        entry = self.checks.get(identity)
        return None if entry is None or entry.deleted else entry.check

    def checks_of(self, service_id: str) -> list[HealthCheck]:
        """The live checks of a service."""
        return [check for check in self.live_checks().values() if check.service_id == service_id]

    def watch(self, notify: Callable[[str], None]) -> None:
        """Call `notify(service_id)` whenever a service or one of its checks changes ("" for node checks)."""
        self._watchers.append(notify)

    def unwatch(self, notify: Callable[[str], None]) -> None:
        """End a `watch`."""
        self._watchers.remove(notify)

    def _notify(self, service_id: str) -> None:
        for notify in tuple(self._watchers):
            notify(service_id)
        self._changed()

    # --- changing ---------------------------------------------------------------------------------------------

    def add_service(self, service: NodeService, token: str = "", *, from_config: bool = False) -> None:
        """Add or replace a service."""
        self.services[service.id] = ServiceEntry(service, token, from_config=from_config)
        self._notify(service.id)

    def remove_service(self, identity: str) -> bool:
        """Mark a service and its checks for removal; False if there is none."""
        entry = self.services.get(identity)
        if entry is None or entry.deleted:
            return False
        for check_id, check in self.checks.items():
            if check.check.service_id == identity and not check.deleted:
                self._mark_check_deleted(check_id)
        entry.deleted, entry.in_sync = True, False
        self._notify(identity)
        return True

    def add_check(self, check: HealthCheck, token: str = "", *, from_config: bool = False, now: float = 0.0) -> None:
        """Add or replace a check; its node and, from its service, name and tags are filled in.

        Raises ValueError when it names a service that is not here.
        """
        check = replace(check, node=self.node.name)
        if check.service_id:
            service = self.service(check.service_id)
            if service is None:
                raise ValueError(f'Check ID "{check.check_id}" refers to non-existent service ID "{check.service_id}"')
            check = replace(check, service_name=service.service, service_tags=service.tags)
        if self._discard_output:
            check = replace(check, output="")
        entry = CheckEntry(check, token, from_config=from_config)
        entry.critical_since = now if check.status == "critical" else None
        self.checks[check.check_id] = entry
        self._notify(check.service_id)

    def remove_check(self, identity: str) -> bool:
        """Mark a check for removal; False if there is none."""
        entry = self.checks.get(identity)
        if entry is None or entry.deleted:
            return False
        self._mark_check_deleted(identity)
        self._notify(entry.check.service_id)
        return True

    def _mark_check_deleted(self, identity: str) -> None:
        entry = self.checks[identity]
        entry.deleted, entry.in_sync, entry.deferred = True, False, False

    def update_check(self, identity: str, status: str, output: str, now: float, *, defer_output: bool) -> bool:
        """A check's new result. Returns True when a change of output alone should be deferred by a timer."""
        entry = self.checks.get(identity)
        if entry is None or entry.deleted:
            return False
        if self._discard_output:
            output = ""
        if status == "critical":
            if entry.critical_since is None:
                entry.critical_since = now
        else:
            entry.critical_since = None
        if entry.check.status == status and entry.check.output == output:
            return False
        same_status = entry.check.status == status
        entry.check = replace(entry.check, status=status, output=output)
        if same_status and defer_output:
            if entry.deferred:
                return False
            entry.deferred = True
            return True
        entry.in_sync = False
        self._notify(entry.check.service_id)
        return False

    def entries(self) -> tuple[dict[str, ServiceEntry], dict[str, CheckEntry]]:
        """Copies of everything that is not on its way out."""
        services = {key: replace(entry) for key, entry in self.services.items() if not entry.deleted}
        return services, {key: replace(entry) for key, entry in self.checks.items() if not entry.deleted}

    def carry_over(self, services: Mapping[str, ServiceEntry], checks: Mapping[str, CheckEntry]) -> None:
        """After a reload: checks get the status that they had, and what equals what the servers have is in sync."""
        for identity, before in services.items():
            entry = self.services.get(identity)
            if entry is not None and not entry.deleted and entry.token == before.token:
                entry.in_sync = before.in_sync and same_service(entry.service, before.service)
        for identity, old in checks.items():
            check = self.checks.get(identity)
            if check is None or check.deleted:
                continue
            output = "" if self._discard_output else old.check.output
            check.check = replace(check.check, status=old.check.status, output=output)
            check.critical_since = old.critical_since
            # The timer of a deferred output is gone, so that output must be sent now.
            known = old.in_sync and not old.deferred and check.token == old.token
            check.in_sync = known and same_check(check.check, old.check, ignore_output=False)
            self._notify(check.check.service_id)

    def set_meta(self, meta: Mapping[str, str]) -> None:
        """Exchange the node's metadata."""
        if dict(meta) != dict(self.node.meta):
            self.node = replace(self.node, meta=meta)
            self.node_in_sync = False
            self._changed()

    def set_discard_output(self, discard: bool) -> None:
        """Whether outputs of checks are kept from now on."""
        self._discard_output = discard

    def token_of(self, own: str) -> str:
        """The token that something with its `own` one is registered with: that, or the agent's."""
        return own or self._tokens.user

    def end_deferral(self, identity: str) -> None:
        """The timer of a deferred output has ended: send it now."""
        entry = self.checks.get(identity)
        if entry is None or not entry.deferred:
            return
        entry.deferred = False
        if entry.in_sync and not entry.deleted:
            entry.in_sync = False
            self._changed()

    def critical_too_long(self, limits: Mapping[str, float], now: float) -> list[str]:
        """Ids of services with a check that has been critical longer than its limit (check id -> seconds)."""
        found = []
        for check_id, limit in limits.items():
            entry = self.checks.get(check_id)
            if entry is None or entry.deleted or entry.critical_since is None or not entry.check.service_id:
                continue
            if now - entry.critical_since > limit and entry.check.service_id not in found:
                found.append(entry.check.service_id)
        return found

    # --- against the catalog ----------------------------------------------------------------------------------

    def compare(self, node: Node | None, services: Sequence[NodeService], checks: Sequence[HealthCheck]) -> None:
        """Mark what differs from the servers' view of this node."""
        self.node_in_sync = node is not None and (
            node.id == self.node.id
            and dict(node.tagged_addresses or {}) == dict(self.node.tagged_addresses)
            and dict(node.meta or {}) == dict(self.node.meta)
        )
        self._compare_services({service.id: service for service in services})
        self._compare_checks({check.check_id: check for check in checks})

    def _compare_services(self, remote: dict[str, NodeService]) -> None:
        for identity, entry in self.services.items():
            if identity not in remote and not entry.deleted:
                entry.in_sync = False
        for identity, theirs in remote.items():
            mine = self.services.get(identity)
            if mine is None:
                if identity != SERVER_SERVICE:
                    self.services[identity] = ServiceEntry(theirs, deleted=True)
                continue
            if mine.deleted:
                continue
            if mine.service.enable_tag_override and mine.service.tags != theirs.tags:
                mine.service = replace(mine.service, tags=theirs.tags)
            mine.in_sync = same_service(mine.service, theirs)

    def _compare_checks(self, remote: dict[str, HealthCheck]) -> None:
        for identity, entry in self.checks.items():
            if identity not in remote and not entry.deleted:
                entry.in_sync = False
        for identity, theirs in remote.items():
            mine = self.checks.get(identity)
            if mine is None:
                if identity != SERF_CHECK:
                    self.checks[identity] = CheckEntry(theirs, deleted=True)
                continue
            if mine.deleted:
                continue
            mine.in_sync = same_check(mine.check, theirs, ignore_output=mine.deferred)

    def plan(self) -> list[Write]:
        """The requests that would bring the catalog in line, node first."""
        writes: list[Write] = []
        if not self.node_in_sync:
            writes.append(Write(self._register(self._tokens.agent or self._tokens.user), node=True))
        done: set[str] = set()
        for identity, entry in self.services.items():
            if entry.deleted:
                writes.append(self._remove(service_id=identity))
            elif not entry.in_sync:
                together = self._unsynced_checks_of(identity, entry.token)
                done.update(check.check_id for check in together)
                writes.append(self._write_service(entry, together))
        for identity, check_entry in self.checks.items():
            if check_entry.deleted:
                service = self.services.get(check_entry.check.service_id)
                if service is None or not service.deleted:
                    writes.append(self._remove(check_id=identity))
            elif not check_entry.in_sync and identity not in done:
                writes.append(self._write_check(identity, check_entry))
        return writes

    def _unsynced_checks_of(self, service_id: str, token: str) -> list[HealthCheck]:
        return [
            entry.check
            for entry in self.checks.values()
            if entry.check.service_id == service_id and not entry.deleted and not entry.in_sync and entry.token == token
        ]

    def _register(self, token: str) -> RegisterRequest:
        return RegisterRequest(
            datacenter=self.node.datacenter,
            id=self.node.id,
            node=self.node.name,
            address=self.node.address,
            tagged_addresses=dict(self.node.tagged_addresses),
            node_meta=dict(self.node.meta),
            token=token,
        )

    def _write_service(self, entry: ServiceEntry, checks: list[HealthCheck]) -> Write:
        request = replace(
            self._register(entry.token or self._tokens.user),
            service=entry.service,
            check=checks[0] if len(checks) == 1 else None,
            checks=tuple(checks) if len(checks) > 1 else None,
            skip_node_update=self.node_in_sync,
        )
        return Write(request, services=(entry.service.id,), checks=tuple(check.check_id for check in checks))

    def _write_check(self, identity: str, entry: CheckEntry) -> Write:
        request = replace(
            self._register(entry.token or self._tokens.user),
            service=self.service(entry.check.service_id) if entry.check.service_id else None,
            check=entry.check,
            skip_node_update=self.node_in_sync,
        )
        return Write(request, checks=(identity,))

    def _remove(self, *, service_id: str = "", check_id: str = "") -> Write:
        request = DeregisterRequest(
            datacenter=self.node.datacenter,
            node=self.node.name,
            service_id=service_id,
            check_id=check_id,
            token=self._tokens.agent or self._tokens.user,
        )
        services = (service_id,) if service_id else ()
        return Write(request, services=services, checks=(check_id,) if check_id else ())

    def done(self, write: Write) -> None:
        """The servers took `write`. An entry that changed while it was under way stays out of sync."""
        if write.removes:
            # What was registered again while its removal was under way stays.
            for identity in write.services:
                if (gone := self.services.get(identity)) is not None and gone.deleted:
                    del self.services[identity]
                for check_id in [k for k, e in self.checks.items() if e.deleted and e.check.service_id == identity]:
                    del self.checks[check_id]
            for identity in write.checks:
                if (gone_check := self.checks.get(identity)) is not None and gone_check.deleted:
                    del self.checks[identity]
            return
        self.node_in_sync = True
        request = write.request
        assert isinstance(request, RegisterRequest)
        for identity in write.services:
            entry = self.services.get(identity)
            if entry is not None and entry.service is request.service:
                entry.in_sync = True
        sent = {check.check_id: check for check in (request.checks or ())}
        if request.check is not None:
            sent[request.check.check_id] = request.check
        for identity in write.checks:
            check_entry = self.checks.get(identity)
            if check_entry is not None and check_entry.check is sent.get(identity):
                check_entry.in_sync = True
                check_entry.deferred = False

    def accept_denial(self, write: Write) -> None:
        """The servers refused `write` for lack of rights: leave it until the next full sync."""
        if write.node:
            self.node_in_sync = True
        for identity in write.services:
            if (entry := self.services.get(identity)) is not None:
                entry.in_sync = True
        for identity in write.checks:
            if (check_entry := self.checks.get(identity)) is not None:
                check_entry.in_sync = True


def same_service(mine: NodeService, theirs: NodeService) -> bool:
    """Equality as anti-entropy sees it: indexes aside, nil and empty alike."""
    return _normal_service(mine) == _normal_service(theirs)


def _normal_service(service: NodeService) -> NodeService:
    return replace(
        service,
        tags=tuple(service.tags or ()),
        meta=dict(service.meta or {}),
        tagged_addresses=dict(service.tagged_addresses or {}),
        create_index=0,
        modify_index=0,
        locally_registered_as_sidecar=False,
    )


def same_check(mine: HealthCheck, theirs: HealthCheck, *, ignore_output: bool) -> bool:
    """Equality as anti-entropy sees it: type, interval, time-out and indexes aside."""
    return _normal_check(mine, ignore_output) == _normal_check(theirs, ignore_output)


def _normal_check(check: HealthCheck, ignore_output: bool) -> HealthCheck:
    return replace(
        check,
        output="" if ignore_output else check.output,
        service_tags=tuple(check.service_tags or ()),
        type="",
        interval="",
        timeout="",
        exposed_port=0,
        create_index=0,
        modify_index=0,
    )
