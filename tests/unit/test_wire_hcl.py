import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire.hcl import parse, plain

# Checked against `consul validate` 1.10.11: accepted forms and what they mean.
ACCEPTED = [
    ("ports { http = 8500, dns = -1 }", {"ports": [{"http": 8500, "dns": -1}]}),
    ('"ports" = { "http" = 1 }', {"ports": [{"http": 1}]}),
    ("ports = [{ http = 1 }]", {"ports": [{"http": 1}]}),
    ("services = [{ id = 1 port = 2 }, { id = 3 },]", {"services": [{"id": 1, "port": 2}, {"id": 3}]}),
    ("a = 1 b = 2", {"a": 1, "b": 2}),
    ("a = 1\na = 2", {"a": 2}),
    ("a = 03 b = 0x1F c = 3.0 d = 3e0 e = -1.5", {"a": 3, "b": 31, "c": 3.0, "d": 3.0, "e": -1.5}),
    ("a = <<EOF\none\n two\nEOF\n", {"a": "one\n two\n"}),
    ("a = <<-EOF\n  one\n   two\n  EOF\nb = 1", {"a": "one\n two\n", "b": 1}),
    ("a = <<-EOF\n one\n   two\n  EOF\n", {"a": " one\n   two\n"}),
    (r'a = "\t\u0041\"\\"', {"a": '\tA"\\'}),
    ('a = "x${y "q" {z}}w$"', {"a": 'x${y "q" {z}}w$'}),
    ("# c\n// d\n/* e\n */ a = true # f", {"a": True}),
    ("services {\n id = 1\n}\nservices {\n id = 2\n}", {"services": [{"id": 1}, {"id": 2}]}),
    ('node_prefix "" { policy = "read" }', {"node_prefix": [{"": [{"policy": "read"}]}]}),
    (
        'service "a" { policy = "write" intentions = "read" }',
        {"service": [{"a": [{"policy": "write", "intentions": "read"}]}]},
    ),
    ("", {}),
    ("a = []", {"a": []}),
    ("block {}", {"block": [{}]}),
]
REFUSED = [
    "a: 1", "a = 1;", "a = - 1", "a", "a = ", "a = [1 2]", 'a = "x', 'a = "x\ny"', "a {", "}", "a = bare", "a = 089",
    'a "b" = 1', 'a = "\\q"', "a = <<EOF\nx", "/* a", "a = 1x", 'a = "\\ud800"', "= 1", '{"a": 1}',
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), ACCEPTED)
def test_text_means_what_consul_reads(text, value):
    assert plain(parse(text)) == value


@pytest.mark.parametrize("text", REFUSED)
def test_text_that_consul_refuses_is_refused(text):
    with pytest.raises(DecodeError):
        parse(text)


def test_error_names_line_and_column():
    with pytest.raises(DecodeError, match=r"^At 2:5: "):
        parse("a = 1\nb = ?")


def test_nesting_is_bounded():
    with pytest.raises(DecodeError, match="nested too deeply"):
        parse("a = " + "[" * 100_000)
    with pytest.raises(DecodeError, match="nested too deeply"):
        parse("a {" * 100_000)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from('ab={}[]",\n 0.-<E#/*\\$é'), max_size=40))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(DecodeError):
        plain(parse(text))
