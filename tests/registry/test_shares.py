"""Traffic in shares: what is refused, and which state a version has by what it gets."""

import msgspec
import pytest

from serving.core.traffic import Segment
from serving.errors import ParameterInvalid, TransitionRefused
from serving.registry.entities import Traffic
from serving.registry.lifecycle import Step
from serving.registry.orders import TrafficOrder
from serving.registry.shares import ArmOrder, ShadowOrder, Shares, Warm, check_shares
from serving.storage.database import Database
from tests.registries import ADA, RegistryStand


@pytest.fixture
def stand(database: Database) -> RegistryStand:
    stand = RegistryStand(database)
    stand.model()
    stand.approved("1", "2", "3")
    return stand


def route(stand: RegistryStand, **order: object) -> Traffic:
    asked = msgspec.convert(order, TrafficOrder)
    return stand.run(
        lambda c: stand.registry.set_traffic(
            c,
            "fraud",
            order=asked,
            actor=ADA,
            if_revision=stand.registry.traffic(c, "fraud", actor=ADA).revision,
        )
    )


def arm(version: str, weight: float = 0.1) -> dict[str, object]:
    return {"version": version, "weight": weight}


def test_arm_is_a_canary(stand: RegistryStand) -> None:
    """From approved it goes over shadow, from shadow straight; each step leaves its event."""
    route(stand, stable="1", shadows=[{"version": "2"}], arms=[arm("3")])
    assert stand.states() == {"1": "stable", "2": "shadow", "3": "canary"}

    route(stand, stable="1", arms=[arm("2"), arm("3", 0.2)])
    assert stand.states() == {"1": "stable", "2": "canary", "3": "canary"}
    assert stand.events().count("version:canaried") == 2


def test_arm_that_is_lost_stands_down_or_is_a_shadow_again(stand: RegistryStand) -> None:
    """Whatever it gets says what it is; a promoted arm leaves its predecessor without traffic."""
    route(stand, stable="1", arms=[arm("2"), arm("3")])
    route(stand, stable="1", shadows=[{"version": "2"}])
    assert stand.states() == {"1": "stable", "2": "shadow", "3": "approved"}

    route(stand, stable="1", arms=[arm("2", 1.0)])
    route(stand, stable="2")
    assert stand.states() == {"1": "approved", "2": "stable", "3": "approved"}


def test_arm_may_be_a_shadow_at_the_same_time(stand: RegistryStand) -> None:
    """It is a canary then, and stays one when the weight is taken to nothing."""
    both = route(stand, stable="1", arms=[arm("2")], shadows=[{"version": "2", "share": 0.5}])
    route(stand, stable="1", arms=[arm("2", 0)], shadows=[{"version": "2"}])

    assert (both.versions, stand.states()["2"]) == (("1", "2"), "canary")


def test_warm_versions_keep_no_traffic(stand: RegistryStand) -> None:
    """They are kept in the row with their time, approved; one that gets traffic is not warm."""
    route(stand, stable="1")
    row = route(stand, stable="2", warm=[{"version": "1", "until_ns": 99}])
    back = route(stand, stable="1", warm=[{"version": "1", "until_ns": 99}])

    assert (row.versions, row.warm) == (("2",), (Warm(version="1", until_ns=99),))
    assert (stand.states()["1"], back.warm) == ("stable", ())


def test_rejected_arm_loses_its_share(stand: RegistryStand) -> None:
    """In the same transaction, wherever it was named."""
    route(stand, stable="1", arms=[arm("2"), arm("3")], shadows=[{"version": "2"}])
    stand.take(Step.REJECT, "2")

    row = stand.database.read(lambda c: stand.registry.traffic(c, "fraud", actor=ADA))
    assert (row.versions, row.arms) == (("1", "3"), (ArmOrder(version="3", weight=0.1),))


def test_arm_is_made_by_traffic_alone(stand: RegistryStand) -> None:
    """A version without a share is no canary, whoever asks for the state."""
    route(stand, stable="1", shadows=[{"version": "2"}])

    with pytest.raises(TransitionRefused):
        stand.take(Step.CANARY, "2")


@pytest.mark.parametrize(
    ("shares", "word"),
    [
        (Shares(stable="1", arms=(ArmOrder(version="1", weight=0.1),)), "differ"),
        (Shares(arms=(ArmOrder(version="2", weight=0.1),)), "there must be one"),
        (Shares(stable="1", arms=(ArmOrder(version="2", weight=0.6), ArmOrder(version="3", weight=0.5))), "more than 1"),
        (Shares(stable="1", arms=(ArmOrder(version="2", weight=-0.1),)), "weight"),
        (Shares(stable="1", arms=(ArmOrder(version="2", weight=float("nan")),)), "weight"),
        (Shares(stable="1", arms=(ArmOrder(version="2", weight=0.1),) * 2), "once each"),
        (Shares(stable="1", shadows=(ShadowOrder(version="2", share=0),)), "share"),
        (Shares(stable="1", shadows=(ShadowOrder(version="2", share=0.00001),)), "share"),
        (Shares(stable="1", shadows=(ShadowOrder(version="2", budget=0),)), "budget"),
        (Shares(stable="1", shadows=(ShadowOrder(version="2", budget=101),)), "budget"),
        (Shares(stable="1", shadows=(ShadowOrder(version="2", segments=(Segment("age", "7"),)),)), "segment"),
        (Shares(stable="1", testers=("ada lovelace",)), "visible"),
        (Shares(stable="1", salt="x" * 256), "255"),
    ],
)  # fmt: skip
def test_shares_that_cannot_be_routed_are_refused(shares: Shares, word: str) -> None:
    """By name, before anything changes."""
    with pytest.raises(ParameterInvalid, match=word):
        check_shares(shares)
