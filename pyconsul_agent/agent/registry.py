"""The life of this agent's services and checks: registered, run, kept on disk, put in maintenance, removed."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pyconsul_agent.agent import sidecars
from pyconsul_agent.agent.checks import definition as definitions
from pyconsul_agent.agent.checks.docker import Docker
from pyconsul_agent.agent.checks.http2 import grpc_probe, h2ping_probe
from pyconsul_agent.agent.checks.own import os_service_probe, python_probe, udp_probe
from pyconsul_agent.agent.checks.remote_alias import run_remote_alias
from pyconsul_agent.agent.checks.runners import (
    HTTPClient,
    Result,
    TTLTimer,
    alias_result,
    http_probe,
    output_limit,
    run_alias,
    run_probe,
    script_probe,
    tcp_probe,
)
from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.agent.local import CheckEntry, LocalState, ServiceEntry
from pyconsul_agent.agent.persist import LOCAL, REMOTE, Persistence, TTLState
from pyconsul_agent.env.base import Clock, Net, Process, Resolver
from pyconsul_agent.env.log import Log
from pyconsul_agent.structs.base import seconds
from pyconsul_agent.structs.catalog import CheckType, NodeService, ServiceAddress, Weights
from pyconsul_agent.structs.health import HealthCheck

NODE_MAINTENANCE = "_node_maintenance"
SERVICE_MAINTENANCE = "_service_maintenance:"
REAP_INTERVAL_S = 30.0
CHECKS_MAX = 16_384

NODE_REASON = "Maintenance mode is enabled for this node, but no reason was provided. This is a default message."
SERVICE_REASON = NODE_REASON.replace("node", "service")


T = TypeVar("T")


class NotTTL(ValueError):
    """A TTL update for a check that has no TTL."""


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """The agent's options for checks."""

    scripts_remote: bool = False
    scripts_local: bool = False
    update_interval_s: float = 300.0
    output_bytes_max: int = 4096


@dataclass(frozen=True, slots=True)
class Tools:
    """What runners need of the world."""

    clock: Clock
    random: random.Random
    net: Net
    process: Process
    resolver: Resolver
    http: HTTPClient
    docker: Docker
    caller: Caller


@dataclass(frozen=True, slots=True)
class Before:
    """How things stood before a reload. `said`: the last words of TTL checks."""

    services: Mapping[str, ServiceEntry]
    checks: Mapping[str, CheckEntry]
    said: Mapping[str, str]


class Registry:
    """Services and checks of this agent. Runners live in a task group between `start` and `stop`."""

    def __init__(
        self,
        state: LocalState,
        persistence: Persistence,
        settings: CheckSettings,
        tools: Tools,
        log: Log,
        *,
        sidecar_ports: tuple[int, int] = sidecars.PORTS,
    ) -> None:
        self.state = state
        self.sidecar_ports = sidecar_ports
        self._persistence = persistence
        self._settings = settings
        self._tools = tools
        self._log = log
        self._definitions: dict[str, CheckType] = {}
        self._runners: dict[str, asyncio.Task[None]] = {}
        self._deferrals: dict[str, asyncio.TimerHandle] = {}
        self._ttl: dict[str, TTLTimer] = {}
        self._alias_changed: dict[str, asyncio.Event] = {}
        self._ending: set[asyncio.Task[None]] = set()
        state.watch(self._wake_aliases)

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Remove services that are critical for too long, until cancelled."""
        while True:
            await self._persistence.kept(self._persistence.queued)  # what was changed for no caller
            await asyncio.sleep(REAP_INTERVAL_S)
            limits = {
                identity: max(seconds(check.deregister_critical_service_after), seconds(definitions.REAP_AFTER_MIN))
                for identity, check in self._definitions.items()
                if check.deregister_critical_service_after > 0 and definitions.type_of(check) != "alias"
            }
            for service_id in self.state.critical_too_long(limits, self._tools.clock.boottime()):
                self._log.info("Check for service has been critical for too long, deregistering", service=service_id)
                self.remove_service(service_id)

    async def stop(self) -> None:
        """Stop every runner."""
        for identity in list(self._runners):
            self._stop_runner(identity)
        for handle in self._deferrals.values():
            handle.cancel()
        self._deferrals.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._persistence.kept(self._persistence.queued)

    async def durably(self, work: Callable[[], T]) -> T:
        """Do some of the following; on return what it changed is on disk. Raises what `work` does, and OSError."""
        since = self._persistence.queued
        try:
            return work()
        finally:
            await self._persistence.kept(since)

    # --- services ---------------------------------------------------------------------------------------------

    def add_service(
        self,
        service: NodeService,
        checks: Iterable[CheckType],
        *,
        token: str = "",
        from_config: bool = False,
        replace_checks: bool = False,
        persist: bool = True,
    ) -> None:
        """Add or replace a service with its checks; present status of its checks is kept. Raises ValueError."""
        service = complete_service(service)
        sidecar = self._sidecar_of(service, token)
        service = sidecars.without_sidecar(service)
        wanted = definitions.with_ids(list(checks), service.id, service.service)
        for check in wanted:
            self._admit(check, from_config)
        present = {check.check_id: check for check in self.state.checks_of(service.id)}
        self.state.add_service(service, token, from_config=from_config)
        if persist and not from_config:
            self._persistence.save_service(service, token)
        for check in wanted:
            row = definitions.row(check, self.state.node.name, service_id=service.id)
            before = present.get(check.check_id)
            if before is not None:
                row = replace(row, status=before.status, output=before.output)
            self._put_check(row, check, token, from_config=from_config, persist=persist)
        if replace_checks:
            for identity in present.keys() - {check.check_id for check in wanted}:
                self.remove_check(identity)
        if sidecar is not None:
            self.add_service(
                sidecar.service,
                sidecar.checks,
                token=sidecar.token,
                from_config=from_config,
                replace_checks=replace_checks,
                persist=persist,
            )

    def _sidecar_of(self, service: NodeService, token: str) -> sidecars.Sidecar | None:
        """The sidecar that a service asks for; one that is here already keeps its port. Raises ValueError."""
        asked = service.connect.sidecar_service
        if asked is None:
            return None
        identity = service.id + sidecars.SUFFIX
        present = self.state.service(identity)
        if present is not None and not asked.port:
            asked = replace(asked, port=present.port)
        taken = {each.port for key, each in self.state.live_services().items() if key != identity}
        return sidecars.sidecar_of(service, asked, token, taken, self.sidecar_ports)

    def remove_service(self, identity: str) -> bool:
        """Remove a service, its checks and its sidecar; False if there is none."""
        for check in self.state.checks_of(identity):
            self._stop_runner(check.check_id)
            self._persistence.remove_check(check.check_id)
        self._persistence.remove_service(identity)
        sidecar = self.state.service(identity + sidecars.SUFFIX)
        if sidecar is not None and sidecar.locally_registered_as_sidecar:
            self.remove_service(sidecar.id)
        return self.state.remove_service(identity)

    # --- checks -----------------------------------------------------------------------------------------------

    def add_check(self, check: CheckType, *, service_id: str = "", token: str = "", from_config: bool = False) -> None:
        """Add or replace a check of the node or of a service. Raises ValueError."""
        self._admit(check, from_config)
        if service_id and self.state.service(service_id) is None:
            raise ValueError(f'ServiceID "{service_id}" does not exist')
        row = definitions.row(check, self.state.node.name, service_id=service_id, with_timing=not from_config)
        self._put_check(row, check, token, from_config=from_config, persist=True)

    def _admit(self, check: CheckType, from_config: bool) -> None:
        """Refuse what may not run here."""
        if problem := definitions.validate(check):
            raise ValueError(f"Invalid check: {problem}")
        if len(self.state.checks) >= CHECKS_MAX and check.check_id not in self.state.checks:
            raise ValueError(f"too many checks on this agent: {CHECKS_MAX}")
        if definitions.is_script(check):
            if from_config and not (self._settings.scripts_local or self._settings.scripts_remote):
                raise ValueError(definitions.LOCAL_SCRIPTS_OFF)
            if not from_config and not self._settings.scripts_remote:
                raise ValueError(definitions.REMOTE_SCRIPTS_OFF)

    def _put_check(
        self, row: HealthCheck, check: CheckType | None, token: str, *, from_config: bool, persist: bool
    ) -> None:
        identity = row.check_id
        self._stop_runner(identity)
        saved = None
        if check is not None and check.ttl > 0:
            now_unix = self._tools.clock.wall_ns() // 1_000_000_000
            saved = self._persistence.load_state(identity, now_unix) if not persist else None
            if saved is not None:
                row = replace(row, status=saved.status, output=saved.output)
        self.state.add_check(row, token, from_config=from_config, now=self._tools.clock.boottime())
        if persist and not from_config:
            self._persistence.save_check(row, check, token, source=REMOTE if check is not None else LOCAL)
        if check is not None:
            if 0 < check.interval < definitions.INTERVAL_MIN:
                self._log.warn("check has interval below minimum", check=identity, minimum_interval="1s")
            self._definitions[identity] = check
            self._start_runner(identity, replace(check, check_id=identity), token, saved)

    def remove_check(self, identity: str) -> bool:
        """Remove a check; False if there is none."""
        self._stop_runner(identity)
        self._persistence.remove_check(identity)
        return self.state.remove_check(identity)

    def update_ttl(self, identity: str, status: str, output: str) -> None:
        """Somebody speaks for a TTL check. Raises NotTTL."""
        timer = self._ttl.get(identity)
        if timer is None:
            raise NotTTL(f'CheckID "{identity}" does not have associated TTL')
        kept = timer.update(status, output)
        expires = self._tools.clock.wall_ns() // 1_000_000_000 + int(timer.ttl_s)
        self._persistence.save_state(TTLState(identity, status, kept, expires))

    # --- maintenance ------------------------------------------------------------------------------------------

    def set_node_maintenance(self, enable: bool, reason: str, token: str) -> None:
        """Put the node in or out of maintenance; a second enable keeps the first reason."""
        self._maintain(NODE_MAINTENANCE, "Node Maintenance Mode", "", enable, reason or NODE_REASON, token)

    def set_service_maintenance(self, service_id: str, enable: bool, reason: str, token: str) -> None:
        """Put a service in or out of maintenance. Raises KeyError when it is not here."""
        if self.state.service(service_id) is None:
            raise KeyError(service_id)
        identity = SERVICE_MAINTENANCE + service_id
        self._maintain(identity, "Service Maintenance Mode", service_id, enable, reason or SERVICE_REASON, token)

    def _maintain(self, identity: str, name: str, service_id: str, enable: bool, reason: str, token: str) -> None:
        if not enable:
            self.remove_check(identity)
            return
        if self.state.check(identity) is not None:
            return
        row = HealthCheck(
            node=self.state.node.name,
            check_id=identity,
            name=name,
            notes=reason,
            service_id=service_id,
            status="critical",
            type="maintenance",
        )
        self._put_check(row, None, token, from_config=False, persist=True)

    # --- reload -----------------------------------------------------------------------------------------------

    def admit_all(self, checks: Iterable[CheckType]) -> None:
        """Raise ValueError if one of these checks of the configuration may not run here."""
        for check in checks:
            self._admit(check, from_config=True)

    def unload(self) -> Before:
        """Take everything out, but not from disk. Gives what `carry_over` wants."""
        services, checks = self.state.entries()
        before = Before(services, checks, {identity: timer.last_output for identity, timer in self._ttl.items()})
        for identity in list(self._runners):
            self._stop_runner(identity)
        for identity in self.state.live_services():
            self.state.remove_service(identity)
        for identity in self.state.live_checks():
            self.state.remove_check(identity)
        return before

    def carry_over(self, before: Before) -> None:
        """Give checks that are here again the status and output that they had; what is as it was needs no sync."""
        self.state.carry_over(before.services, before.checks)
        for identity, text in before.said.items():
            if (timer := self._ttl.get(identity)) is not None:
                timer.restore(text)

    # --- restore ----------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Load what an earlier process kept; a configured service or check of the same id wins."""
        for saved in self._persistence.services():
            if self.state.service(saved.service.id) is not None:
                self._persistence.remove_service(saved.service.id)
                continue
            self.state.add_service(saved.service, saved.token)
        for check in self._persistence.checks():
            identity = check.check.check_id
            if self.state.check(identity) is not None:
                self._persistence.remove_check(identity)
                continue
            row = check.check if check.definition is None else replace(check.check, status="critical", output="")
            try:
                if check.definition is not None:
                    self._admit(check.definition, from_config=check.source == LOCAL)
                self._put_check(row, check.definition, check.token, from_config=False, persist=False)
            except ValueError as error:
                self._log.warn("Failed to restore check", check=identity, error=str(error))
                self._persistence.remove_check(identity)

    # --- runners ----------------------------------------------------------------------------------------------

    def _start_runner(self, identity: str, check: CheckType, token: str, saved: TTLState | None) -> None:
        work = self._ttl_work(identity, check, saved) if check.ttl > 0 else self._work(identity, check, token)
        task = self._runners[identity] = asyncio.get_running_loop().create_task(work, name=f"check {identity}")
        task.add_done_callback(self._ended)

    def _ttl_work(self, identity: str, check: CheckType, saved: TTLState | None) -> Coroutine[Any, Any, None]:
        timer = TTLTimer(check, self._report, output_bytes_max=output_limit(check, self._settings.output_bytes_max))
        if saved is not None:
            timer.restore(saved.output)
        self._ttl[identity] = timer
        return timer.run()

    def _work(self, identity: str, check: CheckType, token: str) -> Coroutine[Any, Any, None]:
        """What runs a check, chosen in Consul's order."""
        limit, tools = output_limit(check, self._settings.output_bytes_max), self._tools
        if check.http:
            probe = http_probe(check, tools.http, output_bytes_max=limit)
        elif check.tcp:
            probe = tcp_probe(check, tools.net, tools.resolver)
        elif check.grpc:
            probe = grpc_probe(check, tools.net)
        elif check.docker_container_id:
            probe = tools.docker.probe(check, output_bytes_max=limit)
        elif check.script_args:
            probe = script_probe(check, tools.process, output_bytes_max=limit)
        elif check.h2ping:
            probe = h2ping_probe(check, tools.net)
        elif check.alias_node:
            node = self.state.node
            return run_remote_alias(
                check, tools.caller, self._report, datacenter=node.datacenter, token=self.state.token_of(token)
            )
        elif check.udp:
            probe = udp_probe(check, tools.net, tools.resolver)
        elif check.os_service:
            probe = os_service_probe(check, tools.process)
        elif check.python:
            probe = python_probe(check, tools.process, output_bytes_max=limit)
        else:
            assert check.alias_service, "validated"
            changed = self._alias_changed[identity] = asyncio.Event()
            return run_alias(identity, self._alias(check.alias_service), changed, self._report)
        return run_probe(check, probe, self._report, tools.random)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("check ended", task=task.get_name(), error=f"{type(error).__name__}: {error}")

    def _alias(self, service_id: str) -> Callable[[], Result]:
        def evaluate() -> Result:
            checks = [
                check
                for check in self.state.live_checks().values()
                if check.service_id in (service_id, "") and check.type != "alias"
            ]
            exists = self.state.service(service_id) is not None
            return alias_result(service_id, exists, checks)

        return evaluate

    def _wake_aliases(self, service_id: str) -> None:
        for identity, changed in self._alias_changed.items():
            check = self._definitions.get(identity)
            if check is not None and check.alias_service == service_id:
                changed.set()

    def _stop_runner(self, identity: str) -> None:
        self._definitions.pop(identity, None)
        self._ttl.pop(identity, None)
        self._alias_changed.pop(identity, None)
        if (handle := self._deferrals.pop(identity, None)) is not None:
            handle.cancel()
        if (task := self._runners.pop(identity, None)) is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _report(self, identity: str, status: str, output: str) -> None:
        defer = self._settings.update_interval_s > 0
        now = self._tools.clock.boottime()
        if self.state.update_check(identity, status, output, now, defer_output=defer):
            interval = self._settings.update_interval_s
            delay = interval / 2 + self._tools.random.uniform(0, interval)
            loop = asyncio.get_running_loop()
            if (before := self._deferrals.pop(identity, None)) is not None:
                before.cancel()  # its output went out with a change of status
            self._deferrals[identity] = loop.call_later(delay, self._end_deferral, identity)

    def _end_deferral(self, identity: str) -> None:
        self._deferrals.pop(identity, None)
        self.state.end_deferral(identity)


def complete_service(service: NodeService) -> NodeService:
    """A service with the defaults that registration fills in."""
    weights = service.weights if service.weights is not None else Weights(passing=1, warning=1)
    return replace(
        service,
        id=service.id or service.service,
        weights=weights,
        tagged_addresses=with_family_addresses(service.tagged_addresses, service.address, service.port),
    )


def with_family_addresses(
    tagged: Mapping[str, ServiceAddress] | None, address: str, port: int
) -> Mapping[str, ServiceAddress] | None:
    """Tagged addresses plus `lan_ipv4`/`wan_ipv4` (or 6) of a numeric service address."""
    try:
        family = ipaddress.ip_address(address).version
    except ValueError:
        return tagged
    out = dict(tagged or {})
    for scope in ("lan", "wan"):
        out.setdefault(f"{scope}_ipv{family}", ServiceAddress(address=address, port=port))
    return out
