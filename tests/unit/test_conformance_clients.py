"""The pins of the clients that are driven against us, and what the program makes of a client that is missing."""

import json
import re
from pathlib import Path

import pytest

from conformance.clients import __main__ as clients
from conformance.clients import installs
from conformance.clients.installs import HERE
from conformance.real_consul import Missing


@pytest.mark.parametrize("name", ["py-consul", "python-consul"])
def test_every_python_pin_has_a_version_and_hashes_and_names_no_host(name):
    text = (HERE / f"requirements-{name}.txt").read_text()
    assert "://" not in text
    pins = re.split(r"\n(?=\S)", text.strip())
    assert any(pin.startswith(f"{name}==") for pin in pins)
    for pin in pins:
        assert re.match(r"[a-z0-9-]+==[0-9.]+ \\\n +--hash=sha256:[0-9a-f]{64}", pin), pin


def test_every_npm_pin_has_a_version_and_a_digest_and_names_no_host():
    text = (HERE / "package-lock.json").read_text()
    assert "://" not in text
    packages = json.loads(text)["packages"]
    assert packages.pop("")["dependencies"] == json.loads((HERE / "package.json").read_text())["dependencies"]
    assert "node_modules/consul" in packages
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package


def test_an_installation_is_made_once_for_the_same_pins(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pins, made = tmp_path / "pins", []
    pins.write_text("a==1")

    def install(folder: Path) -> None:
        made.append(folder)

    first = installs.installed("a", (pins,), install)
    assert installs.installed("a", (pins,), install) == first
    pins.write_text("a==2")
    assert installs.installed("a", (pins,), install) != first
    assert len(made) == 2


def test_an_installation_that_broke_off_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pins, made = tmp_path / "pins", []
    pins.write_text("a==1")

    def install(folder: Path) -> None:
        made.append(folder)
        if len(made) == 1:
            raise Missing("no registry")

    with pytest.raises(Missing):
        installs.installed("a", (pins,), install)
    installs.installed("a", (pins,), install)
    installs.installed("a", (pins,), install)
    assert len(made) == 2


@pytest.mark.parametrize(("ci", "counted"), [("true", (0, 1, 0)), ("", (0, 0, 1))])
def test_a_client_that_cannot_be_had_fails_in_ci_and_is_skipped_elsewhere(monkeypatch, capsys, ci, counted):
    def missing(scenario):
        raise Missing("no such package")

    monkeypatch.setenv("CI", ci)
    monkeypatch.setitem(clients.CLIENTS, "patroni", missing)
    checks = clients.drive("patroni", False, ())
    assert (checks.passed, checks.failed, checks.skipped) == counted
    assert "no such package" in capsys.readouterr().out


def test_a_scenario_that_raises_is_a_failure(monkeypatch, capsys):
    def broken(scenario):
        raise KeyError("m1")

    monkeypatch.setitem(clients.CLIENTS, "patroni", broken)
    assert clients.drive("patroni", False, ()).failed == 1
    assert "KeyError" in capsys.readouterr().out
