"""One agent, put together: its cluster side, its services and checks, its interfaces; order of start and stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate
from typing import Any

from pyconsul_agent.agent.antientropy import AntiEntropy
from pyconsul_agent.agent.cache import Cache
from pyconsul_agent.agent.cache_table import CacheLimits
from pyconsul_agent.agent.checks.docker import Docker
from pyconsul_agent.agent.checks.http import AiohttpChecks
from pyconsul_agent.agent.coordinates import send_coordinates
from pyconsul_agent.agent.events import REMOTE_EXEC, Event, Events
from pyconsul_agent.agent.joining import JoinFailed, RetryRules, join_once, join_until_done, join_with_own_name
from pyconsul_agent.agent.local import LocalState, Tokens
from pyconsul_agent.agent.persist import Persistence, lock_data_dir, node_id
from pyconsul_agent.agent.registry import CheckSettings, Registry, Tools
from pyconsul_agent.agent.reload import definitions_of, load
from pyconsul_agent.agent.remote_exec import TEMPORARY_FOLDER, RemoteExec
from pyconsul_agent.agent.watch_post import AiohttpPoster
from pyconsul_agent.agent.watches import Watches, understood
from pyconsul_agent.app.debug_config import debug_config
from pyconsul_agent.app.files import socket_owner
from pyconsul_agent.app.machine import host_document, runtime_stats
from pyconsul_agent.app.metrics import Metrics
from pyconsul_agent.app.reload import Reloader, Reread
from pyconsul_agent.app.settings import (
    client_config,
    dns_config,
    http_defaults,
    http_rules,
    node_info,
    reloaded,
    server_config,
)
from pyconsul_agent.app.unsupported import refuse_unsupported
from pyconsul_agent.app.watch_api import own_api
from pyconsul_agent.client.node import ClientNode
from pyconsul_agent.config.options import Options
from pyconsul_agent.env.base import Env
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.interfaces.dns.server import DNSServer
from pyconsul_agent.interfaces.http.acl import ACLs
from pyconsul_agent.interfaces.http.agent import Actions, AgentEndpoints, Identity
from pyconsul_agent.interfaces.http.agent_services import AgentServices
from pyconsul_agent.interfaces.http.catalog import Catalog
from pyconsul_agent.interfaces.http.config import ConfigEntries
from pyconsul_agent.interfaces.http.connect import Connect
from pyconsul_agent.interfaces.http.coordinate import Coordinates
from pyconsul_agent.interfaces.http.event import EventEndpoints
from pyconsul_agent.interfaces.http.facts import Facts
from pyconsul_agent.interfaces.http.health import Health
from pyconsul_agent.interfaces.http.intention import Intentions
from pyconsul_agent.interfaces.http.keyring import Keyring
from pyconsul_agent.interfaces.http.kv import KV
from pyconsul_agent.interfaces.http.operator import Operator
from pyconsul_agent.interfaces.http.outside import UI, Outside, load_ui
from pyconsul_agent.interfaces.http.pipeline import Pipeline
from pyconsul_agent.interfaces.http.profiles import Profiles
from pyconsul_agent.interfaces.http.query import PreparedQueries
from pyconsul_agent.interfaces.http.routes import RouteTable
from pyconsul_agent.interfaces.http.session import Sessions
from pyconsul_agent.interfaces.http.snapshot import Snapshot
from pyconsul_agent.interfaces.http.status import Status
from pyconsul_agent.interfaces.http.transport import HTTPServer
from pyconsul_agent.interfaces.http.txn import Transactions
from pyconsul_agent.interfaces.http.ui_internal import InternalUI
from pyconsul_agent.interfaces.ipc import handlers as ipc
from pyconsul_agent.interfaces.ipc.server import IPCServer
from pyconsul_agent.runtime.listeners import USER_EVENT_PREFIX, Listeners
from pyconsul_agent.runtime.raft_storage import RaftStorage
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.server.node import ServerNode
from pyconsul_agent.server.recovery import recover_if_asked
from pyconsul_agent.structs.member import UserEvent
from pyconsul_agent.telemetry.logging import LogStream, parse_level
from pyconsul_agent.version import CONSUL_REVISION, CONSUL_VERSION

StorageFactory = Callable[[Options], RaftStorage]


class Agent:
    """A whole agent. `finished` is set, with `exit_code`, when it wants its process to end."""

    def __init__(
        self, options: Options, env: Env, logs: LogStream, storage: StorageFactory, *, reread: Reread | None = None
    ) -> None:
        refuse_unsupported(options)
        self.options = options
        self.finished = asyncio.Event()
        self.exit_code = 0
        self._env = env
        self._logs = logs
        self._storage = storage
        self._log = logs.logger()
        self._unlock = lock_data_dir(env.files, options.data_dir) if options.data_dir else None
        self.node_id = node_id(env, options.data_dir, options.node_id, of_host=not options.disable_host_node_id)
        self._tasks = TaskOwner(self._log)
        self.failure = ""
        """Why the agent ended by itself and badly, one line."""
        self._metrics = Metrics(options.telemetry, env, self._log, node=options.node_name)
        logs.on_event = self._metrics.count_event
        listeners = Listeners(self._user_event, self._server_appeared)
        if options.server:
            self.delegate: ServerNode | ClientNode = ServerNode(
                server_config(options, self.node_id),
                env,
                storage(options),
                self._log.named("server"),
                listeners,
                fatal=self._fatal,
                meter=self._metrics.rpc,
            )
        else:
            self.delegate = ClientNode(
                client_config(options, self.node_id),
                env,
                self._log.named("client"),
                listeners,
                meter=self._metrics.rpc,
            )
        tokens = options.acl.tokens
        self.state = LocalState(
            node_info(options, self.node_id),
            changed=lambda: self._sync.changed(),
            discard_output=options.discard_check_output,
            tokens=Tokens(tokens.default, tokens.agent),
        )
        self._events = Events(options.node_name, self.state.live_services)
        self._sync = AntiEntropy(
            self.state,
            self.delegate,
            self._log,
            env.random,
            cluster_size=lambda: len(self.delegate.lan_members()),
            agent_token=tokens.agent or tokens.default,
        )
        self._remote_exec = RemoteExec(
            self.delegate,
            env.process,
            env.files,
            self._log,
            node=options.node_name,
            datacenter=options.datacenter,
            token=lambda: tokens.agent or tokens.default,
            temporary=lambda: f"{env.environ.get('TMPDIR') or TEMPORARY_FOLDER}/pyconsul-rexec-{env.uuid()}",
        )
        self._check_client = AiohttpChecks()
        self._registry = Registry(
            self.state,
            Persistence(env.files, options.data_dir, self._log),
            CheckSettings(
                scripts_remote=options.enable_script_checks,
                scripts_local=options.enable_local_script_checks,
                update_interval_s=options.check_update_interval,
                output_bytes_max=options.check_output_max_size,
            ),
            Tools(
                env.clock,
                env.random,
                env.net,
                env.process,
                env.resolver,
                self._check_client,
                Docker(env.environ.get("DOCKER_HOST", "")),
                self.delegate,
            ),
            self._log,
            sidecar_ports=(options.ports.sidecar_min_port, options.ports.sidecar_max_port),
        )
        self._cache = Cache(
            self.delegate,
            env.clock,
            env.random,
            self._log.named("cache"),
            CacheLimits(options.cache.entry_fetch_rate, options.cache.entry_fetch_max_burst),
            subscriber=self.delegate
            if options.use_streaming_backend and isinstance(self.delegate, ClientNode)
            else None,
        )
        self._pipeline = Pipeline(
            RouteTable(self._routes()),
            http_rules(options),
            self._log.named("http"),
            fallback=self._outside(),
            observe=self._metrics.http,
            again=self._metrics.http.again,
            now=env.clock.monotonic,
            stamp=self.delegate.stamp,
        )
        self._http = HTTPServer(
            env.net,
            env.clock,
            self._pipeline,
            self._log.named("http"),
            connections_per_client=options.limits.http_max_conns_per_client,
            head_bytes_max=options.http_config.max_header_bytes,
        )
        self._dns = DNSServer(
            env.net,
            self.delegate,
            dns_config(options),
            env.clock,
            env.random,
            self._log.named("dns"),
            token_bytes=env.token_bytes,
            # With ACLs answers would hang on tokens and policies too, of whose changes a catalog does not tell.
            local=self.delegate if isinstance(self.delegate, ServerNode) and not options.acl.enabled else None,
            cache=self._cache,
        )
        self._ipc = self._make_ipc()
        self._poster = AiohttpPoster()
        self._watches = Watches(own_api(self._pipeline), env.process, self._poster, env.environ, self._log)
        self._reloader = Reloader(reread, env.blocking, self._registry, self._log, self._take_over)

    def _make_ipc(self) -> IPCServer:
        options, logs = self.options, self._logs
        actions = ipc.Actions(
            leave=self.request_leave,
            reload=self.request_reload,
            stats=self.stats,
            open_tap=lambda level, wake: logs.monitor(
                format="classic", level=parse_level(level) or 0, wake=wake, with_backlog=True
            ),
            close_tap=logs.unmonitor,
        )
        return IPCServer(
            self._env.net,
            ipc.Handlers(self.delegate, actions, datacenter=options.datacenter),
            actions,
            self._log.named("rpc"),
            local_only=options.acl.enabled and options.acl.default_policy == "deny",
        )

    def _identity(self) -> Identity:
        options = self.options
        return Identity(
            options.node_name,
            self.node_id,
            options.datacenter,
            options.server,
            self.state.node.meta,
            debug_config(options, self.node_id),
        )

    def _routes(self) -> list[Any]:
        defaults, options = http_defaults(self.options), self.options
        actions = Actions(self.request_leave, self.stats, self.monitor, self.reload, self.host)
        self._self_endpoints = AgentEndpoints(self._identity(), self.delegate, actions, defaults)
        families = (
            Status(self.delegate, defaults),
            KV(self.delegate, defaults, value_bytes_max=options.limits.kv_max_value_size),
            Sessions(self.delegate, defaults),
            Catalog(self.delegate, defaults, self._cache),
            Health(self.delegate, defaults, self._cache),
            AgentServices(self._registry, defaults),
            self._self_endpoints,
            Transactions(
                self.delegate,
                defaults,
                value_bytes_max=options.limits.kv_max_value_size,
                body_bytes_max=options.limits.txn_max_req_len,
            ),
            Coordinates(self.delegate, defaults, enabled=not options.disable_coordinates),
            EventEndpoints(self.delegate, self._events, self._env.uuid, defaults),
            Operator(self.delegate, defaults),
            Keyring(self.delegate, defaults),
            PreparedQueries(self.delegate, defaults, self._cache),
            InternalUI(self.delegate, defaults),
            Facts(self._metrics, defaults),
            Snapshot(self.delegate, defaults),
            ConfigEntries(self.delegate, defaults),
            Connect(self.delegate, defaults),
            Intentions(self.delegate, defaults),
            ACLs(),
        )
        return [route for family in families for route in family.routes()]

    # --- life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything, join. Raises ConsulError when the agent cannot run; call `stop` then."""
        options = self.options
        watches = understood(options.watches, self._env.environ, http=options.ports.http > 0, log=self._log)
        load(self._registry, definitions_of(options.services, options.checks))
        await self._recover()
        await self.delegate.start()
        self._tasks.start(self._registry.run(), "check reaper")
        self._tasks.start(self._metrics.run(self.delegate.measures), "metrics")
        if not options.disable_coordinates:
            self._tasks.start(
                send_coordinates(
                    self.delegate,
                    self._log,
                    self._env.random,
                    datacenter=options.datacenter,
                    node=options.node_name,
                    token=lambda: options.acl.tokens.agent,
                ),
                "coordinates",
            )
        if options.ports.http > 0:
            mode, owner = socket_owner(options)
            await self._http.start(
                [(host, options.ports.http) for host in options.resolved.http], unix_mode=mode, unix_owner=owner
            )
        if options.ports.dns > 0:
            await self._dns.start([(host, options.ports.dns) for host in options.resolved.dns])
        if options.ports.rpc > 0:
            await self._ipc.start([(host, options.ports.rpc) for host in options.resolved.rpc])
        self._watches.exchange(watches)
        self._tasks.start(self._reloader.run(), "reload")
        await self._join()
        self._tasks.start(self._sync.run(), "anti-entropy")

    async def restored(self) -> None:
        """Return when the state that was on disk is in place."""
        if isinstance(self.delegate, ServerNode):
            await self.delegate.restored()

    async def _recover(self) -> None:
        """What an operator asks of a server that lost its quorum comes before raft starts."""
        options = self.options
        if options.server and options.data_dir:
            log = self._log.named("server").named("raft")
            await recover_if_asked(self._env, f"{options.data_dir}/raft", lambda: self._storage(options), log)

    async def _join(self) -> None:
        options, delegate, log = self.options, self.delegate, self._log
        self._retry(delegate.join_lan, options.retry_join, options.retry_interval, options.retry_max, "lan")
        if options.server:
            self._retry(
                delegate.join_wan, options.retry_join_wan, options.retry_interval_wan, options.retry_max_wan, "wan"
            )
        if options.start_join:
            await join_with_own_name(
                delegate.join_lan, options.start_join, lambda: delegate.name_taken_by, log, name=options.node_name
            )
        if options.start_join_wan:
            await join_once(delegate.join_wan, options.start_join_wan, log, pool="wan")

    def _retry(
        self,
        join: Callable[[Any], Awaitable[int]],
        addresses: tuple[str, ...],
        interval_s: float,
        attempts_max: int,
        pool: str,
    ) -> None:
        if addresses:
            rules = RetryRules(interval_s, attempts_max)
            self._tasks.start(self._retry_join(join, addresses, rules, pool), f"retry join {pool}")

    async def _retry_join(
        self, join: Callable[[Any], Awaitable[int]], addresses: tuple[str, ...], rules: RetryRules, pool: str
    ) -> None:
        try:
            await join_until_done(join, addresses, rules, self._log, pool=pool)
        except JoinFailed as error:
            self._log.error("Retry join failed", error=str(error))
            self.failure = f"Retry join failed: {error}"
            self.exit_code = 1
            self.finished.set()

    async def leave(self) -> None:
        """Leave the cluster in order. `stop` follows."""
        await self.delegate.leave()

    async def stop(self) -> None:
        """Stop everything in order; nothing is left afterwards. Idempotent."""
        self._log.event("shutdown_requested")
        await self._tasks.close()
        await self._watches.stop()
        await self._poster.close()
        await self._ipc.stop()
        await self._cache.close()
        await self._registry.stop()
        await self._check_client.close()
        await self.delegate.shutdown()
        self._metrics.close()
        self._log.event("shutdown_complete")
        await self._dns.stop()
        await self._http.stop()
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    # --- what the interfaces may ask --------------------------------------------------------------------------

    async def request_leave(self) -> None:
        """`/v1/agent/leave` and `consul leave`: leave, then let the process end well."""
        await self.leave()
        self.exit_code = 0
        asyncio.get_running_loop().call_soon(self.finished.set)

    async def reload(self) -> None:
        """`/v1/agent/reload`: read the configuration again. Raises ConfigError, with nothing changed."""
        await self._reloader.reload()

    def request_reload(self) -> None:
        """SIGHUP and the legacy RPC: reload soon; an error is logged."""
        self._reloader.request()

    def _take_over(self, fresh: Options) -> None:
        """What may change while the agent runs and is not the registry's. Raises ConfigError, with nothing changed."""
        options = reloaded(self.options, fresh)
        dns = dns_config(options)
        watches = understood(options.watches, self._env.environ, http=options.ports.http > 0, log=self._log)
        level = parse_level(fresh.log_level)
        assert level is not None, "validated with the configuration"
        self._logs.set_level(level)
        self.options = options
        self.state.set_discard_output(fresh.discard_check_output)
        self.state.set_meta(node_info(options, self.node_id).meta)
        self._self_endpoints.show(self._identity())
        self._http.set_connections_per_client(fresh.limits.http_max_conns_per_client)
        if isinstance(self.delegate, ClientNode):
            self.delegate.set_call_limit(fresh.limits.rpc_rate, fresh.limits.rpc_max_burst)
        self._cache.limit(fresh.cache.entry_fetch_rate, fresh.cache.entry_fetch_max_burst)
        self._metrics.registry.set_filter(fresh.telemetry.prefix_filter)
        self._pipeline.set_response_headers(fresh.http_config.response_headers)
        self._dns.reload(dns)
        self._watches.exchange(watches)

    def stats(self) -> Mapping[str, Mapping[str, str]]:
        """The sections of `consul info`."""
        monitors = sum(entry.check.type not in ("ttl", "") for entry in self.state.checks.values())
        ttls = sum(entry.check.type == "ttl" for entry in self.state.checks.values())
        return {
            "agent": {
                "check_monitors": str(monitors),
                "check_ttls": str(ttls),
                "checks": str(len(self.state.live_checks())),
                "services": str(len(self.state.live_services())),
            },
            "build": {"prerelease": "", "revision": CONSUL_REVISION, "version": CONSUL_VERSION},
            "runtime": runtime_stats(len(asyncio.all_tasks())),
            **self.delegate.stats(),
        }

    def host(self) -> Mapping[str, Any]:
        """The machine, for `/v1/agent/host`."""
        env = self._env
        return host_document(
            env.files, hostname=env.hostname, data_dir=self.options.data_dir, now_ns=env.clock.wall_ns()
        )

    async def monitor(self, level: str, *, json_lines: bool) -> AsyncIterator[bytes]:
        """The log from `level` on, until the reader goes away."""
        wake = asyncio.Event()
        number = parse_level(level)
        assert number is not None
        subscription = self._logs.monitor(format="json" if json_lines else "modern", level=number, wake=wake.set)
        try:
            while True:
                lines = subscription.take()
                if lines:
                    yield "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
                else:
                    await wake.wait()
                    wake.clear()
        finally:
            self._logs.unmonitor(subscription)

    def _outside(self) -> Outside:
        ui = UI()
        if self.options.ui_config.enabled:
            since = formatdate(self._env.clock.wall_ns() // 1_000_000_000, usegmt=True)
            ui = load_ui(self.options.ui_config.content_path, since)
        return Outside(ui, Profiles() if self.options.enable_debug else None)

    # --- callbacks --------------------------------------------------------------------------------------------

    def _user_event(self, event: UserEvent) -> None:
        if not event.name.startswith(USER_EVENT_PREFIX):
            return
        try:
            taken = self._events.take(event)
        except DecodeError as error:
            self._log.warn("user event ignored", name=event.name, error=str(error))
            return
        if taken is None:
            return
        if taken.name == REMOTE_EXEC:
            self._asked_to_execute(taken)
        else:
            self._log.debug("new event", event_name=taken.name, event_id=taken.id)

    def _asked_to_execute(self, event: Event) -> None:
        if self.options.disable_remote_exec:
            self._log.info("ignoring remote exec event, disabled.", event_id=event.id)
        else:
            self._tasks.start(self._remote_exec.run(event), "remote exec")

    def _server_appeared(self) -> None:
        """To a client, a new server is a reason to compare; a server has its state already."""
        if not self.options.server:
            self._sync.server_appeared()

    def _fatal(self, error: BaseException) -> None:
        """Consensus cannot go on (the disk failed): the process must end."""
        self._log.error("fatal error, stopping", error=str(error))
        self.failure = str(error)
        self.exit_code = 1
        self.finished.set()
