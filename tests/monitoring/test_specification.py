from typing import Any

import msgspec
import pytest

from serving.errors import SpecificationInvalid
from serving.monitoring.comparators import LabelFlip, TopK
from serving.monitoring.specification import ComparisonSpecification, parse_specification
from tests.monitoring.pairing import a_comparison

FULL: dict[str, Any] = {
    "outputs": [
        {"output": "label", "comparator": {"type": "label_flip"}, "max_disagreement": 0.02},
        {"output": "score", "comparator": {"type": "top_k", "k": 3}},
    ],
    "slices": [
        {"by": "AGEP", "edges": [25, 60]},
        {"by": "SEX", "values": [1, 2], "protected": True},
        {"by": "principal"},
    ],
    "selection": {"output": "label", "reference": ["SEX=1"]},
    "limits": {"max_loss_difference": 0.01, "max_latency_ratio": 1.5},
    "alpha": 0.01,
}


def test_a_specification_is_json() -> None:
    """What was read is written and read again as the same, by the same digest."""
    first = parse_specification(FULL)
    again = parse_specification(msgspec.json.encode(first))

    assert first.outputs[0].comparator == LabelFlip()
    assert first.outputs[1].comparator == TopK(k=3)
    assert (again, again.digest()) == (first, first.digest())


def test_nothing_said_is_a_specification() -> None:
    """Everything has a default, and the digest tells it from others."""
    assert parse_specification(b"{}") == ComparisonSpecification()
    assert parse_specification({"alpha": 0.1}).digest() != ComparisonSpecification().digest()


@pytest.mark.parametrize(
    ("wrong", "lesson"),
    [
        ({"alpha": 2}, r"<= 0\.5 - at `\$\.alpha`"),
        ({"limits": {"max_disagreement": -1}}, r"\$\.limits\.max_disagreement"),
        ({"limit": {}}, "unknown field `limit`"),
        ({"outputs": [{"output": "o", "comparator": {"type": "vibes"}}]}, "Invalid value 'vibes'"),
        ({"min_samples": 10, "max_samples": 10}, "must be larger than"),
        ({"slices": [{"by": "a", "edges": [1], "values": [1]}]}, "give one of them"),
        ({"slices": [{"by": "a", "edges": [2, 1]}]}, r"must ascend, got \[2\.0, 1\.0\]"),
        ({"slices": [{"by": "a", "values": [1, "1"]}]}, "values repeat"),
        ({"slices": [{"by": "a"}, {"by": "a", "edges": [1]}]}, "one feature twice"),
        ({"selection": {"output": "o", "reference": ["a=1"]}}, '"protected": true'),
        ({"outputs": [{"output": "o"}, {"output": "o"}]}, "one output and comparator twice"),
        (b"{", "truncated"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, str) else "",
)
def test_a_mistake_is_named_with_what_is_permitted(
    wrong: dict[str, Any] | bytes, lesson: str
) -> None:
    """The message says which field, what it holds and what it may hold."""
    with pytest.raises(SpecificationInvalid, match=lesson):
        parse_specification(wrong)


def test_outputs_must_be_the_models() -> None:
    """An output that the model does not declare is named with those that it does."""
    with pytest.raises(SpecificationInvalid, match=r"no output 'lable'; it has: label, score"):
        a_comparison(outputs=[{"output": "lable"}])
