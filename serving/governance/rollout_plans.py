"""Plans of rollouts: steps, gates and their limits, as people write them and as they are kept.

A gate has one limit. Those on counts compare the candidate with the stable version over the same
time, those on figures read the newest comparison of the two (`monitoring`):

    errors        share of requests that fail for a reason of ours: candidate minus stable
    latency       95th percentile, as callers wait: candidate over stable
    disagreement  share of copied requests that are answered otherwise
    loss          outcome loss: candidate minus stable, over requests whose outcome is known
    drift         distance between the distributions of answers
    fairness      the worst disagreement in any slice

`errors` and `latency` are always read; the others when a plan names them. A limit that the model's own
comparison states breaks every rollout, whatever its plan names.
"""

import itertools
import re
from typing import Annotated, Final

import msgspec

from serving.core.traffic import Sticky
from serving.errors import ParameterInvalid
from serving.registry.shares import whole

DEFAULT_LIMITS: Final = {"errors": 0.01, "latency": 1.5}
FIGURES: Final = ("disagreement", "loss", "drift", "fairness")
"""Gates that a comparison answers."""
GATES: Final = (*DEFAULT_LIMITS, *FIGURES)

MIN_REQUESTS: Final = 100
_STEP: Final = re.compile(
    r"(?P<weight>\d+(?:\.\d+)?)(?P<percent>%?):(?P<hold>\d+(?:\.\d+)?)(?P<unit>[smh])"
    r"(?::(?P<least>\d+))?"
)
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


class PlanStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One weight and how long it is held. min_requests: answered by the candidate before its gates
    are believed."""

    weight: Annotated[float, msgspec.Meta(gt=0, le=1)]
    hold_s: Annotated[float, msgspec.Meta(ge=0, le=90 * 86_400)]
    min_requests: Annotated[int, msgspec.Meta(ge=1, le=10**9)] = MIN_REQUESTS


DEFAULT_STEPS: Final = (
    PlanStep(weight=0.01, hold_s=60),
    PlanStep(weight=0.1, hold_s=300),
    PlanStep(weight=0.5, hold_s=600),
)


class RolloutPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a candidate takes over. gates: name to limit; those of `DEFAULT_LIMITS` hold unless
    changed. sticky: what keeps a caller on one side. warm_s: None for that of the settings."""

    steps: Annotated[tuple[PlanStep, ...], msgspec.Meta(min_length=1, max_length=50)] = (
        DEFAULT_STEPS
    )
    gates: dict[str, float] = {}
    sticky: Sticky = "request"
    warm_s: Annotated[float, msgspec.Meta(ge=0, le=366 * 86_400)] | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Of every gate that is read."""
        return DEFAULT_LIMITS | self.gates


def check_plan(plan: RolloutPlan) -> None:
    """Raises ParameterInvalid for what cannot be carried out."""
    weights = [whole(step.weight) for step in plan.steps]
    if not weights[0] or any(later <= one for one, later in itertools.pairwise(weights)):
        raise ParameterInvalid("the weights of the steps must grow, from at least 0.0001")
    unknown = sorted(set(plan.gates) - set(GATES))
    if unknown:
        raise ParameterInvalid(
            f"there is no gate {unknown[0][:64]!r}; there are {', '.join(GATES)}"
        )
    if plan.limits["latency"] < 1:
        raise ParameterInvalid("the limit of gate latency is a ratio of at least 1")
    if any(limit < 0 for limit in plan.gates.values()):
        raise ParameterInvalid("the limit of a gate is not negative")


def read_steps(text: str) -> tuple[PlanStep, ...]:
    """`1%:60s,10%:5m,50%:10m:1000`: weight, time to hold, and least requests where they differ from
    the default. Raises ParameterInvalid."""
    return tuple(_step(part.strip()) for part in text.split(","))


def _step(text: str) -> PlanStep:
    found = _STEP.fullmatch(text)
    if found is None:
        raise ParameterInvalid(
            f"{text[:64]!r} is no step: write WEIGHT:TIME or WEIGHT:TIME:REQUESTS, as in 10%:5m"
        )
    weight = float(found["weight"]) / (100 if found["percent"] else 1)
    if not 0 < weight <= 1:
        raise ParameterInvalid(f"the weight of {text[:64]!r} must be above 0 and at most 100%")
    return PlanStep(
        weight=weight,
        hold_s=float(found["hold"]) * _UNITS[found["unit"]],
        min_requests=int(found["least"] or MIN_REQUESTS),
    )


def read_gates(texts: list[str]) -> dict[str, float]:
    """`errors=0.01` each. Raises ParameterInvalid."""
    limits = {}
    for text in texts:
        name, _, limit = text.partition("=")
        try:
            limits[name] = float(limit)
        except ValueError:
            raise ParameterInvalid(f"{text[:64]!r} is no gate: write NAME=LIMIT") from None
    return limits
