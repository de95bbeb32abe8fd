"""LG-04: kill -9 of a real writer before and after every operation that it does on its disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.predictionlog.reading.verification import verify
from tests.logs import TRUSTED, a_committer, read_all

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"create", "directory", "fdatasync", "head", "remove", "sync", "truncate", "write"}


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_lg_04_a_writer_killed_at_any_point_loses_nothing(tmp_path: Path) -> None:
    """At each of at least 40 points: all that was acknowledged is found once, and the log is sound."""
    run = subprocess.run(  # noqa: S603 -- our own module
        [sys.executable, "-m", "tests.faults.log_points", str(tmp_path)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True, timeout=280,
    )  # fmt: skip
    results = [json.loads(line) for line in run.stdout.splitlines()]

    assert len(results) >= 40
    assert {point.split("-")[1] for point, _ in results} == KINDS
    for point, acknowledged in results:
        a_committer(tmp_path / point).close()
        found = [record.prediction_id for record in read_all(tmp_path / point)]
        assert set(acknowledged) - set(found) == set(), point
        assert len(found) == len(set(found)), point
        assert verify(tmp_path / point, trusted=TRUSTED).damage == (), point
