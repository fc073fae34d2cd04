"""The parts of an agent, each made of the options and the few other parts that it needs. Nothing here starts anything.

`compose` says in which order they are made, started and stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate

from pyconsul_agent.agent.antientropy import AntiEntropy
from pyconsul_agent.agent.cache import Cache
from pyconsul_agent.agent.cache_table import CacheLimits
from pyconsul_agent.agent.checks.docker import Docker
from pyconsul_agent.agent.checks.http import AiohttpChecks
from pyconsul_agent.agent.local import LocalState, Tokens
from pyconsul_agent.agent.persist import Persistence
from pyconsul_agent.agent.registry import CheckSettings, Registry, Tools
from pyconsul_agent.agent.remote_exec import TEMPORARY_FOLDER, RemoteExec
from pyconsul_agent.app.debug_config import debug_config
from pyconsul_agent.app.metrics import Metrics
from pyconsul_agent.app.settings import client_config, dns_config, http_rules, node_info, server_config
from pyconsul_agent.client.node import ClientNode
from pyconsul_agent.config.options import Options
from pyconsul_agent.env.base import Env
from pyconsul_agent.env.log import Log
from pyconsul_agent.interfaces.dns.server import DNSServer
from pyconsul_agent.interfaces.http.agent import Identity
from pyconsul_agent.interfaces.http.outside import UI, Outside, load_ui
from pyconsul_agent.interfaces.http.pipeline import Pipeline
from pyconsul_agent.interfaces.http.profiles import Profiles
from pyconsul_agent.interfaces.http.routes import Route, RouteTable
from pyconsul_agent.interfaces.http.transport import HTTPServer
from pyconsul_agent.interfaces.ipc import handlers as ipc
from pyconsul_agent.interfaces.ipc.server import IPCServer
from pyconsul_agent.runtime.listeners import Listeners
from pyconsul_agent.runtime.raft_storage import RaftStorage
from pyconsul_agent.server.node import ServerNode

StorageFactory = Callable[[Options], RaftStorage]
Node = ServerNode | ClientNode


def make_node(
    options: Options,
    env: Env,
    storage: StorageFactory,
    listeners: Listeners,
    metrics: Metrics,
    log: Log,
    *,
    node_id: str,
    fatal: Callable[[BaseException], None],
) -> Node:
    """The cluster side: a server or a client. `fatal` is told why a server cannot go on."""
    if options.server:
        return ServerNode(
            server_config(options, node_id),
            env,
            storage(options),
            log.named("server"),
            listeners,
            fatal=fatal,
            meters=metrics.parts,
        )
    return ClientNode(client_config(options, node_id), env, log.named("client"), listeners, meters=metrics.parts)


def make_local_state(options: Options, node_id: str, changed: Callable[[], None]) -> LocalState:
    """What this node wants the catalog to say; `changed` is called when that changes."""
    tokens = options.acl.tokens
    return LocalState(
        node_info(options, node_id),
        changed=changed,
        discard_output=options.discard_check_output,
        tokens=Tokens(tokens.default, tokens.agent),
    )


def make_anti_entropy(options: Options, env: Env, state: LocalState, node: Node, log: Log) -> AntiEntropy:
    """What brings the catalog in line with the local state."""
    tokens = options.acl.tokens
    return AntiEntropy(
        state,
        node,
        log,
        env.random,
        cluster_size=lambda: len(node.lan_members()),
        agent_token=tokens.agent or tokens.default,
    )


def make_remote_exec(options: Options, env: Env, node: Node, log: Log) -> RemoteExec:
    """What runs the jobs of `consul exec`."""
    tokens = options.acl.tokens
    return RemoteExec(
        node,
        env.process,
        env.files,
        log,
        node=options.node_name,
        datacenter=options.datacenter,
        token=lambda: tokens.agent or tokens.default,
        temporary=lambda: f"{env.environ.get('TMPDIR') or TEMPORARY_FOLDER}/pyconsul-rexec-{env.uuid()}",
    )


def make_registry(
    options: Options, env: Env, state: LocalState, node: Node, check_client: AiohttpChecks, log: Log
) -> Registry:
    """Services and checks of this node, with their files and runners."""
    return Registry(
        state,
        Persistence(env.files, options.data_dir, env.blocking.worker("agent files"), log),
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
            check_client,
            Docker(env.environ.get("DOCKER_HOST", "")),
            node,
        ),
        log,
        sidecar_ports=(options.ports.sidecar_min_port, options.ports.sidecar_max_port),
    )


def make_cache(options: Options, env: Env, node: Node, log: Log) -> Cache:
    """The cache of `?cached` and `dns_config.use_cache`."""
    return Cache(
        node,
        env.clock,
        env.random,
        log.named("cache"),
        CacheLimits(options.cache.entry_fetch_rate, options.cache.entry_fetch_max_burst),
        subscriber=node if options.use_streaming_backend and isinstance(node, ClientNode) else None,
    )


def make_pipeline(
    options: Options, env: Env, node: Node, routes: list[Route], outside: Outside, metrics: Metrics, log: Log
) -> Pipeline:
    """The rules of HTTP around the routes."""
    return Pipeline(
        RouteTable(routes),
        http_rules(options),
        log.named("http"),
        fallback=outside,
        observe=metrics.http,
        again=metrics.http.again,
        now=env.clock.monotonic,
        stamp=node.stamp,
    )


def make_ui(options: Options, env: Env) -> UI:
    """The web interface, empty where it is off."""
    if not options.ui_config.enabled:
        return UI()
    return load_ui(options.ui_config.content_path, formatdate(env.clock.wall_ns() // 1_000_000_000, usegmt=True))


def make_outside(options: Options, env: Env) -> Outside:
    """What HTTP offers beside the API: the web interface and profiles, where they are on."""
    return Outside(make_ui(options, env), Profiles() if options.enable_debug else None)


def make_http(options: Options, env: Env, pipeline: Pipeline, log: Log) -> HTTPServer:
    """The HTTP interface."""
    return HTTPServer(
        env.net,
        env.clock,
        pipeline,
        log.named("http"),
        connections_per_client=options.limits.http_max_conns_per_client,
        head_bytes_max=options.http_config.max_header_bytes,
    )


def make_dns(options: Options, env: Env, node: Node, cache: Cache, metrics: Metrics, log: Log) -> DNSServer:
    """The DNS interface. Raises ConfigError for a recursor that is no address."""
    return DNSServer(
        env.net,
        node,
        dns_config(options),
        env.clock,
        env.random,
        log.named("dns"),
        token_bytes=env.token_bytes,
        # With ACLs answers would hang on tokens and policies too, of whose changes a catalog does not tell.
        local=node if isinstance(node, ServerNode) and not options.acl.enabled else None,
        cache=cache,
        meter=metrics.parts.dns,
    )


def make_ipc(options: Options, env: Env, node: Node, actions: ipc.Actions, log: Log) -> IPCServer:
    """The RPC of 0.5 to 0.7."""
    return IPCServer(
        env.net,
        ipc.Handlers(node, actions, datacenter=options.datacenter),
        actions,
        log.named("rpc"),
        local_only=options.acl.enabled and options.acl.default_policy == "deny",
    )


def make_identity(options: Options, node_id: str, state: LocalState) -> Identity:
    """Who this agent is, for `/v1/agent/self`."""
    return Identity(
        options.node_name,
        node_id,
        options.datacenter,
        options.server,
        state.node.meta,
        debug_config(options, node_id),
    )
