"""Paths outside /v1: the web interface, which trusts nobody, and profiles."""

import asyncio
import re
from importlib.resources import files

import pytest

from pyconsul_agent.interfaces.http.message import Query, Request
from pyconsul_agent.interfaces.http.outside import UI, Outside, load_ui
from pyconsul_agent.interfaces.http.profiles import BUSY, Profiles

SINCE = "Mon, 23 Nov 2026 00:00:00 GMT"
HOSTILE = '"><script>alert(1)</script>'


def ask(outside, path, method="GET", query=""):
    return outside(Request(method, path, Query(query), {}, b"", "10.0.0.9"))


def test_without_interface_only_the_root_says_something():
    plain = Outside(UI())
    assert (ask(plain, "/").status, ask(plain, "/").body) == (200, b"Consul Agent")
    assert [ask(plain, path) for path in ("/ui/", "/robots.txt", "/favicon.ico")] == [None] * 3


def test_the_page_is_the_same_whatever_is_asked_for():
    ui = Outside(load_ui("/ui/", SINCE))
    page = ask(ui, "/ui/").body
    for path in ("/ui/services", f"/ui/{HOSTILE}", "/ui/index.html", "/ui/a/../app.js"):
        assert ask(ui, path, query="x=" + "y").body == page
    assert b"script>alert" not in page
    assert ask(ui, "/other") is None


def test_the_page_allows_itself_scripts_of_its_origin_only():
    page = ask(Outside(load_ui("/ui/", SINCE)), "/ui/").body.decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script(?![^>]*src=)", page) == [], "no inline script"
    assert re.findall(r"\son\w+=", page) == [], "no inline handlers"


def test_the_script_builds_no_html():
    script = files("pyconsul_agent.interfaces.http").joinpath("ui", "app.js").read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"):
        assert word not in script
    assert "textContent" in script


def test_files_carry_their_type_and_no_sniffing():
    ui = Outside(load_ui("/ui/", SINCE))
    for name, kind in (("app.js", "text/javascript; charset=utf-8"), ("style.css", "text/css; charset=utf-8")):
        response = ask(ui, f"/ui/{name}")
        assert (response.status, response.content_type) == (200, kind)
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("given", ["/consul/", "consul", f"/{HOSTILE}/"])
def test_another_content_path_is_escaped_where_it_is_shown(given):
    ui = load_ui(given, SINCE)
    outside = Outside(ui)
    page = ask(outside, ui.content_path).body.decode()
    assert "<script>alert" not in page
    moved = ask(outside, "/")
    assert (moved.status, moved.headers["Location"].startswith("/")) == (301, True)
    assert b"<script>" not in moved.body


def test_profiles_need_enable_debug():
    response = ask(Outside(UI()), "/debug/pprof/heap")
    assert (response.status, response.body) == (401, b"ACL support disabled")


def test_profiles_tell_of_objects_tasks_and_time():
    async def scenario():
        outside = Outside(UI(), Profiles())
        assert b"objects known" in ask(outside, "/debug/pprof/heap").body
        assert b"tasks" in ask(outside, "/debug/pprof/goroutine").body
        assert b"heap" in ask(outside, "/debug/pprof/").body
        assert ask(outside, "/debug/pprof/trace").status == 404
        running = ask(outside, "/debug/pprof/profile", query="seconds=0.01")
        second = ask(outside, "/debug/pprof/profile", query="seconds=0.01")
        first = asyncio.ensure_future(anext(running.stream))
        await asyncio.sleep(0)
        assert ask(outside, "/debug/pprof/profile").body.decode() == BUSY
        assert (await anext(second.stream)).decode() == BUSY, "asked before the first began"
        assert b"function calls" in await first
        for each in (running, second):
            await each.stream.aclose()
        again = ask(outside, "/debug/pprof/profile", query="seconds=1")
        await again.stream.aclose()
        assert ask(outside, "/debug/pprof/profile", query="seconds=1").status == 200, "one that never began blocks none"

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["x", "-1", "0", "nan", "inf", "301"])
def test_lengths_of_profiles_are_bounded(text):
    assert ask(Outside(UI(), Profiles()), "/debug/pprof/profile", query=f"seconds={text}").status == 400
