"""Files of services and checks: which are taken back, purged or set aside, and what a restored check is allowed."""

import asyncio
import hashlib
import json
import random

import pytest

from pyconsul_agent.agent.local import LocalState, NodeInfo
from pyconsul_agent.agent.persist import FILE_BYTES_MAX, HOST_IDS, Persistence, TTLState, host_node_id
from pyconsul_agent.agent.registry import CheckSettings, Registry, Tools
from pyconsul_agent.env.real import RealFiles
from pyconsul_agent.sim.disk import SimDisk, SimFiles
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.catalog import CheckType, NodeService
from pyconsul_agent.structs.health import HealthCheck
from tests.builders import run_sim
from tests.raft_cluster import Recorder

MINUTE = duration(60)


def named(identity, kind="sha256"):
    return hashlib.new(kind, identity.encode()).hexdigest()


@pytest.fixture
def folder(tmp_path):
    for name in ("services", "checks/state"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


async def at_once(work):
    return work()


def kept(folder, log=None, worker=at_once, files=None):
    return Persistence(files or RealFiles(), str(folder), worker, log or Recorder())


def written(persistence):
    asyncio.run(persistence.kept(0))


def service(identity, **more):
    return json.dumps({"Token": "", "Service": {"ID": identity, "Service": identity}, "Source": "remote", **more})


def test_what_was_saved_comes_back(folder):
    saving = kept(folder)
    saving.save_service(NodeService(id="web", service="web", tags=("a",)), "secret")
    check = CheckType(check_id="c", http="http://x", interval=MINUTE, header={"A": ("b",)}, python="", udp="")
    saving.save_check(HealthCheck(check_id="c", name="c"), check, "t")
    written(saving)
    (saved,) = kept(folder).services()
    assert (saved.service.id, saved.service.tags, saved.token) == ("web", ("a",), "secret")
    (saved,) = kept(folder).checks()
    assert (saved.definition, saved.token, saved.source) == (check, "t", "remote")
    text = (folder / "checks" / named("c")).read_text()
    assert "UDP" not in text and "Python" not in text  # an older Consul that reads it knows neither
    assert (folder / "services" / named("web")).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"Source": "remote"}',
        b'{"Service": 5, "Source": "remote"}',
        b'{"Service": {"ID": 5}, "Source": "remote"}',
        b'{"Service": {"ID": ""}, "Source": "remote"}',
        b'{"Service": {"ID": "x", "Tags": {"a": 1}}, "Source": "remote"}',
        b'{"Service":' + b"[" * 100_000,
        b" " * (FILE_BYTES_MAX + 1),
    ],
)
def test_a_corrupt_file_is_named_and_set_aside(folder, content):
    (folder / "services" / "0bad").write_bytes(content)
    (folder / "services" / named("good")).write_text(service("good"))
    log = Recorder()
    assert [saved.service.id for saved in kept(folder, log).services()] == ["good"]
    ((_, message, pairs),) = log.lines
    assert message == "Corrupt file set aside" and pairs["path"].endswith("/services/0bad")
    assert (folder / "services" / "0bad.corrupt").read_bytes() == content
    assert [saved.service.id for saved in kept(folder, log).services()] == ["good"]
    assert len(log.lines) == 1, "told once"


def test_a_corrupt_check_or_ttl_state_is_set_aside_too(folder):
    (folder / "checks" / "1bad").write_text('{"Check": {"CheckID": "c"}, "ChkType": 7, "Source": "remote"}')
    state = folder / "checks" / "state" / named("c")
    state.write_text('{"CheckID": "c", "Status": "passing", "Output": "", "Expires": "soon"}')
    assert kept(folder).checks() == []
    assert kept(folder).load_state("c", 0) is None
    assert (folder / "checks" / "1bad.corrupt").exists()
    assert (folder / "checks" / "state" / (named("c") + ".corrupt")).exists()


def test_files_named_by_md5_are_renamed_so_that_they_can_be_removed(folder):
    (folder / "services" / named("web", "md5")).write_text(service("web"))
    assert [saved.service.id for saved in kept(folder).services()] == ["web"]
    assert [path.name for path in (folder / "services").iterdir()] == [named("web")]
    removing = kept(folder)
    removing.remove_service("web")
    written(removing)
    assert kept(folder).services() == []


def test_an_unknown_source_is_purged_and_unfinished_files_are_skipped(folder):
    (folder / "services" / "x").write_text(service("x", Source="elsewhere"))
    (folder / "services" / ".y.abc.tmp").write_text(service("y"))
    (folder / "services" / "configs").mkdir()
    log = Recorder()
    purging = kept(folder, log)
    assert purging.services() == []
    written(purging)
    assert not (folder / "services" / "x").exists()
    assert "unknown source" in log.lines[0][1]


# --- the queue -----------------------------------------------------------------------------------------------------


class Held:
    """A worker whose jobs wait until they are let go."""

    def __init__(self):
        self.jobs = 0
        self.go = asyncio.Event()

    async def __call__(self, work):
        self.jobs += 1
        await self.go.wait()
        return work()


def save(persistence, *names):
    for name in names:
        persistence.save_service(NodeService(id=name, service=name), "")


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


def test_nobody_is_told_before_it_is_on_disk_and_those_who_wait_share_a_job(folder):
    async def scenario():
        worker = Held()
        persistence = kept(folder, worker=worker)
        save(persistence, "first")
        waiting = [asyncio.create_task(persistence.kept(0))]
        await turns()
        for name in ("a", "b", "c"):
            since = persistence.queued
            save(persistence, name)
            waiting.append(asyncio.create_task(persistence.kept(since)))
        await turns()
        assert not any(task.done() for task in waiting)
        assert not list((folder / "services").iterdir())
        worker.go.set()
        await asyncio.gather(*waiting)
        assert worker.jobs == 2
        assert len(list((folder / "services").iterdir())) == 4
        await persistence.kept(0)
        assert worker.jobs == 2, "nothing is left to write"

    asyncio.run(scenario())


def test_what_waits_is_there_already_for_who_reads(folder):
    (folder / "services" / named("old")).write_text(service("old"))
    persistence = kept(folder, worker=Held())
    save(persistence, "new")
    persistence.remove_service("old")
    persistence.save_state(TTLState("c", "passing", "fine", 100))
    assert [saved.service.id for saved in persistence.services()] == ["new"]
    assert persistence.load_state("c", 99).output == "fine"
    assert persistence.load_state("c", 100) is None
    assert persistence.load_state("c", 99) is None, "it had expired"
    persistence.remove_service("new")
    assert persistence.services() == []


def test_the_last_change_of_a_file_counts_though_a_waiter_goes_away(folder):
    async def scenario():
        worker = Held()
        persistence = kept(folder, worker=worker)
        save(persistence, "web")
        gone = asyncio.create_task(persistence.kept(0))
        await turns()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        persistence.save_service(NodeService(id="web", service="web", port=2), "")
        worker.go.set()
        await persistence.kept(0)
        assert worker.jobs == 2

    asyncio.run(scenario())
    assert [saved.service.port for saved in kept(folder).services()] == [2]


class FullFor(RealFiles):
    """A disk without room for one service."""

    def __init__(self, identity):
        self._name = named(identity)

    def write_atomic(self, path, data, **more):
        if path.endswith(self._name):
            raise OSError(28, "No space left on device")
        super().write_atomic(path, data, **more)


def test_a_full_disk_is_told_to_whom_it_concerns(folder):
    async def scenario():
        log, worker = Recorder(), Held()
        persistence = kept(folder, log, worker, FullFor("bad"))
        outcomes = []
        for name in ("good", "bad", "fine"):
            since = persistence.queued
            save(persistence, name)
            outcomes.append(asyncio.create_task(persistence.kept(since)))
            await turns()
        worker.go.set()
        good, bad, fine = await asyncio.gather(*outcomes, return_exceptions=True)
        assert (good, type(bad), fine) == (None, OSError, None)
        assert [line[1] for line in log.lines] == ["Definition cannot be kept on disk"]
        await persistence.kept(persistence.queued)

    asyncio.run(scenario())
    assert sorted(saved.service.id for saved in kept(folder).services()) == ["fine", "good"]


def test_a_full_disk_is_no_matter_of_who_changed_nothing(folder):
    """The reaper of services waits so; an error would end it."""

    async def scenario():
        worker = Held()
        persistence = kept(folder, worker=worker, files=FullFor("bad"))
        save(persistence, "bad")
        changer = asyncio.create_task(persistence.kept(0))
        await turns()
        save(persistence, "bad")
        bystander = asyncio.create_task(persistence.kept(persistence.queued))
        await turns()
        save(persistence, "bad")  # the same file again, so its change began before the bystander came and ends after
        worker.go.set()
        results = await asyncio.gather(changer, bystander, return_exceptions=True)
        assert [type(result) for result in results] == [OSError, type(None)]
        assert worker.jobs == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(40))
def test_what_was_kept_outlives_a_power_failure_also_the_first_of_a_folder(seed):
    disk = SimDisk(random.Random(seed))
    files = SimFiles(disk)
    files.make_dirs("/data")
    files.sync_dir("/")
    persistence = kept("/data", files=files)
    save(persistence, "a", "b")
    persistence.save_check(HealthCheck(check_id="c", name="c"), CheckType(check_id="c", ttl=MINUTE), "")
    written(persistence)
    save(persistence, "never answered")
    disk.crash()
    after = kept("/data", files=SimFiles(disk))
    assert [saved.service.id for saved in after.services()] == sorted(["a", "b"], key=named)
    assert [saved.check.check_id for saved in after.checks()] == ["c"]


# --- the registry over it ------------------------------------------------------------------------------------------


def registered(folder, scenario, *, log=None, **settings):
    """Run `scenario(registry)` over the files of `folder`."""

    async def whole(world):
        state = LocalState(NodeInfo("n", "id", "10.0.0.1", "dc1", {}, {}), changed=lambda: None)
        tools = Tools(_Clock(), random.Random(1), *[None] * 6)
        registry = Registry(state, kept(folder, log), CheckSettings(**settings), tools, log or Recorder())
        scenario(registry)
        await registry.stop()

    run_sim(1, whole)


class _Clock:
    def boottime(self):
        return 0.0

    def wall_ns(self):
        return 1_000 * 1_000_000_000


def test_maintenance_is_the_agents_own_and_outlives_it(folder):
    registered(folder, lambda registry: registry.set_node_maintenance(True, "tea", ""))
    body = json.loads((folder / "checks" / named("_node_maintenance")).read_text())
    assert (body["Source"], body["ChkType"]) == ("local", None)

    def again(registry):
        registry.restore()
        assert registry.state.check("_node_maintenance").notes == "tea"

    registered(folder, again)


@pytest.mark.parametrize(
    "check", [CheckType(script_args=("true",), interval=MINUTE), CheckType(python="a:b", interval=MINUTE)]
)
def test_a_restored_script_needs_the_permission_that_its_source_needs(folder, check):
    (folder / "checks" / named("c")).write_text("")

    def save(registry):
        registry.add_check(CheckType(**{**_fields(check), "check_id": "c", "name": "c"}))

    registered(folder, save, scripts_remote=True)
    log = Recorder()

    def restore(registry):
        registry.restore()
        assert registry.state.check("c") is None

    registered(folder, restore, log=log, scripts_local=True)
    assert "Failed to restore check" in str(log.lines) and "remote calls" in str(log.lines)
    assert not (folder / "checks" / named("c")).exists()


def _fields(check):
    return {name: getattr(check, name) for name in ("script_args", "python", "interval")}


def test_a_check_without_its_service_is_purged(folder):
    body = {"Check": {"CheckID": "c", "Name": "c", "ServiceID": "gone"}, "ChkType": {"TTL": 10**10}, "Source": "remote"}
    (folder / "checks" / named("c")).write_text(json.dumps(body))

    def restore(registry):
        registry.restore()
        assert registry.state.check("c") is None

    registered(folder, restore)
    assert not (folder / "checks" / named("c")).exists()


def test_a_ttl_check_takes_its_last_word_back_until_that_expires(folder):
    def save(registry):
        registry.add_check(CheckType(check_id="c", name="c", ttl=MINUTE))
        registry.update_ttl("c", "passing", "fine")

    def restored(expected):
        def restore(registry):
            registry.restore()
            found = registry.state.check("c")
            assert (found.status, found.output) == expected

        registered(folder, restore)

    registered(folder, save)
    restored(("passing", "fine"))
    state = folder / "checks" / "state" / named("c")
    state.write_text(state.read_text().replace("1060", "999"))
    restored(("critical", ""))
    assert not state.exists()


def test_an_interval_below_a_second_is_warned_about(folder):
    log = Recorder()

    def scenario(registry):
        registry.add_check(CheckType(check_id="c", name="c", tcp="h:1", interval=duration(0.5)))
        assert "interval below minimum" in str(log.lines)

    registered(folder, scenario, log=log)


def test_services_critical_for_too_long_are_removed_unless_only_an_alias_says_so(folder):
    async def whole(world):
        state = LocalState(NodeInfo("n", "id", "10.0.0.1", "dc1", {}, {}), changed=lambda: None)
        clock = _Clock()
        clock.boottime = world.loop.time
        registry = Registry(
            state, kept(folder), CheckSettings(), Tools(clock, random.Random(1), *[None] * 6), Recorder()
        )
        soon = {"deregister_critical_service_after": duration(1)}
        registry.add_service(NodeService(id="a", service="a"), [CheckType(ttl=10 * MINUTE, **soon)])
        registry.add_service(NodeService(id="b", service="b"), [CheckType(alias_service="gone", **soon)])
        running = asyncio.create_task(registry.run())
        await asyncio.sleep(59)
        assert set(state.live_services()) == {"a", "b"}, "a second is raised to a minute"
        await asyncio.sleep(60)
        assert set(state.live_services()) == {"b"}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await registry.stop()

    run_sim(1, whole)


# --- the node's id -------------------------------------------------------------------------------------------------


class HostFiles:
    def __init__(self, **texts):
        self.texts = {path: texts.get(path.rpartition("/")[2].replace("-", "_")) for path in HOST_IDS}

    def read(self, path):
        if self.texts[path] is None:
            raise PermissionError(13, "Permission denied")
        return self.texts[path].encode()


def test_a_node_id_of_the_host_is_the_hash_that_consul_makes():
    uuid = "4c4c4544-0039-4a10-8052-b7c04f4e4332"
    digits = hashlib.sha512(uuid.encode()).hexdigest()
    expected = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"
    assert host_node_id(HostFiles(product_uuid=uuid.upper() + "\n")) == expected
    assert host_node_id(HostFiles(machine_id=uuid.replace("-", ""), boot_id="x")) == expected
    assert host_node_id(HostFiles(product_uuid="Not Settable", boot_id=uuid)) == expected
    assert host_node_id(HostFiles(product_uuid="")) == ""
