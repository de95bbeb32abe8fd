import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.catalogue import TWIN, write_models
from tests.instances import Instance
from tests.places import a_row

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


def serving(instance: Instance, *words: str) -> list[dict[str, object]]:
    """What the command prints: a JSON object on each line."""
    command = [sys.executable, "-m", "serving", *words, "--config", str(instance.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_p26_a_subject_is_erased_through_the_product(tmp_path: Path) -> None:
    """P26: with `serving up` running, what was recorded of a subject is exported, then erased by the
    control port; a second export shows nothing of it but that it was, and the ledger reconciles."""
    models = write_models(tmp_path / "models")
    with Instance(tmp_path, deployments=[TWIN], models_dir=models) as instance:
        instance.expect("ready")
        answer = httpx.post(
            f"{instance.url}/v2/models/twin/infer",
            json=a_row(7),
            headers={
                "Authorization": f"Bearer {instance.token()}",
                "Serving-Subject": "customer-4711",
            },
        )
        who = ("--subject", "customer-4711")
        before = serving(instance, "privacy", "export", *who)
        (erased,) = serving(instance, "privacy", "erase", *who, "--reason", "asked", "--json")
        after = serving(instance, "privacy", "export", *who)
        instance.stop()
        (reconciled,) = serving(instance, "log", "reconcile", "--json")

    assert answer.status_code == 200
    assert erased["keys"] == 1
    assert [each["keeping"] for each in outputs(after)] == ["erased"]
    assert [each["data"] for each in outputs(before)] == [[[14.0, 0.0]]]
    assert [each["data"] for each in outputs(after)] == [[]]
    assert reconciled["sound"]


def outputs(exported: list[dict[str, object]]) -> list[dict[str, object]]:
    """The first output of each exported prediction."""
    found = [each["prediction"] for each in exported if "prediction" in each]
    return [each["outputs"][0] for each in found if isinstance(each, dict)]
