"""Configuration files as operators leave them lying about: broken, huge, endless, looping, in another encoding."""

import os
import socket

import pytest

from pyconsul_agent.config import sources
from pyconsul_agent.config.sources import FILE_BYTES_MAX, Sources, load
from pyconsul_agent.env.real import RealFiles
from pyconsul_agent.errors import ConfigError
from tests.builders import run_async


def read(*paths, format=""):
    return load(Sources(paths=[str(path) for path in paths], config_format=format), RealFiles())


def refusal(*paths, format=""):
    with pytest.raises(ConfigError) as refused:
        read(*paths, format=format)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b'{"server": tru}', "line 1 column 12"),
        ("a.hcl", b"server = true\nports {\n  http = = 1\n}", "At 3:"),
        ("a.json", b'{"node_name": "\xff"}', "not UTF-8 text"),
        ("a.hcl", 'node_name = "x"'.encode("utf-16"), "not UTF-8 text"),
        ("a.json", b'{"a":' * 200_000, "failed to parse"),
        ("a.hcl", b"a {" * 200_000, "failed to parse"),
        ("a.hcl", b"a = [" * 200_000, "failed to parse"),
        ("a.json", b"[1]", "cannot unmarshal"),
        ("a.json", b"\0" * 1000, "failed to parse"),
        ("a.hcl", b" " * (FILE_BYTES_MAX + 1), f"larger than {FILE_BYTES_MAX} bytes"),
    ],
)
def test_a_broken_file_is_refused_by_its_name(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path / name, tmp_path):
        text = refusal(path)
        assert str(tmp_path / name) in text and reason in text


def test_a_links_loop_and_a_broken_link_are_refused_by_name(tmp_path):
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    assert f"{tmp_path}/loop.json" in refusal(tmp_path)
    (tmp_path / "loop.json").unlink()
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere.json")
    assert "no such file or directory" in refusal(tmp_path)


def test_folders_in_a_folder_are_not_entered_also_when_they_lead_back(tmp_path):
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "deep.json").mkdir()
    (tmp_path / "deep.json" / "a.json").write_text("{")
    (tmp_path / "b.json").write_text('{"node_name": "b"}')
    assert read(tmp_path).node_name == "b"


def test_pipes_sockets_and_devices_of_a_folder_are_skipped_with_a_warning(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.hcl").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s.json"))
        options = read(tmp_path)
    for name in ("pipe.json", "zero.hcl", "s.json"):
        assert f"skipping file {tmp_path}/{name}, it is no regular file" in options.warnings


def test_an_endless_file_that_is_named_is_refused():
    assert "larger than" in refusal("/dev/zero", format="hcl")


def test_a_pipe_that_is_named_is_read(tmp_path):
    """As shells make them: `-config-file <(...)`."""
    reading, writing = os.pipe()
    os.write(writing, b'node_name = "piped"')
    os.close(writing)
    try:
        assert read(f"/dev/fd/{reading}", format="hcl").node_name == "piped"
    finally:
        os.close(reading)


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "FILES_MAX", 5)
    for number in range(6):
        (tmp_path / f"{number}.json").touch()
    assert f"more than 5 files in {tmp_path}" in refusal(tmp_path)


def test_http_listens_on_a_unix_socket_of_the_mode_and_owner_asked_for(tmp_path):
    from pyconsul_agent.env.real import RealClock
    from pyconsul_agent.env.real_net import RealNet
    from pyconsul_agent.interfaces.http.pipeline import Pipeline, Rules
    from pyconsul_agent.interfaces.http.routes import RouteTable
    from pyconsul_agent.interfaces.http.transport import HTTPServer
    from tests.raft_cluster import Recorder

    path = tmp_path / "http.sock"

    async def scenario():
        import asyncio

        server = HTTPServer(RealNet(), RealClock(), Pipeline(RouteTable([]), Rules(), Recorder()), Recorder())
        await server.start([(f"unix://{path}", 8500)], unix_mode=0o660, unix_owner=(os.getuid(), os.getgid()))
        assert path.stat().st_mode & 0o777 == 0o660
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        await server.stop()
        assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert not path.exists()

    run_async(scenario())
