"""What the machine is, from the files of the kernel; what they lack or spoil is zero or absent."""

import json

import pytest

from pyconsul_agent.app.machine import host_document, runtime_stats
from pyconsul_agent.wire.gojson import encode

MEMINFO = "MemTotal:  1000 kB\nMemFree:  200 kB\nMemAvailable: 500 kB\nBuffers: 100 kB\nCached: 300 kB\n"
CPUINFO = "processor\t: 0\nmodel name\t: Fast One\ncpu MHz\t\t: 2400.5\nflags : a b\n\nprocessor\t: 1\n\n"


class Files:
    def __init__(self, **files):
        self.files = {"/proc/" + name.replace("_", "/"): text for name, text in files.items()}

    def read(self, path):
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.files[path].encode("latin-1")


def document(files, data_dir="/"):
    shown = host_document(files, hostname="h", data_dir=data_dir, now_ns=100_000_000_000)
    return json.loads(encode(shown))


def test_memory_processors_and_uptime_are_those_of_the_kernel():
    shown = document(Files(meminfo=MEMINFO, cpuinfo=CPUINFO, uptime="60.5 1.0\n"))
    memory = shown["Memory"]
    assert (memory["total"], memory["used"], memory["usedPercent"]) == (1000 * 1024, 400 * 1024, 40)
    assert [(cpu["cpu"], cpu["modelName"], cpu["mhz"]) for cpu in shown["CPU"]] == [(0, "Fast One", 2400.5), (1, "", 0)]
    assert (shown["Host"]["uptime"], shown["Host"]["bootTime"], shown["Host"]["hostname"]) == (60, 40, "h")
    assert shown["Disk"]["total"] > 0
    assert shown["CollectionTime"] == 100_000_000_000


@pytest.mark.parametrize(
    "text", ["", "nonsense", "MemTotal: many\n", "processor\n", "\xff: \xff", "MemTotal:" + "9" * 99]
)
def test_files_that_are_missing_or_spoiled_are_no_error(text):
    shown = document(Files(meminfo=text, cpuinfo=text, uptime=text), data_dir="/no/such/folder")
    assert shown["Memory"]["total"] == 0
    assert shown["Disk"] == {"path": "/no/such/folder"}
    assert document(Files())["CPU"] == []


def test_runtime_names_the_machine_as_scripts_know_it():
    shown = runtime_stats(7)
    assert shown["goroutines"] == "7"
    assert set(shown) == {"arch", "cpu_count", "goroutines", "max_procs", "os", "version"}
