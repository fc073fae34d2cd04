"""The classic bugs of other systems as named scenarios of the whole stack; docs/reliability.md lists them all.

Storage and cores have theirs in tests/unit and tests/scenarios. What a test's name does not say its docstring does.
"""

import asyncio
import base64
import copy
import json
import re
from contextlib import suppress

import pytest

from pyconsul_agent.sim.http_client import NoAnswer
from pyconsul_agent.sim.raft_storage import RaftDisk
from tests.sim.test_cluster import another_leader, article

POISON = b"\x02\xc1not msgpack"
"""A KVS command whose body cannot be decoded."""
DAY_S = 86_400.0


class FailsOnce(RaftDisk):
    """A medium that drops one write with an error and then says that all is well, as a kernel does after EIO."""

    __slots__ = ()

    def touch(self):
        if self.fail_in is not None and self.fail_in <= 0:
            self.fail_in = None
            RaftDisk.touch(RaftDisk(fail_in=0))
        RaftDisk.touch(self)


def now(run):
    return run.world.loop.time()


async def session(run, node, **options):
    answer = await run.ask(node, "PUT", "/v1/session/create", json.dumps(options).encode())
    assert answer.status == 200, answer
    return json.loads(answer.body)["ID"]


async def acquire(run, node, key, holder, value=b"v"):
    """True, False, or the text of a refusal."""
    answer = await run.ask(node, "PUT", f"/v1/kv/{key}?acquire={holder}", value)
    return answer.body.strip() == b"true" if answer.status == 200 else answer.body.decode()


async def lives(run, node, holder):
    return bool(await run.json(node, f"/v1/session/info/{holder}?consistent"))


async def row(run, node, key):
    return (await run.json(node, f"/v1/kv/{key}"))[0]


# --- the disk -----------------------------------------------------------------------------------------------------


def test_t_fsync_fails_then_ok():
    """Who met one failed write stops, though the next would succeed; nothing acknowledged is lost."""

    async def scenario(run):
        await run.put("client1", "before", "1")
        old = await run.cluster.ready()
        disk = old.host.disk.store["raft"]
        disk.__class__ = FailsOnce
        disk.fail_in = 0
        answer = None
        with suppress(NoAnswer):
            answer = await run.ask(old.name, "PUT", "/v1/kv/at-failure", b"2")
        await run.cluster.until("it stops", lambda: not old.process.running, 5)
        assert disk.fail_in is None and old.exit_codes == [1]
        run.cluster.complaints.clear()  # that it stopped was said, as it must
        new = await another_leader(run, old)
        found = await run.get(new.name, "at-failure")
        assert found == "2" or answer is None or answer.status == 500
        assert await run.get(new.name, "before") == "1"
        old.start()
        await run.alive(within_s=60)
        await run.equal()

    article(scenario, seed=21)


def test_t_restart_loop_disk_full():
    """A start that cannot write ends with one clear line and harms nothing; with room again the next one succeeds."""

    async def scenario(run):
        lines = []
        run.cluster._verbose = lines.append
        node = run.follower()
        node.kill()
        for number in range(3):
            node.host.disk.full = True
            node.host.disk.store["raft"].fail_in = 0
            lines.clear()
            node.start()
            await run.cluster.until("it gives up", lambda: not node.process.running, 30)
            assert len(node.exit_codes) == number + 1 and node.exit_codes[-1] == 1
            told = [line for line in lines if node.name in line and "Error starting agent" in line]
            assert len(told) == 1, lines
            await run.put((await run.cluster.ready()).name, f"meanwhile/{number}", "x")
        node.host.disk.clear_faults()
        node.host.disk.store["raft"].repair()
        run.cluster._verbose = None
        node.start()
        await run.alive(within_s=60)
        assert await run.get(node.name, "meanwhile/2") == "x"
        await run.equal()
        run.cluster.complaints.clear()

    article(scenario, seed=22)


def test_t_old_backup_restored():
    """A server that comes back with an older copy of its disk is filled again while the others live.

    It cannot lead before, because its log is shorter. That it had promised more than it knows, nobody can tell when a
    majority is restored so: only snapshots are backups (docs/operations.md).
    """

    async def scenario(run):
        node = run.follower()
        await run.put("client1", "early", "1")
        await run.equal()
        node.kill()
        backup = copy.deepcopy(node.host.disk.store["raft"])
        node.start()
        await run.alive(within_s=60)
        for number in range(20):
            await run.put("client1", f"late/{number}", str(number))
        await run.equal()
        node.kill(power_loss=True)
        node.host.disk.store["raft"] = backup
        leaders = []
        run.cluster.probes.elected.append(lambda who, term: leaders.append(who.name))
        node.start()
        old = await run.cluster.ready(30)
        await run.alive(within_s=60)
        old.kill()  # the restored server is now one half of the quorum
        await run.cluster.ready(30)
        for number in range(20):
            assert await run.get("client1", f"late/{number}", "&consistent") == str(number)
        old.start()
        await run.alive(within_s=60)
        await run.equal()

    article(scenario, seed=23)


# --- the old leader -----------------------------------------------------------------------------------------------


def test_t_stale_leader_pause():
    """A stopped leader that runs again answers what it was asked meanwhile from the new state, or not at all."""

    async def scenario(run):
        old = await run.cluster.ready()
        await run.put(old.name, "key", "before")
        old.process.pause()
        asked = [asyncio.ensure_future(run.ask(old.name, "GET", "/v1/kv/key?raw", timeout_s=40)) for _ in range(5)]
        new = await another_leader(run, old)
        await run.put(new.name, "key", "after")
        asked += [asyncio.ensure_future(run.ask(old.name, "GET", "/v1/kv/key?raw", timeout_s=40)) for _ in range(5)]
        await asyncio.sleep(0.5)
        old.process.resume()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        told = [answer for answer in answers if not isinstance(answer, NoAnswer)]
        assert told and all(answer.status == 500 or answer.body == b"after" for answer in told), answers
        await run.alive(within_s=90)
        assert await run.get(old.name, "key") == "after"
        await run.equal()

    article(scenario, seed=24)


def test_t_client_retry_twice():
    """A write whose outcome nobody learned is in the log once or not at all, whoever passed it on."""

    async def scenario(run):
        seen = {}

        def applied(node, entry, result):
            for value in re.findall(rb"once\.\d+", entry.data or b""):
                seen.setdefault((node.name, node.process.lives, value), []).append(entry.index)

        run.cluster.probes.applied.append(applied)
        sent = []

        over = asyncio.Event()

        async def write(name):
            while not over.is_set():
                sent.append(0)
                number = len(sent)
                with suppress(NoAnswer):
                    body = b"once.%d" % number
                    sent[number - 1] = (await run.ask(name, "PUT", f"/v1/kv/k{number % 3}", body, 3.0)).status
                await asyncio.sleep(0.05)

        writers = [asyncio.ensure_future(write(name)) for name in run.nodes]
        for _ in range(3):
            await asyncio.sleep(0.4)
            old = await run.cluster.ready(20)
            old.process.pause()
            await another_leader(run, old)
            old.kill()
            await asyncio.sleep(0.3)
            old.start()
            await run.alive(within_s=60)
        over.set()
        await asyncio.gather(*writers)
        assert sent.count(200) > 100 and sent.count(0) > 3  # of some nobody learned what came of them
        assert all(len(indexes) == 1 for indexes in seen.values()), seen
        await run.equal()

    article(scenario, seed=25)


# --- the state machine --------------------------------------------------------------------------------------------


def test_t_apply_nondeterminism():
    """Servers whose clocks and configurations differ reach the same state from the same commands."""

    async def scenario(run):
        for node, offset in zip(run.cluster.servers, (-DAY_S, 0.0, 3 * DAY_S), strict=True):
            node.host.wall_offset_s = offset
        for number in range(6):
            name = f"server{number % 3 + 1}"
            holder = await session(run, name, TTL="600s", Behavior="delete" if number % 2 else "release")
            assert await acquire(run, name, f"lock/{number}", holder) is True
            service = {"Name": f"web{number}", "Tags": ["b", "a"], "Meta": {"z": "1", "a": "2"}}
            await run.ask(name, "PUT", "/v1/agent/service/register", json.dumps(service).encode())
            query = {"Name": f"q{number}", "Service": {"Service": "web0", "Tags": ["a"]}}
            assert (await run.ask(name, "POST", "/v1/query", json.dumps(query).encode())).status == 200
            steps = [{"KV": {"Verb": "set", "Key": f"t/{step}", "Value": "eA=="}} for step in range(4)]
            assert (await run.ask(name, "PUT", "/v1/txn", json.dumps(steps).encode())).status == 200
            if number % 2:
                await run.ask(name, "PUT", f"/v1/session/destroy/{holder}")
        await run.ask("server1", "DELETE", "/v1/kv/t/?recurse")
        await asyncio.sleep(2)
        await run.equal()

    article(scenario, seed=26, node_meta={"rack": "r1"})


def test_t_apply_raises():
    """A committed command that cannot be applied is refused, everywhere and after every restart, and stops nobody."""

    async def scenario(run):
        leader = await run.cluster.ready()
        result = await leader.process.call(lambda: leader.raft.apply(POISON[0], POISON[1:]))
        assert isinstance(result, Exception)
        await run.put("client1", "key", "after")
        await run.equal()
        for node in run.cluster.servers:
            node.kill(power_loss=True)
        await asyncio.sleep(1)
        for node in run.cluster.servers:
            node.start()
        await run.cluster.ready(30)
        await run.alive(within_s=60)
        assert await run.get("client1", "key") == "after"
        await run.equal()

    article(scenario, seed=27)


def test_t_unknown_entry_type():
    """What a newer peer marks as skippable is passed over by all; tests/unit shows that anything else stops."""

    async def scenario(run):
        leader = await run.cluster.ready()
        assert await leader.process.call(lambda: leader.raft.apply(0x80 | 0x7F, b"from the future")) is None
        await run.put("client1", "key", "after")
        await run.equal()
        assert all(node.exit_codes == [] for node in run.cluster.servers)

    article(scenario, seed=28)


# --- membership ---------------------------------------------------------------------------------------------------


def test_t_leave_last_quorum():
    """All servers leave, one after the other, and are started again: they form the same cluster with all its data."""

    async def scenario(run):
        await run.put("client1", "key", "value")
        for node in run.cluster.servers:
            await node.leave()
            await asyncio.sleep(1)
        assert not any(node.process.running for node in run.cluster.servers)
        run.cluster.complaints.clear()
        for node in run.cluster.servers:
            node.start()
        await run.cluster.ready(60)
        await run.alive("server1", "server2", "server3", within_s=90)
        assert await run.get("server3", "key") == "value"
        await run.put("server2", "key", "more")
        await run.cluster.until("all vote", lambda: len(run.nodes["server1"].raft.configuration()[0].servers) == 3, 60)
        await run.equal()

    article(scenario, seed=29)


def test_t_same_id_twice():
    """A second machine with a copy of a server's data directory gets no entries and no place, and stops."""

    async def scenario(run):
        await run.put("client1", "key", "value")
        await run.equal()
        original = run.nodes["server3"]
        node_id = original.agent.node_id
        original.kill()
        raft = copy.deepcopy(original.host.disk.store["raft"])
        original.start()
        await run.alive(within_s=60)
        leader = await run.cluster.ready()
        term = leader.raft.term
        flags = {**original.flags, "node_name": "copy", "node_id": node_id}
        for key in ("bind_addr", "client_addr", "data_dir", "log_level", "ports"):
            flags.pop(key)
        twin = run.cluster.add("copy", "10.0.0.14", **flags)
        twin.host.disk.store["raft"] = raft
        twin.start()
        for number in range(5):
            await run.put("client1", "key", f"value {number}")
            assert original.raft.last_index == leader.raft.last_index  # entries go to the one that raft knows
            await asyncio.sleep(2)
        await run.cluster.until("it stops", lambda: not twin.process.running, 20)
        assert twin.exit_codes == [1]
        assert (await run.cluster.ready()) is leader and leader.raft.term == term
        assert sorted(await run.json("client1", "/v1/status/peers")) == [f"10.0.0.1{n}:8300" for n in (1, 2, 3)]
        services = await run.json("client1", "/v1/catalog/service/consul")
        assert sorted(row["Node"] for row in services) == ["server1", "server2", "server3"]
        del run.nodes["copy"]
        run.cluster.complaints.clear()
        await run.equal()

    article(scenario, seed=30)


@pytest.mark.parametrize("moved", [2, 3])
def test_t_two_new_ips_and_t_all_new_ips(moved):
    """Servers that come back with other addresses lead within 10 s; their gossip has scenario files of these names."""

    async def scenario(run):
        await run.put("client1", "key", "value")
        chosen = run.cluster.servers[-moved:]
        for node in chosen:
            node.kill()
        await asyncio.sleep(0.5)
        for number, node in enumerate(chosen):
            address = f"10.0.1.{10 + number}"
            run.world.network.move_host(node.host, address)
            node.ip = address
            node.flags.update(bind_addr=address, client_addr=address)
        run.nodes["server1"].flags["retry_join"] = ["10.0.1.10", "10.0.1.11"]
        for node in chosen[1:] if moved == 3 else chosen:
            node.flags["retry_join"] = [run.nodes["server1"].ip]
        for node in chosen:
            node.start()
        await run.cluster.ready(10)
        assert await run.get(chosen[0].name, "key") == "value"

    article(scenario, seed=31)


def test_t_ae_flap():
    """Two writers of one service: anti-entropy wins once a round, so the log grows by a bounded, visible number."""

    async def scenario(run):
        service = {"ID": "web", "Name": "web", "Port": 80}
        await run.ask("client1", "PUT", "/v1/agent/service/register", json.dumps(service).encode())
        await asyncio.sleep(2)
        registered = []
        run.cluster.probes.applied.append(
            lambda node, entry, _: node.is_leader and entry.data[:1] == b"\x00" and registered.append(entry.index)
        )
        foreign = {"Node": "client1", "Address": "10.0.0.21", "SkipNodeUpdate": True,
                   "Service": {"ID": "web", "Service": "web", "Port": 81}}  # fmt: skip
        for _ in range(2):
            assert (await run.ask("server1", "PUT", "/v1/catalog/register", json.dumps(foreign).encode())).status == 200
            await asyncio.sleep(130)
        assert 4 <= len(registered) <= 8  # each one is seen, and repaired by at most a few
        ports = {row["ServicePort"] for row in await run.json("server1", "/v1/catalog/service/web")}
        assert ports == {80}  # whose service it is has the last word

    article(scenario, seed=32)


# --- watches ------------------------------------------------------------------------------------------------------


async def wait_for(run, node, key, index, wait_s, timeout_s=60.0):
    """(index, value, seconds) of a blocking query."""
    began = now(run)
    answer = await run.ask(node, "GET", f"/v1/kv/{key}?index={index}&wait={wait_s}s", b"", timeout_s)
    value = None if answer.status == 404 else json.loads(answer.body)[0]
    assert answer.status in (200, 404), answer
    return int(answer.headers["x-consul-index"]), value, now(run) - began


def test_t_watch_missed():
    """A chain of blocking queries sees the last write soon, its indexes rise, also across a change of leaders."""

    async def scenario(run):
        await run.put("client1", "w", "0")
        seen, last = [], "write.29"

        async def watch(name):
            index, chain = 0, []
            while not chain or chain[-1][1] != last:
                try:
                    index, found, _ = await wait_for(run, name, "w", index, 10)
                except (NoAnswer, AssertionError):
                    await asyncio.sleep(0.2)
                    continue
                chain.append((found["ModifyIndex"], base64.b64decode(found["Value"]).decode()))
            seen.append(chain)

        watchers = [asyncio.ensure_future(watch(name)) for name in ("client1", "server1", "server2", "server3")]
        old = await run.cluster.ready()
        for number in range(30):
            if number == 15:
                old.process.pause()
                await another_leader(run, old)
                old.process.resume()
            for _ in range(20):
                answer = await run.ask("client1", "PUT", "/v1/kv/w", b"write.%d" % number)
                if answer.status == 200:
                    break
                await asyncio.sleep(0.2)
            await asyncio.sleep(0.05)
        written = now(run)
        await asyncio.wait_for(asyncio.gather(*watchers), 15)
        assert now(run) - written < 12
        for chain in seen:
            assert [index for index, _ in chain] == sorted(index for index, _ in chain)
            assert len({value for _, value in chain}) > 5
        await run.alive(within_s=60)

    article(scenario, seed=33)


def test_t_watch_backwards():
    """A restore takes indexes back: who waits with a later one is answered at once with the earlier."""

    async def scenario(run):
        await run.put("client1", "w", "old")
        archive = (await run.ask("client1", "GET", "/v1/snapshot", b"", 60.0)).body
        for number in range(10):
            await run.put("client1", "w", f"new{number}")
        index = int((await run.ask("client1", "GET", "/v1/kv/w")).headers["x-consul-index"])
        waiting = [asyncio.ensure_future(wait_for(run, name, "w", index, 60, 80.0)) for name in ("client1", "server2")]
        await asyncio.sleep(1)
        assert (await run.ask("client1", "PUT", "/v1/snapshot", archive, 60.0)).status == 200
        restored = now(run)
        for back, value, _ in await asyncio.gather(*waiting):
            assert back < index and value["ModifyIndex"] <= back
        assert now(run) - restored < 10
        await run.equal()

    article(scenario, seed=34)


def test_t_watch_starved():
    """A watch sleeps through any number of writes elsewhere and still wakes at its own."""

    async def scenario(run):
        await run.put("client1", "quiet", "1")
        index = int((await run.ask("client1", "GET", "/v1/kv/quiet")).headers["x-consul-index"])
        waiting = asyncio.ensure_future(wait_for(run, "client1", "quiet", index, 120, 150.0))
        for number in range(150):
            await run.put(f"server{number % 3 + 1}", f"noise/{number % 7}", str(number))
        assert not waiting.done()
        await run.put("server1", "quiet", "2")
        woken = now(run)
        found, value, _ = await waiting
        assert now(run) - woken < 0.5 and found == value["ModifyIndex"] > index + 100

    article(scenario, seed=35)


def test_t_watch_future_index():
    """An index that has not come yet waits for its time and gets the true one, which is lower."""

    async def scenario(run):
        await run.put("client1", "w", "1")
        for name in run.nodes:
            index, value, took = await wait_for(run, name, "w", 10**9, 2)
            assert 2.0 <= took < 2.5 and index == value["ModifyIndex"] < 1000

    article(scenario, seed=36)


# --- sessions and locks -------------------------------------------------------------------------------------------


def test_t_session_ttl_failover():
    """A change of leaders never shortens a session; it ends within twice its time on the new one."""

    async def scenario(run):
        holder = await session(run, "client1", TTL="10s", NodeChecks=[])
        await asyncio.sleep(8)
        renewed = now(run)
        assert (await run.ask("client1", "PUT", f"/v1/session/renew/{holder}")).status == 200
        await asyncio.sleep(1)
        old = await run.cluster.ready()
        old.kill()
        new = await another_leader(run, old)
        failover = now(run)
        while now(run) < renewed + 9.5:
            assert await lives(run, new.name, holder)
            await asyncio.sleep(0.5)
        while await lives(run, new.name, holder):
            assert now(run) < failover + 21
            await asyncio.sleep(0.5)
        old.start()
        await run.alive(within_s=60)

    article(scenario, seed=37)


def test_t_lockdelay_failover():
    """The delay after a lost lock is kept by a leader that was elected meanwhile."""

    async def scenario(run):
        first = await session(run, "client1", LockDelay="8s", NodeChecks=[])
        second = await session(run, "client1", LockDelay="8s", NodeChecks=[])
        assert await acquire(run, "client1", "lock", first) is True
        await run.ask("client1", "PUT", f"/v1/session/destroy/{first}")
        lost = now(run)
        old = await run.cluster.ready()
        old.kill()
        new = await another_leader(run, old)
        refused = 0
        while await acquire(run, new.name, "lock", second) is not True:
            refused += 1
            assert now(run) < lost + 10
            await asyncio.sleep(0.25)
        assert now(run) >= lost + 7.5 and refused > 10
        old.start()
        await run.alive(within_s=60)

    article(scenario, seed=38)


def test_t_lock_pause():
    """A holder that slept past its time cannot write with what it knows of the lock: LockIndex and session moved on."""

    async def scenario(run):
        first = await session(run, "client1", TTL="10s", LockDelay="0s", NodeChecks=[])
        assert await acquire(run, "client1", "lock", first, b"mine") is True
        known = await row(run, "client1", "lock")
        await asyncio.sleep(25)  # the holder's process stands still; nobody renews
        second = await session(run, "server2", LockDelay="0s", NodeChecks=[])
        assert await acquire(run, "server2", "lock", second, b"theirs") is True
        assert (await row(run, "client1", "lock"))["LockIndex"] == known["LockIndex"] + 1
        late = await run.ask("client1", "PUT", f"/v1/kv/lock?cas={known['ModifyIndex']}", b"late")
        assert (late.status, late.body.strip()) == (200, b"false")
        assert "invalid session" in str(await acquire(run, "client1", "lock", first, b"late"))
        fence = [{"KV": {"Verb": "check-session", "Key": "lock", "Session": first}},
                 {"KV": {"Verb": "set", "Key": "guarded", "Value": "eA=="}}]  # fmt: skip
        assert (await run.ask("client1", "PUT", "/v1/txn", json.dumps(fence).encode())).status == 409
        assert await run.get("client1", "lock") == "theirs"

    article(scenario, seed=39)


def test_t_clock_jump_ttl():
    """The wall clock jumps a day either way on every machine: no session ends early or lives on, no lock delay too."""

    async def scenario(run):
        for sign in (1, -1):
            holder = await session(run, "client1", TTL="10s", LockDelay="3s", NodeChecks=[])
            assert await acquire(run, "client1", "lock", holder) is True
            made = now(run)
            for node in run.nodes.values():
                node.host.wall_offset_s += sign * DAY_S
            while now(run) < made + 9:
                assert await lives(run, "server1", holder)
                await asyncio.sleep(1)
            while await lives(run, "server1", holder):
                assert now(run) < made + 21
                await asyncio.sleep(0.25)
            ended = now(run)
            other = await session(run, "client1", LockDelay="0s", NodeChecks=[])
            while await acquire(run, "client1", "lock", other) is not True:
                await asyncio.sleep(0.25)
            assert 2.0 <= now(run) - ended < 4.5
            await run.ask("client1", "PUT", f"/v1/session/destroy/{other}")
        await run.alive()

    article(scenario, seed=40)
