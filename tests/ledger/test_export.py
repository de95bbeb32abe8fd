import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serving.core.predictions import Fate
from serving.ledger.cloudevents import REQUEST, RESPONSE, cloudevents
from serving.ledger.export import ExportReport, TableFormat, export_tables, neutral
from serving.ledger.hot import all_tables
from serving.ledger.places import Folder
from serving.ledger.search import LedgerSearch
from serving.predictionlog.reading.query import Query
from tests.ledger.cold import LEDGER, compact, write_log


@pytest.fixture(params=["hot", "cold"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    write_log(tmp_path / "log", workers=1)
    if request.param == "cold":
        compact(tmp_path)
    return tmp_path


def export(root: Path, query: Query, *, form: TableFormat) -> ExportReport:
    scratch = root / "scratch"
    scratch.mkdir()
    tables = all_tables(root / "log", Folder(root / "cold"), scratch=scratch, settings=LEDGER)
    return export_tables(tables, query, root / "out", form=form)


def test_parquet_has_a_file_for_each_version(root: Path) -> None:
    """Rows, features and failures of a version stand together, readers' columns are left out."""
    report = export(root, Query(), form="parquet")

    assert [name.split("-")[0] for name in report.files] == ["census", "doubler@1", "mixed@7"]
    table = pq.read_table(root / "out" / report.files[0])
    assert (len(table), report.rows, report.missing) == (119, 199, [])
    assert {"input_AGEP", "output_label", "prediction_id"} <= set(table.column_names)
    assert "sealed_payload" not in table.column_names
    failed = table.filter(table["fate"].cast("string").to_numpy() == "timeout")
    assert failed["output_label"].null_count == len(failed) == 40


def test_conditions_hold_for_exports(root: Path) -> None:
    """Only what was asked for leaves."""
    query = Query(model="census-employment", fate=Fate.TIMEOUT)
    report = export(root, query, form="parquet")

    assert (len(report.files), report.rows) == (1, 40)


def test_a_spreadsheet_runs_nothing(root: Path) -> None:
    """Text that begins like a formula is preceded by an apostrophe; numbers and times are not."""
    report = export(root, Query(model="census-employment"), form="csv")

    with (root / "out" / report.files[0]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    failed = next(row for row in rows if row["fate"] == "timeout")
    answered = next(row for row in rows if row["fate"] == "ok")
    assert (failed["principal"], failed["output_label"]) == ("'=evil", "")
    assert (answered["input_AGEP"], json.loads(answered["output_probabilities"])) == (
        "2.0",
        [0.5, 0.5],
    )
    assert answered["time"] == "2023-11-14T22:13:20.000000Z"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_formulas_are_neutralised(text: str) -> None:
    """Whatever a spreadsheet may take for a formula begins with an apostrophe."""
    assert neutral(text) == f"'{text}"


def test_cloudevents_are_a_pair_with_one_id(root: Path) -> None:
    """A prediction is a request and a response of version 1.0, complete and related by their id."""
    query = Query(model="census-employment", limit=2)
    records = list(LedgerSearch(root / "log", Folder(root / "cold"), query).records())

    events = [
        json.loads(event.structured())
        for record in records
        for event in cloudevents(record, source="here")
    ]

    assert [event["type"] for event in events] == [REQUEST, RESPONSE] * 2
    for request, response, record in zip(events[::2], events[1::2], records, strict=True):
        assert request["id"] == response["id"] == record.prediction_id
        for event in (request, response):
            assert {"specversion", "type", "id", "source", "time", "datacontenttype"} <= set(event)
            assert all(name.isalnum() and name.islower() for name in event)
            assert event["inferenceservicename"] == "census-employment"
            assert (event["fate"], event["modelversion"]) == (record.fate.name.lower(), "1")
        assert request["data"]["inputs"][0]["data"] == record.inputs[0].array.tolist()
    assert events[3]["data"]["error"] == "deadline_exceeded"
    assert "outputs" in events[1]["data"]
