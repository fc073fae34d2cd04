"""The HTTP rules of the security document against a running agent: what each odd request is answered with, to the word.

Bytes that are no HTTP, floods and exhaustion are in test_bad_input; here the requests are well-formed, but bad.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import time

import pytest

from tests.integration.agents import Agent, dial, own, wait_for
from tests.integration.test_bad_input import RSS_GROWTH_MAX

pytestmark = pytest.mark.slow

IP = own("127.0.2.22")
LIMIT = 512 * 1024
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    limits = 'performance { raft_multiplier = 1 } log_level = "DEBUG" ui_config { enabled = true }'
    agent = Agent(tmp_path_factory.mktemp("bad"), IP, "n1", "-server", "-bootstrap", "-hcl", limits).start()
    agent.wait_leader()
    yield agent
    assert agent.put("/v1/kv/after", b"x")
    agent.close()
    agent.assert_clean()


def exchange(data: bytes, *, timeout_s: float = 10.0, finish: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of the answer to these bytes; the connection is closed afterwards."""
    with dial(IP, 8500) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(data)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while b"\r\n\r\n" not in answer and (piece := connection.recv(65536)):
            answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)) and (piece := connection.recv(65536)):
            body += piece
        return int(first.split()[1]), headers, body


def ask(method: str, target: str, body: bytes = b"", head: str = "") -> tuple[int, dict[str, str], bytes]:
    lines = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{head}\r\n"
    return exchange(lines.encode("latin-1") + body)


REGISTER = "/v1/agent/service/register"
OPERATION = {"KV": {"Verb": "set", "Key": "a", "Value": ""}}
ANSWERS = {
    "other expectation": ("PUT", "/v1/kv/x", b"x", 417, b"", "Expect: a-pony\r\n"),
    "no key": ("GET", "/v1/kv/", b"", 400, b"Missing key name", ""),
    "a value of the limit": ("PUT", "/v1/kv/limit", b"v" * LIMIT, 200, b"true", ""),
    "a value beyond it": ("PUT", "/v1/kv/limit", b"v" * (LIMIT + 1), 413, b"524289", ""),
    "stale and consistent": ("GET", "/v1/kv/x?stale&consistent", b"", 400, b"Cannot specify ?stale with", ""),
    "index below zero": ("GET", "/v1/kv/x?index=-1", b"", 400, b"Invalid index", ""),
    "index of letters": ("GET", "/v1/kv/x?index=abc", b"", 400, b"Invalid index", ""),
    "index beyond 64 bits": ("GET", f"/v1/kv/x?index={2**64}", b"", 400, b"Invalid index", ""),
    "wait of letters": ("GET", "/v1/kv/x?wait=abc", b"", 400, b"Invalid wait time", ""),
    "bad flags": ("PUT", "/v1/kv/x?flags=abc", b"", 500, b'strconv.ParseUint: parsing "abc": invalid syntax', ""),
    "huge flags": ("PUT", f"/v1/kv/x?flags={'9' * 400}", b"", 500, b"value out of range", ""),
    "bad cas": ("PUT", "/v1/kv/x?cas=-1", b"", 500, b"strconv.ParseUint: parsing", ""),
    "a session that is none": ("PUT", "/v1/kv/x?acquire=me", b"", 500, b"UUID must be 36 characters", ""),
    "unknown path": ("GET", "/v1/nothing", b"", 404, b"", ""),
    "unknown method": ("BREW", "/v1/kv/x", b"", 405, b"method BREW not allowed", ""),
    "HEAD": ("HEAD", "/v1/kv/x", b"", 405, b"", ""),
    "no JSON": ("PUT", REGISTER, b"{", 400, b"Request decode failed: unexpected EOF", ""),
    "empty JSON": ("PUT", REGISTER, b"", 400, b"Request decode failed: EOF", ""),
    "unknown field": ("PUT", REGISTER, b'{"Bogus":1}', 400, b'json: unknown field "Bogus"', ""),
    "huge number": ("PUT", REGISTER, b'{"Name":"a","Port":1e400}', 400, b"cannot unmarshal number", ""),
    "number of many digits": ("PUT", REGISTER, b'{"Name":"a","Port":' + b"9" * 5000 + b"}", 400, b"cannot", ""),
    "deep lists": ("PUT", REGISTER, b"[" * 100_000, 400, b"Request decode failed: ", ""),
    "deep objects": ("PUT", REGISTER, b'{"a":' * 50_000, 400, b"Request decode failed: ", ""),
    "deep in a transaction": ("PUT", "/v1/txn", b"[" * 100_000, 400, b"Failed to parse body: ", ""),
    "deep in a config entry": ("PUT", "/v1/config", b'{"Kind":' + b"[" * 100_000, 400, b"decoding failed: ", ""),
    "65 operations": ("PUT", "/v1/txn", json.dumps([OPERATION] * 65).encode(), 413, b"64", ""),
    "unknown verb": ("PUT", "/v1/txn", b'[{"KV":{"Verb":"x","Key":"a"}}]', 409, b'"Errors":[', ""),
    "null in a transaction": ("PUT", "/v1/txn", b"[null]", 400, b"", ""),
    "session of one second": ("PUT", "/v1/session/create", b'{"TTL":"1s"}', 500, b"Invalid Session TTL '10000", ""),
    "unknown datacenter": ("GET", "/v1/catalog/nodes?dc=nope", b"", 500, b"No path to datacenter", ""),
    "event of 513 bytes": ("PUT", "/v1/event/fire/x", b"e" * 600, 500, b"exceeds configured limit of 512 bytes", ""),
    "huge expression": ("GET", "/v1/catalog/nodes?filter=" + "(" * 5000, b"", 500, b"", ""),
    "bad query string": ("GET", "/v1/kv/x?%zz", b"", 500, b"", ""),
    "no snapshot": ("PUT", "/v1/snapshot", b"garbage", 500, b"failed to decompress snapshot: ", ""),
}  # fmt: skip
"""Method, target, body, status, what the answer's body holds, further header lines."""


@pytest.mark.parametrize("name", ANSWERS)
def test_bad_requests_are_answered_as_consul_does(agent, name):
    method, target, body, status, words, head = ANSWERS[name]
    answer = ask(method, target, body, head)
    assert answer[0] == status, answer
    assert words in answer[2], answer


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/v1/kv/a/../b", "/v1/kv/b"), ("/v1/kv/a%2f%2e%2e%2fb", "/v1/kv/b"), ("/v1/kv/a//b", "/v1/kv/a/b"),
        ("/v1/kv//x", "/v1/kv/x"), ("/v1/kv/%2fx", "/v1/kv/x"), ("//evil.example/..", "/"),
        ("/ui/../../etc/passwd", "/etc/passwd"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_path_traversal_is_a_redirect_on_this_host_and_stores_nothing(agent, method, target, location):
    status, headers, _ = ask(method, target, b"traversed" if method == "PUT" else b"")
    assert (status, headers["location"]) == (301, location)
    assert b"traversed" not in ask("GET", "/v1/kv/?recurse")[2]
    assert base64.b64encode(b"traversed") not in ask("GET", "/v1/kv/?recurse")[2]


def test_an_encoded_slash_routes_like_one_and_is_part_of_a_key(agent):
    assert ask("PUT", "/v1/kv/dir%2Fname", b"slash")[0] == 200
    assert ask("GET", "/v1/kv/dir/name?raw")[2] == b"slash"
    assert ask("GET", "/v1/catalog%2Fnodes")[0] == 200


def test_invalid_utf8_is_kept_in_keys_and_replaced_where_it_is_shown(agent):
    assert ask("PUT", "/v1/kv/bytes%ff", b"v")[0] == 200
    assert ask("GET", "/v1/kv/bytes%ff?raw")[2] == b"v"
    assert ask("GET", "/v1/kv/bytes%fe")[0] == 404
    shown = ask("GET", "/v1/kv/bytes?keys")[2]
    assert json.loads(shown) == ["bytes\ufffd"], shown
    assert ask("PUT", REGISTER, b'{"Name":"a\xff"}')[0] == 200
    assert "a\ufffd" in agent.get("/v1/agent/services")
    assert ask("PUT", "/v1/agent/service/deregister/a%EF%BF%BD")[0] == 200


def test_of_duplicate_keys_the_last_wins(agent):
    assert ask("PUT", REGISTER, b'{"Name":"first","ID":"twice","name":"second"}')[0] == 200
    assert json.loads(ask("GET", "/v1/agent/service/twice")[2])["Service"] == "second"
    ask("PUT", "/v1/agent/service/deregister/twice")


@pytest.mark.parametrize(
    "target", ["/v1/txn", REGISTER, "/v1/session/create", "/v1/query", "/v1/config", "/v1/event/fire/x"]
)
def test_a_body_is_refused_by_its_declared_length_before_it_is_read(agent, target):
    method = "POST" if target == "/v1/query" else "PUT"
    began = time.monotonic()
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n"
    status, _, body = exchange(head.encode() + b"[")
    assert (status, body[:41]) == (413, b"Request body(10000000000 bytes) too large")
    assert time.monotonic() - began < 2


def test_every_body_in_chunks_is_bounded_and_held_by_nobody(agent):
    rss = agent.rss()
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    for target in (REGISTER, "/v1/txn", "/v1/session/create"):
        with dial(IP, 8500) as connection:
            connection.settimeout(5)
            connection.sendall(f"PUT {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            sent = 0
            try:
                while sent < 1024**3:
                    connection.sendall(chunk)
                    sent += len(chunk)
            except OSError:
                pass
            assert sent < 48 * 1024**2, target
    assert agent.rss() - rss < RSS_GROWTH_MAX


def test_another_transfer_encoding_is_unknown(agent):
    assert exchange(b"PUT /v1/kv/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n")[0] == 501


def test_behind_bare_line_ends_nothing_more_is_read(agent):
    lines = b"PUT /v1/kv/lf HTTP/1.1\nHost: x\nContent-Length: 1\n\nx"
    status, headers, body = exchange(lines + b"PUT /v1/kv/smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert (status, headers["connection"], body) == (200, "close", b"true")
    assert ask("GET", "/v1/kv/smuggled")[0] == 404
    assert exchange(b"PUT /v1/kv/x HTTP/1.1\r\nHost: x\nContent-Length: 1\r\n\r\nx")[0] == 400


def test_who_has_too_many_connections_is_told_429_and_closed(agent):
    crowd = []
    try:
        for _ in range(260):
            crowd.append(socket.create_connection((IP, 8500), timeout=5, source_address=("127.0.3.7", 0)))
        told = 0
        for connection in crowd[200:]:
            connection.settimeout(5)
            answer = connection.recv(4096)
            told += answer.startswith(b"HTTP/1.1 429 ")
            assert connection.recv(4096) == b""
        assert told == 60
        assert ask("GET", "/v1/status/leader")[0] == 200, "others are served"
        crowd[0].sendall(b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert crowd[0].recv(4096).startswith(b"HTTP/1.1 200 "), "and the first ones are"
    finally:
        for connection in crowd:
            connection.close()


def test_what_strangers_write_is_shown_raw_only_as_inert_text(agent):
    assert ask("PUT", "/v1/kv/page", SCRIPT.encode())[0] == 200
    status, headers, body = ask("GET", "/v1/kv/page?raw")
    assert (status, body) == (200, SCRIPT.encode())
    wanted = ("text/plain", "nosniff", "sandbox")
    assert (
        tuple(headers[name] for name in ("content-type", "x-content-type-options", "content-security-policy")) == wanted
    )


def test_nothing_of_a_request_comes_back_as_html(agent):
    hostile = "%3Cscript%3Ealert(1)%3C%2Fscript%3E"
    definition = {
        "Name": SCRIPT,
        "ID": "x",
        "Tags": [SCRIPT],
        "Meta": {"a": SCRIPT},
        "Check": {"TTL": "10s", "Notes": SCRIPT},
    }
    ask("PUT", REGISTER, json.dumps(definition).encode())
    for target in (
        f"/v1/kv/{hostile}", f"/v1/kv/?keys&separator={hostile}", f"/v1/catalog/service/{hostile}", f"/{hostile}",
        f"/v1/catalog/nodes?filter={hostile}", f"/v1/health/service/{hostile}?passing={hostile}", "/v1/agent/services",
        f"/v1/kv/x?index={hostile}", f"/v1/session/info/{hostile}", f"/v1/query/{hostile}", "/v1/internal/ui/services",
        f"/ui/{hostile}", f"/v1/kv//{hostile}", f"/v1/agent/self?dc={hostile}", f"/v1/event/list?name={hostile}",
    ):  # fmt: skip
        status, headers, body = ask("GET", target)
        assert not body or "content-type" in headers, target
        if headers.get("content-type", "").startswith("text/html"):
            assert b"<script>alert" not in body, target
        assert status < 500 or body, target
    ask("PUT", "/v1/agent/service/deregister/x")


def test_tokens_and_control_characters_do_not_reach_the_log(agent):
    forged = "\r\n2026-01-01T00:00:00.000Z [ERROR] forged\x1b[31m"
    for target in ("/v1/kv/x?token=very-secret&index=abc", "/v1/kv/x?token=very-secret&acquire=x"):
        ask("PUT", target, b"")
    definition = {"Name": "service", "ID": f"id{forged}", "Check": {"Name": forged, "TTL": "10s"}}
    ask("PUT", REGISTER, json.dumps(definition).encode())
    wait_for(lambda: "forged" in agent.out, what="it is logged")
    assert "very-secret" not in agent.out
    assert "\x1b" not in agent.out
    assert not re.search(r"^2026-01-01T00:00:00.000Z \[ERROR\] forged", agent.out, re.MULTILINE)
