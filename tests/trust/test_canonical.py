"""RFC 8785: one byte string for one value."""

import json
import math

import pytest

from serving.trust.canonical import Json, canonical


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": 2}, b'{"a":2,"b":1}'),
        ([1.0, 1e21, 1e-7, 0.1, -0.0], b"[1,1e+21,1e-7,0.1,0]"),
        (
            {"\u20ac": 1, "\r": 2, "\U0001f600": 3, "\ufb33": 4},
            '{"\\r":2,"€":1,"😀":3,"\ufb33":4}'.encode(),
        ),
        ("\u00e9", '"é"'.encode()),
        ("e\u0301", '"e\u0301"'.encode()),
        ((True, None, "\x0f"), b'[true,null,"\\u000f"]'),
    ],
)
def test_au_07_each_value_has_one_form(value: Json, expected: bytes) -> None:
    """Members sorted by UTF-16, numbers shortest, strings as they are."""
    assert canonical(value) == expected
    assert canonical(json.loads(expected)) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53, {1: "x"}, "\ud800"])
def test_au_07_what_has_no_form_is_refused(value: Json) -> None:
    """Nothing is rounded, replaced or left out in silence."""
    with pytest.raises(ValueError, match=r"."):
        canonical(value)
