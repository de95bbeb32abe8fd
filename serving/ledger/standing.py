"""A shadow that stands for months: what two versions answered to the same callers, row by row.

Every row that the primary answered, in the order of arrival, hot and cold together and in batches, with
the candidate's answer beside it where there is one, and the truth where it is known.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.ledger.answers import (
    ASKED,
    TRUTH,
    Floats,
    check_columns,
    flags,
    floats,
    open_answers,
    quoted,
    text,
)
from serving.ledger.joining import LAST_NS, Join

Period = Literal["day", "week", "month"]

_STANDING: Final = """
SELECT CAST(date_trunc('{period}', p.time) AS DATE) AS period, c.prediction_id IS NOT NULL AS paired,
  c.fate = 'ok' AS ok, p.{score} AS primary_score, c.{score} AS candidate_score,
  CAST(p.run_us AS DOUBLE) AS primary_us, CAST(c.run_us AS DOUBLE) AS candidate_us, t.truth AS truth
FROM read_rows p
LEFT JOIN (
  SELECT * FROM read_rows WHERE model = $model AND CAST(version AS VARCHAR) = $candidate
    AND shadow_of IS NOT NULL
) c ON c.shadow_of = p.prediction_id AND coalesce(c.row, p.row) = p.row
{truth}
WHERE p.model = $model AND CAST(p.version AS VARCHAR) = $primary AND {asked}
  AND p.fate = 'ok' AND p.row IS NOT NULL
  AND p.time >= make_timestamp_ns($since) AND p.time < make_timestamp_ns($until)
ORDER BY p.time, p.prediction_id, p.row
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """What to read of a shadow that stands. period: what is summed up together, in UTC."""

    model: str
    primary: str
    candidate: str
    outcome: str
    score: str
    period: Period = "month"
    since_ns: int = 0
    until_ns: int = LAST_NS


@dataclass(frozen=True, slots=True)
class StandingRows:
    """Rows that the primary answered, in the order of arrival.

    period: days since 1970 of its first day. paired: the candidate has a record of it. ok: it
    answered. Scores, times and truths are NaN where there are none.
    """

    period: NDArray[np.int64]
    paired: NDArray[np.bool_]
    ok: NDArray[np.bool_]
    primary_score: Floats
    candidate_score: Floats
    primary_us: Floats
    candidate_us: Floats
    truth: Floats


def standing_rows(join: Join, standing: Standing) -> Iterator[StandingRows]:
    """All rows of the primary. Raises NotFound, ParameterInvalid for a column that is not there."""
    columns = open_answers(join, standing.model)
    check_columns(columns, [standing.score], standing.model)
    query = _STANDING.format(
        period=standing.period,
        score=quoted(standing.score),
        truth=TRUTH.format(model=text(standing.model), outcome=text(standing.outcome)),
        asked=ASKED,
    )
    parameters = {
        "model": standing.model, "primary": standing.primary, "candidate": standing.candidate,
        "since": standing.since_ns, "until": standing.until_ns,
    }  # fmt: skip
    for batch in join.batches(query, parameters):
        yield StandingRows(
            period=batch["period"].cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64),
            paired=flags(batch["paired"]),
            ok=flags(batch["ok"]),
            primary_score=floats(batch["primary_score"]),
            candidate_score=floats(batch["candidate_score"]),
            primary_us=floats(batch["primary_us"]),
            candidate_us=floats(batch["candidate_us"]),
            truth=floats(batch["truth"]),
        )
