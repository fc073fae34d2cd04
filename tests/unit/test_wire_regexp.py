"""Expressions of strangers: what is taken is searched soon, what is not is refused in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.wire.regexp import BadRegexp, Regexp, compile_regexp


@pytest.mark.parametrize(
    ("expression", "text", "found"),
    [
        ("^web", "web-1", True),
        ("^web$", "web-1", False),
        ("a|b", "xb", True),
        ("^v[0-9]+", "v12", True),
        (r"v1\z", "v1", True),
        ("v1$", "v1\n", False),
        ("(?m)v1$", "v1\nv2", True),
        (r"v1\$[$]", "v1$$", True),
        ("(?i)WEB", "web", True),
        ("", "anything", True),
    ],
)
def test_an_expression_finds_what_it_finds_in_go(expression, text, found):
    assert (compile_regexp(expression).search(text) is not None) is found


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("[", "error parsing regexp: missing closing ]: `[`"),
        ("(", "error parsing regexp: missing closing ): `(`"),
        ("a**", "error parsing regexp: invalid nested repetition operator: `**`"),
        ("(a+)+$", "could take too long"),
        ("a*a*a*a*b", "could take too long"),
        ("(?=a)", "error parsing regexp: invalid or unsupported Perl syntax: `(?=`"),
        ("a)", "error parsing regexp: unexpected ): `a)`"),
        ("+?", "error parsing regexp: missing argument to repetition operator: `+?`"),
        ("a{3,2}?", "error parsing regexp: invalid repeat count: `{3,2}`"),
        ("a\\", "error parsing regexp: trailing backslash at end of expression: ``"),
        (r"a\q", r"error parsing regexp: invalid escape sequence: `\q`"),
        ("[z-a]", "error parsing regexp: invalid character class range: `z-a`"),
        (r"(a)\1", "is not supported"),
        ("a" * 600, "longer than 512 characters"),
    ],
)
def test_an_expression_that_is_wrong_or_slow_is_refused(expression, words):
    with pytest.raises(BadRegexp) as refused:
        compile_regexp(expression)
    assert words in str(refused.value)


def test_the_longer_the_text_the_fewer_repeats_may_be():
    one, two = compile_regexp("a*b"), compile_regexp("a*b*c")
    assert one.search("a" * 10_000) is None
    assert two.search("a" * 500) is None
    with pytest.raises(BadRegexp, match="a search in 10000 characters could take too long"):
        two.search("a" * 10_000)
    assert compile_regexp("needle").search("a" * 1_000_000) is None


@given(st.text(max_size=40), st.text(max_size=200))
def test_any_expression_is_searched_or_refused(expression, text):
    try:
        compiled = compile_regexp(expression)
        assert isinstance(compiled, Regexp)
        compiled.search(text)
    except BadRegexp:
        return
