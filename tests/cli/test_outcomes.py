"""`serving outcomes import`, `serving log join` and `serving replay` on an instance that runs."""

import asyncio
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from serving.cli import app
from tests.places import InProcess, a_row

ROWS = 40


class Stage:
    """An instance with a few predictions, and the command line beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.instance = InProcess(folder)
        self.ids: list[str] = []

    async def __aenter__(self) -> "Stage":
        await self.instance.start()
        settings, directory = self.instance.settings, self.instance.directory
        directory.settings_file.write_text(settings.model_dump_json())
        (self.folder / "serving.yaml").write_text(
            yaml.safe_dump(
                {"data_dir": str(settings.data_dir), "models_dir": str(settings.models_dir)}
            )
        )
        async with self.instance.place.client() as client:
            for value in range(ROWS):
                answer = await client.post("/v2/models/doubler/infer", json=a_row(value))
                self.ids.append(answer.headers["serving-prediction-id"])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.instance.aclose()

    async def run(self, *arguments: str | Path) -> Result:
        words = [*map(str, arguments), "--config", str(self.folder / "serving.yaml")]
        return await asyncio.to_thread(CliRunner().invoke, app, words)

    def reports(self) -> list[dict[str, Any]]:
        return [
            {"prediction_id": each, "name": "even", "value": number % 2 == 0}
            for number, each in enumerate(self.ids)
        ]


def facts(result: Result) -> dict[str, Any]:
    """The one line of JSON: the worker lives in this process, too, and writes lines of its own."""
    [line] = [line for line in result.stdout.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(line)
    return found


def write_csv(path: Path, reports: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prediction_id", "name", "value", "revision"])
        writer.writeheader()
        writer.writerows({**each, "value": str(each["value"]).lower()} for each in reports)
    return path


async def test_a_file_of_labels_becomes_the_labelled_set(tmp_path: Path) -> None:
    """Import twice, correct one, join: each row has its last truth, the figures say what happened."""
    async with Stage(tmp_path) as stage:
        reports = stage.reports()[:30]
        labels = write_csv(tmp_path / "labels.csv", reports)
        corrected = write_csv(tmp_path / "fix.csv", [{**reports[0], "value": False, "revision": 1}])
        for file in (labels, labels, corrected):
            imported = await stage.run("outcomes", "import", file, "--model", "doubler", "--json")
            assert imported.exit_code == 0, imported.output
        output = tmp_path / "labelled.parquet"
        joined = await stage.run("log", "join", "--model", "doubler", "--output", output, "--json")

    assert joined.exit_code == 0, joined.output
    figures = facts(joined)
    assert figures["completeness"] == 0.75
    assert (figures["truths"], figures["duplicates"], figures["corrections"]) == (30, 30, 1)
    table = pq.read_table(output)
    primaries = [row for row in table.to_pylist() if row["shadow_of"] is None]
    assert [row["prediction_id"] for row in primaries] == stage.ids[:30]
    assert [row["outcome_even"] for row in primaries] == [
        0.0,
        *[float(number % 2 == 0) for number in range(1, 30)],
    ]
    assert table.num_rows == 60  # the candidate's copies have the truths of their primaries


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
async def test_a_labelled_set_is_written_in_every_form(tmp_path: Path, suffix: str) -> None:
    """The same rows as text."""
    async with Stage(tmp_path) as stage:
        lines = [json.dumps(each) for each in stage.reports()[:3]]
        (tmp_path / "labels.jsonl").write_text("\n".join(lines))
        await stage.run("outcomes", "import", tmp_path / "labels.jsonl", "--model", "doubler")
        output = tmp_path / f"labelled{suffix}"
        joined = await stage.run("log", "join", "--model", "doubler", "--output", output)

    assert joined.exit_code == 0, joined.output
    found = output.read_text().splitlines()
    assert len(found) == 6 + (suffix == ".csv")
    assert "outcome_even" in found[0]


async def test_an_import_goes_on_where_it_ended(tmp_path: Path) -> None:
    """After a refusal in the middle nothing before it is sent again."""
    async with Stage(tmp_path) as stage:
        reports = [stage.reports()[0]] * 500 + [
            {"prediction_id": "bad", "name": "even", "value": 1}
        ]
        file = tmp_path / "labels.jsonl"
        file.write_text("\n".join(json.dumps(each) for each in reports))
        failed = await stage.run("outcomes", "import", file, "--model", "doubler")
        resumed = await stage.run("outcomes", "import", file, "--model", "doubler", "--resume")
        counted = await stage.instance.place.metric("serving_outcomes_total", model="doubler")

    assert (failed.exit_code, resumed.exit_code) == (1, 1)
    assert "reports 501 to 501 were refused" in str(resumed.exception)
    assert counted == 500


async def test_n22_a_version_replayed_on_itself_differs_nowhere(tmp_path: Path) -> None:
    """Every recorded row of the primary comes out exactly the same, and the exit status says so."""
    async with Stage(tmp_path) as stage:
        result = tmp_path / "replay.jsonl"
        replayed = await stage.run(
            "replay", "--model", "doubler", "--version", "1", "--since", "1h", "--against", "1",
            "--output", result, "--json",
        )  # fmt: skip

    assert replayed.exit_code == 0, replayed.output
    counts = facts(replayed)
    assert (counts["rows"], counts["exact_rows"], counts["skipped"]) == (ROWS, ROWS, {})
    _, *rows = map(json.loads, result.read_text().splitlines())
    assert [row["prediction_id"] for row in rows] == stage.ids


async def test_a_version_that_answers_otherwise_is_found_out(tmp_path: Path) -> None:
    """A candidate with other weights differs in every row but where both say nothing; status 1."""
    async with Stage(tmp_path) as stage:
        candidate = tmp_path / "models" / "doubler" / "2.onnx"
        output = tmp_path / "replay.parquet"
        replayed = await stage.run(
            "replay", "--model", "doubler", "--since", "1h", "--against", candidate, "--output",
            output, "--json",
        )  # fmt: skip

    assert replayed.exit_code == 1, replayed.output
    counts = facts(replayed)
    assert counts["differing_rows"] == counts["rows"] - counts["within_rows"] > 0
    assert pq.read_table(output).num_rows == ROWS
