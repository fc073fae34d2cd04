"""What a client agent says of itself in the LAN pool, on simulated hosts."""

import json
from dataclasses import replace

import pytest

from pyconsul_agent.app.settings import client_config
from pyconsul_agent.client.node import ClientNode
from pyconsul_agent.config.options import Options, Resolved
from pyconsul_agent.runtime.listeners import Listeners
from pyconsul_agent.sim.env import make_env
from tests.builders import run_sim
from tests.raft_cluster import Recorder

KEY = "AQEBAQEBAQEBAQEBAQEBAQ=="


def client(world, **changes):
    env = make_env(world, world.host("10.0.0.1"))
    at = Resolved(bind="10.0.0.1", serf_lan_bind="10.0.0.1", advertise="10.0.0.1")
    options = replace(Options(), node_name="c1", datacenter="dc1", data_dir="/data", resolved=at, **changes)
    return env, ClientNode(client_config(options, "id-1"), env, Recorder(), Listeners(lambda event: None, lambda: None))


@pytest.mark.parametrize(("seconds", "tag"), [(0.0, None), (1800.0, "30m0s"), (28800.0, "8h0m0s")])
def test_a_reconnect_timeout_is_advertised_in_gos_text_and_only_when_it_is_set(seconds, tag):
    async def scene(world):
        _, node = client(world, advertise_reconnect_timeout=seconds)
        await node.start()
        assert node.local_member().tags.get("rc_tm") == tag
        await node.shutdown()

    run_sim(1, scene)


def test_gossip_counts_as_encrypted_when_only_the_keyring_file_has_a_key():
    async def scene(world):
        env, node = client(world)
        assert not node.gossip_encrypted
        env.files.make_dirs("/data/serf")
        env.files.write_atomic("/data/serf/local.keyring", json.dumps([KEY]).encode(), mode=0o600)
        _, node = client(world)
        assert node.gossip_encrypted

    run_sim(1, scene)
