"""Which rows of the ledger an experiment, and a shadow that stands, are made of."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from serving.errors import NotFound, ParameterInvalid
from serving.ledger.answers import input_of, outcome_of, score_of
from serving.ledger.joining import Join
from serving.ledger.schemas import FACTS, OUTCOMES
from serving.ledger.standing import Standing, StandingRows, standing_rows
from serving.ledger.trials import ArmTotals, Cut, Trial, TrialReading, TrialUnits

LOG = "0123456789abcdef"
DAY_NS = 86_400 * 10**9
MAY_NS = int(datetime(2026, 5, 1, tzinfo=UTC).timestamp()) * 10**9
VALUES = pa.schema(
    [
        pa.field("output_employed", pa.float32()),
        pa.field("input_SEX", pa.float32()),
        pa.field("chosen", pa.bool_()),
        pa.field("part_of", pa.string()),
    ]
)
SCHEMA = pa.schema([*[each for each in FACTS if each.name not in VALUES.names], *VALUES])


def an_answer(sequence: int, version: str = "1", **values: Any) -> dict[str, Any]:
    facts = {"model": "census", "fate": "ok", "rows": 1, "row": 0, "policy_epoch": 7}
    facts |= {"principal": "ada", "total_us": 900, "run_us": 20, "output_employed": 0.25}
    return {"prediction_id": _id(sequence), "version": version, "time": MAY_NS, **facts, **values}


def a_copy(sequence: int, of: int, version: str = "2", **values: Any) -> dict[str, Any]:
    return an_answer(sequence, version, shadow_of=_id(of), **values)


def a_truth(sequence: int, number: float, **values: Any) -> dict[str, Any]:
    facts = {"model": "census", "name": "employed", "revision": 0, "sequence": 1, "log_id": LOG}
    times = {"observed": MAY_NS, "time": MAY_NS + DAY_NS}
    value = {"prediction_id": _id(sequence), "row": 0, "value": str(number), "number": number}
    return {**facts, **times, **value, **values}


def joined(
    answers: Sequence[dict[str, Any]],
    truths: Sequence[dict[str, Any]] = (),
    *,
    schema: pa.Schema = SCHEMA,
) -> Join:
    connection = duckdb.connect()
    table = pa.Table.from_pylist(list(answers), schema)
    connection.register("predictions", table)
    connection.register("census", table)
    connection.register("outcomes", pa.Table.from_pylist(list(truths), OUTCOMES))
    return Join(connection)


def reading(join: Join, **values: Any) -> TrialReading:
    facts: dict[str, Any] = {"model": "census", "versions": ("1", "2"), "outcome": "employed"}
    facts |= {"metric": "squared", "score": "output_employed"}
    return TrialReading(join, Trial(**{**facts, **values}))


def units(join: Join, cut: Cut | None = None, **values: Any) -> TrialUnits:
    [found] = reading(join, **values).units(cut)
    return found


def stood(join: Join, **values: Any) -> StandingRows:
    standing = Standing("census", "1", "2", "employed", "output_employed", **values)
    [rows] = standing_rows(join, standing)
    return rows


def _id(sequence: int) -> str:
    return f"{LOG}-{sequence:x}"


def test_only_what_chance_put_there_counts() -> None:
    """Chosen versions, copies, parts of ensembles, other versions, other models: no part of a trial."""
    join = joined(
        [
            an_answer(1, "1"),
            an_answer(2, "2"),
            an_answer(3, "2", chosen=True),
            a_copy(4, of=1),
            an_answer(5, "2", part_of=_id(1)),
            an_answer(6, "3"),
            an_answer(7, "2", model="other"),
        ]
    )

    assert units(join).arm.tolist() == [0, 1]


def test_only_the_policies_of_the_experiment_count() -> None:
    """Records of other snapshots, and from before or after, are left out."""
    answers = [an_answer(n, policy_epoch=epoch) for n, epoch in enumerate([6, 7, 8, 12])]
    answers += [an_answer(10, time=MAY_NS - 1), an_answer(11, time=MAY_NS + DAY_NS)]
    join = joined(answers)
    window = {"since_ns": MAY_NS, "until_ns": MAY_NS + DAY_NS}

    counted = [
        reading(join, epochs=ranges, **window).totals()[0].requests
        for ranges in (None, ((7, 8),), ((6, 6), (12, 20)), ())
    ]

    assert counted == [4, 2, 2, 0]


@pytest.mark.parametrize(
    ("metric", "losses"), [("squared", [0.25, 0.5625]), ("zero_one", [0, 1]), ("value", [1, 0])]
)
def test_a_loss_is_the_score_beside_the_truth_that_counts(metric: Any, losses: Any) -> None:
    """Corrected truths count; what has none, or no answer, has no loss; the order is that of arrival."""
    join = joined(
        [
            an_answer(2, "2", time=MAY_NS + 1, output_employed=0.75),
            an_answer(1, "1", output_employed=0.5),
            an_answer(3, "2", time=MAY_NS + 2, fate="timeout", row=None, output_employed=None),
        ],
        [a_truth(1, 1.0), a_truth(2, 1.0), a_truth(2, 0.0, revision=1)],
    )

    found = units(join, metric=metric)

    assert found.arm.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(found.loss, [*losses, np.nan])
    np.testing.assert_array_equal(found.total_us, [900, 900, np.nan])


def test_an_arm_is_counted_whole() -> None:
    """Units, requests, answered and labelled rows, failures and times of each arm; absent ones are 0."""
    join = joined(
        [
            an_answer(1, rows=2),
            an_answer(1, rows=2, row=1),
            an_answer(2, principal="grace", total_us=1100),
            an_answer(3, fate="replica_lost", row=None),
        ],
        [a_truth(1, 1.0), a_truth(1, 1.0, row=1)],
    )

    one, other = reading(join, unit="principal").totals()

    assert one == ArmTotals("1", 2, 3, 3, 2, 1, p50_us=1000, p99_us=one.p99_us)
    assert (other.version, other.requests) == ("2", 0)


@pytest.mark.parametrize(("unit", "different"), [("request", 3), ("principal", 2), ("subject", 2)])
def test_units_are_whom_chance_put_on_a_side(unit: Any, different: int) -> None:
    """A request, its principal, or its data subject where it has one; their means are not weighted."""
    join = joined(
        [
            an_answer(1, output_employed=0.0),
            an_answer(2, output_employed=1.0),
            an_answer(3, principal="grace", output_employed=0.0),
        ],
        [a_truth(n, 1.0) for n in (1, 2, 3)],
    )

    found = units(join, unit=unit)

    assert len(found.arm) == different
    assert sorted(found.loss.tolist()) == ([0, 1, 1] if unit == "request" else [0.5, 1])


def test_callers_on_both_sides_are_counted() -> None:
    """A unit that two arms answered is found: assignment did not hold it."""
    join = joined([an_answer(1, "1"), an_answer(2, "2"), an_answer(3, "2", principal="grace")])

    assert [reading(join, unit=unit).both_sides() for unit in ("principal", "request")] == [1, 0]


def test_slices_are_values_or_between_edges() -> None:
    """A column is cut at edges, or at each of its values; too many values ask for edges."""
    join = joined([an_answer(n, input_SEX=float(n)) for n in range(30)])
    column = input_of(join, "census", "SEX")

    between = units(join, Cut(column, (10.0, 20.0)))

    names, counts = np.unique(between.slice.astype(str), return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "under 10": 10, "10 to 20": 10, "20 and over": 10,
    }  # fmt: skip
    assert set(units(join, Cut("version")).slice.tolist()) == {"1"}
    with pytest.raises(ParameterInvalid, match="30 values: give edges"):
        units(join, Cut(column))


def test_columns_are_found_by_the_names_people_use() -> None:
    """With and without `input_` and `output_`; what is not there is refused with what is."""
    join = joined([an_answer(1)], [a_truth(1, 1.0)])

    assert input_of(join, "census", "SEX") == input_of(join, "census", "input_SEX") == "input_SEX"
    assert outcome_of(join, "census") == "employed"
    assert score_of(join, "census", "employed") == "output_employed"
    with pytest.raises(ParameterInvalid, match="AGE"):
        input_of(join, "census", "AGE")
    with pytest.raises(ParameterInvalid, match="'label', but employed"):
        score_of(join, "census", "employed", "label")
    with pytest.raises(NotFound):
        score_of(join, "nobody", "employed")


def test_tables_from_before_choices_were_recorded_are_read() -> None:
    """Where no table has the columns `chosen` and `part_of`, nobody chose and nothing was a part."""
    schema = pa.schema([each for each in SCHEMA if each.name not in ("chosen", "part_of")])
    join = joined([an_answer(1), an_answer(2, "2"), a_copy(3, of=1)], schema=schema)

    assert units(join).arm.tolist() == [0, 1]
    assert stood(join).paired.tolist() == [True]


def test_a_standing_shadow_is_paired_row_by_row_in_periods() -> None:
    """Copies find their primaries, missing and failed ones show, and each row is in its period."""
    june_ns = MAY_NS + 31 * DAY_NS
    join = joined(
        [
            an_answer(1, output_employed=0.5),
            a_copy(11, of=1, output_employed=0.25, time=MAY_NS + 5, run_us=40),
            an_answer(2, time=june_ns),
            an_answer(3, time=june_ns + 1),
            a_copy(13, of=3, time=june_ns + 9, fate="timeout", row=None, output_employed=None),
        ],
        [a_truth(1, 1.0)],
    )

    rows = stood(join, period="month")

    days = [np.datetime64(int(each), "D") for each in rows.period]
    assert [str(each) for each in days] == ["2026-05-01", "2026-06-01", "2026-06-01"]
    assert rows.paired.tolist() == [True, False, True]
    assert rows.ok.tolist() == [True, False, False]
    np.testing.assert_array_equal(rows.candidate_score, [0.25, np.nan, np.nan])
    np.testing.assert_array_equal(rows.candidate_us, [40, np.nan, 20])
    np.testing.assert_array_equal(rows.truth, [1.0, np.nan, np.nan])
