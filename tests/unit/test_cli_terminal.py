"""Colors and progress go to terminals only; pipes and files get the recorded bytes."""

import io
import json

import pytest

from pyconsul_agent.cli.main import main
from pyconsul_agent.cli.terminal import STEP_BYTES, Counted, Progress
from tests.unit.test_cli_golden import CLOSED, server


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(line, address, *, out=None, err=None, **environ):
    out, err = out or io.StringIO(), err or io.StringIO()
    environ = {"CONSUL_HTTP_ADDR": address, **environ}
    code = main(line.split(), out=out, err=err, stdin=io.BytesIO(b""), environ=environ)
    return code, out.getvalue(), err.getvalue()


MEMBERS = [
    {"Name": name, "Addr": "10.0.0.1", "Port": 8301, "Status": status, "Tags": {"role": "node", "dc": "left"}}
    for name, status in (("alive", 1), ("failed", 4), ("x", 3))
]


def test_members_are_colored_by_their_status_and_nothing_else_is():
    with server(lambda *_: (200, MEMBERS)) as address:
        plain = shown("members", address)
        colored = shown("members", address, out=Terminal())
        off = [shown("members", address, out=Terminal(), **{name: value}) for name, value in
               (("NO_COLOR", "1"), ("TERM", "dumb"))]  # fmt: skip
    assert "\x1b" not in plain[1]
    assert [part[:2] + part[3:].partition("\x1b")[0] for part in colored[1].split("\x1b[")[1::2]] == [
        "32alive", "31failed", "33left",
    ]  # fmt: skip
    assert colored[1].replace("\x1b[0m", "").replace("\x1b[32m", "").replace("\x1b[31m", "").replace(
        "\x1b[33m", ""
    ) == plain[1]  # fmt: skip
    assert off == [plain, plain]


def test_errors_are_red_on_a_terminal():
    code, _, err = shown("kv get x", CLOSED, err=Terminal())
    assert code == 1
    assert err.startswith("\x1b[31mError querying Consul agent: ") and err.endswith("\x1b[0m\n")
    assert "\x1b" not in shown("kv get x", CLOSED)[2]


@pytest.mark.parametrize(("out", "err"), [(io.StringIO, io.StringIO), (Terminal, Terminal)])
def test_an_export_shows_no_progress_where_it_would_be_in_the_way(out, err):
    with server(lambda *_: (200, [])) as address:
        assert shown("kv export", address, out=out(), err=err()) == (0, "[]\n", "")


def test_a_transfer_of_keys_into_and_out_of_a_file_shows_progress(tmp_path):
    pairs = [{"Key": f"k{n}", "Flags": 0, "Value": "eA=="} for n in range(4)]
    big = [{"Key": "k", "Flags": 0, "Value": "eA==" * STEP_BYTES}]
    with server(lambda *_: (200, big)) as address:
        _, out, err = shown("kv export", address, err=Terminal())
    assert json.loads(out)
    assert err.startswith("\rExporting: 0.0 MiB\x1b[K\rExporting: 0.2 MiB") and err.endswith("\r\x1b[K")
    path = tmp_path / "keys.json"
    path.write_text(json.dumps([{"key": pair["Key"], "flags": 0, "value": pair["Value"]} for pair in pairs]))
    with server(lambda *_: (200, b"true")) as address:
        code, out, err = shown(f"kv import @{path}", address, err=Terminal())
    assert (code, out.count("Imported: ")) == (0, 4)
    assert [text for text in err.split("\r") if "%" in text][-1] == "Importing: 100 % of 4 keys\x1b[K"
    with server(lambda *_: (500, b"no")) as address:
        _, _, err = shown(f"kv import @{path}", address, err=Terminal())
    assert err == "\x1b[31mError! Failed writing data for pair k0: Unexpected response code: 500 (no)\x1b[0m\n"


def test_progress_is_written_when_it_changes_and_cleared_in_the_end():
    err = Terminal()
    with Progress(err, "Sending", 200) as progress:
        for _ in range(1000):
            progress.add(1)
    assert err.getvalue().count("Sending") == 101
    assert err.getvalue().endswith("100 % of 0.0 MiB\x1b[K\r\x1b[K")


def test_reading_a_file_is_progress():
    err = Terminal()
    with Progress(err, "Sending", 10) as progress:
        file = Counted(io.BytesIO(b"x" * 10), progress)
        assert (file.read(5), file.read(), file.read()) == (b"x" * 5, b"x" * 5, b"")
    assert err.getvalue().startswith("\rSending: 50 % of 0.0 MiB\x1b[K\rSending: 100 %")
