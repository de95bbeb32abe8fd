import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli.log import app
from serving.errors import NotFound, ParameterInvalid, SignatureInvalid
from serving.trust.installation import edit_trusted, installation_key
from serving.trust.signatures import SigningKey
from tests.logs import SIGNER, TRUSTED, a_committer, frames_of, newest_segment
from tests.predictionlog.forgery import state_removed

runner = CliRunner()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Two workers with two records each."""
    for worker in ("gateway-0", "gateway-1"):
        committer = a_committer(tmp_path / "log" / worker)
        committer.commit(frames_of(1, 2))
        committer.close()
    trust(tmp_path)
    return tmp_path


def trust(data_dir: Path) -> None:
    """The data directory trusts the key that the tests sign with."""
    installation_key(data_dir / "keys")
    edit_trusted(data_dir / "keys", lambda _: TRUSTED.keys)


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


def test_what_retention_took_is_told_and_is_no_damage(data_dir: Path) -> None:
    """Segments that were removed with a signed statement are named as such, to people and programs."""
    log = data_dir / "log" / "gateway-0"
    committer = a_committer(log)
    committer.commit(frames_of(3))
    committer.close()
    state_removed(log, through=1)
    (log / "00000001.segment").unlink()

    told = runner.invoke(app, ["verify", "--data-dir", str(data_dir)])
    report = json.loads(
        runner.invoke(app, ["verify", "--json", "--data-dir", str(data_dir)]).stdout
    )

    assert told.exit_code == 0
    assert "gateway-0: 1 segments, up to 00000001, were removed by retention" in told.stdout
    assert [each["through"] for each in report["removed"]] == [1]


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


def test_verify_takes_any_copy_and_one_key(data_dir: Path, tmp_path: Path) -> None:
    """A copied folder and the public key are all that a proof needs."""
    key = tmp_path / "public"
    key.write_text(SIGNER.public.text)
    copy = shutil.copytree(data_dir / "log", tmp_path / "elsewhere")

    sound = runner.invoke(app, ["verify", "--log", str(copy), "--key", str(key), "--json"])
    key.write_text(SigningKey.create().public.text)
    strange = runner.invoke(app, ["verify", "--log", str(copy), "--key", str(key), "--json"])

    assert (sound.exit_code, strange.exit_code) == (0, 1)
    [first, _] = json.loads(sound.stdout)["segments"]
    assert (first["key_id"], first["version"]) == (SIGNER.key_id, 2)
    assert "is unknown" in json.loads(strange.stdout)["segments"][0]["damage"][0]["reason"]


def test_an_exported_head_finds_what_went_since(data_dir: Path, tmp_path: Path) -> None:
    """Heads written to a file in time show later that a worker's newest segment is gone."""
    anchor = tmp_path / "heads.json"
    options = ["--data-dir", str(data_dir)]
    exported = runner.invoke(app, ["head", "--export", str(anchor), *options])
    before = runner.invoke(app, ["verify", "--anchor", str(anchor), *options])
    for name in ("00000001.segment", "head.json"):
        (data_dir / "log" / "gateway-1" / name).unlink()
    after = runner.invoke(app, ["verify", "--anchor", str(anchor), *options])

    assert (exported.exit_code, before.exit_code, after.exit_code) == (0, 0, 1)
    assert exported.stdout.splitlines()[0].split()[:3] == ["DIRECTORY", "SEGMENT", "COMMITS"]
    assert "gateway-1 bytes 0 to 0: this directory, which the anchor knows" in after.stdout


def test_heads_are_told_to_programs(data_dir: Path) -> None:
    """--json gives each directory's head as its writer signed it."""
    result = runner.invoke(app, ["head", "--json", "--data-dir", str(data_dir)])

    heads = json.loads(result.stdout)
    assert sorted(heads) == ["gateway-0", "gateway-1"]
    assert (heads["gateway-0"]["segment"], heads["gateway-0"]["extents"]) == (1, 2)


@pytest.mark.parametrize("option", ["--key", "--anchor"])
def test_a_file_that_cannot_be_read_is_named(data_dir: Path, option: str) -> None:
    """A wrong file name is an error, not a proof."""
    result = runner.invoke(app, ["verify", option, "/no/where", "--data-dir", str(data_dir)])

    assert isinstance(result.exception, SignatureInvalid | NotFound)
