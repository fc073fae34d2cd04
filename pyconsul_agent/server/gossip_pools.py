"""The two pools of gossip that a server is in: all agents of its datacenter, and the servers of all datacenters."""

from __future__ import annotations

from pyconsul_agent.env.base import Env
from pyconsul_agent.env.log import Log
from pyconsul_agent.runtime.gossip import GossipOptions, GossipPool
from pyconsul_agent.runtime.keyring_file import KeyringFile
from pyconsul_agent.serf.consul import LanRules, ServerTags, server_tags, wan_name, wan_rules
from pyconsul_agent.server.config import ServerConfig
from pyconsul_agent.structs.coordinate import Coordinate, DatacenterMap
from pyconsul_agent.structs.member import MemberStatus
from pyconsul_agent.telemetry.net_meters import GossipMeter


def make_pools(config: ServerConfig, env: Env, log: Log, meter: GossipMeter) -> tuple[GossipPool, GossipPool | None]:
    """(LAN, WAN); no WAN where its port is off."""
    tags = ServerTags(
        datacenter=config.datacenter, node_id=config.node_id, build=config.build, port=config.rpc_port,
        bootstrap=config.bootstrap, expect=config.expect, wan_join_port=config.wan_port,
    )  # fmt: skip
    serf_dir = f"{config.data_dir}/serf" if config.data_dir else ""
    local_keys, remote_keys = _keyring_file(config, env, log, "local"), _keyring_file(config, env, log, "remote")
    lan = GossipPool(
        env,
        log.named("serf.lan"),
        GossipOptions(
            name=config.node_name,
            tags=server_tags(tags),
            bind_host=config.serf_lan_bind,
            bind_port=config.lan_port,
            advertise=(config.advertise, config.lan_port),
            swim=config.lan,
            serf=config.lan_serf,
            veto=LanRules(config.node_name, config.node_id, config.datacenter),
            keyring=local_keys.load(config.keyring),
            on_keyring=local_keys.save,
            verify_incoming=config.verify_incoming,
            verify_outgoing=config.verify_outgoing,
            snapshot_path=f"{serf_dir}/local.snapshot" if serf_dir else None,
        ),
        meter,
    )
    if config.wan_port <= 0:
        return lan, None
    wan = GossipPool(
        env,
        log.named("serf.wan"),
        GossipOptions(
            name=wan_name(config.node_name, config.datacenter),
            tags=server_tags(tags, wan=True),
            bind_host=config.serf_wan_bind,
            bind_port=config.wan_port,
            advertise=(config.advertise_wan, config.wan_port),
            swim=config.wan,
            serf=config.wan_serf,
            veto=wan_rules,
            keyring=remote_keys.load(config.keyring),
            on_keyring=remote_keys.save,
            verify_incoming=config.verify_incoming,
            verify_outgoing=config.verify_outgoing,
            snapshot_path=f"{serf_dir}/remote.snapshot" if serf_dir else None,
        ),
        meter,
    )
    return lan, wan


def _keyring_file(config: ServerConfig, env: Env, log: Log, name: str) -> KeyringFile:
    folder = config.keyring_dir
    return KeyringFile(env.files, folder and f"{folder}/{name}.keyring", log)


def wan_coordinates(wan: GossipPool | None) -> list[DatacenterMap]:
    """Where the servers of each datacenter are in the WAN pool, as far as they have told."""
    if wan is None:
        return []
    found: dict[str, list[Coordinate]] = {}
    for member in wan.members():
        coordinate = wan.cached_coordinate(member.name)
        name, _, datacenter = member.name.rpartition(".")
        if coordinate is not None and member.status is MemberStatus.ALIVE:
            found.setdefault(datacenter, []).append(Coordinate(node=name, coord=coordinate))
    return [
        DatacenterMap(datacenter=datacenter, area_id="wan", coordinates=tuple(rows))
        for datacenter, rows in sorted(found.items())
    ]
