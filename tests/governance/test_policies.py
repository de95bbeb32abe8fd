"""Policies come from a file: whole, in known words, and the strictest where nothing is known."""

from pathlib import Path

import pytest

from serving.errors import SettingInvalid
from serving.governance.policies import BUILT_IN, read_policies
from serving.registry.entities import RiskTier
from serving.registry.orders import TrafficOrder
from tests.governance.offices import GRACE, IVAN, Office

EXAMPLE = Path(__file__).parents[2] / "configs" / "governance.yaml"


def test_example_says_what_is_built_in() -> None:
    """So that whoever begins with the file begins with what was in force."""
    assert read_policies(EXAMPLE) == read_policies(None) == BUILT_IN


def test_every_tier_of_the_registry_has_a_policy() -> None:
    """And one that nobody knows gets the strictest."""
    assert {tier.value for tier in RiskTier} == set(BUILT_IN.tiers)
    assert BUILT_IN.tier("unheard") is BUILT_IN.tiers["high"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("tiers: {}", "demo, high"),
        ("tiers: [", "cannot be read"),
        ("- 1", "policies"),
        ("tiers: {demo: {approve: {approvals: -1}}}", "approvals"),
        ("tiers: {demo: {approve: {evidence: [guess]}}}", "evidence"),
        ("tiers: {demo: {approve: {roles: [king]}}}", "roles"),
        ("tiers: {demo: {unknown: 1}}", "unknown"),
        ("{tiers: {}, override: {hours: 1000}}", "hours"),
    ],
)
def test_file_that_means_nothing_stops_the_start(tmp_path: Path, content: str, reason: str) -> None:
    """With the place of the mistake."""
    file = tmp_path / "policies.yaml"
    file.write_text(content)

    with pytest.raises(SettingInvalid, match=reason):
        read_policies(file)


def test_policies_that_are_not_there_stop_the_start(tmp_path: Path) -> None:
    """Nothing is assumed in their place."""
    with pytest.raises(SettingInvalid, match="cannot be read"):
        read_policies(tmp_path / "gone.yaml")


def test_approval_that_ends_soon_is_named(tmp_path: Path) -> None:
    """Two weeks before, and after it has ended, as long as the version has traffic."""
    office = Office(tmp_path)
    office.validate()
    office.decide(office.open(), GRACE)
    with office.database.transaction() as connection:
        office.governance.registry.set_traffic(
            connection,
            "fraud",
            order=TrafficOrder(stable="1", reason="go"),
            actor=IVAN,
            if_revision=0,
        )

    def ending(days: int) -> tuple[str, ...]:
        within_ns = days * 86_400 * 10**9
        return office.database.read(
            lambda c: office.governance.requests.ending(c, within_ns=within_ns)
        )

    assert (ending(14), ending(366)) == ((), ("fraud@1",))
    office.clock.advance(366 * 86_400)
    assert ending(14) == ("fraud@1",)
