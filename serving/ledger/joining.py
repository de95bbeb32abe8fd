"""Predictions and what turned out to be true of them, brought together by prediction id and row.

Works on a DuckDB connection in which `predictions` and `outcomes` are tables or views of hot and cold
data together (`schemas`), so it takes no more memory than the connection may and spills the rest.

    of one (prediction, row, name)   the report with the highest revision counts, and of equals the
                                     first; a null that counts takes the truth back
    a report is rejected             when no prediction has its id (`unknown_prediction`), when that
                                     prediction is another model's (`other_model`: so nobody labels
                                     what they may not), when it has no such row (`no_such_row`)
    a shadow's prediction            has the truths of its primary

`figures` counts all of it and says how complete the labels are; `labelled` is the labelled set, one
row for each predicted row, the truth of `name` in a column `outcome_name`, beside it when it was
observed and reported. Only answered predictions count. The delay of a label is from the arrival of its
prediction to the first report that was not rejected.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import pyarrow as pa

from serving.telemetry.families import LABEL_SECONDS

QUANTILES: Final = (0.5, 0.9, 0.99)

_REPORTS: Final = """
CREATE OR REPLACE TEMP VIEW joined_reports AS
WITH named AS (
  SELECT prediction_id, CAST(any_value(model) AS VARCHAR) AS model, any_value(rows) AS rows, any_value(time) AS time
  FROM predictions WHERE row IS NULL OR row = 0 GROUP BY prediction_id
)
SELECT o.prediction_id, o.row, CAST(o.name AS VARCHAR) AS name, o.value, o.number, o.observed, o.time, o.revision,
  CAST(o.model AS VARCHAR) AS model, o.log_id, o.sequence, p.time AS predicted,
  CASE WHEN p.prediction_id IS NULL THEN 'unknown_prediction'
       WHEN p.model <> CAST(o.model AS VARCHAR) THEN 'other_model'
       WHEN o.row >= p.rows THEN 'no_such_row' ELSE '' END AS rejected
FROM outcomes o LEFT JOIN named p ON p.prediction_id = o.prediction_id
"""

_TRUTHS: Final = """
CREATE OR REPLACE TEMP VIEW joined_truths AS
SELECT *, row_number() OVER (
    PARTITION BY prediction_id, row, name ORDER BY revision DESC, time, log_id, sequence
  ) AS place,
  count(*) OVER one AS reports, count(DISTINCT revision) OVER one AS revisions,
  min(time) OVER one AS first_time
FROM joined_reports WHERE rejected = ''
WINDOW one AS (PARTITION BY prediction_id, row, name)
"""

_TRUE_FIGURES: Final = """
SELECT model, count(*) FILTER (WHERE value <> 'null'), sum(reports - revisions),
  sum(revisions - 1), count(*) FILTER (WHERE value = 'null')
FROM joined_truths WHERE place = 1 AND time >= make_timestamp_ns(?) GROUP BY model
"""

_REJECTED: Final = """
SELECT model, rejected, count(*) FROM joined_reports
WHERE rejected <> '' AND time >= make_timestamp_ns(?) GROUP BY ALL
"""

_COMPLETE: Final = """
SELECT CAST(p.model AS VARCHAR), count(*), count(t.prediction_id) FROM predictions p
LEFT JOIN (
  SELECT DISTINCT prediction_id, row FROM joined_truths WHERE place = 1 AND value <> 'null'
) t ON t.prediction_id = p.prediction_id AND t.row = p.row
WHERE p.fate = 'ok' AND p.shadow_of IS NULL AND p.part_of IS NULL AND p.row IS NOT NULL AND p.time >= make_timestamp_ns(?) AND p.time < make_timestamp_ns(?)
GROUP BY ALL
"""

_DELAYS: Final = """
SELECT model, quantile_cont(delay_s, ?), {buckets}, sum(delay_s) FROM (
  SELECT model, greatest(epoch_ns(first_time) - epoch_ns(predicted), 0) / 1e9 AS delay_s
  FROM joined_truths WHERE place = 1 AND value <> 'null' AND predicted >= make_timestamp_ns(?) AND predicted < make_timestamp_ns(?)
) GROUP BY model
"""

_LABELLED: Final = """
SELECT p.*, {columns} FROM {predictions} p {kind} JOIN (
  SELECT prediction_id, row, {aggregates} FROM joined_truths
  WHERE place = 1 AND value <> 'null' AND model = ? GROUP BY prediction_id, row
) t ON t.prediction_id = coalesce(p.shadow_of, p.prediction_id) AND t.row = p.row
WHERE p.model = ? AND p.fate = 'ok' AND p.time >= make_timestamp_ns(?) AND p.time < make_timestamp_ns(?)
ORDER BY p.time, p.prediction_id, p.row
"""

LAST_NS: Final = 2**63 - 2
"""The last time that is not infinite."""


@dataclass(slots=True)
class JoinFigures:
    """Of one model. Rows: of answered predictions in the window. Reports: all since its start.

    duplicates: reports of a revision that was there already. corrections: of a further revision.
    rejected: reason to reports. delay_counts: labels up to each of `LABEL_SECONDS`, and all.
    delays_s: at `QUANTILES`; empty without labels.
    """

    model: str
    predicted_rows: int = 0
    labelled_rows: int = 0
    truths: int = 0
    duplicates: int = 0
    corrections: int = 0
    withdrawn: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    delays_s: tuple[float, ...] = ()
    delay_counts: tuple[int, ...] = ()
    delay_total_s: float = 0.0

    @property
    def completeness(self) -> float | None:
        """Share of the predicted rows that have a truth; None without predictions."""
        return self.labelled_rows / self.predicted_rows if self.predicted_rows else None


class Join:
    """Joins what `connection` shows as `predictions` and `outcomes`."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, *, since_ns: int = 0, until_ns: int = LAST_NS
    ) -> None:
        """since_ns, until_ns: arrival of the predictions, up to and excluding the second."""
        self._connection = connection
        self._window = (since_ns, until_ns)
        connection.execute(_REPORTS)
        connection.execute(_TRUTHS)

    def figures(self) -> list[JoinFigures]:
        """Of every model that predicted or was reported about, by name."""
        found: dict[str, JoinFigures] = {}

        def of(model: str) -> JoinFigures:
            return found.setdefault(model, JoinFigures(model))

        since, until = self._window
        for model, predicted, labelled in self._rows(_COMPLETE, since, until):
            of(model).predicted_rows, of(model).labelled_rows = predicted, labelled
        for model, truths, duplicates, corrections, withdrawn in self._rows(_TRUE_FIGURES, since):
            each = of(model)
            each.truths, each.duplicates = truths, int(duplicates)
            each.corrections, each.withdrawn = int(corrections), withdrawn
        for model, reason, count in self._rows(_REJECTED, since):
            of(model).rejected[reason] = count
        edges = [f"count(*) FILTER (WHERE delay_s <= {edge})" for edge in LABEL_SECONDS]
        query = _DELAYS.format(buckets=f"[{', '.join([*edges, 'count(*)'])}]")
        for model, quantiles, counts, total in self._rows(query, list(QUANTILES), since, until):
            each = of(model)
            each.delays_s, each.delay_counts = tuple(quantiles), tuple(counts)
            each.delay_total_s = total
        return [found[model] for model in sorted(found)]

    def names(self, model: str) -> list[str]:
        """What there are truths of."""
        rows = self._rows(
            "SELECT DISTINCT name FROM joined_truths WHERE model = ? ORDER BY ALL", model
        )
        return [name for (name,) in rows]

    def labelled(
        self, model: str, *, predictions: str = "predictions", unlabelled: bool = False
    ) -> pa.RecordBatchReader:
        """The labelled set of a model, oldest first, in batches.

        predictions: the table or view whose columns are wanted, with those of `schemas.FACTS`.
        unlabelled: also the rows that nothing is known of yet.
        """
        names = self.names(model)
        columns, aggregates = ["NULL AS outcome"], ["count(*) AS known"]
        if names:
            columns = [part for name in names for part in _columns(name)]
            aggregates = [part for name in names for part in _aggregates(name)]
        query = _LABELLED.format(
            columns=", ".join(columns),
            aggregates=", ".join(aggregates),
            predictions=_quoted(predictions),
            kind="LEFT" if unlabelled else "INNER",
        )
        answer = self._connection.sql(query, params=[model, model, *self._window])
        return answer.to_arrow_reader()

    def columns(self, view: str) -> list[str]:
        """Of a table or view; empty where there is none of that name."""
        query = (
            "SELECT column_name FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"
        )
        return [name for (name,) in self._rows(query, view)]

    def define(self, statement: str) -> None:
        """Runs a statement of the product's own, such as one that makes a view."""
        self._connection.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query of the product's own finds, where that is little."""
        return self._rows(query)

    def batches(self, query: str, parameters: Mapping[str, object]) -> pa.RecordBatchReader:
        """What a query of the product's own finds, over `joined_truths` too, in batches."""
        return self._connection.sql(query, params=dict(parameters)).to_arrow_reader()

    def _rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, list(parameters)).fetchall()


def _columns(name: str) -> list[str]:
    return [f"t.{_quoted(column)}" for column in _column_names(name)]


def _column_names(name: str) -> list[str]:
    plain = re.sub(r"\W", "_", name)
    kinds = ("outcome", "outcome_json", "observed", "reported", "revision")
    return [f"{kind}_{plain}" for kind in kinds]


def _aggregates(name: str) -> list[str]:
    """One truth of a row; `outcome_` is a number where all of them are, else null."""
    chosen = ("number", "value", "observed", "time", "revision")
    literal = name.replace("'", "''")
    return [
        f"any_value({value}) FILTER (WHERE name = '{literal}') AS {_quoted(column)}"
        for value, column in zip(chosen, _column_names(name), strict=True)
    ]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
