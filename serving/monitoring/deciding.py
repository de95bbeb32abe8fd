"""From figures to a decision: what is shown, what is not, and when waiting is futile.

Breach is claimed of many figures at once, so it is corrected: e-BH over the figures of all records
with one half of alpha, over the slices with the other. If the two versions are equal, the probability
that any figure is ever in breach is at most alpha, however often one looks.

"ok" needs no correction: promotion demands it of every limit, and a candidate that is beyond one of
them is promoted only if that one limit is shown wrongly, which happens with alpha at most
(intersection-union: Berger 1982).

Waiting ends at the horizon, or earlier where it is futile: where a limit could not be shown to hold by
the horizon even if all that is still to come were as good as the better end of its interval. Both give
"hold", so neither adds errors. The projection of the interval's width is approximate.
"""

import math
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from serving.monitoring.figures import ALL, Decision, Figure, Status
from serving.monitoring.multiplicity import e_bh
from serving.monitoring.reading import Draft
from serving.monitoring.specification import ComparisonSpecification

INTEGRITY = "missing"
"""In breach, the records say too little about the candidate to reject or promote it."""


def judge(
    whole: Sequence[Draft], slices: Sequence[Draft], *, alpha: float, families: tuple[int, int]
) -> tuple[Figure, ...]:
    """whole: drafts of all records; slices: of slices. families: limits that each may ever have."""
    share = alpha / 2.0 if families[1] else alpha
    return (*_judge(whole, share, families[0]), *_judge(slices, alpha - share, families[1]))


def _judge(drafts: Sequence[Draft], alpha: float, family: int) -> Iterable[Figure]:
    limited = [draft for draft in drafts if draft.figure.limit is not None]
    if not limited:
        return [draft.figure for draft in drafts]
    breached = iter(e_bh([draft.log_e for draft in limited], alpha, family=family))
    return [
        draft.figure
        if draft.figure.limit is None
        else replace(draft.figure, status=_status(draft, breached=next(breached)))
        for draft in drafts
    ]


def _status(draft: Draft, *, breached: bool) -> Status:
    if breached:
        return "breach"
    if draft.guard is not None:
        return "warn" if draft.guard == "breach" else draft.guard
    figure, safe = draft.figure, draft.safe
    worst = figure.high if figure.sense == "at_most" else figure.low
    if worst is None or safe is None or not figure.n:
        return "insufficient"
    held = worst <= safe if figure.sense == "at_most" else worst >= safe
    return "ok" if held else "insufficient"


def decide(
    figures: Sequence[Figure],
    specification: ComparisonSpecification,
    *,
    pairs: int,
    outcomes: int,
) -> Decision:
    """The decision at this moment; asking again later is safe."""
    limited = [figure for figure in figures if figure.limit is not None]
    early = _too_early(specification, pairs)
    breaches = [f for f in limited if f.status == "breach" and f.name != INTEGRITY]
    if breaches and not early:
        reasons = tuple(f"{_say(f)}: beyond the limit" for f in breaches)
        return Decision(
            outcome="reject", reasons=reasons, final=True, pairs=pairs, outcomes=outcomes
        )
    open_points = [*early, *_open_points(limited, specification, outcomes)]
    if not open_points:
        held = tuple(f"{_say(f)}: within the limit" for f in limited if f.status == "ok")
        small = tuple(f"{_say(f)}: too few to say" for f in limited if f.status == "insufficient")
        return Decision(
            outcome="promote", reasons=held + small, final=True, pairs=pairs, outcomes=outcomes
        )
    ends = _ends(limited, specification, pairs)
    reasons = (*ends, *open_points)
    return Decision(
        outcome="hold", reasons=reasons, final=bool(ends), pairs=pairs, outcomes=outcomes
    )


def _too_early(specification: ComparisonSpecification, pairs: int) -> list[str]:
    if pairs >= specification.min_samples:
        return []
    return [f"{pairs} pairs of at least {specification.min_samples}"]


def _open_points(
    limited: Sequence[Figure], specification: ComparisonSpecification, outcomes: int
) -> list[str]:
    """What stands between the candidate and its promotion."""
    points = []
    if outcomes < specification.min_outcomes:
        points.append(f"{outcomes} outcomes of at least {specification.min_outcomes}")
    for figure in limited:
        if figure.status == "breach":
            points.append(f"{_say(figure)}: beyond the limit")
        elif figure.status == "warn":
            points.append(f"{_say(figure)}: its value is beyond the limit; a person must look")
        elif figure.status == "insufficient" and _demanded(figure, specification.min_samples):
            points.append(f"{_say(figure)}: not yet shown to be within the limit")
    return points


def _demanded(figure: Figure, min_samples: int) -> bool:
    return figure.slice == ALL or (figure.protected and figure.n >= min_samples)


def _ends(
    limited: Sequence[Figure], specification: ComparisonSpecification, pairs: int
) -> list[str]:
    horizon = specification.max_samples
    if pairs >= horizon:
        return [f"the horizon of {horizon} pairs is reached"]
    if pairs < specification.min_samples:
        return []
    return [
        f"{_say(figure)}: waiting is futile, it could not be shown by {horizon} pairs"
        for figure in limited
        if figure.slice == ALL and figure.status == "insufficient" and figure.n
        if _futile(figure, growth=horizon / pairs)
    ]


def _futile(figure: Figure, *, growth: float) -> bool:
    """growth: how many times the records of now the horizon has."""
    if figure.estimate is None or figure.low is None or figure.high is None or figure.limit is None:
        return False
    sign = 1.0 if figure.sense == "at_most" else -1.0
    best, worst = (figure.low, figure.high) if sign > 0 else (figure.high, figure.low)
    middle = (figure.estimate + (growth - 1.0) * best) / growth
    reach = (worst - figure.estimate) / math.sqrt(growth)
    return sign * (middle + reach) > sign * figure.limit


def _say(figure: Figure) -> str:
    place = "" if figure.slice == ALL else f" on {figure.slice}"
    if figure.estimate is None:
        return f"{figure.name}{place}: no record"
    span = f"{_number(figure.low)} to {_number(figure.high)}"
    bound = "at most" if figure.sense == "at_most" else "at least"
    return (
        f"{figure.name}{place} {_number(figure.estimate)} ({span}; n {figure.n}; "
        f"e {figure.e_value:.3g}), {bound} {_number(figure.limit)}"
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
