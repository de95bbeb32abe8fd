"""The newcomer's story comes true: registration, promotion of 2, refusal and automatic rollback of 3."""

import io
from pathlib import Path

import pytest

from loadtests.callers import Callers, questions
from loadtests.ports import free_port
from loadtests.story import QUICK, ROLLBACK_S, SAMPLES, play
from serving.core.clock import SystemClock


@pytest.mark.faults
@pytest.mark.timeout(240)
def test_the_whole_story_of_three_versions_comes_true(tmp_path: Path) -> None:
    """Version 2 takes over and version 3 is taken back by the gates; no request fails, and what
    happened can be read in order, from the approval to the roll-back and the records."""
    told = io.StringIO()

    ending = play(tmp_path, pace=QUICK, engine="local", out=told)

    text = told.getvalue()
    assert ending.failures == ()
    assert {"1", "2", "3"} == set(ending.answered)
    assert 0 < ending.bad_answers < ending.answered.total() / 10
    assert ending.out_after_s < ROLLBACK_S
    places = [
        text.index(word)
        for word in (
            "2: completed", "(transition_refused)", "3: rolled_back", "What is on record",
        )
    ]  # fmt: skip
    assert places == sorted(places)


def test_every_sample_is_asked_about_with_its_truth() -> None:
    """The questions hold all sample rows once, each with as many truths as rows."""
    asked = questions(SAMPLES)

    assert sum(len(each.truths) for each in asked) == 2000
    assert {truth for each in asked for truth in each.truths} == {0, 1}


def test_a_caller_who_is_not_answered_says_so() -> None:
    """Failures are kept in words and end nobody's calling."""
    clock = SystemClock()
    port = free_port()
    callers = Callers(
        f"http://127.0.0.1:{port}", questions(SAMPLES), tokens=["a"], rate_per_s=500, clock=clock
    )

    with callers:
        while len(callers.failures) < 3:
            clock.sleep(0.01)

    assert not callers.snapshot()
    assert all("ConnectError" in each for each in callers.failures)
