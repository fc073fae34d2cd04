"""Filter expressions: what they accept, what their errors say, and that none costs much."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import RPCError
from pyconsul_agent.query.bexpr.expression import (
    COMPARISONS_MAX,
    EXPRESSION_CHARACTERS_MAX,
    FilterError,
    SyntaxProblem,
    compile_filter,
    parse_filter,
)
from pyconsul_agent.query.bexpr.fields import fields_of
from pyconsul_agent.query.bexpr.grammar import Both, Either, Match, Not
from pyconsul_agent.query.bexpr.unquote import unquote
from pyconsul_agent.server.endpoints.shared import filtered
from pyconsul_agent.structs.base import Duration, GoTime, struct, wire
from pyconsul_agent.structs.catalog import (
    ConnectProxyConfig,
    Node,
    NodeService,
    ServiceAddress,
    ServiceNode,
    Upstream,
    Weights,
)
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck, NodeInfo
from pyconsul_agent.wire.gojson_reader import decode

VECTORS = Path(__file__).resolve().parents[2] / "conformance" / "vectors"
WEB = NodeService(
    id="web-1",
    service="web",
    tags=("v1", "prod"),
    meta={"zone": "a b", "ver": "2"},
    port=8080,
    weights=Weights(passing=10, warning=1),
    tagged_addresses={"lan": ServiceAddress(address="10.0.0.9", port=81)},
    proxy=ConnectProxyConfig(upstreams=(Upstream(destination_name="db"), Upstream(destination_name="mq"))),
    enable_tag_override=True,
)
BARE = NodeService(id="bare", service="bare")
CHECKS = (HealthCheck(check_id="a", status="passing"), HealthCheck(check_id="b", status="critical"))
INSTANCE = CheckServiceNode(node=Node(node="n1", meta={"os": "linux"}), service=WEB, checks=CHECKS)


def passes(text, row):
    return bool(compile_filter(text, type(row)).keep([row]))


def problem(text, form=NodeService):
    with pytest.raises(FilterError) as error:
        compile_filter(text, form)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a == 1", Match(("a",), "Equal", "1")),
        ('a["x y"].b != `z`', Match(("a", "x y", "b"), "Not Equal", "z")),
        ("a.b in c", Match(("c",), "In", "a.b")),
        ("c not contains -1.50", Match(("c",), "Not In", "-1.50")),
        ("\tnot\n(a is not empty)", Not(Match(("a",), "Is Not Empty", None))),
        ("not not a is empty", Match(("a",), "Is Empty", None)),
        ("not is empty", Match(("not",), "Is Empty", None)),
        ('a matches "\\x5eb"', Match(("a",), "Matches", "^b")),
    ],
)
def test_the_tree_of_an_expression(text, tree):
    assert parse_filter(text) == tree


def test_and_binds_closer_than_or_and_parentheses_closest():
    a, b, c = (Match((name,), "Is Empty", None) for name in "abc")
    assert parse_filter("a is empty or b is empty and c is empty") == Either((a, Both((b, c))))
    assert parse_filter("(a is empty or b is empty) and c is empty") == Both((Either((a, b)), c))
    assert parse_filter("((a is empty))") == a


@pytest.mark.parametrize(
    "text",
    [
        "Port == 8080", 'Port == "0x1F90"', "Port == `0b1111110010000`",
        'Port == "017620"', 'Port == "8_0_80"', "Port != 80",
        "v1 in Tags", '"prod" in Tags', "Tags contains v1", "v2 not in Tags", "Tags is not empty",
        "Meta.ver == 2", 'Meta["zone"] == "a b"', "Meta[ `zone` ] contains b", "ver in Meta", "nope not in Meta",
        "Meta.nope != 1", "Meta.nope matches whatever", "not Meta.nope == 1",
        "Service matches `^w.b$`", 'Service not matches "^x"', "eb in Service", "Weights.Passing == 10",
        "EnableTagOverride == true", "EnableTagOverride == T",
        "TaggedAddresses.lan.Port == 81", "lan in TaggedAddresses",
        "Proxy.Upstreams.DestinationName == mq", "Proxy.Upstreams.DestinationName != mq",
        "Proxy.Upstreams is not empty",
        "Connect.Native == false", "(Port == 1 or Port == 8080) and not Service == db",
    ],
)  # fmt: skip
def test_a_service_that_passes(text):
    assert passes(text, WEB)


@pytest.mark.parametrize(
    "text",
    [
        "Port == 80", "v2 in Tags", "Meta.nope == 1", "1 in Meta.nope", "Tags is empty", "Proxy.Upstreams is empty",
        "Proxy.Upstreams.DestinationName == x", 'Service matches "^eb"', "TaggedAddresses.wan.Port == 81",
        "EnableTagOverride != 1", "Port == 8080 and Service == db",
    ],
)  # fmt: skip
def test_a_service_that_does_not_pass(text):
    assert not passes(text, WEB)


def test_what_is_not_there_is_empty_and_equal_to_nothing():
    assert passes("Tags is empty", BARE)
    assert passes("Meta is empty", BARE)
    assert passes("v1 not in Tags", BARE)
    assert not passes("v1 in Tags", BARE)
    assert not passes("Weights.Passing == 1", BARE)
    assert passes("Weights.Passing != 1", BARE)
    # no item of an absent list passes anything
    assert not passes("Proxy.Upstreams.DestinationName != x", BARE)


def test_any_item_of_a_list_may_pass():
    assert passes("Checks.Status == critical", INSTANCE)
    assert passes("Checks.Status != critical", INSTANCE)
    assert not passes("not Checks.Status != critical", INSTANCE)
    assert passes("Node.Meta.os == linux and v1 in Service.Tags", INSTANCE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Bogus == 1", 'Selector "Bogus" is not valid'),
        ("port == 80", 'Selector "port" is not valid'),
        ("Meta.a.b == 1", 'Selector "Meta.a.b" is not valid'),
        ("Tags.x == 1", 'Selector "Tags.x" is not valid'),
        ("Proxy == 1", 'Invalid match operator "Equal" for selector "Proxy"'),
        ("Port is not empty", 'Invalid match operator "Is Not Empty" for selector "Port"'),
        ("Port matches 1", 'Invalid match operator "Matches" for selector "Port"'),
        ("Checks == 1", 'Selector "Checks" is not valid'),
        (
            "Port == abc",
            'Failed to coerce value "abc" for selector "Port": strconv.ParseInt: parsing "abc": invalid syntax',
        ),
        (
            "Port == 9223372036854775808",
            'Failed to coerce value "9223372036854775808" for selector "Port": '
            'strconv.ParseInt: parsing "9223372036854775808": value out of range',
        ),
        ("Port == 08", '1:10 (9): rule "number": Invalid number literal'),
        (
            'Port == "08"',
            'Failed to coerce value "08" for selector "Port": strconv.ParseInt: parsing "08": invalid syntax',
        ),
        (
            "EnableTagOverride == yes",
            'Failed to coerce value "yes" for selector "EnableTagOverride": '
            'strconv.ParseBool: parsing "yes": invalid syntax',
        ),
        ('ID matches "["', 'Failed to compile regular expression "[": error parsing regexp: missing closing ]: `[`'),
        ("Service == x y", '1:14 (13): no match found, expected: "and", "or", [ \\t\\r\\n] or EOF'),
        ("(ID == x", '1:9 (8): rule "grouping": Unmatched parentheses'),
        ('ID == "x', '1:9 (8): rule "string": Unterminated string literal'),
        ('ID == "\\q"', '1:7 (6): rule "string": invalid syntax'),
        ("ID == 1x", '1:8 (7): rule "number": Invalid number literal'),
        ("Meta[1] == 1", '1:6 (5): rule "index": Invalid index'),
        ('Meta["a" == 1', '1:10 (9): rule "index": Unclosed index expression'),
        ("x in 1", '1:6 (5): rule "match": Invalid selector'),
        (
            "\n\nID ?",
            '3:4 (5): no match found, expected: "!=", "==", "contains", "in", "is", "matches", "not" or [ \\t\\r\\n]',
        ),
        ("é", '1:1 (0): no match found, expected: "(", "-", "0", "\\"", "`", "not", [ \\t\\r\\n], [1-9] or [a-zA-Z]'),
        ('ID == "é', '1:9 (9): rule "string": Unterminated string literal'),
        ("\udcff", "1:1 (0): invalid encoding"),
    ],
)  # fmt: skip
def test_errors_are_in_the_words_of_the_original(text, words):
    assert problem(text) == words


def test_expressions_that_a_real_consul_was_asked_have_its_rows_and_errors():
    recorded = json.loads((VECTORS / "filter" / "cases.json").read_text())
    rows = [decode(ServiceNode, row) for row in recorded["rows"]]

    def answer(text):
        try:
            return [row.service_id for row in compile_filter(text, ServiceNode).keep(rows)]
        except FilterError as error:
            return str(error)

    wrong = [case for case in recorded["cases"] if answer(case["filter"]) != case["is"]]
    assert not wrong, wrong[:5]
    assert len(recorded["cases"]) > 400


def test_indexes_and_what_consul_hides_cannot_be_selected():
    hidden = {
        ServiceNode: ["CreateIndex", "ModifyIndex", "ServiceConnect.SidecarService", "ServiceProxy.Config"],
        HealthCheck: ["Definition", "CreateIndex"],
        NodeService: ["LocallyRegisteredAsSidecar", "Proxy.Upstreams.IngressHosts", "Proxy.Upstreams.Config"],
    }
    for form, selectors in hidden.items():
        for selector in selectors:
            assert problem(f"{selector} == 1", form) == f'Selector "{selector}" is not valid'


def test_every_kind_of_row_has_fields_of_known_kinds():
    for form in (Node, ServiceNode, NodeService, HealthCheck, CheckServiceNode, NodeInfo):
        assert len(fields_of(form)) >= 3
    assert {name: field.kind for name, field in fields_of(HealthCheck).items()} == {
        "Node": "text", "CheckID": "text", "Name": "text", "Status": "text", "Notes": "text", "Output": "text",
        "ServiceID": "text", "ServiceName": "text", "ServiceTags": "list", "Type": "text", "Interval": "text",
        "Timeout": "text", "ExposedPort": "integer",
    }  # fmt: skip


@struct
class Intention:
    """Of the types that rows elsewhere have."""

    created_at: GoTime = wire("CreatedAt", default=GoTime())
    seen_at: GoTime = wire("SeenAt", default=GoTime())
    source_name: str = wire("SourceName", default="")
    precedence: int = wire("Precedence", default=0)
    wait: Duration = wire("Wait", default=Duration(0))
    hash: bytes | None = wire("Hash", default=None)
    anything: Any = wire("Anything", default=None)
    of_lists: Mapping[str, tuple[str, ...] | None] | None = wire("OfLists", default=None)
    of_anything: Mapping[str, Any] | None = wire("OfAnything", default=None)


def test_the_fields_of_a_type_follow_from_its_annotations():
    known = fields_of(Intention)
    assert {name: field.kind for name, field in known.items()} == {
        "SourceName": "text", "Precedence": "integer", "Wait": "integer", "OfLists": "map", "OfAnything": "map",
    }  # fmt: skip
    assert known["OfLists"].inner[""].kind == "list"
    assert not known["OfAnything"].inner
    row = Intention(of_lists={"a": ("x",), "b": None}, precedence=9)
    assert passes("x in OfLists.a and Precedence == 9", row)
    assert not passes("OfLists.b is not empty", row)


@pytest.mark.parametrize(
    ("quoted", "text"),
    [
        ('"a\\tb\\"\\\\"', 'a\tb"\\'), ("`a\\t\r`", "a\\t"), ('"\\xc3\\xa9\\303\\251\\u00e9\\U0001F600"', "ééé😀"),
        ('"\\xff"', "\udcff"), ('""', ""),
    ],
)  # fmt: skip
def test_quoted_text(quoted, text):
    assert unquote(quoted) == text


@pytest.mark.parametrize(
    "quoted", ['"\\q"', '"\\\'"', '"\\400"', '"\\ud800"', '"\\U00110000"', '"\\x4"', '"a\nb"', '"\\"']
)
def test_quoted_text_that_is_wrong(quoted):
    with pytest.raises(ValueError, match="invalid syntax"):
        unquote(quoted)


def test_length_depth_and_comparisons_are_bounded():
    assert "longer than" in problem("ID == " + "a" * EXPRESSION_CHARACTERS_MAX)
    most = " or ".join(["a==1"] * COMPARISONS_MAX)
    assert isinstance(parse_filter(most), Either)
    assert problem(f"{most} or a==1") == "Number of match expressions (257) exceeds the limit (256)"
    compile_filter("(" * 30 + "Port == 1" + ")" * 30, NodeService)
    for deep in ("(" * 2000, "not " * 900 + "ID == 1", "(" * 200 + "ID == 1" + ")" * 200):
        assert problem(deep) == "the expression is nested too deeply"


@pytest.mark.parametrize(
    "piece",
    ["a", "(", " ", "a.", "not ", "a in b and ", '"', "`", "a[`", "1", "-", "(a == 1 or ", "\udc80", "\n", "a in ("],
)
def test_long_nonsense_costs_little_to_refuse(piece):
    text = (piece * EXPRESSION_CHARACTERS_MAX)[:EXPRESSION_CHARACTERS_MAX]
    began = time.process_time()
    problem(text)
    assert time.process_time() - began < 1.0


def test_a_search_that_could_take_long_is_refused_not_made():
    assert problem('ID matches "(a+)+$"').startswith('Failed to compile regular expression "(a+)+$": ')
    with pytest.raises(ValueError, match="could take too long"):
        passes('Output matches "a*b*c*d"', HealthCheck(output="a" * 4096))


def test_all_searches_of_a_filter_together_are_bounded():
    slow = HealthCheck(output="a" * 120)
    kept = compile_filter('Output matches "a*a*a*b"', HealthCheck)
    began = time.process_time()
    with pytest.raises(ValueError, match="could take too long"):
        kept.keep([slow] * 10_000)
    assert time.process_time() - began < 10.0
    # each answer has the whole budget again, and what people ask of many rows is far below it
    assert kept.keep([slow] * 10) == []
    rows = [HealthCheck(output=f"HTTP GET http://10.0.0.{n}: 200 OK Output: fine", check_id="x") for n in range(3000)]
    assert len(compile_filter('Output matches "GET .* 200 .*"', HealthCheck).keep(rows)) == 3000


def test_rows_that_pass_keep_their_order():
    rows = [NodeService(id=str(number), port=number % 3) for number in range(9)]
    assert [row.id for row in filtered("Port == 1", NodeService, rows)] == ["1", "4", "7"]
    assert filtered("", NodeService, []) is None
    assert filtered("Port == 1", NodeService, []) == ()
    with pytest.raises(RPCError) as error:
        filtered("Bogus == 1", NodeService, [])
    assert str(error.value) == 'Failed to create boolean expression evaluator: Selector "Bogus" is not valid'


WORDS = st.sampled_from(
    ["Port", "Tags", "Meta", ".", "[", "]", '"', "`", "(", ")", " ", "==", "!=", " in ", " not ", "not ", " is ",
     "empty", " and ", " or ", " matches ", "contains", "1", "0", "-", "x", "\\", "é", "\udcff", "\n",
     "Meta.a == 1", "1 in Tags"]
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(st.one_of(st.lists(WORDS, max_size=25).map("".join), st.text(max_size=60)))
def test_any_text_is_a_filter_or_a_filter_error(text):
    try:
        kept = compile_filter(text, NodeService)
    except FilterError as error:
        assert str(error)
        return
    assert len(kept.keep([WEB, BARE])) <= 2


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_have_a_place_for_their_error(data):
    text = data.decode("utf-8", "surrogateescape")
    try:
        parse_filter(text)
    except SyntaxProblem as error:
        assert all(line.split(":")[0].isdigit() for line in str(error).split("\n")) or "deep" in str(error)
