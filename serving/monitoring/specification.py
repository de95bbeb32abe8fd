"""`ComparisonSpecification`: what is compared, on which slices, against which limits. JSON, checked.

A mistake is named with its field and with what is permitted. Every field has a default: the empty
object compares each output by what its declaration says (`comparators.default_for`).
"""

import hashlib
import math
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from serving.errors import SpecificationInvalid
from serving.monitoring.comparators import Comparator

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Count = Annotated[int, Meta(ge=1)]
LossName = Literal["zero_one", "brier", "log"]
Unit = Literal["row", "request"]

MAX_SLICES: Final = 50
OPEN_VALUES: Final = 20
"""How many values a slice without edges and values distinguishes; later ones are in none."""


class OutputComparison(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one output is compared. comparator: None: chosen from the output's declaration.

    max_disagreement: share of rows that may disagree; None: as in `Limits`.
    max_mean_score: limit for the mean score (0..1) of the comparator; None: shown, not judged.
    """

    output: Name
    comparator: Comparator | None = None
    max_disagreement: Share | None = None
    max_mean_score: Share | None = None


class Slice(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Records cut by a feature: between edges, by values, or (neither given) by every value seen.

    by: an input feature, an output, `principal`, or a protected attribute of the record.
    edges: ascending; slices are (-inf, e0), [e0, e1), ..., [en, inf).
    protected: a promotion demands that the limits are shown to hold on each of these slices that
    has `min_samples` records; a slice that is not protected may only not be in breach.
    """

    by: Name
    edges: tuple[float, ...] = ()
    values: tuple[str | int | float | bool, ...] = ()
    protected: bool = False


class Selection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the candidate's answer selects a person, for selection-rate ratios on protected slices.

    output: its element `column` of each row is at least `threshold`.
    reference: name of the slice that each other of the same feature is divided by, such as `SEX=1`.
    min_ratio: the four-fifths rule; alarm only if the whole interval lies below.
    """

    output: Name
    reference: tuple[Name, ...]
    column: Annotated[int, Meta(ge=0)] = 0
    threshold: float = 0.5
    min_ratio: Share = 0.8


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a candidate may be worse by. None: measured and shown, not judged.

    max_disagreement: share of rows of each output that may disagree, beyond the noise floor.
    max_loss_difference: mean of candidate's minus primary's loss; a number demands outcomes.
    win_margin: of the outcomes on which exactly one of them is better, the candidate may win this
    much less than half (0.05: at least 45 %).
    max_latency_ratio: geometric mean of candidate's over primary's time.
    max_latency_difference_ms: mean of candidate's minus primary's time.
    max_failure: share of the requests answered by the primary that the candidate may fail.
    max_missing: share of the expected pairs that may be missing.
    """

    max_disagreement: Share | None = 0.01
    max_loss_difference: Annotated[float, Meta(ge=0.0)] | None = None
    win_margin: Annotated[float, Meta(ge=0.0, lt=0.5)] | None = None
    max_latency_ratio: Annotated[float, Meta(gt=0.0)] | None = None
    max_latency_difference_ms: Annotated[float, Meta(ge=0.0)] | None = None
    max_failure: Share | None = 0.01
    max_missing: Share | None = 0.05


class ComparisonSpecification(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """outputs: empty: each output of the model, by its declaration.

    alpha: the probability that two equal versions are ever told apart, over all limits and slices
    together, however often one looks; and that a candidate beyond a limit is ever promoted.
    min_samples: no decision before so many pairs. max_samples: the horizon: then the answer is hold.
    min_outcomes: no promotion before so many outcomes. loss: how outcomes are scored.
    unit: `request`: one record of each request, its first row, for callers whose rows depend on each
    other. noise_floor: the measured one is added to `max_disagreement`.
    """

    outputs: tuple[OutputComparison, ...] = ()
    slices: Annotated[tuple[Slice, ...], Meta(max_length=MAX_SLICES)] = ()
    selection: Selection | None = None
    limits: Limits = field(default_factory=Limits)
    loss: LossName = "zero_one"
    alpha: Annotated[float, Meta(ge=1e-9, le=0.5)] = 0.05
    min_samples: Count = 500
    max_samples: Count = 100_000
    min_outcomes: Annotated[int, Meta(ge=0)] = 0
    unit: Unit = "row"
    noise_floor: bool = True

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: sorted keys, every default written out."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


def parse_specification(raw: bytes | dict[str, Any]) -> ComparisonSpecification:
    """JSON, or what it was decoded to. Raises SpecificationInvalid naming the field."""
    try:
        if isinstance(raw, dict):
            parsed = msgspec.convert(raw, ComparisonSpecification)
        else:
            parsed = msgspec.json.decode(raw, type=ComparisonSpecification)
    except msgspec.DecodeError as error:
        raise SpecificationInvalid(f"comparison: {error}") from error
    _check(parsed)
    return parsed


def _check(specification: ComparisonSpecification) -> None:
    if specification.max_samples <= specification.min_samples:
        raise SpecificationInvalid(
            f"comparison: max_samples ({specification.max_samples}) must be larger than "
            f"min_samples ({specification.min_samples}): it is where waiting ends"
        )
    pairs = [(o.output, type(o.comparator)) for o in specification.outputs]
    if len(set(pairs)) != len(pairs):
        raise SpecificationInvalid("comparison: outputs names one output and comparator twice")
    cut_by = [cut.by for cut in specification.slices]
    if len(set(cut_by)) != len(cut_by):
        raise SpecificationInvalid(
            "comparison: slices cut by one feature twice; merge their values"
        )
    for cut in specification.slices:
        _check_slice(cut)
    if specification.selection is not None and not any(s.protected for s in specification.slices):
        raise SpecificationInvalid(
            "comparison: selection compares protected slices, and there is none: add "
            '{"by": ..., "values": [...], "protected": true} to slices'
        )


def _check_slice(cut: Slice) -> None:
    where = f"comparison: slice by {cut.by!r}"
    if cut.edges and cut.values:
        raise SpecificationInvalid(f"{where} has edges and values; give one of them")
    if not all(math.isfinite(edge) for edge in cut.edges):
        raise SpecificationInvalid(f"{where}: every edge must be a finite number")
    if any(b <= a for a, b in zip(cut.edges, cut.edges[1:], strict=False)):
        raise SpecificationInvalid(f"{where}: edges must ascend, got {list(cut.edges)}")
    if len(set(map(str, cut.values))) != len(cut.values):
        raise SpecificationInvalid(f"{where}: values repeat")
