"""The recorded `intention` runs, against a small server that keeps intentions as the agent does."""

import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from pyconsul_agent.cli.commands.intentions import FILE_BYTES_MAX
from tests.unit.test_cli_golden import CLOSED, assert_same, case, replay, runs, server

PATH = "/v1/connect/intentions"
ID = "f34f7d4f-367d-e729-0f97-2ea6db02867d"
CREATED = "2026-11-22T22:23:43.5Z"


@pytest.fixture
def in_utc(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def row(source, destination, action, **more):
    names = {"SourceNS": "default", "SourceName": source, "DestinationNS": "default", "DestinationName": destination}
    return {"ID": ID, **names, "Action": action, "Precedence": 9, "CreatedAt": CREATED, **more}


@pytest.mark.parametrize("run", [p for p in runs("intention") if p.values[0]["setup"].startswith("cluster")])
def test_without_connect(run):
    disabled = b"Connect must be enabled in order to use this endpoint"
    with server(lambda *_: (500, disabled)) as address:
        assert_same(run, replay(run, address), address)


def answer(method, target, body, headers):
    url = urlsplit(target)
    query = {key: values[0] for key, values in parse_qs(url.query).items()}
    if url.path == PATH and method == "POST":
        return (200, {"ID": ID}) if b'"web"' not in body else (500, b'Sources[2] defines "web" more than once')
    if url.path == f"{PATH}/exact" and method == "GET":
        known = (query["source"], query["destination"]) == ("web", "db")
        return (200, row("web", "db", "deny")) if known else (404, b"Intention not found")
    if url.path == f"{PATH}/check":
        return 200, {"Allowed": query["source"] == "a"}
    if url.path == f"{PATH}/match":
        rows = [row("api", "db", "deny"), row("web", "db", "deny")]
        return 200, {query["name"]: rows[1:] if query["by"] == "source" else rows}
    return 200, True


NAMES = [
    "acl-intention-create-deny", "acl-intention-create-exists", "acl-intention-create-replace", "acl-intention-get",
    "acl-intention-get-missing", "intention-check-denied", "acl-intention-check-allowed", "acl-intention-match",
    "acl-intention-match-source", "acl-intention-delete", "acl-intention-delete-missing",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_with_connect(name, in_utc):
    with server(answer) as address:
        assert_same(case("intention", name), replay(case("intention", name), address), address)


def test_a_list_has_columns_and_an_empty_one_is_told():
    with server(lambda *_: (200, [row("a", "b", "allow"), row("*", "b", "", Permissions=[{}])])) as address:
        code, out, err = replay({"argv": ["consul", "intention", "list"]}, address)
    assert (code, err) == (0, "")
    first, second, third = out.splitlines()
    assert first.split() == ["ID", "Source", "Action", "Destination", "Precedence"]
    assert second == f"{ID}  a       allow   b            9"
    assert third == f"{ID}  *               b            9"
    with server(lambda *_: (200, [])) as address:
        run = case("intention", "denied-intention-list")
        assert_same(run, replay(run, address), address)


def test_a_file_is_sent_as_it_is_understood(tmp_path):
    sent = []

    def keep(method, target, body, headers):
        sent.append((method, target, json.loads(body)))
        return 200, {"ID": ID}

    path = tmp_path / "ixn.json"
    path.write_text('{"sourcename": "f1", "DestinationName": "team/f2", "Action": "allow", "Unknown": 1, "Meta": null}')
    with server(keep) as address:
        result = replay({"argv": ["consul", "intention", "create", "-file", str(path)]}, address)
        pair = replay({"argv": ["consul", "intention", "create", "-meta=a=b", "ns/web", "db"]}, address)
    assert result == (0, "Created: f1 => team/f2 (allow)\n", "")
    assert pair == (0, "Created: ns/web => db (allow)\n", "")
    assert sent == [
        ("POST", PATH, {"SourceName": "f1", "DestinationName": "team/f2", "Action": "allow"}),
        ("POST", PATH, {"SourceType": "consul", "Action": "allow", "SourceName": "web", "SourceNS": "ns",
                        "DestinationName": "db", "Meta": {"a": "b"}}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "open {path}: no such file or directory"),
        (b"", "{path} holds no JSON object"),
        (b"[1]", "{path} holds no JSON object"),
        (b'{"SourceName": 1}', "SourceName in {path} is no text"),
        (b"\xff{}", ""),
        (b'{"SourceName": "' + b"a" * FILE_BYTES_MAX + b'"}', ""),
        (b'{"Meta":' * 100_000, ""),
    ],
    ids=["absent", "empty", "list", "number", "bytes", "huge", "deep"],
)
def test_a_bad_file_is_an_error(tmp_path, content, text):
    path = tmp_path / "ixn.json"
    if content is not None:
        path.write_bytes(content)
    code, out, err = replay({"argv": ["consul", "intention", "create", "-file", str(path)]}, CLOSED)
    assert (code, out) == (1, "")
    assert err.startswith("Error: " + text.format(path=path))
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["create", "web"], 1, "Error: Must specify two arguments: source and destination"),
        (["create", "a/b/c", "db"], 1, "Error: Invalid intention source: target can contain at most one '/'"),
        (["create", "c", "a/b/c"], 1, "Error: Invalid intention destination: target can contain at most one '/'"),
        (["get"], 1, "command requires exactly 1 or 2 arguments"),
        (["delete", "a", "b", "c"], 1, "command requires exactly 1 or 2 arguments"),
        (["check", "a"], 2, "Error: command requires exactly two arguments: src and dst"),
        (["match", "-source", "-destination", "a"], 1, "Error: only one of -source or -destination may be specified"),
    ],
)
def test_mistakes_of_the_user(words, code, text):
    assert replay({"argv": ["consul", "intention", *words]}, CLOSED) == (code, "", f"{text}\n")


def test_a_check_that_fails_has_an_exit_code_of_its_own():
    code, out, err = replay({"argv": ["consul", "intention", "check", "a", "b"]}, CLOSED)
    assert (code, out) == (2, "")
    assert err.startswith("Error checking the connection: Get ")


def test_one_is_found_by_its_id_with_all_that_is_known():
    found = row("web", "db", "", Description="d", Meta={"b": "2", "a": "1"}, Permissions=[{"Action": "allow"}])
    with server(lambda method, target, *_: (200, found) if target == f"{PATH}/{ID}" else (404, b"no")) as address:
        code, out, _ = replay({"argv": ["consul", "intention", "get", ID]}, address)
        missing = replay({"argv": ["consul", "intention", "get", "x"]}, address)
    assert code == 0
    assert "Description:  d\nMeta[a]:      1\nMeta[b]:      2\n" in out
    assert out.endswith('Permissions:\n[\n  {\n    "Action": "allow"\n  }\n]\n')
    assert missing == (1, "", 'Intention not found with ID "x"\n')


def test_an_answer_that_is_none_is_an_error():
    for words in (["list"], ["match", "a"], ["get", "a", "b"], ["check", "a", "b"]):
        with server(lambda *_: (200, ["x"])) as address:
            code, out, err = replay({"argv": ["consul", "intention", *words]}, address)
        assert (code, out) == (2 if words[0] == "check" else 1, "")
        assert "invalid JSON in response" in err
