import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.audit.spool import Spool, Spooled
from serving.cli.log import app
from serving.errors import ParameterInvalid, QueryInvalid
from tests.ledger.cold import write_log

runner = CliRunner()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_log(tmp_path / "log", workers=1, steps=6)
    return tmp_path


def run(data_dir: Path, *arguments: str) -> str:
    result = runner.invoke(app, [*arguments, "--data-dir", str(data_dir)])
    assert (result.exit_code, result.exception) == (0, None), result.output
    return result.stdout


def audited(data_dir: Path) -> list[str]:
    taken: list[Spooled] = []
    Spool(data_dir / "audit").drain(taken.extend)
    return [each.event.name for each in taken]


def test_records_are_found_before_and_after(data_dir: Path) -> None:
    """`compact` moves every record, and `query` finds the same ones."""
    before = run(data_dir, "query", "--json", "--full")

    report = json.loads(run(data_dir, "compact", "--json"))
    again = json.loads(run(data_dir, "compact", "--json"))

    assert (report["segments"], report["records"], again["records"]) == (1, 24, 0)
    assert run(data_dir, "query", "--json", "--full") == before


def test_sql_answers_as_text_and_as_json(data_dir: Path) -> None:
    """People get a table, programs one object on each line; nothing is left in the data directory."""
    sql = "SELECT fate, count(*) AS n FROM census_employment WHERE row = 0 GROUP BY 1 ORDER BY 1"

    text, objects = run(data_dir, "sql", sql), run(data_dir, "sql", sql, "--json")

    assert text.split() == ["fate", "n", "ok", "6", "timeout", "6"]
    assert [json.loads(line) for line in objects.splitlines()] == [
        {"fate": "ok", "n": 6},
        {"fate": "timeout", "n": 6},
    ]
    assert list((data_dir / "ledger").iterdir()) == []


def test_values_that_json_lacks_are_spelled(data_dir: Path) -> None:
    """NaN, infinity, bytes and times come as JSON all the same."""
    sql = "SELECT output_out, input_text, time FROM mixed LIMIT 1"

    found = json.loads(run(data_dir, "sql", sql, "--json"))

    assert found["output_out"] == ["nan", "inf"]
    assert set(found["input_text"]) == {"base64"}
    assert found["time"].startswith("2023-11-14T22:13:20")


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_tables_go_to_a_folder(data_dir: Path, form: str) -> None:
    """Each model version is a file; the report counts its rows."""
    report = json.loads(run(data_dir, "export", str(data_dir / "x"), "--format", form, "--json"))

    assert sorted(report["files"]) == sorted(path.name for path in (data_dir / "x").iterdir())
    assert (len(report["files"]), report["rows"]) == (3, 30)


@pytest.mark.parametrize(("form", "lines"), [("jsonl", 24), ("cloudevents", 48)])
def test_streams_go_to_a_file(data_dir: Path, form: str, lines: int) -> None:
    """JSON lines are records, CloudEvents pairs."""
    run(data_dir, "export", str(data_dir / "out"), "--format", form)

    assert len([json.loads(line) for line in (data_dir / "out").read_text().splitlines()]) == lines


def test_taking_payloads_is_evidence(data_dir: Path) -> None:
    """Who reads or exports payloads leaves an event; who lists records without them does not."""
    run(data_dir, "query")
    run(data_dir, "query", "--json")
    run(data_dir, "sql", "SELECT 1")
    run(data_dir, "export", str(data_dir / "x"))

    assert audited(data_dir) == ["log:payloads:read", "log:payloads:read", "log:payloads:exported"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["sql", "DROP VIEW predictions"], QueryInvalid),
        (["export", "x", "--format", "xml"], ParameterInvalid),
        (["export", "x", "--limit", "3"], ParameterInvalid),
        (["compact", "--until", "whenever"], ParameterInvalid),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(
    data_dir: Path, arguments: list[str], error: type[Exception]
) -> None:
    """An impossible order is refused before anything is written."""
    result = runner.invoke(app, [*arguments, "--data-dir", str(data_dir)])

    assert isinstance(result.exception, error)
    assert not (data_dir / "x").exists()
