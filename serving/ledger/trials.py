"""What an A/B test measured, summed up for each of those whom chance put on a side.

Units are requests or callers: rows of one depend on each other, so statistics are made of units, not of
rows. They are read from the joined ledger, hot and cold together. A caller that comes again refines its
own mean.

A record whose caller chose the version, a copy for a shadow and a part of an ensemble are no part of a
trial: chance did not put them where they are. Nor is a record of another policy: `epochs` are those
whose snapshot held the experiment, so what was routed before a gateway knew of it does not count.
Nothing is judged here; see `serving.monitoring.experiments`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from serving.errors import ParameterInvalid
from serving.ledger.answers import (
    ASKED,
    TRUTH,
    Floats,
    check_columns,
    floats,
    open_answers,
    quoted,
    text,
)
from serving.ledger.joining import LAST_NS, Join

Unit = Literal["request", "principal", "subject"]
Metric = Literal["squared", "zero_one", "value"]

MOST_SLICES: Final = 20

_UNITS: Final[Mapping[str, str]] = {
    "request": "p.prediction_id",
    "principal": "coalesce(CAST(p.principal AS VARCHAR), p.prediction_id)",
    "subject": "coalesce(CAST(p.subject AS VARCHAR), CAST(p.principal AS VARCHAR), p.prediction_id)",
}

_TRIAL: Final = """
CREATE OR REPLACE TEMP VIEW trial_rows AS
SELECT CAST(p.version AS VARCHAR) AS version, {unit} AS unit, {slice} AS slice, p.time AS time,
  coalesce(p.row, 0) = 0 AS is_first, p.fate = 'ok' AS is_ok, CAST(p.reason AS VARCHAR) AS reason,
  CAST(p.total_us AS DOUBLE) AS total_us, {loss} AS loss
FROM read_rows p {truth}
WHERE p.model = {model} AND CAST(p.version AS VARCHAR) IN ({versions}) AND {asked}
  AND NOT p.is_chosen AND {epochs}
  AND p.time >= make_timestamp_ns({since:d}) AND p.time < make_timestamp_ns({until:d})
"""

_UNIT_MEANS: Final = """
SELECT version, slice, avg(loss) AS loss, count(loss) AS labelled,
  avg(total_us) FILTER (WHERE is_first AND is_ok) AS total_us
FROM trial_rows GROUP BY version, unit, slice ORDER BY min(time), unit, slice
"""

_TOTALS: Final = """
SELECT version, count(DISTINCT unit), count(*) FILTER (WHERE is_first), count(*) FILTER (WHERE is_ok),
  count(loss), count(*) FILTER (WHERE is_first AND NOT is_ok),
  quantile_cont(total_us, 0.5) FILTER (WHERE is_first AND is_ok),
  quantile_cont(total_us, 0.99) FILTER (WHERE is_first AND is_ok)
FROM trial_rows GROUP BY version
"""

_BOTH_SIDES: Final = """
SELECT count(*) FROM (SELECT unit FROM trial_rows GROUP BY unit HAVING count(DISTINCT version) > 1)
"""


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows apart by a column. edges: ascending, of numbers; empty: each value by itself."""

    column: str
    edges: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """What to read of an A/B test. versions: of all arms, the stable one first.

    since_ns, until_ns: arrival, up to and excluding the second. epochs: first and last of each range
    of snapshots that held the experiment; None: not known, all count. unit: whom chance put on a
    side. score: the column of the model's view that the truth is compared with; empty for `value`,
    which is the outcome itself. threshold: a score or truth from here on counts as 1 for `zero_one`.
    """

    model: str
    versions: tuple[str, ...]
    outcome: str
    metric: Metric
    score: str = ""
    threshold: float = 0.5
    since_ns: int = 0
    until_ns: int = LAST_NS
    epochs: tuple[tuple[int, int], ...] | None = None
    unit: Unit = "request"


@dataclass(frozen=True, slots=True)
class TrialUnits:
    """Units in the order of their first arrival; all arrays are as long.

    arm: index into the versions. slice: empty without a cut, then a unit may be in several. loss:
    mean over the rows of the unit whose truth is known, NaN without any. total_us: mean over its
    answered requests, NaN without any.
    """

    arm: NDArray[np.int64]
    slice: NDArray[np.object_]
    loss: Floats
    total_us: Floats


@dataclass(frozen=True, slots=True)
class ArmTotals:
    """Of one arm. rows: answered. labelled: rows whose truth is known. failed: requests. Times of
    answered requests; NaN without any."""

    version: str
    units: int = 0
    requests: int = 0
    rows: int = 0
    labelled: int = 0
    failed: int = 0
    p50_us: float = math.nan
    p99_us: float = math.nan


class TrialReading:
    """The rows of one trial. Raises NotFound, ParameterInvalid for a column that is not there."""

    def __init__(self, join: Join, trial: Trial) -> None:
        self._join = join
        self._trial = trial
        self._columns = open_answers(join, trial.model)
        check_columns(self._columns, [trial.score], trial.model)

    def units(self, cut: Cut | None = None) -> Iterator[TrialUnits]:
        """In batches. Raises ParameterInvalid for more than `MOST_SLICES` slices."""
        self._define(cut)
        if cut is not None:
            [(slices,)] = self._join.rows("SELECT count(DISTINCT slice) FROM trial_rows")
            if slices > MOST_SLICES:
                raise ParameterInvalid(
                    f"{cut.column} has {slices} values: give edges, such as {cut.column}=25,60"
                )
        places = {version: place for place, version in enumerate(self._trial.versions)}
        for batch in self._join.batches(_UNIT_MEANS, {}):
            yield TrialUnits(
                arm=np.array([places[each] for each in batch["version"].to_pylist()], np.int64),
                slice=np.array(batch["slice"].to_pylist(), object),
                loss=floats(batch["loss"]),
                total_us=floats(batch["total_us"]),
            )

    def totals(self) -> tuple[ArmTotals, ...]:
        """Of every arm, in the order of the versions."""
        self._define(None)
        found = {
            row[0]: ArmTotals(*row[:6], *(math.nan if us is None else us for us in row[6:]))
            for row in self._join.rows(_TOTALS)
        }
        return tuple(found.get(each, ArmTotals(each)) for each in self._trial.versions)

    def both_sides(self) -> int:
        """Units that more than one arm answered: assignment did not hold them."""
        self._define(None)
        [(units,)] = self._join.rows(_BOTH_SIDES)
        return int(units)

    def _define(self, cut: Cut | None) -> None:
        """Makes `trial_rows`. A view takes no parameters, so values are written into it, quoted."""
        trial = self._trial
        if cut is not None:
            check_columns(self._columns, [cut.column], trial.model)
        self._join.define(
            _TRIAL.format(
                unit=_UNITS[trial.unit],
                slice="''" if cut is None else _sliced(cut),
                loss=_loss(trial),
                truth=TRUTH.format(model=text(trial.model), outcome=text(trial.outcome)),
                model=text(trial.model),
                versions=", ".join(map(text, trial.versions)),
                asked=ASKED,
                epochs=_within(trial.epochs),
                since=trial.since_ns,
                until=trial.until_ns,
            )
        )


# -- inside ----------------------------------------------------------------------------------------


def _within(epochs: tuple[tuple[int, int], ...] | None) -> str:
    if epochs is None:
        return "true"
    ranges = [f"p.policy_epoch BETWEEN {first:d} AND {last:d}" for first, last in epochs]
    return f"({' OR '.join(ranges)})" if ranges else "false"


def _loss(trial: Trial) -> str:
    """Smaller is better, but for `value`."""
    if trial.metric == "value":
        return "t.truth"
    score = f"CAST(p.{quoted(trial.score)} AS DOUBLE)"
    if trial.metric == "squared":
        return f"({score} - t.truth) ** 2"
    limit = repr(float(trial.threshold))
    return f"CAST(({score} >= {limit}) <> (t.truth >= {limit}) AS DOUBLE)"


def _sliced(cut: Cut) -> str:
    """The name of the slice of a row: `25 to 60`, or the value."""
    column = f"p.{quoted(cut.column)}"
    if not cut.edges:
        return f"coalesce(regexp_replace(CAST({column} AS VARCHAR), '\\.0$', ''), '')"
    names = [f"under {cut.edges[0]:g}"]
    names += [f"{low:g} to {high:g}" for low, high in pairwise(cut.edges)]
    cases = [
        f"WHEN {column} < {edge!r} THEN '{name}'"
        for edge, name in zip(cut.edges, names, strict=True)
    ]
    last = f"'{cut.edges[-1]:g} and over'"
    return f"CASE WHEN {column} IS NULL THEN '' {' '.join(cases)} ELSE {last} END"
