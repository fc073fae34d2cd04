"""Gossip keys: their files, the operation over all pools, and `/v1/operator/keyring` on a whole cluster."""

import asyncio
import base64
import json
import stat

import pytest

from pyconsul_agent.app.settings import client_config, server_config
from pyconsul_agent.config.configure import configure
from pyconsul_agent.config.sources import Sources
from pyconsul_agent.env.base import InterfaceAddress, open_stream
from pyconsul_agent.env.real import RealFiles
from pyconsul_agent.errors import ConfigError, RPCError
from pyconsul_agent.runtime.keyring_file import KeyringFile
from pyconsul_agent.serf.keys import KeyOutcome
from pyconsul_agent.server.endpoints.keyring import Keyrings
from pyconsul_agent.sim.cluster import DATA_DIR, Cluster
from pyconsul_agent.sim.disk import SimFiles
from pyconsul_agent.structs.operator import KeyringResponse
from pyconsul_agent.structs.requests import KeyringRequest, KeyringResponses
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.wire import msgpack
from tests.builders import run_sim
from tests.raft_cluster import Recorder

ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))


def text(key):
    return base64.b64encode(key).decode()


# --- files ---------------------------------------------------------------------------------------------------------


def keyring_file(path, log=None):
    return KeyringFile(RealFiles(), str(path), log or Recorder())


def test_configured_key_is_written_at_the_first_start_and_changes_after_it(tmp_path):
    path = tmp_path / "serf" / "local.keyring"
    kept = keyring_file(path)
    assert kept.load(Keyring((ONE,))) == Keyring((ONE,))
    assert path.read_text() == json.dumps([text(ONE)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept.save(Keyring((TWO, ONE)))
    assert path.read_text() == f'[\n  "{text(TWO)}",\n  "{text(ONE)}"\n]'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_wins_over_the_configuration_and_says_so_when_they_disagree(tmp_path):
    path, log = tmp_path / "local.keyring", Recorder()
    path.write_text(json.dumps([text(TWO), text(ONE)]))
    assert keyring_file(path, log).load(Keyring((ONE,))) == Keyring((TWO, ONE))
    assert keyring_file(path, log).load(None) == Keyring((TWO, ONE))
    assert "keyring doesn't include key" not in str(vars(log))
    assert keyring_file(path, log).load(Keyring((THREE,))) == Keyring((TWO, ONE))
    assert "keyring doesn't include key provided with -encrypt, using keyring" in str(vars(log))


def test_without_a_path_keys_are_in_memory_and_without_keys_there_is_no_file(tmp_path):
    kept = keyring_file("")
    assert kept.load(Keyring((ONE,))) == Keyring((ONE,))
    kept.save(Keyring((TWO,)))
    assert keyring_file(tmp_path / "local.keyring").load(None) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data", [b"{", b"{}", b"[1]", b'["x"]', b'["AAAA"]', b"[" * 60000, b"\xff", b"[]" + b" " * 70000, b"null"]
)
def test_file_that_holds_no_keys_stops_the_agent(tmp_path, data):
    path = tmp_path / "local.keyring"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="keyring file"):
        keyring_file(path).load(Keyring((ONE,)))


def test_keyring_directory_follows_data_dir_and_disable_keyring_file():
    def options(**flags):
        addresses = [InterfaceAddress("eth0", "10.0.0.1", is_loopback=False, is_default_route=True)]
        sources = Sources(flags={"data_dir": "/d", **flags})
        return configure(sources, files=None, interfaces=addresses, hostname="h")

    assert server_config(options(), "id").keyring_dir == client_config(options(), "id").keyring_dir == "/d/serf"
    assert server_config(options(disable_keyring_file=True), "id").keyring_dir == ""


# --- the operation -------------------------------------------------------------------------------------------------


class Pool:
    def __init__(self, name):
        self.name = name
        self.asked = []

    async def key_operation(self, operation, key=b"", *, relay_factor=0):
        self.asked.append((operation, key, relay_factor))
        return KeyOutcome(nodes=2, answers=2, keys={text(ONE): 2}, primary_keys={text(ONE): 2})


def keyrings(wan=True, datacenters=("dc1",), elsewhere=None):
    lan, far = Pool("lan"), Pool("wan") if wan else None
    made = Keyrings(lan, far, datacenter="dc1", datacenters=lambda: list(datacenters), elsewhere=elsewhere)
    return made, lan, far


def operate(keyrings, **request):
    return asyncio.run(keyrings.operate(KeyringRequest(**request))).responses


def test_wan_and_lan_are_asked_in_this_order_with_the_decoded_key():
    made, lan, wan = keyrings()
    answers = operate(made, operation="install", key=text(TWO), relay_factor=3)
    assert [(each.wan, each.datacenter, each.num_nodes, each.error) for each in answers] == [
        (True, "dc1", 2, ""),
        (False, "dc1", 2, ""),
    ]
    assert lan.asked == wan.asked == [("install-key", TWO, 3)]
    assert answers[0].keys == {text(ONE): 2}


@pytest.mark.parametrize("request_", [{"local_only": True}, {"forwarded": True}])
def test_local_and_forwarded_requests_stay_in_the_lan(request_):
    made, lan, wan = keyrings(datacenters=("dc1", "dc2"))
    assert [each.wan for each in operate(made, operation="list", **request_)] == [False]
    assert (len(lan.asked), wan.asked) == (1, [])


def test_every_other_datacenter_is_asked_once_for_its_lan():
    asked = []

    async def elsewhere(datacenter, method, body):
        asked.append((datacenter, method, msgpack.decode(KeyringRequest, body).forwarded))
        return msgpack.encode(KeyringResponses(responses=(KeyringResponse(datacenter=datacenter, num_nodes=1),)))

    made, _, _ = keyrings(datacenters=("dc1", "dc2", "dc3"), elsewhere=elsewhere)
    answers = operate(made, operation="list")
    assert [(each.wan, each.datacenter) for each in answers] == [
        (True, "dc1"), (False, "dc1"), (False, "dc2"), (False, "dc3"),
    ]  # fmt: skip
    assert asked == [(name, "Internal.KeyringOperation", True) for name in ("dc2", "dc3")]


def test_what_cannot_be_is_refused():
    made, lan, _ = keyrings()
    answers = operate(made, operation="use", key="abc")
    assert [each.error for each in answers] == ["illegal base64 data at input byte 0"] * 2
    with pytest.raises(RPCError, match="argument error: LocalOnly can only be used for List operations"):
        operate(made, operation="use", key=text(ONE), local_only=True)
    with pytest.raises(RPCError, match="unknown keyring operation"):
        operate(made, operation="destroy")
    assert lan.asked == []


# --- a cluster -----------------------------------------------------------------------------------------------------


async def ask(node, method, query="", key=None):
    """Status and body."""
    body = b"" if key is None else json.dumps({"Key": key}).encode()
    reader, writer = await open_stream(node.process.env.net, node.ip, 8500)
    head = f"{method} /v1/operator/keyring{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read(-1)
    writer.close()
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2].decode()


async def listed(node):
    status, body = await ask(node, "GET")
    assert status == 200, body
    return {
        ("WAN" if each["WAN"] else each["Datacenter"]): (each["Keys"], each["NumNodes"]) for each in json.loads(body)
    }


def test_key_is_rotated_in_a_cluster_and_outlives_a_restart_with_the_old_configuration():
    async def scenario(world):
        cluster = Cluster(world)
        cluster.article(encrypt=text(ONE), performance={"raft_multiplier": 1})
        cluster.start()
        await cluster.ready()
        server, client = cluster.nodes["server2"], cluster.nodes["client1"]

        async def complete():
            return await listed(server) == {"WAN": ({text(ONE): 3}, 3), "dc1": ({text(ONE): 4}, 4)}

        while not await complete():
            await asyncio.sleep(1)
        assert await ask(client, "GET") == (500, "keyring operations must run against a server node")
        for method, key in (("POST", TWO), ("PUT", TWO)):
            assert await ask(server, method, key=text(key)) == (200, "")
        status, body = await ask(server, "DELETE", key=text(TWO))
        assert status == 500
        assert body.startswith("9 errors occurred:\n\t* WAN error: 3/3 nodes reported failure\n\t* server")
        assert "\t* dc1 (LAN) error: 4/4 nodes reported failure\n" in body
        assert body.endswith(": Removing the primary key is not allowed\n\n")
        assert await ask(server, "DELETE", key=text(ONE)) == (200, "")
        assert await listed(server) == {"WAN": ({text(TWO): 3}, 3), "dc1": ({text(TWO): 4}, 4)}
        for node, names in ((server, ("local", "remote")), (client, ("local",))):
            for name in names:
                kept = SimFiles(node.host.disk).read(f"{DATA_DIR}/serf/{name}.keyring")
                assert json.loads(kept) == [text(TWO)]

        await client.stop()
        client.start()
        await cluster.until(
            "the client is back", lambda: client.running and client.statuses().get("server1") == "alive", 60
        )
        await cluster.stop()

    run_sim(3, scenario)


def test_without_encryption_every_member_says_so():
    async def scenario(world):
        cluster = Cluster(world)
        cluster.add("node-a", "10.0.0.11", server=True, bootstrap=True)
        cluster.start()
        node = await cluster.ready()
        assert await ask(node, "GET") == (
            500,
            "4 errors occurred:\n\t* WAN error: 1/1 nodes reported failure\n"
            "\t* node-a.dc1: Keyring is empty (encryption not enabled)\n"
            "\t* dc1 (LAN) error: 1/1 nodes reported failure\n"
            "\t* node-a: Keyring is empty (encryption not enabled)\n\n",
        )
        bad = "2 errors occurred:\n\t* WAN error: {0}\n\t* dc1 (LAN) error: {0}\n\n"
        for method in ("POST", "PUT", "DELETE"):
            problem = bad.format("illegal base64 data at input byte 0")
            assert await ask(node, method, key="abc") == (500, problem)
        for method, query, message in (
            ("POST", "", "Request decode failed: EOF"),
            ("GET", "?relay-factor=9", "Invalid relay-factor: Relay factor must be in range: [0, 5]"),
            ("GET", "?relay-factor=-1", "Invalid relay-factor: Relay factor must be in range: [0, 5]"),
            ("GET", "?relay-factor=x", 'Error parsing relay factor: strconv.Atoi: parsing "x": invalid syntax'),
            ("GET", "?local-only=x", 'Error parsing local-only: strconv.ParseBool: parsing "x": invalid syntax'),
        ):
            assert await ask(node, method, query) == (400, f"Bad request: {message}")
        message = "Bad request: Invalid use of local-only: local-only can only be set for list requests"
        assert await ask(node, "POST", "?local-only=true", key=text(ONE)) == (400, message)
        await cluster.stop()

    run_sim(4, scenario)
