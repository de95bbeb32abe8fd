import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli.log import app
from serving.errors import NotFound, ParameterInvalid
from tests.logs import a_committer, frames_of, newest_segment

runner = CliRunner()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Two workers with two records each."""
    for worker in ("gateway-0", "gateway-1"):
        committer = a_committer(tmp_path / "log" / worker)
        committer.commit(frames_of(1, 2))
        committer.close()
    return tmp_path


def damage(data_dir: Path) -> None:
    segment = newest_segment(data_dir / "log" / "gateway-1")
    data = bytearray(segment.read_bytes())
    data[data.index(frames_of(2)[0]) + 50] ^= 1
    segment.write_bytes(data)


def test_query_prints_one_json_object_a_line(data_dir: Path) -> None:
    """Programs get every record as JSON, one on each line, with its tensors."""
    result = runner.invoke(app, ["query", "--json", "--data-dir", str(data_dir)])

    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, [record["sequence"] for record in records]) == (0, [1, 2, 1, 2])
    assert records[0]["outputs"][0]["data"] == [[2.0, 4.0]]


def test_query_prints_a_table_for_people(data_dir: Path) -> None:
    """People get a line under a heading."""
    result = runner.invoke(
        app, ["query", "--since", "2020-01-01", "--limit", "1", "--data-dir", str(data_dir)]
    )

    heading, line = result.stdout.splitlines()
    assert heading.split()[:3] == ["TIME", "(UTC)", "PREDICTION"]
    assert line.split()[3:6] == ["doubler@1", "ok", "tester"]


def test_verify_is_content_with_a_sound_log(data_dir: Path) -> None:
    """A sound log ends with exit status 0 and the word."""
    result = runner.invoke(app, ["verify", "--data-dir", str(data_dir)])

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "4 records in 2 segments: sound"


def test_damage_makes_the_exit_status_1(data_dir: Path) -> None:
    """Both verbs tell a script that something is wrong, and verify tells where."""
    damage(data_dir)

    verified = runner.invoke(app, ["verify", "--json", "--data-dir", str(data_dir)])
    queried = runner.invoke(app, ["query", "--json", "--data-dir", str(data_dir)])

    report = json.loads(verified.stdout)
    assert (verified.exit_code, queried.exit_code) == (1, 1)
    assert report["sound"] is False
    assert report["segments"][1]["damage"][0]["file"] == "gateway-1/00000001.segment"
    assert len(queried.stdout.splitlines()) == 3
    assert "gateway-1/00000001.segment" in queried.stderr


@pytest.mark.parametrize(
    "arguments", [["--since", "whenever"], ["--fate", "doom"], ["--id", "17"]], ids=" ".join
)
def test_what_cannot_be_meant_is_refused(data_dir: Path, arguments: list[str]) -> None:
    """An impossible condition is refused, not taken for one that nothing meets."""
    result = runner.invoke(app, ["query", *arguments, "--data-dir", str(data_dir)])

    assert isinstance(result.exception, ParameterInvalid)


def test_the_data_directory_comes_from_the_settings(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --data-dir the settings decide, as everywhere."""
    monkeypatch.setitem(os.environ, "SERVING_DATA_DIR", str(data_dir))

    assert runner.invoke(app, ["verify"]).exit_code == 0


def test_a_place_without_a_log_is_named(tmp_path: Path) -> None:
    """A wrong directory is an error, not an empty log."""
    result = runner.invoke(app, ["verify", "--data-dir", str(tmp_path)])

    assert isinstance(result.exception, NotFound)
