import pytest

from loadtests.scenarios import SCENARIOS, Objective, Outcome, broken_promises, users_at

OBJECTIVE = Objective(max_error_share=0.01, max_p99_ms=100)


def test_there_are_four_scenarios() -> None:
    """Steady, step, spike and soak: each with a meaning, an objective and an end."""
    assert set(SCENARIOS) == {"steady", "step", "spike", "soak"}
    assert all(scenario.stages[-1].until == 1 for scenario in SCENARIOS.values())


@pytest.mark.parametrize(
    ("scenario", "users"),
    [
        ("steady", [100, 100, 100, 100, 100]),
        ("step", [25, 25, 50, 75, 100]),
        ("spike", [20, 20, 100, 20, 20]),
        ("soak", [50, 50, 50, 50, 50]),
    ],
    ids=["steady", "step", "spike", "soak"],
)
def test_users_follow_the_scenario(scenario: str, users: list[int]) -> None:
    """At 0, 20, 45, 70 and 99 % of the run there are as many users as the table says."""
    chosen = SCENARIOS[scenario]

    found = [users_at(chosen, share=share, peak=100) for share in (0, 0.2, 0.45, 0.7, 0.99)]

    assert found == users


@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_a_run_ends(scenario: str) -> None:
    """At its end a run has no number of users any more; before it there is always one."""
    assert users_at(SCENARIOS[scenario], share=1.0, peak=1) is None
    assert users_at(SCENARIOS[scenario], share=0.0, peak=1) == 1


@pytest.mark.parametrize(
    ("outcome", "reasons"),
    [
        (Outcome(requests=1000, failures=10, p99_ms=100), 0),
        (Outcome(requests=1000, failures=11, p99_ms=100), 1),
        (Outcome(requests=1000, failures=0, p99_ms=101), 1),
        (Outcome(requests=10, failures=10, p99_ms=1000), 2),
        (Outcome(requests=0, failures=0, p99_ms=0), 1),
    ],
    ids=["kept", "errors", "slow", "both", "nothing-sent"],
)
def test_says_what_was_not_kept(outcome: Outcome, reasons: int) -> None:
    """Each bound that is exceeded is one reason; a run that sent nothing has one too."""
    assert len(broken_promises(OBJECTIVE, outcome)) == reasons
