"""What a worker tells of its versions: by the part that each had when it answered."""

from dataclasses import replace

from serving.core.models import VersionName
from serving.core.principals import Role
from serving.core.reports import LATENCY_BOUNDS_S, VersionCounts
from serving.core.traffic import Arm, Shadow
from serving.gateway.reporting import COST_SECONDS, Tally
from tests.gateway.stand import CANDIDATE, MemoryLink, Stand, a_snapshot

SECOND = VersionName("2")


class Told:
    """A worker's tally, and the stand whose counters it reads."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.tally = Tally(stand.metrics, worker="a/0", clock=stand.clock)
        self.epoch = 1
        self.apply()
        self.links = [
            stand.connect(MemoryLink(allowed_frames=100)),
            stand.connect(MemoryLink(allowed_frames=100), CANDIDATE),
        ]

    def apply(self, stable: str = "1", **terms: object) -> None:
        self.epoch += 1
        snapshot = a_snapshot(epoch=self.epoch, shadows=())
        policy = replace(snapshot.policies[0], stable=VersionName(stable), **terms)  # type: ignore[arg-type]
        self.tally.apply((policy,))
        self.stand.pipeline.apply(replace(snapshot, policies=(policy,)))

    def ask(self, times: int, **client: object) -> None:
        for _ in range(times):
            self.stand.send(self.stand.client(**client))  # type: ignore[arg-type]
            for link in self.links:
                while link.frames:
                    link.answer()
                    self.stand.turns.run()

    def ok(self) -> dict[tuple[str, str], int]:
        """Answers by version and part."""
        versions = self.tally.report(self.epoch).versions
        return {(each.version, each.role): each.ok for each in versions if each.ok}

    def of(self, version: str, role: str) -> VersionCounts:
        (found,) = (
            each
            for each in self.tally.report(self.epoch).versions
            if (each.version, each.role) == (version, role)
        )
        return found


def test_answers_are_told_by_part(stand: Stand) -> None:
    """Stable, canary, shadow and chosen, each apart."""
    told = Told(stand)
    told.apply(arms=(Arm(SECOND, 5000),), shadows=(Shadow(SECOND),))
    told.ask(8)
    told.ask(1, version="2", role=Role.OPERATOR)

    assert told.ok() == {
        ("1", "stable"): 4,
        ("2", "canary"): 4,
        ("2", "shadow"): 4,
        ("2", "chosen"): 1,
    }
    assert told.of("2", "shadow").mirrored == 4


def test_version_that_changes_its_part_is_counted_in_both(stand: Stand) -> None:
    """A canary's answers stay a canary's when it is promoted, and again when it is rolled back."""
    told = Told(stand)
    told.apply(arms=(Arm(SECOND, 10_000),))
    told.ask(3)
    told.apply(stable="2")
    told.ask(2)
    told.apply(arms=(Arm(SECOND, 10_000),))
    told.ask(4)

    assert told.ok() == {("2", "canary"): 7, ("2", "stable"): 2}


def test_version_that_comes_back_counts_anew_and_says_so(stand: Stand) -> None:
    """Its series went with it; whoever sums up can tell that from a count that fell."""
    told = Told(stand)
    told.apply(arms=(Arm(SECOND, 10_000),))
    told.ask(3)
    before = told.of("2", "canary")
    stand.metrics.retain(())
    stand.metrics.version("doubler", "2", "primary")

    after = told.of("2", "canary")

    assert (before.ok, after.ok) == (3, 0)
    assert after.generation > before.generation


def test_counts_are_whole(stand: Stand) -> None:
    """Failures by fate, latencies in buckets up to all, model time and rows."""
    told = Told(stand)
    told.ask(3, rows=2)
    gone = stand.client()
    stand.send(gone)
    gone.go_away()

    counts = told.of("1", "stable")

    assert (counts.ok, dict(counts.failed)) == (3, {"client_gone": 1})
    assert counts.latency_buckets == (3,) * (len(LATENCY_BOUNDS_S) + 1)
    assert (counts.rows, counts.run_us_sum) == (6, 600)


def test_report_names_its_worker_and_epoch(stand: Stand) -> None:
    """So that control knows whose counts begin anew, and who routes by what."""
    told = Told(stand)
    report = told.tally.report(7)

    assert (report.worker, report.epoch) == ("a/0", 7)
    assert report.started_ns <= report.at_ns


def test_weights_and_costs_are_shown(stand: Stand) -> None:
    """Who is to answer how much, and what the copies cost of the stable version's model time."""
    told = Told(stand)
    told.apply(arms=(Arm(SECOND, 1000),))
    assert told.tally.weights() == {("doubler", "1"): 0.9, ("doubler", "2"): 0.1}

    told.apply(shadows=(Shadow(SECOND),))
    for _ in range(round(COST_SECONDS)):
        told.ask(2)
        told.tally.look()

    assert told.tally.costs() == {("doubler", "2"): 1.0}
