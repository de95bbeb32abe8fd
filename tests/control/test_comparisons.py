"""What control tells the monitor to compare, and what it keeps of what comes back."""

from collections.abc import Collection
from typing import Any

import msgspec
import pytest

from serving.control.comparisons import Comparisons
from serving.core.clock import SystemClock
from serving.core.models import ModelName, VersionName
from serving.core.traffic import FULL, Arm, Segment, Shadow, Snapshot, TrafficPolicy
from serving.errors import RegistryUnavailable, RequestInvalid
from serving.governance.comparisons import (
    ComparisonOrder,
    MonitorOrders,
    MonitorReport,
    specification_of,
)
from serving.storage.worker import Worker
from tests.governance.test_verdicts import comparison
from tests.registries import digest_of, version_of

RULES = {"alpha": 0.01}


class Register:
    """Rules of the models, until the database goes away."""

    def __init__(self) -> None:
        self.is_away = False
        self.asked: list[set[str]] = []

    def read(self, models: Collection[str]) -> dict[str, dict[str, Any]]:
        if self.is_away:
            raise RegistryUnavailable("away")
        self.asked.append(set(models))
        return dict.fromkeys(models, RULES)


def snapshot(*shadows: Shadow, epoch: int = 5) -> Snapshot:
    policy = TrafficPolicy(
        ModelName("fraud"), VersionName("1"), shadows, arms=(Arm(VersionName("2"), 100),)
    )
    alone = TrafficPolicy(ModelName("alone"), VersionName("1"))
    versions = (version_of("fraud", "1"), version_of("fraud", "2"), version_of("alone", "1"))
    return Snapshot(epoch, versions=versions, policies=(policy, alone))


async def orders(
    comparisons: Comparisons, *reports: Any
) -> tuple[bool, tuple[ComparisonOrder, ...]]:
    sent = msgspec.json.encode(MonitorReport(reports=reports))
    found = msgspec.json.decode(await comparisons.take(sent), type=MonitorOrders)
    return found.is_known, found.orders


@pytest.mark.parametrize(
    ("shadow", "share"),
    [
        (Shadow(VersionName("2")), 1.0),
        (Shadow(VersionName("2"), share=FULL // 4), 0.25),
        (Shadow(VersionName("2"), budget=FULL), None),
        (Shadow(VersionName("2"), segments=(Segment("tenant", "a"),)), None),
    ],
)
async def test_models_with_copies_are_compared(shadow: Shadow, share: float | None) -> None:
    """By the rules that the registry has for them; a model without candidates is not asked about."""
    register, worker = Register(), Worker(SystemClock())
    missing = Shadow(VersionName("9"))
    comparisons = Comparisons(lambda: snapshot(shadow, missing), register.read, worker)
    is_known, (order,) = await orders(comparisons)
    worker.close()

    assert (is_known, order.model, order.specification) == (True, "fraud", RULES)
    assert order.primary == version_of("fraud", "1")
    (candidate,) = order.candidates
    assert (candidate.version, candidate.digest) == ("2", digest_of("2"))
    assert (candidate.share, candidate.arm) == (share, True)
    assert register.asked == [{"fraud"}]


async def test_while_the_registry_is_away_what_was_known_stays() -> None:
    """And what was never read is not guessed: such a model is not compared by other rules."""
    register, worker = Register(), Worker(SystemClock())
    register.is_away = True
    comparisons = Comparisons(lambda: snapshot(Shadow(VersionName("2"))), register.read, worker)
    before = await orders(comparisons)
    register.is_away = False
    known = await orders(comparisons)
    register.is_away = True
    after = await orders(comparisons)
    worker.close()

    assert before == (True, ())
    assert after == known
    assert len(known[1]) == 1


async def test_before_there_is_a_snapshot_nothing_is_known() -> None:
    """The monitor then goes on with what it was told before."""
    worker = Worker(SystemClock())
    comparisons = Comparisons(lambda: Snapshot(0), Register().read, worker)
    found = await orders(comparisons)
    worker.close()

    assert found == (False, ())


async def test_copies_are_missed_of_what_was_routed_since_they_are_made() -> None:
    """Each candidate has the epoch since which it gets these copies; another share is another one."""
    worker, shadow = Worker(SystemClock()), Shadow(VersionName("2"))
    told = [snapshot(shadow, epoch=5)]
    comparisons = Comparisons(lambda: told[-1], Register().read, worker)
    epochs = []
    for epoch, share in ((5, FULL), (8, FULL), (9, FULL // 2)):
        told.append(snapshot(Shadow(VersionName("2"), share=share), epoch=epoch))
        _, (order,) = await orders(comparisons)
        epochs.append(order.candidates[0].epoch)
    worker.close()

    assert epochs == [5, 5, 9]


async def test_what_is_current_goes_on_by_the_rules_of_now() -> None:
    """A report by other rules, on another artifact or of a candidate that gets no copies any more is
    kept for a verdict, and says nothing about what the candidate does."""
    worker = Worker(SystemClock())
    told = [snapshot(Shadow(VersionName("2")))]
    comparisons = Comparisons(lambda: told[-1], Register().read, worker)
    rules: dict[str, Any] = {"specification": RULES}
    rules["specification_digest"] = specification_of(RULES).digest()
    is_current = []
    for report in (
        comparison(),
        comparison(**rules, candidate_digest="0" * 64),
        comparison(**rules),
    ):
        await orders(comparisons, report)
        is_current.append(comparisons.current("fraud", "2") is not None)
    told.append(snapshot())
    await orders(comparisons)
    worker.close()

    assert is_current == [False, False, True]
    assert comparisons.current("fraud", "2") is None
    assert comparisons.latest("fraud", "2") is not None


async def test_the_newest_report_is_kept() -> None:
    """By model and candidate; what is no report is refused."""
    worker = Worker(SystemClock())
    comparisons = Comparisons(snapshot, Register().read, worker)
    await orders(comparisons, comparison("hold"), comparison(candidate="3"))
    await orders(comparisons, comparison("reject"))
    with pytest.raises(RequestInvalid, match="no report"):
        await comparisons.take(b'{"reports": [1]}')
    worker.close()
    latest = comparisons.latest("fraud", "2")

    assert latest is not None
    assert latest.decision.outcome == "reject"
    assert [each.candidate for each in comparisons.of("fraud")] == ["2", "3"]
    assert comparisons.latest("fraud", "4") is None
