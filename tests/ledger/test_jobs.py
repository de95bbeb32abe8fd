from serving.core.clock import ManualClock
from serving.ledger.jobs import JobRunner


class Counting:
    """A job that takes a second, and fails when told to."""

    def __init__(self, name: str, clock: ManualClock, *, period_s: float) -> None:
        self.name = name
        self.period_s = period_s
        self.starts: list[int] = []
        self.fails = False
        self._clock = clock

    def run(self) -> None:
        self.starts.append(self._clock.monotonic_ns() // 10**9)
        self._clock.advance(1)
        if self.fails:
            raise OSError("the disk is gone")


def test_each_job_runs_again_after_its_period() -> None:
    """A period begins when a run ends, and jobs never run at once."""
    clock = ManualClock()
    often, rarely = Counting("a", clock, period_s=4), Counting("b", clock, period_s=20)
    runner = JobRunner([often, rarely], clock)
    while clock.monotonic_ns() < 30 * 10**9:
        clock.advance(runner.run_due())

    assert often.starts == [0, 5, 10, 15, 20, 25]
    assert rarely.starts == [1, 22]


def test_a_failing_job_leaves_the_others_alone() -> None:
    """A failure is counted and told, and the job is tried again."""
    clock = ManualClock()
    bad, good = Counting("bad", clock, period_s=4), Counting("good", clock, period_s=4)
    bad.fails = True
    runner = JobRunner([bad, good], clock)
    runner.run_due()
    clock.advance(4)
    runner.run_due()
    bad.fails = False
    clock.advance(10)
    failed = runner.statuses()[0]
    runner.run_due()

    ended = runner.statuses()
    assert (failed.failures, failed.error, failed.succeeded_ns) == (2, "the disk is gone", 0)
    assert [(each.runs, each.failures, each.error) for each in ended] == [(3, 2, ""), (3, 0, "")]


def test_nothing_to_do_is_for_ever() -> None:
    """Without jobs nobody wakes up."""
    assert JobRunner([], ManualClock()).run_due() == float("inf")
