"""One agent, put together: its cluster side, its services and checks, its interfaces; order of start and stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from pyconsul_agent.agent.checks.http import AiohttpChecks
from pyconsul_agent.agent.coordinates import send_coordinates
from pyconsul_agent.agent.events import REMOTE_EXEC, Event, Events
from pyconsul_agent.agent.joining import JoinFailed, RetryRules, join_once, join_until_done, join_with_own_name
from pyconsul_agent.agent.persist import lock_data_dir, node_id
from pyconsul_agent.agent.reload import definitions_of, load
from pyconsul_agent.agent.watch_post import AiohttpPoster
from pyconsul_agent.agent.watches import Watches, understood
from pyconsul_agent.app import insight, parts
from pyconsul_agent.app.files import socket_owner
from pyconsul_agent.app.machine import host_document
from pyconsul_agent.app.metrics import Metrics
from pyconsul_agent.app.reload import Reloader, Reread
from pyconsul_agent.app.routes import routes
from pyconsul_agent.app.settings import dns_config, http_defaults, node_info, reloaded
from pyconsul_agent.app.unsupported import refuse_unsupported
from pyconsul_agent.app.watch_api import own_api
from pyconsul_agent.client.node import ClientNode
from pyconsul_agent.config.options import Options
from pyconsul_agent.config.origins import locating
from pyconsul_agent.env.base import Env
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.interfaces.http.agent import Actions, AgentEndpoints
from pyconsul_agent.interfaces.ipc import handlers as ipc
from pyconsul_agent.runtime.listeners import USER_EVENT_PREFIX, Listeners
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.server.recovery import recover_if_asked
from pyconsul_agent.structs.member import UserEvent
from pyconsul_agent.telemetry.logging import LogStream, parse_level


class Agent:
    """A whole agent. `finished` is set, with `exit_code`, when it wants its process to end."""

    def __init__(
        self,
        options: Options,
        env: Env,
        logs: LogStream,
        storage: parts.StorageFactory,
        *,
        reread: Reread | None = None,
    ) -> None:
        refuse_unsupported(options)
        self.options = options
        self.finished = asyncio.Event()
        self.exit_code = 0
        self.failure = ""
        """Why the agent ended by itself and badly, one line."""
        self._env = env
        self._logs = logs
        self._storage = storage
        self._log = logs.logger()
        self._unlock = lock_data_dir(env.files, options.data_dir) if options.data_dir else None
        self.node_id = node_id(env, options.data_dir, options.node_id, of_host=not options.disable_host_node_id)
        self._tasks = TaskOwner(self._log)
        self._metrics = Metrics(options.telemetry, env, self._log, node=options.node_name)
        logs.on_event = self._metrics.count_event
        listeners = Listeners(self._user_event, self._server_appeared)
        self.delegate = parts.make_node(
            options, env, storage, listeners, self._metrics, self._log, node_id=self.node_id, fatal=self._fatal
        )
        self._make_agent_side()
        self._make_interfaces()
        self._poster = AiohttpPoster()
        self._watches = Watches(own_api(self._pipeline), env.process, self._poster, env.environ, self._log)
        self._reloader = Reloader(reread, env.blocking, self._registry, self._log, self._take_over)

    def _make_agent_side(self) -> None:
        """Services, checks and events of this node; they see the cluster side as one delegate."""
        options, env, log, node = self.options, self._env, self._log, self.delegate
        self.state = parts.make_local_state(options, self.node_id, changed=lambda: self._sync.changed())
        self._events = Events(options.node_name, self.state.live_services)
        self._sync = parts.make_anti_entropy(options, env, self.state, node, log)
        self._remote_exec = parts.make_remote_exec(options, env, node, log)
        self._check_client = AiohttpChecks()
        self._registry = parts.make_registry(options, env, self.state, node, self._check_client, log)
        self._cache = parts.make_cache(options, env, node, log)

    def _make_interfaces(self) -> None:
        """HTTP, DNS and the legacy RPC over what is there by now."""
        options, env, log, node = self.options, self._env, self._log, self.delegate
        self._self_endpoints = AgentEndpoints(
            parts.make_identity(options, self.node_id, self.state),
            node,
            Actions(self.request_leave, self.stats, self.monitor, self.reload, self.host),
            http_defaults(options),
        )
        table = routes(
            options, node, self._registry, self._cache, self._events, self._metrics, self._self_endpoints, env.uuid
        )
        self._outside = parts.make_outside(options, env)
        self._pipeline = parts.make_pipeline(options, env, node, table, self._outside, self._metrics, log)
        self._http = parts.make_http(options, env, self._pipeline, log)
        self._dns = parts.make_dns(options, env, node, self._cache, self._metrics, log)
        self._ipc = parts.make_ipc(options, env, node, self._ipc_actions(), log)

    def _ipc_actions(self) -> ipc.Actions:
        logs = self._logs
        return ipc.Actions(
            leave=self.request_leave,
            reload=self.request_reload,
            stats=self.stats,
            open_tap=lambda level, wake: logs.monitor(
                format="classic", level=parse_level(level) or 0, wake=wake, with_backlog=True
            ),
            close_tap=logs.unmonitor,
        )

    # --- life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything, join. Raises ConsulError when the agent cannot run; call `stop` then."""
        options = self.options
        with locating(options.origins):
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
            with locating(options.origins):
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
        if not isinstance(self.delegate, ClientNode):
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
        self._self_endpoints.show(parts.make_identity(options, self.node_id, self.state))
        self._http.set_connections_per_client(fresh.limits.http_max_conns_per_client)
        if isinstance(self.delegate, ClientNode):
            self.delegate.set_call_limit(fresh.limits.rpc_rate, fresh.limits.rpc_max_burst)
        else:
            self.delegate.set_limits(
                trailing_logs=fresh.raft_trailing_logs,
                snapshot_threshold=fresh.raft_snapshot_threshold,
                snapshot_interval_s=fresh.raft_snapshot_interval,
                connections_per_client=fresh.limits.rpc_max_conns_per_client,
            )
        self._cache.limit(fresh.cache.entry_fetch_rate, fresh.cache.entry_fetch_max_burst)
        self._metrics.registry.set_filter(fresh.telemetry.prefix_filter)
        self._outside.show(parts.make_ui(options, self._env))
        self._pipeline.set_response_headers(fresh.http_config.response_headers)
        self._dns.reload(dns)
        self._watches.exchange(watches)

    def stats(self) -> Mapping[str, Mapping[str, str]]:
        """The sections of `consul info`."""
        return insight.stats(self.state, self.delegate.stats())

    def host(self) -> Mapping[str, Any]:
        """The machine, for `/v1/agent/host`."""
        env = self._env
        return host_document(
            env.files, hostname=env.hostname, data_dir=self.options.data_dir, now_ns=env.clock.wall_ns()
        )

    def monitor(self, level: str, *, json_lines: bool) -> AsyncIterator[bytes]:
        """The log from `level` on, until the reader goes away."""
        return insight.log_lines(self._logs, level, json_lines=json_lines)

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
