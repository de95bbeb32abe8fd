import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli import app
from serving.errors import ParameterInvalid
from serving.predictionlog.records import encode_predictions
from tests.logs import a_committer, a_request, facts

runner = CliRunner()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Two callers on two workers, and a copy that nobody asked for.

    Each batch of four rows ran for 22 us: ann has two requests of two rows, bob one of one row.
    """
    ann = [a_request(1, rows=2), a_request(2, rows=2)]
    bob = a_request(1, rows=1)
    copy = a_request(2, rows=4)
    for request in ann:
        request.principal = b"ann"
    bob.principal = copy.principal = b"bob"
    copy.shadow_of = 1
    for worker, requests in (("gateway-0", ann), ("gateway-1", [bob, copy])):
        committer = a_committer(tmp_path / "log" / worker)
        committer.commit(encode_predictions(facts(), requests))
        committer.close()
    return tmp_path


def test_usage_sums_what_each_caller_used(data_dir: Path) -> None:
    """Compute time is the share by rows; copies are nobody's; workers are added up."""
    result = runner.invoke(
        app,
        [
            "usage",
            "--since",
            "2020-01-01",
            "--by",
            "principal",
            "--json",
            "--data-dir",
            str(data_dir),
        ],
    )

    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"principal": "ann", "requests": 2, "answered": 2, "rows": 4, "compute_ms": 0.022},
        {"principal": "bob", "requests": 1, "answered": 1, "rows": 1, "compute_ms": 0.005},
    ]


def test_usage_prints_a_table_for_people(data_dir: Path) -> None:
    """Without --json there is a heading and a line for each group."""
    result = runner.invoke(app, ["usage", "--since", "2020-01-01", "--data-dir", str(data_dir)])

    heading, first, _ = result.stdout.splitlines()
    assert heading.split()[:3] == ["PRINCIPAL", "MODEL", "VERSION"]
    assert first.split()[:4] == ["ann", "doubler", "1", "2"]


def test_an_unknown_dimension_is_refused_with_the_known_ones(data_dir: Path) -> None:
    """The message says what --by can be."""
    result = runner.invoke(app, ["usage", "--by", "colour", "--data-dir", str(data_dir)])

    assert isinstance(result.exception, ParameterInvalid)
    assert "principal, model, version" in result.exception.message
