"""Joining predictions with what turned out to be true of them."""

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from serving.ledger.joining import Join, JoinFigures
from serving.ledger.schemas import FACTS, OUTCOMES

LOG = "0123456789abcdef"
SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS


def a_prediction(sequence: int, row: int = 0, **values: Any) -> dict[str, Any]:
    facts = {"model": "census", "fate": "ok", "rows": 1, "time": START_NS}
    return {"prediction_id": f"{LOG}-{sequence:x}", "row": row, **facts, **values}


def a_report(sequence: int, value: str, row: int = 0, **values: Any) -> dict[str, Any]:
    number = None if value == "null" else float(value)
    facts = {"model": "census", "name": "employed", "revision": 0, "sequence": 1, "log_id": LOG}
    return {
        "prediction_id": f"{LOG}-{sequence:x}", "row": row, "value": value, "number": number,
        "observed": START_NS, "time": START_NS + 5 * SECOND_NS, **facts, **values,
    }  # fmt: skip


def joined(
    predictions: Sequence[dict[str, Any]] | pa.Table, outcomes: Sequence[dict[str, Any]] | pa.Table
) -> Join:
    connection = duckdb.connect()
    for name, rows, schema in (
        ("predictions", predictions, FACTS),
        ("outcomes", outcomes, OUTCOMES),
    ):
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema)
        connection.register(name, table)
    return Join(connection)


def figures_of(join: Join) -> JoinFigures:
    [figures] = join.figures()
    return figures


def test_the_highest_revision_counts_whenever_it_came() -> None:
    """A correction that arrives before what it corrects still wins; of equals the first does."""
    late = {"time": START_NS + 9 * SECOND_NS}
    join = joined(
        [a_prediction(1), a_prediction(2)],
        [
            a_report(1, "1", revision=2),
            a_report(1, "0", revision=1, **late),
            a_report(2, "0", **late),
            a_report(2, "1"),
        ],
    )

    table = join.labelled("census").read_all()

    assert table["outcome_employed"].to_pylist() == [1.0, 1.0]
    assert table["revision_employed"].to_pylist() == [2, 0]
    figures = figures_of(join)
    assert (figures.truths, figures.corrections, figures.duplicates) == (2, 1, 1)


def test_a_truth_can_be_taken_back() -> None:
    """A null of a higher revision leaves the row without a label."""
    join = joined([a_prediction(1)], [a_report(1, "1"), a_report(1, "null", revision=1)])

    assert join.labelled("census").read_all().num_rows == 0
    figures = figures_of(join)
    assert (figures.labelled_rows, figures.withdrawn, figures.completeness) == (0, 1, 0.0)


def test_reports_about_something_else_are_rejected_and_counted() -> None:
    """Unknown predictions, other models' predictions and rows that were not there label nothing."""
    join = joined(
        [a_prediction(1, rows=2), a_prediction(1, 1, rows=2), a_prediction(2, model="secret")],
        [a_report(1, "1", row=2), a_report(2, "1"), a_report(3, "1"), a_report(1, "1", row=1)],
    )

    census, secret = join.figures()

    assert census.rejected == {"no_such_row": 1, "other_model": 1, "unknown_prediction": 1}
    assert (census.labelled_rows, census.predicted_rows) == (1, 2)
    assert (secret.labelled_rows, secret.rejected) == (0, {})
    assert join.labelled("secret").read_all().num_rows == 0


def test_several_truths_of_one_row_stand_side_by_side() -> None:
    """Each name has its column; what is no number is there as JSON."""
    report = a_report(1, "1")
    text = report | {"name": "job title", "value": '"smith"', "number": None}
    join = joined([a_prediction(1)], [report, text])

    [row] = join.labelled("census").read_all().to_pylist()

    assert (row["outcome_employed"], row["outcome_json_job_title"]) == (1.0, '"smith"')


def test_a_shadow_is_judged_by_the_truths_of_its_primary() -> None:
    """A candidate's copy has the labels of the answer that the caller got."""
    join = joined(
        [a_prediction(1, version="1"), a_prediction(2, version="2", shadow_of=f"{LOG}-1")],
        [a_report(1, "1")],
    )

    table = join.labelled("census").read_all()

    assert table["version"].to_pylist() == ["1", "2"]
    assert table["outcome_employed"].to_pylist() == [1.0, 1.0]
    assert figures_of(join).predicted_rows == 1


def test_rows_without_a_truth_come_when_they_are_asked_for() -> None:
    """Informative missingness can only be seen where the unlabelled rows are there, too."""
    join = joined([a_prediction(1), a_prediction(2)], [a_report(2, "1")])

    assert join.labelled("census").read_all().num_rows == 1
    everything = join.labelled("census", unlabelled=True).read_all()
    assert everything["outcome_employed"].to_pylist() == [None, 1.0]


def test_without_any_report_there_is_nothing_but_predictions() -> None:
    """A model that nobody reported about has completeness 0, and no label columns."""
    join = joined([a_prediction(1)], [])

    assert figures_of(join).completeness == 0.0
    assert join.labelled("census", unlabelled=True).read_all().num_rows == 1


def test_only_the_window_counts() -> None:
    """The figures are of predictions that arrived in it, whenever their truths came."""
    connection = duckdb.connect()
    rows = [a_prediction(1), a_prediction(2, time=START_NS + 60 * SECOND_NS)]
    connection.register("predictions", pa.Table.from_pylist(rows, FACTS))
    reports = [a_report(1, "1"), a_report(2, "1", time=START_NS + 90 * SECOND_NS)]
    connection.register("outcomes", pa.Table.from_pylist(reports, OUTCOMES))

    [figures] = Join(connection, since_ns=START_NS + SECOND_NS).figures()

    assert (figures.predicted_rows, figures.labelled_rows) == (1, 1)
    assert figures.delays_s == pytest.approx((30.0, 30.0, 30.0))


def test_n9_a_hundred_thousand_predictions_give_exact_figures() -> None:
    """10^5 predictions, 80 % labelled, of those 5 % reported twice and 2 % corrected: all exact."""
    random = np.random.default_rng(9)
    count, labelled, twice, corrected = 100_000, 80_000, 4_000, 1_600
    ids = pa.array([f"{LOG}-{n:x}" for n in range(count)])
    predictions = _columns(
        FACTS,
        prediction_id=ids, row=np.zeros(count, np.int32), rows=np.ones(count, np.uint32),
        time=START_NS + np.arange(count), model=["census"] * count, fate=["ok"] * count,
    )  # fmt: skip
    chosen = random.permutation(count)[:labelled]
    again = chosen[:twice]
    changed = chosen[-corrected:]
    of = np.concatenate([chosen, again, changed])
    value = np.concatenate([chosen % 2, again % 2, 1 - changed % 2]).astype(float)
    revision = np.repeat(np.array([0, 0, 1], np.uint32), [labelled, twice, corrected])
    delay_s = random.permutation(np.arange(len(of)) % 100 + 1)
    order = random.permutation(len(of))
    outcomes = _columns(
        OUTCOMES,
        prediction_id=ids.take(pa.array(of[order])), row=np.zeros(len(of), np.uint32),
        name=["employed"] * len(of), value=[str(each) for each in value[order]],
        number=value[order], observed=np.full(len(of), START_NS),
        time=(START_NS + count + delay_s * SECOND_NS)[order], revision=revision[order],
        model=["census"] * len(of), log_id=[LOG] * len(of), sequence=np.arange(len(of), dtype=np.uint64),
    )  # fmt: skip

    join = joined(predictions, outcomes)
    figures = figures_of(join)

    assert figures.completeness == 0.8
    assert (figures.predicted_rows, figures.labelled_rows, figures.truths) == (
        count, labelled, labelled,
    )  # fmt: skip
    assert (figures.duplicates, figures.corrections) == (twice, corrected)
    assert figures.rejected == {}
    first_s = np.full(count, 1e9)
    np.minimum.at(first_s, of, delay_s)
    expected_s = first_s[chosen]
    assert figures.delays_s == pytest.approx(np.quantile(expected_s, [0.5, 0.9, 0.99]), abs=0.001)
    assert figures.delay_counts[-1] == labelled
    table = join.labelled("census").read_all()
    truth = np.where(
        np.isin(np.arange(count), changed), 1 - np.arange(count) % 2, np.arange(count) % 2
    )
    sequences = np.array(
        [int(each.split("-")[1], 16) for each in table["prediction_id"].to_pylist()]
    )
    assert np.array_equal(table["outcome_employed"].to_numpy(), truth[sequences])


def _columns(schema: pa.Schema, **columns: Any) -> pa.Table:
    count = len(columns["prediction_id"])
    arrays = [
        pa.array(columns[each.name]).cast(each.type)
        if each.name in columns
        else pa.nulls(count, each.type)
        for each in schema
    ]
    return pa.table(arrays, schema=schema)
