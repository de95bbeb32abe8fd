"""Shares as people write them, read back as they are shown."""

import pytest

from serving.cli.shares import canaries_text, parse_canary, parse_shadow, shadow_text
from serving.core.traffic import Segment
from serving.errors import ParameterInvalid
from serving.registry.shares import ArmOrder, ShadowOrder, Shares


@pytest.mark.parametrize(
    ("text", "shadow"),
    [
        ("3", ShadowOrder(version="3")),
        ("3=50%", ShadowOrder(version="3", share=0.5)),
        ("3=50%,budget=20%", ShadowOrder(version="3", share=0.5, budget=0.2)),
        (
            "3,principal=ada,header:x-team=a=b",
            ShadowOrder(
                version="3",
                segments=(Segment("principal", "ada"), Segment("header:x-team", "a=b")),
            ),
        ),
    ],
)
def test_shadow_reads_what_it_shows(text: str, shadow: ShadowOrder) -> None:
    """What goes without saying is left out."""
    assert parse_shadow(text) == shadow
    assert shadow_text(shadow) == text


def test_canary_is_a_version_and_a_share() -> None:
    """In percent or as a fraction."""
    assert parse_canary("2=10%") == parse_canary("2=0.1") == ArmOrder(version="2", weight=0.1)
    assert canaries_text(Shares(arms=(parse_canary("2=0.5%"),))) == "2=0.5%"


@pytest.mark.parametrize("text", ["2", "=10%", "2=ten", "2=10%%"])
def test_what_is_no_canary_is_refused(text: str) -> None:
    """With the form that is meant."""
    with pytest.raises(ParameterInvalid):
        parse_canary(text)
