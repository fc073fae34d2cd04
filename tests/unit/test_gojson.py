"""JSON as Go writes it: facts, and the fast path against the pure one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.structs.base import Duration, GoTime
from pyconsul_agent.structs.catalog import NodeService, Weights
from pyconsul_agent.structs.health import HealthCheckDefinition
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.wire import gojson
from pyconsul_agent.wire.gojson import Ordered, encode

texts = st.text(alphabet=st.characters(exclude_categories=()), max_size=20)
numbers = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1.0, "1"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (1e-5, "0.00001"),
        (1e-7, "1e-7"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.5e300, "1.5e+300"),
        (123456789.125, "123456789.125"),
        ("<&>", r'"\u003c\u0026\u003e"'),
        ("\u2028\u2029", r'"\u2028\u2029"'),
        ("é\U0001f600", '"é\U0001f600"'),
        ("a\udcffb", '"a\ufffdb"'),
        ('"\\\n', r'"\"\\\n"'),
        (b"", '""'),
        (b"\x00\xff", '"AP8="'),
        ([], "[]"),
        ((), "[]"),
        ({}, "{}"),
        ({"b": 1, "a": 2, "é": 3, "Z": 4}, '{"Z":4,"a":2,"b":1,"é":3}'),
        (Ordered(b=1, a=2), '{"b":1,"a":2}'),
        (GoTime(), '"0001-01-01T00:00:00Z"'),
        (GoTime(1_700_000_000, 120_000_000), '"2023-11-14T22:13:20.12Z"'),
    ],
)
def test_spelling(value, text):
    assert encode(value).decode() == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="json: unsupported value"):
        encode(value)


def test_unknown_types_are_refused():
    with pytest.raises(TypeError):
        encode(object())


def test_fields_stand_in_declaration_order_and_empty_optional_ones_are_left_out():
    assert encode(DirEntry(key=b"a\xff", value=None)).decode() == (
        '{"LockIndex":0,"Key":"a\ufffd","Flags":0,"Value":null,"CreateIndex":0,"ModifyIndex":0}'
    )
    service = NodeService(id="i", service="s", weights=Weights(passing=1, warning=1))
    shown = json.loads(encode(service))
    assert list(shown)[:4] == ["ID", "Service", "Tags", "Address"]
    assert "Port" not in shown
    assert shown["Proxy"] == {"Mode": "", "MeshGateway": {}, "Expose": {}}


def test_durations_are_numbers_except_in_check_definitions():
    assert encode(HealthCheckDefinition(interval=Duration(10_000_000_000))) == b'{"Interval":"10s"}'


def test_pretty_has_four_spaces_and_a_final_newline_and_keeps_empty_containers_on_one_line():
    assert encode(Ordered(a=[1, {}], b=[], c=Ordered(d="x:{,")), pretty=True).decode() == (
        '{\n    "a": [\n        1,\n        {}\n    ],\n    "b": [],\n    "c": {\n        "d": "x:{,"\n    }\n}\n'
    )


@given(values)
def test_both_paths_write_the_same_bytes(value):
    fast = encode(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gojson, "orjson", None)
        assert encode(value) == fast


plain_texts = st.text(max_size=20)
plain_values = st.recursive(
    st.none() | st.booleans() | numbers.map(float) | plain_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_texts, inner, max_size=4),
    max_leaves=15,
)


@given(plain_values, st.booleans())
def test_what_is_written_reads_back(value, pretty):
    assert json.loads(encode(value, pretty=pretty), parse_int=float) == value


@given(values)
def test_no_text_can_end_a_script_element(value):
    assert not set(encode(value)) & set(b"<>&")
