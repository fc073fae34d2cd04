"""`consul snapshot`: the recorded runs, files that are whole or not there, and archives of Consul itself."""

import json
import os
import stat
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.raft import Configuration, Server, SnapshotMeta
from pyconsul_agent.wire.msgpack import pack
from pyconsul_agent.wire.snapshot import write_archive
from pyconsul_agent.wire.snapshot_records import NAMES, census
from tests.unit.test_cli_golden import CLOSED, assert_same, case, replay, runs

VECTORS = Path(__file__).resolve().parents[2] / "conformance" / "vectors" / "raft"
SNAP_B = VECTORS / "snapB.snap"
KINDS = {name: kind for kind, name in NAMES.items()}


@contextmanager
def server(answer):
    """An agent's HTTP side; `answer(method, path, body, headers)` gives (status, headers, body, cut)."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.reply(b"")

        def do_PUT(self):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            self.reply(body)

        def reply(self, body):
            status, headers, data, cut = answer(self.command, self.path, body, self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(data), 1000):
                piece = data[at : at + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if not cut:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        def log_message(self, *arguments):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stream_of(stats):
    """A state stream with these sums and counts."""
    header = pack({"LastIndex": 1})
    parts, first = [header], len(header)
    for row in stats:
        sizes = [row["Sum"] // row["Count"]] * row["Count"]
        sizes[-1] += row["Sum"] - sum(sizes)
        sizes[0] -= first
        first = 0
        for size in sizes:
            parts.append(bytes([KINDS[row["Name"]]]) + record(size - 1))
    return b"".join(parts)


def record(size):
    """A msgpack value of exactly that many bytes."""
    for length in range(max(size - 6, 0), size):
        if len(pack(b"x" * length)) == size:
            return pack(b"x" * length)
    return pack([b"x" * 31, b"y" * (size - 34)])


def archive_of(text, stats):
    """The archive that a recorded `snapshot inspect` told of."""
    state = stream_of(stats)
    words = dict(line.split() for line in text.split("\n\n")[0].splitlines())
    server_row = Server(id="a", address="127.0.0.1:8300")
    meta = SnapshotMeta(
        id=words["ID"], index=int(words["Index"]), term=int(words["Term"]), size=len(state),
        configuration=Configuration(servers=(server_row,)), configuration_index=1,
    )  # fmt: skip
    return b"".join(write_archive(meta, [state], 1))


INSPECTIONS = ("snapshot-inspect", "snapshot-inspect-json", "snapshot-inspect-kv")


@pytest.mark.parametrize("name", INSPECTIONS)
def test_inspect_prints_what_was_recorded(name, here):
    stats = json.loads(case("snapshot", "snapshot-inspect-json")["stdout"])["Stats"]
    (here / "s.snap").write_bytes(archive_of(case("snapshot", "snapshot-inspect")["stdout"], stats))
    run = case("snapshot", name)
    assert_same(run, replay(run, CLOSED), CLOSED)


def test_every_recorded_run_is_replayed_here():
    replayed = {*INSPECTIONS, *SAVES, *RESTORES, "snapshot-save-none", "snapshot-restore-missing"}
    # Sizes of ACL rows in KB do not tell their bytes; its types and layout are those of the other inspection.
    assert replayed | {"acl-snapshot-inspect"} == {p.id for p in runs("snapshot")}


@pytest.mark.parametrize("name", ["snapshot-save-none", "snapshot-restore-missing"])
def test_mistake_of_the_user(name, here):
    run = case("snapshot", name)
    assert_same(run, replay(run, CLOSED), CLOSED)


SAVES = {
    "snapshot-save": 169, "acl-snapshot-save": 62, "snapshot-save-agent-default-token": 62, "denied-snapshot-save": 0,
}  # fmt: skip
RESTORES = {"snapshot-restore-bad"}


@pytest.mark.parametrize("name", SAVES)
def test_save(name, here):
    run, index = case("snapshot", name), SAVES[name]

    def answer(method, path, body, headers):
        assert (method, path) == ("GET", "/v1/snapshot")
        assert headers.get("X-Consul-Token") == run.get("env", {}).get("CONSUL_HTTP_TOKEN")
        if not index:
            return 403, {}, b"Permission denied", False
        return 200, {"X-Consul-Index": str(index)}, SNAP_B.read_bytes(), False

    with server(answer) as address:
        assert_same(run, replay(run, address), address)
    if index:
        (saved,) = here.iterdir()
        assert saved.name == run["argv"][-1]
        assert saved.read_bytes() == SNAP_B.read_bytes()
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    else:
        assert not list(here.iterdir())


def test_restore_of_a_bad_archive_shows_the_server_s_words(here):
    (here / "bad.snap").write_bytes(b"garbage")
    run = case("snapshot", "snapshot-restore-bad")

    def answer(method, path, body, headers):
        assert (method, path, body) == ("PUT", "/v1/snapshot", b"garbage")
        return 500, {}, b"failed to decompress snapshot: unexpected EOF", False

    with server(answer) as address:
        assert_same(run, replay(run, address), address)


def test_restore_sends_the_file_and_the_flags(here):
    (here / "s.snap").write_bytes(SNAP_B.read_bytes())
    seen = []

    def answer(method, path, body, headers):
        seen.append((method, path, body))
        return 200, {}, b"", False

    with server(answer) as address:
        run = {"argv": ["consul", "snapshot", "restore", "-datacenter=dc2", "s.snap"]}
        assert replay(run, address) == (0, "Restored snapshot\n", "")
    assert seen == [("PUT", "/v1/snapshot?dc=dc2", SNAP_B.read_bytes())]


def test_an_archive_that_is_cut_or_damaged_never_gets_its_name_and_leaves_the_old_one(here):
    good = SNAP_B.read_bytes()
    (here / "s.snap").write_bytes(b"the old one")
    run = {"argv": ["consul", "snapshot", "save", "-stale", "s.snap"]}
    damaged = good[:1000] + bytes([good[1000] ^ 1]) + good[1001:]
    for data, cut, words in (
        (good[:1000], True, "Error writing unverified snapshot file: unexpected EOF"),
        (good[:1000], False, "Error verifying snapshot file: failed to read snapshot file: "),
        (damaged, False, "Error verifying snapshot file: "),
        (b"", False, "Error verifying snapshot file: failed to decompress snapshot: EOF"),
    ):
        with server(lambda *_, data=data, cut=cut: (200, {"X-Consul-Index": "5"}, data, cut)) as address:
            code, out, err = replay(run, address)
        assert (code, out) == (1, "")
        assert err.startswith(words), err
        assert [path.name for path in here.iterdir()] == ["s.snap"]
    assert (here / "s.snap").read_bytes() == b"the old one"


def test_an_unwritable_place_is_named(here):
    with server(lambda *_: (200, {}, b"", False)) as address:
        run = {"argv": ["consul", "snapshot", "save", "nowhere/s.snap"]}
        text = "Error writing unverified snapshot file: open nowhere/s.snap.unverified: no such file or directory\n"
        assert replay(run, address) == (1, "", text)


def test_two_files_are_one_too_many(here):
    run = {"argv": ["consul", "snapshot", "inspect", "a", "b"]}
    assert replay(run, CLOSED) == (1, "", "Too many arguments (expected 1, got 2)\n")


@pytest.mark.parametrize("name", ["snapA", "snapB", "snap_case_rename"])
def test_archives_of_consul_are_counted_to_their_last_byte(name, here):
    decoded = json.loads((VECTORS / f"{name}.decoded.json").read_text())
    run = {"argv": ["consul", "snapshot", "inspect", "-format=json", os.fspath(VECTORS / f"{name}.snap")]}
    code, out, err = replay(run, CLOSED)
    shown = json.loads(out)
    assert (code, err) == (0, "")
    assert shown["TotalSize"] == shown["Meta"]["Size"] == sum(row["Sum"] for row in shown["Stats"])
    assert sum(row["Count"] for row in shown["Stats"]) == len(decoded["records"])


def test_keys_are_grouped_by_their_first_parts_and_filtered(here):
    run = {"argv": ["consul", "snapshot", "inspect", "-kvdetails", "-kvdepth=1", "-kvfilter=t",
                    os.fspath(VECTORS / "snapA.snap")]}  # fmt: skip
    _, out, _ = replay(run, CLOSED)
    assert out.split("\n\n")[2] == (
        " Key Name      Count      Size\n ----          ----       ----\n tx            2          149B\n"
        " ----          ----       ----\n Total                    149B\n"
    )


def test_a_stream_that_ends_inside_a_record_is_an_error():
    for stream in (b"", b"\x81", pack({"LastIndex": 1}) + b"\x02", pack({"LastIndex": 1}) + b"\x02\x81\xa3Key"):
        with pytest.raises(DecodeError):
            census([stream])
