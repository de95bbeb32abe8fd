import pytest

from serving.core.models import Digest, ModelName, ModelVersion, Recording, VersionName
from serving.predictionlog.privacy.holds import Hold
from serving.predictionlog.privacy.retention import RetentionRules, declared_days

DAY_NS = 86_400 * 10**9
HOLD = Hold("1", "case 1", "officer", 0, model="held")
PERSON = Hold("2", "case 2", "officer", 0, subject="ab" * 16)


def a_version(model: str, days: int | None) -> ModelVersion:
    return ModelVersion(
        ModelName(model), VersionName("1"), Digest(""), (), (),
        recording=Recording(retention_days=days),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "days"), [("named", 10.0), ("owned", 30.0), ("other", 5.0), ("short", 3.0)]
)
def test_who_says_how_long(model: str, days: float) -> None:
    """The operator by name, then the model's owner, then the operator for all; never below the
    floor."""
    rules = RetentionRules(
        configured={"named": 10.0, "*": 5.0, "short": 1.0},
        declared={"named": 20.0, "owned": 30.0},
        min_days=3.0,
    )

    assert rules.kept_days(model) == days


def test_without_a_word_it_is_kept_for_ever() -> None:
    """Nothing is deleted that nobody said may be."""
    assert RetentionRules().kept_days("any") is None
    assert not RetentionRules().deletable("any", latest_ns=0, now_ns=10**6 * DAY_NS)


def test_the_boundary_is_the_youngest_record() -> None:
    """Records go together once the youngest of them was kept long enough."""
    rules = RetentionRules(configured={"*": 2.0})

    assert not rules.deletable("any", latest_ns=0, now_ns=2 * DAY_NS - 1)
    assert rules.deletable("any", latest_ns=0, now_ns=2 * DAY_NS)


def test_lg_20_holds_beat_retention() -> None:
    """LG-20: neither records of a model on hold go, nor those of a subject on hold."""
    rules = RetentionRules(configured={"*": 1.0}, holds=(HOLD, PERSON))

    def goes(model: str, *subjects: str) -> bool:
        return rules.deletable(model, latest_ns=0, now_ns=9 * DAY_NS, subjects=subjects)

    assert (goes("held"), goes("free", "ab" * 16), goes("free", "cd" * 16)) == (False, False, True)
    assert rules.hold_on(["held"]) == HOLD


def test_the_longest_declaration_of_a_model_counts() -> None:
    """Where its versions differ the longest wins, and for ever is the longest."""
    versions = [a_version("a", 3), a_version("a", 7), a_version("b", 3), a_version("b", None)]

    assert declared_days(versions) == {"a": 7.0}
