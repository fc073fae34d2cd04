"""What templates of prepared queries give for a name, and which are refused."""

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.query.template import BadTemplate, check, render
from pyconsul_agent.structs.prepared_query import (
    PreparedQuery,
    QueryDatacenterOptions,
    QueryTemplateOptions,
    ServiceQuery,
)


def query(service="${name.full}", regexp="", name="geo-", **options):
    return PreparedQuery(
        name=name,
        template=QueryTemplateOptions(type="name_prefix_match", regexp=regexp),
        service=ServiceQuery(service=service, **options),
    )


@pytest.mark.parametrize(
    ("service", "regexp", "wanted"),
    [
        ("plain", "", "plain"),
        ("${name.full}", "", "geo-db-main"),
        ("${name.prefix}|${name.suffix}", "", "geo-|db-main"),
        ("${ agent.segment }", "", "alpha"),
        ("${match(2)}-${match(1)}", "^geo-(.*?)-([^\\-]+?)$", "main-db"),
        ("${match(0)}", "db", "db"),
        ("${match(0)}${match(1)}", "nowhere", ""),
        ("${match(7)}${match(-1)}", "(d)(b)?", ""),
        ("${match(1)}", r"(\w+)\z", "main"),
        ('${"a"}$${name.full}', "", "a${name.full}"),
    ],
)
def test_expressions_stand_for_parts_of_the_name(service, regexp, wanted):
    assert render(query(service, regexp), "geo-db-main", segment="alpha").service.service == wanted


def test_every_string_of_the_service_part_is_rendered():
    stored = query(
        "x", near="${name.suffix}", tags=("${name.suffix}", "t"), node_meta={"${k}": "${name.suffix}"},
        failover=QueryDatacenterOptions(datacenters=("${name.suffix}",)), only_passing=True,
    )  # fmt: skip
    service = render(stored, "geo-a", segment="").service
    assert (service.near, service.tags, service.node_meta) == ("a", ("a", "t"), {"${k}": "a"})
    assert (service.failover.datacenters, service.only_passing) == (("a",), True)
    assert stored.service.near == "${name.suffix}"


@pytest.mark.parametrize(("remove", "tags"), [(True, ("a",)), (False, ("a", ""))])
def test_empty_tags_can_be_left_out(remove, tags):
    stored = query("x", tags=("a", "${match(1)}"))
    stored = replace(stored, template=replace(stored.template, remove_empty_tags=remove))
    assert render(stored, "geo-x", segment="").service.tags == tags


@pytest.mark.parametrize(
    "text", ["${", "${}", "${name.nope}", "${1 + 1}", "${match()}", "${match(1)", '${"a}', "${f(1)}"]
)
def test_expressions_that_cannot_be_evaluated_are_refused(text):
    with pytest.raises(BadTemplate, match=r"Bad format '.*' in Service\.Service: "):
        check(query(text))


@pytest.mark.parametrize(
    "regexp",
    [
        "(", "[", "a**", "a*+", r"(a)\1", "(?=a)", "(?<!a)", "(?P=x)", "(?x)a", "[[:alpha:]]", r"\pL", r"a\Z",
        "(a*)*", "(a|a)+", "(a){30}", ".*.*.*.*", "a?" * 30, "x" * 513,
    ],
)  # fmt: skip
def test_regular_expressions_that_go_reads_otherwise_or_that_may_be_slow_are_refused(regexp):
    with pytest.raises(BadTemplate, match=r"^Bad Regexp: "):
        check(query("x", regexp))


def test_a_regular_expression_that_is_taken_is_done_with_the_longest_name_soon():
    began = time.process_time()
    assert render(query("${match(0)}", "a*a*a*(b|c)"), "a" * 128, segment="").service.service == ""
    assert time.process_time() - began < 10.0
    with pytest.raises(BadTemplate, match="longer than 128"):
        render(query("${match(0)}", "a*"), "a" * 129, segment="")


def test_what_a_template_gives_is_bounded():
    stored = query("x", tags=("${name.full}" * 20,) * 10)
    assert len(render(stored, "n" * 1000, segment="").service.tags) == 10
    with pytest.raises(BadTemplate, match=r"the result is too long$"):
        render(stored, "n" * 10_000, segment="")


def test_another_type_of_template_is_refused():
    with pytest.raises(BadTemplate, match=r"^Bad Template\.Type 'other'$"):
        check(PreparedQuery(name="q", template=QueryTemplateOptions(type="other")))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.text(alphabet="ab()[]{}?*+|\\^$,1z:P<>=", max_size=12), st.text(max_size=20))
def test_any_template_gives_a_query_or_says_that_it_is_bad(service, regexp, name):
    try:
        render(query(service, regexp), name, segment="")
    except BadTemplate:
        return
