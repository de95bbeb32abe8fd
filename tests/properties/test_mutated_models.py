"""AR-15: whatever damage is done to a model file, its inspection ends with a verdict or ends alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNT = 300


@pytest.mark.timeout(50)
def test_ar_15_every_mutated_model_gets_a_verdict(tmp_path: Path) -> None:
    """Of hundreds of damaged models none raises what nobody foresaw; most are rejected."""
    ran = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-m", "tests.properties.mutants", str(tmp_path), "20261123", str(COUNT)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    judged = json.loads(ran.stdout.splitlines()[-1])
    assert sum(judged.values()) == COUNT
    assert "unjudged" not in judged, ran.stderr[-2000:]
    assert judged["rejected"] > COUNT / 2, judged
