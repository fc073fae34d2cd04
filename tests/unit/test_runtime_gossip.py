"""Pools of the driver on the simulated network: join, fail, leave, restart, events, keys, and nothing left behind."""

import asyncio
import random
from dataclasses import replace

import pytest

from pyconsul_agent.errors import DecodeError, NetError
from pyconsul_agent.runtime.gossip import GossipOptions, GossipPool
from pyconsul_agent.runtime.gossip_address import parse_join_address
from pyconsul_agent.runtime.gossip_cipher import AESCipher, GossipSeal
from pyconsul_agent.runtime.gossip_driver import GossipDriver
from pyconsul_agent.runtime.gossip_events import EVENTS_MAX, Subscription
from pyconsul_agent.runtime.gossip_rejoin import rejoin
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.consul import AgentTags, LanRules, client_tags
from pyconsul_agent.serf.effects import QueryReceived
from pyconsul_agent.serf.keys import key_text
from pyconsul_agent.sim.env import make_env
from pyconsul_agent.sim.world import World
from pyconsul_agent.structs.member import MemberEvent, MemberEventKind, MemberStatus, UserEvent
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.wire.serf import Query, encode
from tests.memory_net import run as run_virtual


class Recorder:
    """A log that remembers."""

    def __init__(self):
        self.lines = []

    def event(self, name, /, **fields):
        self.lines.append((name, fields))

    def _say(self, message, **pairs):
        self.lines.append((message, pairs))

    trace = debug = info = warn = error = _say

    def named(self, name):
        return self

    def said(self, text):
        return [pairs for message, pairs in self.lines if message == text]


class Cluster:
    """Pools by name, one host each."""

    def __init__(self, world):
        self.world = world
        self.pools = {}
        self.logs = {}

    async def start(self, name, number, **changes):
        ip = f"10.0.0.{number}"
        env = make_env(self.world, self.world.host(ip))
        tags = client_tags(AgentTags(datacenter=changes.pop("dc", "dc1"), node_id=f"id-{name}", build="1.10.11:"))
        options = GossipOptions(
            name=name, tags=tags, bind_host=ip, veto=LanRules(name, f"id-{name}", tags["dc"]), serf=SerfConfig()
        )
        self.logs[name] = Recorder()
        pool = self.pools[name] = GossipPool(env, self.logs[name], replace(options, **changes))
        await pool.start()
        return pool

    async def stop(self):
        for pool in self.pools.values():
            await pool.stop()

    def statuses(self, name):
        return {member.name: member.status.word for member in self.pools[name].members()}


def run(scenario, seed=1):
    with World(seed=seed) as world:
        cluster = Cluster(world)

        async def main():
            try:
                await scenario(cluster)
            finally:
                await cluster.stop()

        world.run(main())
        assert world.leftovers() == []


async def three(cluster, **changes):
    for number, name in enumerate(("a", "b", "c"), 1):
        await cluster.start(name, number, **changes)
    for name in ("b", "c"):
        assert await cluster.pools[name].join(["10.0.0.1"]) == 1
    await asyncio.sleep(3)


def read(subscription):
    found = []
    while subscription._events:
        found.append(subscription._events.popleft())
    return found


ALL_ALIVE = {"a": "alive", "b": "alive", "c": "alive"}


@pytest.mark.parametrize("seed", [1, 2])
def test_joined_nodes_see_each_other_alive_and_stay_so(seed):
    async def scenario(cluster):
        await three(cluster)
        await asyncio.sleep(60)
        for name in ALL_ALIVE:
            assert cluster.statuses(name) == ALL_ALIVE
            assert cluster.pools[name].stats()["health_score"] == "0"
            assert any(cluster.pools[name].coordinate().vec)

    run(scenario, seed)


def test_member_events_reach_subscribers_and_the_log():
    async def scenario(cluster):
        pool = await cluster.start("a", 1)
        subscription = pool.subscribe()
        await cluster.start("b", 2)
        await cluster.pools["b"].join(["10.0.0.1:8301"])
        await asyncio.sleep(1)
        (event,) = [e for e in read(subscription) if isinstance(e, MemberEvent)]
        assert (event.kind, event.member.name, event.member.tags["role"]) == (MemberEventKind.JOIN, "b", "node")
        fields = {"pool": "lan", "kind": "Join", "name": "b", "address": "10.0.0.2"}
        assert fields in cluster.logs["a"].said("member_event")

    run(scenario)


def test_leave_is_seen_as_left():
    async def scenario(cluster):
        await three(cluster)
        began = asyncio.get_running_loop().time()
        await cluster.pools["c"].leave()
        assert 3.0 <= asyncio.get_running_loop().time() - began < 9.0
        await cluster.pools["c"].stop()
        await asyncio.sleep(5)
        assert cluster.statuses("a") == cluster.statuses("b") == ALL_ALIVE | {"c": "left"}
        assert not cluster.logs["c"].said("Shutdown without a Leave")

    run(scenario)


def test_silent_stop_is_seen_as_failed_and_can_be_forced_to_left_and_pruned():
    async def scenario(cluster):
        await three(cluster)
        await cluster.pools["c"].stop()
        await asyncio.sleep(25)
        assert cluster.statuses("a") == cluster.statuses("b") == ALL_ALIVE | {"c": "failed"}
        await cluster.pools["a"].force_leave("c")
        await asyncio.sleep(3)
        assert cluster.statuses("b") == ALL_ALIVE | {"c": "left"}
        await cluster.pools["b"].force_leave("c", prune=True)
        await asyncio.sleep(3)
        assert cluster.statuses("a") == cluster.statuses("b") == {"a": "alive", "b": "alive"}

    run(scenario)


def test_user_event_reaches_all_once():
    async def scenario(cluster):
        await three(cluster)
        subscriptions = {name: pool.subscribe() for name, pool in cluster.pools.items()}
        cluster.pools["b"].user_event("consul:event:deploy", b"v1")
        await asyncio.sleep(40)  # a push/pull brings it again
        for subscription in subscriptions.values():
            events = [e for e in read(subscription) if isinstance(e, UserEvent)]
            assert events == [UserEvent(1, "consul:event:deploy", b"v1", False)]

    run(scenario)


def test_new_tags_reach_all():
    async def scenario(cluster):
        await three(cluster)
        tags = dict(cluster.pools["b"].local_member().tags) | {"acls": "1"}
        await cluster.pools["b"].set_tags(tags)
        await asyncio.sleep(3)
        assert cluster.pools["a"].member("b").tags["acls"] == "1"
        assert cluster.pools["b"].local_member().tags["acls"] == "1"

    run(scenario)


def test_query_is_answered_by_who_is_asked():
    async def scenario(cluster):
        await three(cluster)
        subscription = cluster.pools["b"].subscribe()
        query = Query(ltime=1, id=7, address=bytes((10, 0, 0, 1)), port=8301, name="load", timeout=10**9, flags=1)
        cluster.pools["a"]._driver.swim.send_user(("10.0.0.2", 8301), encode(query))
        cluster.pools["a"]._driver.perform(cluster.pools["a"]._now())
        await asyncio.sleep(0.5)
        (received,) = [e for e in read(subscription) if isinstance(e, QueryReceived)]
        assert cluster.pools["b"].respond(received, b"0.5")
        assert not cluster.pools["b"].respond(received, b"0.5")

    run(scenario)


def test_join_errors_are_worded_as_consul_does():
    async def scenario(cluster):
        pool = await cluster.start("a", 1)
        cluster.world.host("10.0.0.77")
        with pytest.raises(NetError) as error:
            await pool.join(["10.0.0.77"])
        assert str(error.value) == (
            "1 error occurred:\n\t* Failed to join 10.0.0.77:8301: "
            "dial tcp 10.0.0.77:8301: connect: connection refused\n\n"
        )
        with pytest.raises(NetError) as error:
            await pool.join(["10.0.0.77", "nowhere.example"])
        assert str(error.value).startswith("2 errors occurred:\n\t* Failed to resolve nowhere.example: lookup ")
        await cluster.start("b", 2)
        assert await pool.join(["10.0.0.77", "10.0.0.2"]) == 1

    run(scenario)


def test_agent_of_another_datacenter_is_refused_by_both_sides():
    async def scenario(cluster):
        await cluster.start("a", 1)
        other = await cluster.start("b", 2, dc="dc2")
        with pytest.raises(NetError, match="part of wrong datacenter 'dc1'"):
            await other.join(["10.0.0.1"])
        await asyncio.sleep(3)
        assert cluster.statuses("a") == {"a": "alive"}
        assert cluster.statuses("b") == {"b": "alive"}

    run(scenario)


KEY, OTHER_KEY = bytes(range(16)), bytes(range(32))


def test_keys_keep_strangers_out_and_friends_in():
    async def scenario(cluster):
        await three(cluster, keyring=Keyring((KEY,)))
        assert cluster.statuses("a") == ALL_ALIVE
        assert cluster.pools["a"].stats()["encrypted"] == "true"
        plain = await cluster.start("d", 4)
        with pytest.raises(NetError, match="Remote state is encrypted and encryption is not configured"):
            await plain.join(["10.0.0.1"])
        wrong = await cluster.start("e", 5, keyring=Keyring((OTHER_KEY,)))
        with pytest.raises(NetError, match="No installed keys could decrypt the message"):
            await wrong.join(["10.0.0.1"])
        assert cluster.statuses("a") == ALL_ALIVE

    run(scenario)


def test_rotated_keys_keep_the_pool_together():
    async def scenario(cluster):
        await three(cluster, keyring=Keyring((KEY,)))
        for pool in cluster.pools.values():
            pool.set_keyring(pool.keyring.add(OTHER_KEY))
        for pool in cluster.pools.values():
            pool.set_keyring(pool.keyring.use(OTHER_KEY))
            await asyncio.sleep(3)
        for pool in cluster.pools.values():
            pool.set_keyring(pool.keyring.remove(KEY))
        await asyncio.sleep(40)
        assert cluster.statuses("c") == ALL_ALIVE

    run(scenario)


def test_key_operations_reach_every_member_and_count_its_answer():
    async def scenario(cluster):
        kept = []
        await three(cluster, keyring=Keyring((KEY,)), on_keyring=kept.append)
        pool = cluster.pools["a"]
        outcome = await pool.key_operation("install-key", OTHER_KEY)
        assert (outcome.error, outcome.answers, outcome.nodes) == ("", 3, 3)
        assert (await pool.key_operation("use-key", OTHER_KEY)).error == ""
        outcome = await pool.key_operation("list-keys")
        assert outcome.keys == {key_text(KEY): 3, key_text(OTHER_KEY): 3}
        assert outcome.primary_keys == {key_text(OTHER_KEY): 3}
        assert (await pool.key_operation("remove-key", KEY)).error == ""
        await asyncio.sleep(40)
        assert [pool.keyring.keys for pool in cluster.pools.values()] == [(OTHER_KEY,)] * 3
        assert kept[-1].keys == (OTHER_KEY,)
        assert cluster.statuses("b") == ALL_ALIVE

    run(scenario)


def test_key_operation_that_members_refuse_says_why():
    async def scenario(cluster):
        await three(cluster, keyring=Keyring((KEY,)))
        outcome = await cluster.pools["a"].key_operation("remove-key", KEY)
        assert outcome.error == "3/3 nodes reported failure"
        assert outcome.messages == dict.fromkeys("abc", "Removing the primary key is not allowed")
        cluster.world.network.cut("10.0.0.1", "10.0.0.3")
        cluster.world.network.cut("10.0.0.2", "10.0.0.3")
        outcome = await cluster.pools["a"].key_operation("install-key", OTHER_KEY)
        assert outcome.error == "2/3 nodes reported success"

    run(scenario)


def test_key_operation_without_encryption_is_refused_by_all():
    async def scenario(cluster):
        await three(cluster)
        outcome = await cluster.pools["b"].key_operation("list-keys")
        assert outcome.error == "3/3 nodes reported failure"
        assert set(outcome.messages.values()) == {"Keyring is empty (encryption not enabled)"}

    run(scenario)


def test_stop_ends_a_key_operation():
    async def scenario(cluster):
        await three(cluster, keyring=Keyring((KEY,)))
        cluster.world.network.cut("10.0.0.1", "10.0.0.3")
        cluster.world.network.cut("10.0.0.1", "10.0.0.2")
        pool = cluster.pools["a"]
        task = asyncio.create_task(pool.key_operation("list-keys"))
        await asyncio.sleep(0.1)
        await pool.stop()
        assert (await task).error == "1/3 nodes reported success"

    run(scenario)


def test_restarted_node_finds_its_peers_by_its_snapshot():
    async def scenario(cluster):
        for number, name in enumerate(("a", "b"), 1):
            await cluster.start(name, number, snapshot_path="/data/serf/local.snapshot")
        await cluster.pools["b"].join(["10.0.0.1"])
        await asyncio.sleep(3)
        await cluster.pools["b"].stop()
        await cluster.start("b", 2, snapshot_path="/data/serf/local.snapshot")
        await asyncio.sleep(3)
        assert cluster.statuses("b") == {"a": "alive", "b": "alive"}
        assert cluster.logs["b"].said("rejoined") == [{"pool": "lan", "name": "a", "address": "10.0.0.1:8301"}]

    run(scenario)


@pytest.mark.parametrize("seed", range(6))
def test_two_that_come_back_together_are_soon_alive_for_those_who_stayed(seed):
    """Though each may find the other first, which knows nothing of its death."""

    async def scenario(cluster):
        for number, name in enumerate("abcd", 1):
            await cluster.start(name, number, snapshot_path=f"/data/{name}")
            if number > 1:
                await cluster.pools[name].join(["10.0.0.1"])
        await asyncio.sleep(3)
        for name in "cd":
            await cluster.pools[name].stop()
        await asyncio.sleep(20)
        assert cluster.statuses("a") == {"a": "alive", "b": "alive", "c": "failed", "d": "failed"}
        for number, name in ((3, "c"), (4, "d")):
            await cluster.start(name, number, snapshot_path=f"/data/{name}")
        await asyncio.sleep(3)
        for name in "abcd":
            assert cluster.statuses(name) == dict.fromkeys("abcd", "alive")

    run(scenario, seed)


def test_the_last_two_may_leave_at_once_without_waiting_for_each_other():
    async def scenario(cluster):
        for number, name in enumerate("ab", 1):
            await cluster.start(name, number)
        await cluster.pools["b"].join(["10.0.0.1"])
        await asyncio.sleep(3)
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(pool.leave() for pool in cluster.pools.values()))
        assert asyncio.get_running_loop().time() - began < 5.5
        for log in cluster.logs.values():
            assert not log.said("timeout while waiting for graceful leave")
            assert not log.said("timeout waiting for leave broadcast")

    run(scenario)


def test_node_that_left_does_not_rejoin_by_itself():
    async def scenario(cluster):
        for number, name in enumerate(("a", "b"), 1):
            await cluster.start(name, number, snapshot_path="/data/serf/local.snapshot")
        await cluster.pools["b"].join(["10.0.0.1"])
        await asyncio.sleep(3)
        await cluster.pools["b"].leave()
        await cluster.pools["b"].stop()
        await cluster.start("b", 2, snapshot_path="/data/serf/local.snapshot")
        await asyncio.sleep(3)
        assert cluster.statuses("b") == {"b": "alive"}

    run(scenario)


def test_garbage_on_both_sockets_harms_nobody():
    async def scenario(cluster):
        await three(cluster)
        env = make_env(cluster.world, cluster.world.host("10.0.0.66"))
        socket = await env.net.datagrams(lambda data, source: None, "10.0.0.66", 8301)
        for size in range(60):
            socket.send(env.random.randbytes(size), ("10.0.0.1", 8301))
            socket.send(bytes((size,)) + env.random.randbytes(40), ("10.0.0.1", 8301))
        for start in (b"\x06", b"\x08", b"\x09", b"\x0a", b"\xf4", b"\x00", b"GET / HTTP/1.1\r\n"):
            transport, _ = await env.net.connect(asyncio.Protocol, "10.0.0.1", 8301)
            transport.write(start + env.random.randbytes(100))
        await asyncio.sleep(30)
        socket.close()
        transport.close()
        assert cluster.statuses("a") == ALL_ALIVE
        assert cluster.statuses("b") == ALL_ALIVE

    run(scenario)


def test_silent_connections_are_closed_in_time():
    async def scenario(cluster):
        await cluster.start("a", 1)
        env = make_env(cluster.world, cluster.world.host("10.0.0.66"))
        lost = asyncio.get_running_loop().create_future()

        class Silent(asyncio.Protocol):
            def connection_lost(self, error):
                lost.set_result(asyncio.get_running_loop().time())

        began = asyncio.get_running_loop().time()
        await env.net.connect(Silent, "10.0.0.1", 8301)
        assert 9 < await lost - began < 12
        assert cluster.logs["a"].said("gossip stream timed out")

    run(scenario)


def test_stop_while_joining_ends_the_join():
    async def scenario(cluster):
        pool = await cluster.start("a", 1)
        join = asyncio.create_task(pool.join(["10.9.9.9"]))
        await asyncio.sleep(0.1)
        await pool.stop()
        with pytest.raises(NetError):
            await join

    run(scenario)


def test_subscription_ends_with_the_pool():
    async def scenario(cluster):
        pool = await cluster.start("a", 1)
        subscription = pool.subscribe()
        pool.user_event("x", b"")
        await pool.stop()
        assert [type(e) async for e in subscription] == [UserEvent]

    run(scenario)


def test_stats_have_the_keys_of_consul_info():
    async def scenario(cluster):
        await three(cluster)
        assert list(cluster.pools["a"].stats()) == [
            "coordinate_resets", "encrypted", "event_queue", "event_time", "failed", "health_score", "intent_queue",
            "left", "member_time", "members", "query_queue", "query_time",
        ]  # fmt: skip
        assert cluster.pools["a"].stats()["members"] == "3"
        assert cluster.pools["a"].local_member().status is MemberStatus.ALIVE

    run(scenario)


# --- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("10.0.0.1", ("", "10.0.0.1", 8301)),
        ("10.0.0.1:9", ("", "10.0.0.1", 9)),
        ("host.example:8302", ("", "host.example", 8302)),
        ("node.dc1/10.0.0.1:8302", ("node.dc1", "10.0.0.1", 8302)),
        ("[fd00::1]:8302", ("", "fd00::1", 8302)),
        ("[fd00::1]", ("", "fd00::1", 8301)),
        ("fd00::1", ("", "fd00::1", 8301)),
    ],
)
def test_join_addresses(text, target):
    found = parse_join_address(text, 8301)
    assert (found.name, found.host, found.port) == target


@pytest.mark.parametrize("text", ["", "a:", "a:x", "a:0", "a:65536", "[::1", "[::1]x", "a:-1", "n/"])
def test_malformed_join_addresses_are_refused(text):
    with pytest.raises(NetError):
        parse_join_address(text, 8301)


def test_slow_subscriber_loses_the_oldest_events():
    async def scenario():
        closed = []
        subscription = Subscription(closed.append)
        for number in range(EVENTS_MAX + 2):
            subscription.put(UserEvent(number, "x", b"", False))
        assert subscription.dropped == 2
        assert (await anext(subscription)).lamport_time == 2
        subscription.close()
        subscription.close()
        assert closed == [subscription]

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [16, 24, 32])
def test_cipher_opens_only_what_its_key_sealed(size):
    cipher, other = AESCipher(bytes(size)), AESCipher(b"x" * size)
    sealed = cipher.seal(bytes(12), b"plain", b"aad")
    assert len(sealed) == 5 + 16
    assert cipher.open(bytes(12), sealed, b"aad") == b"plain"
    assert cipher.open(bytes(12), sealed, b"other") is None
    assert other.open(bytes(12), sealed, b"aad") is None


def test_plain_packets_are_dropped_unless_the_operator_lets_them_in():
    drawn = []

    def token(size):
        drawn.append(size)
        return bytes(size)

    strict = GossipSeal(Keyring((KEY,)), token)
    lenient = GossipSeal(Keyring((KEY,)), token, verify_incoming=False, verify_outgoing=False)
    with pytest.raises(DecodeError):
        strict.unpack(b"\x00plain")
    assert lenient.unpack(b"\x00plain") == b"\x00plain"
    assert lenient.packet(b"plain") == b"plain"
    assert lenient.unpack(strict.packet(b"plain")) == b"plain"
    assert drawn == [12]


def test_an_error_of_our_own_does_not_end_gossip():
    async def scenario(cluster):
        await three(cluster)
        pool = cluster.pools["a"]
        tick, failures = pool._driver.serf.tick, iter((True,))

        def fail_once(now):
            if next(failures, False):
                raise ZeroDivisionError
            tick(now)

        pool._driver.serf.tick = fail_once
        await asyncio.sleep(30)
        assert cluster.logs["a"].said("gossip: the timer caused an error")
        assert cluster.statuses("b") == ALL_ALIVE

    run(scenario)


def test_a_timer_that_is_due_at_once_can_be_replaced_under_uvloop():
    # uvloop's call_at gives a Handle without when() when the time has come: a container's gossip died of it.
    uvloop = pytest.importorskip("uvloop")

    async def scenario():
        driver = object.__new__(GossipDriver)
        driver._timer, fired = None, []
        driver._on_timer = fired.append
        now = asyncio.get_running_loop().time()
        driver._arm(now - 1)
        driver._arm(now - 2)
        driver._arm(now - 2)
        await asyncio.sleep(0.01)
        assert fired == [now - 2]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("stall_s", [0.9, 3.0, 20.0])
def test_a_stalled_loop_blames_itself_and_not_its_peers(stall_s):
    with World(seed=3) as world:
        logs = {name: Recorder() for name in "abcd"}
        processes = []

        def main(name, ip, contact):
            async def life(env):
                tags = client_tags(AgentTags(datacenter="dc1", node_id=f"id-{name}", build="1.10.11:"))
                pool = GossipPool(env, logs[name], GossipOptions(name=name, tags=tags, bind_host=ip))
                await pool.start()
                if contact:
                    await pool.join([contact])
                await asyncio.Event().wait()

            return life

        async def scenario():
            for number, name in enumerate("abcd", 1):
                ip = f"10.0.0.{number}"
                contact = "10.0.0.1" if number > 1 else None
                processes.append(world.process(ip, main(name, ip, contact), name=name))
                await asyncio.sleep(0.5)
            await asyncio.sleep(5)
            for _ in range(6):
                processes[0].stall(stall_s)
                await asyncio.sleep(stall_s + 7.3)
            for process in processes:
                process.kill()

        world.run(scenario())
    assert logs["a"].said("gossip: the event loop stood still")
    assert not logs["a"].said("suspect")
    assert not logs["a"].said("marked_failed")


def rejoined_by(answers, *, interval_s=30.0):
    """(who was contacted when, when it was over): `answers` maps a name to (seconds, whether it answers)."""
    contacted = []

    async def main():
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def contact(name, address):
            contacted.append((name, round(loop.time() - started, 3)))
            after_s, answering = answers[name]
            await asyncio.sleep(after_s)
            return answering

        known = {name: f"10.0.0.{number}:8301" for number, name in enumerate(answers)}
        await rejoin(
            known, contact, lambda: False, random.Random(3), Recorder(), pool="lan", own_name="me",
            interval_s=interval_s,
        )  # fmt: skip
        return round(loop.time() - started, 3)

    return contacted, run_virtual(main())


def test_rejoin_talks_to_three_members_of_the_snapshot():
    contacted, over = rejoined_by(dict.fromkeys("abcde", (0.01, True)))
    assert len(contacted) == 3
    assert over == pytest.approx(0.03)


def test_silent_addresses_of_the_snapshot_delay_a_rejoin_by_a_second_each():
    contacted, _ = rejoined_by(dict.fromkeys("abcd", (10.0, False)) | {"e": (0.01, True)})
    assert len(contacted) == 5
    assert dict(contacted)["e"] <= 4.0
    assert contacted[-1][1] <= 4.0


def test_rejoin_goes_on_until_somebody_answers():
    tries = []

    class Slowly(dict):
        def __getitem__(self, name):
            tries.append(name)
            return (0.01, len(tries) > 4)

    _, over = rejoined_by(Slowly.fromkeys("ab"), interval_s=30.0)
    assert (len(tries), over > 60.0) == (6, True)
