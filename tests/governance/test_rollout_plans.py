"""Plans as people write them: what is understood, and what is refused with a reason."""

import msgspec
import pytest

from serving.errors import ParameterInvalid
from serving.governance.rollout_plans import (
    DEFAULT_LIMITS,
    PlanStep,
    RolloutPlan,
    check_plan,
    read_gates,
    read_steps,
)


def test_steps_are_read_as_they_are_written() -> None:
    """Percent or fraction, seconds, minutes or hours, and least requests where somebody cares."""
    assert read_steps("1%:60s, 0.1:5m,50%:1.5h:1000") == (
        PlanStep(weight=0.01, hold_s=60),
        PlanStep(weight=0.1, hold_s=300),
        PlanStep(weight=0.5, hold_s=5400, min_requests=1000),
    )


@pytest.mark.parametrize("text", ["", "10", "10%", "10%:5", "0%:5m", "101%:5m", "2:5m", "-1%:5m"])
def test_what_is_no_step_is_refused(text: str) -> None:
    """A number without a unit is no time."""
    with pytest.raises(ParameterInvalid):
        read_steps(text)


@pytest.mark.parametrize(
    "plan",
    [
        RolloutPlan(steps=read_steps("10%:1m,5%:1m")),
        RolloutPlan(steps=read_steps("10%:1m,10%:1m")),
        RolloutPlan(steps=(PlanStep(weight=0.00001, hold_s=1),)),
        RolloutPlan(gates={"beauty": 1.0}),
        RolloutPlan(gates={"errors": -0.1}),
        RolloutPlan(gates={"latency": 0.9}),
    ],
)
def test_plan_that_makes_no_sense_is_refused(plan: RolloutPlan) -> None:
    """Weights grow, gates are known, limits are possible."""
    with pytest.raises(ParameterInvalid):
        check_plan(plan)


def test_plan_without_words_has_sane_steps_and_gates() -> None:
    """Three steps from 1 %, errors and latency."""
    plan = RolloutPlan()
    check_plan(plan)

    assert plan.limits == DEFAULT_LIMITS
    assert [step.weight for step in plan.steps] == [0.01, 0.1, 0.5]
    assert RolloutPlan(gates={"errors": 0.5}).limits == {"errors": 0.5, "latency": 1.5}


def test_gate_has_a_number() -> None:
    """Name, equals sign, limit."""
    assert read_gates(["errors=0.01", "loss=1e-3"]) == {"errors": 0.01, "loss": 0.001}
    with pytest.raises(ParameterInvalid):
        read_gates(["errors"])


def test_unknown_field_of_a_plan_is_refused() -> None:
    """A misspelt field is no plan with a default instead."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"step": []}, RolloutPlan)
