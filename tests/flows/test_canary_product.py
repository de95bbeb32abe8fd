"""A canary in the whole product: set by a verb, seen in answers, status, metrics and history."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.catalogue import write_models
from tests.instances import Instance
from tests.operators import Operator
from tests.places import Place, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

TENSOR = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [-1, 0]}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    models = write_models(tmp_path / "models")
    waiting = [{"version": "2", "weight": 0}]
    deployment = {"model": "doubler", "stable": "1", "canaries": waiting}
    control = {"drain_s": 0.2, "reconcile_s": 0.1}
    with Instance(
        tmp_path, deployments=[deployment], models_dir=models, control=control
    ) as running:
        running.ready = running.expect("ready")
        yield running


def ask(instance: Instance) -> httpx.Response:
    return httpx.post(
        f"{instance.url}/v2/models/doubler/infer",
        json={"inputs": [TENSOR]},
        headers={"Authorization": f"Bearer {instance.token()}"},
    )


def serving(instance: Instance, *arguments: str) -> str:
    command = [sys.executable, "-m", "serving", *arguments, "--data-dir", str(instance.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


def test_canary_is_set_seen_and_looked_up(instance: Instance) -> None:
    """Its share is answered by it; every record leads to the policy that routed it, also after the
    canary is gone; the registry's states follow."""
    first = ask(instance)
    serving(instance, *("traffic", "set", "doubler", "--stable", "1"), *("--canary", "2=50%"))
    wait_until(lambda: ask(instance).headers["serving-model-version"] == "2")
    answers = [ask(instance) for _ in range(20)]
    versions = Counter(each.headers["serving-model-version"] for each in answers)
    status = serving(instance, "status")
    states = {
        each["version"]: each["state"]
        for each in Operator(instance).ask("GET", "/v1/models/doubler/versions").json()["versions"]
    }
    metrics = httpx.get(f"{instance.metrics_url}/metrics").text.splitlines()
    (weight,) = [
        line
        for line in metrics
        if line.startswith("serving_traffic_weight_ratio{") and 'version="2"' in line
    ]
    Operator(instance).route("doubler", "1")
    wait_until(lambda: len(history(instance)) == 3)

    assert abs(versions["2"] - 10) <= 2
    assert states == {"1": "stable", "2": "canary"}
    assert status.count("50%") == 2
    assert weight.endswith(" 0.5")
    assert arms(history(instance, epoch_of(instance, answers[0]))) == [
        [{"version": "2", "weight": 5000}]
    ]
    assert arms(history(instance, epoch_of(instance, first))) == [[{"version": "2", "weight": 0}]]
    assert "2=50%" in serving(instance, "traffic", "history", "doubler")


def epoch_of(instance: Instance, answer: httpx.Response) -> int:
    """Of the policy that routed the request, as its record says."""
    record = Place(instance.url, instance.data_dir).record(answer.headers["serving-prediction-id"])
    assert record is not None
    return record.policy_epoch


def history(instance: Instance, epoch: int | None = None) -> list[dict[str, Any]]:
    query = "" if epoch is None else f"?epoch={epoch}"
    answer = Operator(instance).ask("GET", f"/v1/traffic/doubler/history{query}")
    found: list[dict[str, Any]] = answer.json()["policies"]
    return found


def arms(entries: list[dict[str, Any]]) -> list[object]:
    return [each["policy"]["arms"] for each in entries]
