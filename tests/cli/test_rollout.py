"""`serving rollout` without an instance: help, what is refused before anything is sent, and its words.

Commands against a running instance are in tests/faults/test_canary.py."""

import pytest
from typer.testing import CliRunner

from serving.cli import app
from serving.cli.rollout_text import details, summary
from serving.control.rollout_desk import RolloutList, RolloutView
from serving.errors import ParameterInvalid
from serving.governance.gates import Reading
from serving.governance.rollout_book import Rollout
from serving.governance.rollout_plans import RolloutPlan
from serving.governance.rollout_states import RolloutState

VERBS = ("start", "status", "pause", "resume", "promote", "rollback", "list", "history")
ROLLOUT = Rollout(
    id="r1",
    model="fraud",
    tenant="",
    candidate="2",
    stable="1",
    plan=RolloutPlan(),
    state=RolloutState.RUNNING,
    step=1,
    since_ns=10**9,
    created_ns=10**9,
    created_by="ada",
)
READING = Reading(
    gate="errors",
    status="ok",
    limit=0.01,
    value=0.002,
    low=-0.01,
    high=0.02,
    n=500,
    beside=4500,
    detail="1 of 500 failed",
)


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_by_example(verb: str) -> None:
    """Every verb shows commands that can be typed, and answers programs."""
    result = CliRunner().invoke(app, ["rollout", verb, "--help"])

    assert result.exit_code == 0
    assert f"serving rollout {verb}" in result.output
    assert "--json" in result.output


@pytest.mark.parametrize(
    "words", [("--steps", "10%"), ("--gate", "errors"), ("--steps", "10%:5m,oops")]
)
def test_plan_that_is_none_is_refused_before_anything_is_sent(words: tuple[str, ...]) -> None:
    """Nothing has to run for that."""
    result = CliRunner().invoke(app, ["rollout", "start", "fraud", "--to", "2", *words])

    assert isinstance(result.exception, ParameterInvalid)


def test_status_says_how_far_it_is_and_what_each_gate_says() -> None:
    """Weight, requests, time left, and the figures beside their limits."""
    view = RolloutView(
        rollout=ROLLOUT,
        weight=0.1,
        published=0.1,
        requests=500,
        holds_until_ns=301 * 10**9,
        readings=(READING,),
    )
    lines = details(view, now_ns=101 * 10**9).splitlines()

    assert lines[0] == "fraud: version 2 beside 1, running"
    assert "step 2 of 3: 10.00%, gateways were told 10.00%" in lines[1]
    assert "500 of 100 requests, 200 s left" in lines[1]
    assert lines[3].split()[:6] == ["errors", "ok", "0.002", "-0.01", "..", "0.02"]


def test_rollback_that_the_registry_does_not_know_is_said_to_be_one() -> None:
    """Whoever looks must not think that nothing happened."""
    view = RolloutView(rollout=ROLLOUT, weight=0.0, unrecorded=True)

    assert "the registry does not know yet" in details(view, now_ns=0)


def test_list_has_a_line_for_each() -> None:
    """Model, candidate, state and weight."""
    heads, row = summary(RolloutList((ROLLOUT,))).splitlines()

    assert heads.split()[:4] == ["MODEL", "CANDIDATE", "BESIDE", "STATE"]
    assert row.split()[:6] == ["fraud", "2", "1", "running", "10.00%", "2/3"]
