"""One byte string per event, and one place for it."""

import json
from typing import Any

import pytest

from serving.audit.chain import MAX_BODY_BYTES, Chain, origin_hash, read_body
from serving.errors import RequestInvalid
from serving.trust.merkle import leaf_hash
from tests.audit.trails import event


def body(**after: Any) -> bytes:
    return Chain("1").link(event(1, after=after), event_id="e", at_ns=5).body


def test_events_follow_each_other_from_the_id_of_the_log() -> None:
    """Each names the hash of the one before; the first that of its own log."""
    chain = Chain("5f")
    links = [chain.link(event(n), event_id=str(n), at_ns=n) for n in range(3)]

    assert links[0].entry.previous == origin_hash("5f") != origin_hash("60")
    assert [each.entry.previous for each in links[1:]] == [links[0].hash, links[1].hash]
    assert [each.hash for each in links] == [leaf_hash(each.body).hex() for each in links]
    assert (chain.size, chain.last) == (3, links[2].hash)


def test_au_07_order_of_members_does_not_matter() -> None:
    """The same facts are the same bytes."""
    assert body(a=1, b={"d": 1, "c": 2}) == body(b={"c": 2, "d": 1}, a=1)


def test_au_07_form_of_a_number_does_not_matter() -> None:
    """1, 1.0 and 1e0 are one number; what JSON cannot hold exactly is written in digits."""
    assert body(x=1.0) == body(x=1) == body(x=1e0)
    assert b'"x":"1700000000000000000"' in body(x=1_700_000_000_000_000_000)
    with pytest.raises(ValueError, match="nan"):
        body(x=float("nan"))


def test_au_07_form_of_text_matters_and_its_escapes_do_not() -> None:
    """Two strings that only look the same stay two; however they are escaped, they are the same."""
    composed, combined = "\u00e9", "e\u0301"

    assert body(x=composed) != body(x=combined)
    assert json.loads(body(x=composed))["after"]["x"] == composed
    assert body(x="a\ud800b") == body(x="a?b")


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.replace(b'{"actor"', b'{ "actor"'),
        lambda b: b.replace(b'"actor":"ada",', b"") [:-1] + b',"actor":"ada"}',
        lambda b: b.replace(b'"actor":"ada"', b'"actor":"bob","actor":"ada"'),
        lambda b: b.replace(b'"number":1', b'"number":1.0'),
        lambda b: b.replace(b'"number":1', b'"number":1e0'),
        lambda b: b.replace(b'"ada"', b'"\\u0061da"'),
        lambda b: b.replace(b'"reason":""', b'"reason":"","extra":1'),
        lambda b: b.replace(b'"reason":"",', b""),
        lambda b: b + b" ",
        lambda b: b"[" * 100_000,
        lambda b: b"\xff",
        lambda b: b"",
    ],
    ids=[
        "space", "order", "duplicate", "fraction", "exponent", "escape", "unknown", "missing",
        "tail", "deep", "no text", "nothing",
    ],
)  # fmt: skip
def test_au_07_every_other_form_is_no_event(change: Any) -> None:
    """A body that says the same in other bytes is not what was hashed."""
    whole = Chain("1").link(event(1), event_id="e", at_ns=5).body

    assert read_body(whole) is not None
    assert change(whole) != whole
    assert read_body(change(whole)) is None


@pytest.mark.parametrize("after", [{"x": 0.25}, {"x": 1e300}, {"x": "\u00e9\n\u2028\U0001f600"}])
def test_unusual_values_are_read_back(after: dict[str, Any]) -> None:
    """Fractions, controls and text beyond ASCII: the slow way finds them canonical too."""
    entry = read_body(body(**after))

    assert entry is not None
    assert entry.after == after


def test_event_that_is_too_large_is_refused() -> None:
    """Before anything is written."""
    with pytest.raises(RequestInvalid, match="exceeds"):
        body(x="x" * MAX_BODY_BYTES)
