"""Patterns mean the same as the regular expressions that they stand for, and never take long."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.access.patterns import matches, pattern_is_valid

texts = st.text(alphabet="ab-", max_size=8)


@given(st.text(alphabet="ab-*", max_size=6), texts)
@example("a*a", "a")
@example("*", "")
@example("a**b", "ab")
@example("*ab*ab*", "abab")
@example("*ab*ab*", "aba")
def test_a_pattern_matches_as_its_expression_does(pattern: str, text: str) -> None:
    """`*` is any text; all else is itself, case included."""
    expression = ".*".join(map(re.escape, pattern.split("*")))

    assert matches(pattern, text) is bool(re.fullmatch(expression, text, re.DOTALL))


def test_case_and_other_wildcards_are_themselves() -> None:
    """Only the star is special."""
    assert not matches("Fraud", "fraud")
    assert not matches("frau?", "fraud")
    assert not matches("[f]raud", "fraud")


def test_many_stars_take_no_time() -> None:
    """What makes a regular expression run for years is refused at once here."""
    assert not matches("*a" * 120 + "b", "a" * 100_000)


@pytest.mark.parametrize("pattern", ["", "a" * 256, "a\n", "\x00"])
def test_what_is_no_name_is_no_pattern(pattern: str) -> None:
    """Empty, too long, or not printable."""
    assert not pattern_is_valid(pattern)
