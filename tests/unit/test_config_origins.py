"""Errors that are found after everything was merged name the file and the line too."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.app.reload import Reloader
from pyconsul_agent.config.configure import configure
from pyconsul_agent.config.origins import Origins, locating
from pyconsul_agent.config.sources import Sources
from pyconsul_agent.env.base import InterfaceAddress
from pyconsul_agent.env.real import RealFiles
from pyconsul_agent.errors import ConfigError

INTERFACES = [InterfaceAddress("eth0", "10.0.0.5", 24)]


def error_of(folder, **flags):
    sources = Sources(flags=flags, paths=[str(folder)])
    with pytest.raises(ConfigError) as caught:
        configure(sources, files=RealFiles(), interfaces=INTERFACES, hostname="h")
    return str(caught.value).replace(f"{folder}/", "")


BASE = {"a.hcl": '# comment\ndata_dir = "/d" // here\n/* two\nlines */\nserver = false\n'}
CASES = {
    "hcl": ({"b.hcl": 'log_level = "INFO"\n\nlog_level = "loud"\n'}, "Invalid log level: loud.", "(b.hcl:3)"),
    "json": ({"b.json": '{"ports": {\n "http": 1,\n "dns": 70000}}'}, "ports.dns: invalid port: 70000", "(b.json:3)"),
    "the last file wins": (
        {"b.hcl": 'log_level = "loud"', "c.json": '{\n"LOG_LEVEL": "louder"}'},
        "Invalid log level: louder.",
        "(c.json:2)",
    ),
    "a duration": (
        {"b.hcl": 'performance {\n  leave_drain_time = "5x"\n}'},
        "* performance.leave_drain_time: invalid duration",
        '(b.hcl:2)\n\n',
    ),
    "two keys": (
        {"b.hcl": "bootstrap = true\nbootstrap_expect = 3\nserver = true"},
        "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive",
        "(b.hcl:2, b.hcl:1)",
    ),
    "behind a heredoc": (
        {"b.hcl": 'node_meta {\n a = <<EOT\nx {\n"\nEOT\n}\nencrypt = "x"'},
        "encrypt has invalid key",
        "(b.hcl:7)",
    ),
    "a nested key is not that of the top": (
        {"b.hcl": 'services { meta { encrypt = "1" } }\n'}, "encrypt has invalid key", "base64 data at input byte 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_error_after_merging_names_file_and_line(tmp_path, name):
    files, text, end = CASES[name]
    for file, content in {**BASE, **files}.items():
        (tmp_path / file).write_text(content)
    flags = {"encrypt": "*"} if name.startswith("a nested") else {}
    said = error_of(tmp_path, **flags)
    assert text in said
    assert said.endswith(end), said


def test_what_a_flag_has_set_is_said_in_consuls_words_alone(tmp_path):
    (tmp_path / "a.hcl").write_text(BASE["a.hcl"])
    assert error_of(tmp_path, log_level="loud").endswith("Valid log levels are: [TRACE DEBUG INFO WARN ERR ERROR]")


FILES = (
    ("a.json", '{"services": [{"name": "a"},\n{"name": "b"}],\n"service": {"name": "c"}}'),
    ("b.hcl", 'service {\n name = "d"\n}\nservices { name = "e" }\n\nservices = [{ name = "f" }, {\n name = "g" }]'),
)


@pytest.mark.parametrize(
    ("number", "place"),
    list(enumerate(["a.json:1", "a.json:2", "a.json:3", "b.hcl:4", "b.hcl:6", "b.hcl:6", "b.hcl:1"])),
)
def test_an_element_of_a_merged_list_is_found_again(number, place):
    text = f"services[{number}]: it is bad"
    assert Origins(FILES).located(text) == f"{text} ({place})"


def test_an_entry_of_the_bootstrap_is_found_again():
    text = "config_entries.bootstrap[1]: bad"
    content = 'config_entries {\n bootstrap { kind = "a" }\n bootstrap {\n kind = "b"\n}\n}'
    assert Origins((("a.hcl", content),)).located(text) == f"{text} (a.hcl:3)"


def test_parts_of_paths_are_no_keys():
    text = "data_dir /srv/my-server/ports cannot be used"
    content = 'server = true\nports { http = 1 }\n\ndata_dir = "/srv/my-server/ports"'
    assert Origins((("a.hcl", content),)).located(text) == f"{text} (a.hcl:4)"


def test_an_element_that_no_file_has_is_left_alone():
    assert Origins(FILES).located("services[7]: bad; watches[0]: bad") == "services[7]: bad; watches[0]: bad"
    assert Origins().located("services[0]: bad") == "services[0]: bad"


@given(st.text(alphabet='{}[]=:,"\\\n#/*<-a$ \t1', max_size=200))
def test_any_text_is_read_to_its_end(text):
    located = Origins((("f", text),)).located("services[0]: a")
    assert located.startswith("services[0]: a")


def test_hostile_texts_take_no_time():
    for text in ("[" * 100_000, "{" * 100_000, 'a="' + "${" * 50_000, "a=<<b\n" * 2_000, "/*" * 20_000, '"\\' * 50_000):
        with pytest.raises(ConfigError), locating(Origins((("f", text),))):
            raise ConfigError("services[0]: bad")


def test_a_reload_names_the_place_too(tmp_path):
    (tmp_path / "a.hcl").write_text('data_dir = "/d"\n\nservices { port = 1 }\n')

    def read():
        sources = Sources(paths=[str(tmp_path / "a.hcl")])
        return configure(sources, files=RealFiles(), interfaces=INTERFACES, hostname="h")

    class Log:
        def error(self, message, **pairs):
            pass

    async def at_once(work):
        return work()

    async def scenario():
        reloader = Reloader(read, at_once, None, Log(), lambda options: None)
        with pytest.raises(ConfigError, match=r"services\[0\]: .* \(.*a\.hcl:3\)"):
            await reloader.reload()

    asyncio.run(scenario())
