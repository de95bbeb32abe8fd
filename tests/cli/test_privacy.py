import asyncio
import json
from pathlib import Path

from typer.testing import CliRunner

from serving.cli.privacy import app
from serving.errors import LegalHold
from serving.predictionlog.privacy.subjects import SubjectSecrets
from tests.predictionlog.privacy.test_subjects import a_box, worker_keys

runner = CliRunner()


def a_subject(root: Path) -> str:
    """The tag of ada, who has a key."""

    async def seal() -> None:
        keys = worker_keys(root)
        keys.start()
        await a_box(keys, b"ada")
        keys.close()

    asyncio.run(seal())
    return SubjectSecrets.open(root / "keys").tag(b"ada").hex()


def run(root: Path, *words: str) -> object:
    result = runner.invoke(app, [*words, "--data-dir", str(root), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


def test_erasure_works_where_nothing_runs(tmp_path: Path) -> None:
    """Without a control port the command acts on the files, and says what it did."""
    tag = a_subject(tmp_path)

    first = run(tmp_path, "erase", "--subject", "ada", "--reason", "asked")
    second = run(tmp_path, "erase", "--subject", "ada")

    assert first == {"subject": tag, "keys": 1, "spared": []}
    assert second == {"subject": tag, "keys": 0, "spared": []}
    assert "privacy:subject:erased" in (tmp_path / "audit" / "spool.jsonl").read_text()


def test_lg_20_a_hold_is_in_the_way_until_it_is_released(tmp_path: Path) -> None:
    """The command refuses with the hold's reason, and goes through after its release."""
    a_subject(tmp_path)
    run(tmp_path, "hold", "--subject", "ada", "--reason", "case 9")
    result = runner.invoke(app, ["erase", "--subject", "ada", "--data-dir", str(tmp_path)])
    held = run(tmp_path, "holds")
    run(tmp_path, "release", "--subject", "ada")

    assert isinstance(result.exception, LegalHold)
    assert "case 9" in result.exception.message
    assert isinstance(held, dict)
    assert len(held["holds"]) == 1
    assert run(tmp_path, "holds") == {"holds": []}
    assert run(tmp_path, "reapply") == {"keys": 0, "spared": []}
