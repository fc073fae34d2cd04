"""One reading of a path, whatever its spelling: for routing, for blocks, for the redirect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.interfaces.http.message import Response
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Rules, clean_path
from pyconsul_agent.interfaces.http.routes import Route, RouteTable
from tests.raft_cluster import Recorder


async def nothing(request):
    return Response()


def pipeline(**rules):
    table = RouteTable(
        [Route("/v1/kv/", (("GET", nothing),), "none"), Route("/v1/agent/self", (("GET", nothing),), "none")]
    )
    return Pipeline(table, Rules(**rules), Recorder())


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/v1/kv/a/../b", "/v1/kv/b"),
        ("/v1/kv/a%2f%2e%2e%2fb", "/v1/kv/b"),
        ("/v1/kv/a//b?x=1", "/v1/kv/a/b?x=1"),
        ("/ui/../../etc/passwd", "/etc/passwd"),
        ("//evil.example/..", "/"),
        ("//evil.example/x", "/evil.example/x"),
        ("http://evil.example//x", "/x"),
        ("/v1/kv", "/v1/kv/"),
        ("/v1//kv/%0d%0aSet-Cookie:x", None),
    ],
)
def test_odd_spellings_are_redirected_to_a_local_path(target, location):
    found = pipeline().locate(target, "GET")
    assert isinstance(found, Response)
    assert (found.status, found.headers.get("Location")) == ((301, location) if location else (400, None))


def test_an_encoded_slash_is_a_slash_for_routes_and_blocks_alike():
    rules = pipeline(block_endpoints=("/v1/agent",))
    for target in ("/v1/agent/self", "/v1/agent%2Fself", "/%76%31/agent/self"):
        found = rules.locate(target, "GET")
        assert found.route.pattern == "/v1/agent/self"
        assert rules.refuse(found, "GET", "10.0.0.1").status == 403
    assert rules.locate("/v1/AGENT/self", "GET").route is None


@given(st.text(st.sampled_from("/.%20fFeEa?#\\:@\udcff é"), max_size=30))
def test_whatever_is_asked_a_redirect_stays_here(text):
    found = pipeline(filter_unprintable=False).locate("/" + text, "GET")
    if isinstance(found, Response) and found.status == 301:
        location = found.headers["Location"]
        assert location.startswith("/")
        assert not location.startswith(("//", "/\\"))
        assert not set(location) & set('\r\n\0<>"')
    elif not isinstance(found, Response):
        assert clean_path(found.path) == found.path
