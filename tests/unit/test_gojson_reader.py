"""Request bodies as Go reads them: values, leniencies, and the words for what is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.structs.base import Duration
from pyconsul_agent.structs.catalog import CheckType, NodeService
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.requests import RegisterRequest
from pyconsul_agent.structs.session import Session
from pyconsul_agent.wire.gojson_reader import decode, parse


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "EOF"),
        (b"  ", "EOF"),
        (b"{", "unexpected EOF"),
        (b'{"a"', "unexpected EOF"),
        (b'{"a":', "unexpected EOF"),
        (b'"abc', "unexpected EOF"),
        (b"tru", "unexpected EOF"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b"'", r"invalid character '\'' looking for beginning of value"),
        (b"{,", "invalid character ',' looking for beginning of object key string"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"trux", "invalid character 'x' in literal true (expecting 'e')"),
        (b'"a\nb"', r"invalid character '\n' in string literal"),
        (b'"\\x"', "invalid character 'x' in string escape code"),
        (b"-x", "invalid character 'x' in numeric literal"),
        (b"NaN", "invalid character 'N' looking for beginning of value"),
    ],
)
def test_malformed_text_is_told_in_gos_words(body, words):
    with pytest.raises(ValueError) as caught:
        parse(body)
    assert str(caught.value) == words


def test_only_the_first_value_is_read():
    assert parse(b' {"a":1} trailing') == {"a": 1}


def test_half_a_surrogate_pair_is_no_text_that_could_break_an_encoder_later():
    assert parse(b'{"a\\ud800":["\\udc80","\\ud83d\\ude00"]}') == {"a\ufffd": ["\ufffd", "\U0001f600"]}


def test_deep_nesting_is_refused():
    with pytest.raises(ValueError):
        parse(b"[" * 100_000)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body):
    try:
        parse(body)
    except ValueError as error:
        assert str(error)


def test_names_match_whatever_their_case_and_the_last_one_wins():
    assert decode(Session, parse(b'{"nAmE":"a","NAME":"b"}')).name == "b"


def test_null_leaves_the_zero_value():
    assert decode(Session, None) == Session()
    assert decode(Session, {"Name": None}) == Session()


def test_unknown_fields_are_refused_unless_lenient():
    with pytest.raises(ValueError) as caught:
        decode(Session, {"Bogus": 1})
    assert str(caught.value) == 'json: unknown field "Bogus"'
    assert decode(Session, {"Bogus": 1}, lenient=True) == Session()


@pytest.mark.parametrize(
    ("form", "value", "words"),
    [
        (Session, {"Name": 1}, "json: cannot unmarshal number into Go struct field .Name of type string"),
        (Session, {"Name": True}, "json: cannot unmarshal bool into Go struct field .Name of type string"),
        (Session, [], "json: cannot unmarshal array into Go value of type structs.Session"),
        (NodeService, {"Port": "80"}, "json: cannot unmarshal string into Go struct field .Port of type int"),
        (NodeService, {"Port": 1.5}, "json: cannot unmarshal number 1.5 into Go struct field .Port of type int"),
        (NodeService, {"Tags": "x"}, "json: cannot unmarshal string into Go struct field .Tags of type []string"),
        (RegisterRequest, {"Service": {"ID": 5}}, "json: cannot unmarshal number into Go struct field .Service.ID of"),
        (DirEntry, {"Value": "!!"}, "illegal base64 data at input byte 0"),
    ],
)
def test_wrong_types_are_told_in_gos_words(form, value, words):
    with pytest.raises(ValueError) as caught:
        decode(form, value)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("given_", "nanoseconds"),
    [("10s", 10_000_000_000), ("1m30s", 90_000_000_000), (5, 5), ("", 0), (True, 0), ([1], 0), ("1.5h", 5400 * 10**9)],
)
def test_durations(given_, nanoseconds):
    assert decode(CheckType, {"Interval": given_}).interval == Duration(nanoseconds)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", 'time: invalid duration "x"'),
        ("20", 'time: missing unit in duration "20"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("9999999h", 'time: invalid duration "9999999h"'),
    ],
)
def test_bad_durations_are_told_in_gos_words(text, words):
    with pytest.raises(ValueError) as caught:
        decode(CheckType, {"Interval": text})
    assert str(caught.value) == words


def test_other_spellings_count_only_where_the_proper_one_is_empty():
    aliases = {"args": "ScriptArgs", "ignored": ""}
    assert decode(CheckType, {"args": ["a"]}, aliases=aliases).script_args == ("a",)
    assert decode(CheckType, {"args": ["a"], "ScriptArgs": ["b"]}, aliases=aliases).script_args == ("b",)
    assert decode(CheckType, {"ignored": 5}, aliases=aliases) == CheckType()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=3))
def test_any_value_in_any_field_is_taken_or_refused(value):
    for name in ("Tags", "Port", "Meta", "Weights", "Proxy", "EnableTagOverride", "TaggedAddresses"):
        try:
            decode(NodeService, {name: value})
        except ValueError as error:
            assert str(error)


def test_bytes_are_base64_and_keys_text():
    entry = decode(DirEntry, json.loads('{"Key":"k","Value":"dg==","Flags":18446744073709551615}'))
    assert (entry.key, entry.value, entry.flags) == (b"k", b"v", (1 << 64) - 1)


@pytest.mark.parametrize("number", ["1e400", "-1e999", "9" * 309, "9" * 5000, "-" + "9" * 5000])
@pytest.mark.parametrize("body", ['{"a":%s}', "[%s]", "%s"])
def test_numbers_that_go_cannot_hold_are_refused_wherever_they_stand(body, number):
    with pytest.raises(ValueError, match=r"^json: cannot unmarshal number -?\d") as told:
        parse((body % number).encode())
    assert len(str(told.value)) < 200


def test_the_largest_numbers_are_taken():
    assert parse(b"[1.7976931348623157e308, 18446744073709551615, 1e-400]") == [1.7976931348623157e308, 2**64 - 1, 0.0]
