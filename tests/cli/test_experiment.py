"""`serving experiment`: an A/B test on a running product, and a challenger over months of records."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from serving.access.issuer import LocalIssuer
from serving.cli import app
from serving.core.clock import SystemClock
from serving.core.outcomes import Outcome
from serving.core.principals import Role
from serving.errors import NotFound, ParameterInvalid
from serving.predictionlog.format import Definition, TensorShape
from serving.predictionlog.outcomes import encode_outcome
from serving.predictionlog.records import definition_text, encode_predictions
from serving.registry.folder import DEFAULT_MODELS_DIR
from serving.settings import AccessSettings
from tests.instances import Instance
from tests.logs import TAG, Request, a_committer, facts
from tests.places import wait_until

MODEL = "census-employment"
SAMPLES = DEFAULT_MODELS_DIR / MODEL / "samples"
runner = CliRunner()

# -- a challenger over months -------------------------------------------------------------------------

INPUT = (TensorShape("input", "FP32", (1,), ("AGEP",)),)
OUTPUT = (TensorShape("chance", "FP32", (1,), ("employed",)),)
NUMBERS = {version: TAG << 32 | version + 10 for version in (1, 2)}
TEXTS = {
    number: definition_text(Definition("census", str(version), f"{version}d" * 32, INPUT, OUTPUT))
    for version, number in NUMBERS.items()
}
LOG_ID = b"gate-way"
A_MONTH = 120
EVERY_TENTH = 10


def write_months(root: Path, months: int, *, first: int = 1, log_id: bytes = LOG_ID) -> None:
    """So many requests on the first of each month: the champion is wrong of one in ten, the challenger
    never; each is mirrored, but one a month; truths are known a day later."""
    committer = a_committer(root / "gateway-0", definitions=TEXTS, log_id=log_id)
    sequence = 0
    for month in range(first, first + months):
        at_ns = int(datetime(2026, month, 1, 12, tzinfo=UTC).timestamp()) * 10**9
        for turn in range(A_MONTH):
            sequence += 2
            truth = turn % 2
            wrong = turn % EVERY_TENTH == 0
            frames = answer(sequence, 1, 0.2 if truth == wrong else 0.8, at_ns=at_ns + turn)
            if turn:
                chance = 0.9 if truth else 0.1
                frames += answer(sequence + 1, 2, chance, at_ns=at_ns + turn, of=sequence)
            committer.commit(frames)
            known_ns = at_ns + 86_400 * 10**9
            identity = f"{log_id.hex()}-{sequence:x}"
            outcome = Outcome(identity, 0, "employed", truth, known_ns, 0, "census", "p", known_ns)
            committer.commit([encode_outcome(outcome, sequence=10_000_000 + sequence)])
    committer.close()


def answer(sequence: int, version: int, chance: float, *, at_ns: int, of: int = 0) -> list[bytes]:
    values = np.array([[chance]], "<f4").tobytes()
    request = Request(sequence, (values,), (values,), time_ns=at_ns, shadow_of=of)
    return encode_predictions(facts(NUMBERS[version]), [request])


def run(data_dir: Path, *arguments: str) -> str:
    result = runner.invoke(app, [*arguments, "--data-dir", str(data_dir)])
    assert (result.exit_code, result.exception) == (0, None), result.output
    return result.stdout


def test_a_challenger_is_followed_over_months(tmp_path: Path) -> None:
    """Cold months and a hot one: each with its losses and missing copies; the evidence of the
    challenger, who is right more often, grows from month to month until it is significant."""
    write_months(tmp_path / "log", 3)
    compacted = json.loads(run(tmp_path, "log", "compact", "--json"))
    write_months(tmp_path / "log", 1, first=4, log_id=b"gate-two")
    history = ("experiment", "history", "census", "--primary", "1", "--candidate", "2")

    found = json.loads(run(tmp_path, *history, "--json"))["periods"]
    text = run(tmp_path, *history)

    assert compacted["segments"] > 0
    assert [each["period"] for each in found] == [f"2026-0{n}-01" for n in (1, 2, 3, 4)]
    assert {(each["asked"], each["paired"], each["outcomes"]) for each in found} == {
        (A_MONTH, A_MONTH - 1, A_MONTH - 1)
    }
    assert {(each["wins"], each["losses"]) for each in found} == {(A_MONTH // EVERY_TENTH - 1, 0)}
    assert found[0]["agreement"] == pytest.approx(108 / 119)
    assert found[0]["challenger_loss"] == pytest.approx(0.01, abs=1e-4)
    evidence = [each["total"]["e_value"] for each in found]
    assert evidence == sorted(evidence)
    assert found[-1]["total"]["leads"] == "challenger"
    assert found[-1]["total"]["high"] < 0
    assert "the challenger decides rightly more often" in text


def test_other_periods_and_windows(tmp_path: Path) -> None:
    """Weeks begin on Monday; a window leaves out what is not in it; no model, no history."""
    write_months(tmp_path / "log", 2)
    history = ("experiment", "history", "census", "--primary", "1", "--candidate", "2", "--json")

    weeks = json.loads(run(tmp_path, *history, "--period", "week"))["periods"]
    late = json.loads(run(tmp_path, *history, "--since", "2026-01-15"))["periods"]

    assert [each["period"] for each in weeks] == ["2025-12-29", "2026-01-26"]
    assert [each["period"] for each in late] == ["2026-02-01"]
    assert isinstance(refused(tmp_path, *history[:2], "nobody", *history[3:]), NotFound)
    assert isinstance(refused(tmp_path, *history, "--metric", "value"), ParameterInvalid)


# -- an A/B test on a running product ----------------------------------------------------------------

BOTH = {"model": MODEL, "stable": "1", "shadows": ["2"]}
PRINCIPALS = 30
TIMES = 3


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    with Instance(tmp_path, deployments=[BOTH]) as running:
        running.expect("ready")
        yield running


def call(instance: Instance) -> dict[str, set[str]]:
    """Some principals ask, several times, and tell what was true; the versions that each was answered
    by. One of them chooses a version too."""
    rows, labels = (np.load(SAMPLES / f"{name}.npy") for name in ("rows", "labels"))
    issuer = LocalIssuer.open(instance.data_dir / "keys", AccessSettings(), SystemClock())
    seen: dict[str, set[str]] = {}
    with httpx.Client(base_url=instance.url) as client:
        for turn in range(PRINCIPALS * TIMES):
            name = f"caller-{turn % PRINCIPALS}"
            token = issuer.issue(subject=name, roles=[Role.CALLER, Role.OPERATOR])
            headers = {"Authorization": f"Bearer {token}"}
            tensor = {"name": "input", "shape": [1, 16], "datatype": "FP32"}
            body = {"inputs": [{**tensor, "data": rows[turn].tolist()}]}
            answer = client.post(f"/v2/models/{MODEL}/infer", json=body, headers=headers)
            seen.setdefault(name, set()).add(answer.headers["serving-model-version"])
            truth = {"name": "employed", "value": int(labels[turn]), "row": 0}
            truth["prediction_id"] = answer.headers["serving-prediction-id"]
            client.post(f"/v2/models/{MODEL}/outcomes", json=[truth], headers=headers)
            if not turn:
                path = f"/v2/models/{MODEL}/versions/2/infer"
                assert client.post(path, json=body, headers=headers).status_code == 200
    return seen


def in_force(instance: Instance) -> bool:
    """Whether the gateway routes by the experiment's shares."""
    text = httpx.get(f"{instance.metrics_url}/metrics").text
    found = re.search(
        r'^serving_traffic_weight_ratio{[^}]*version="2"[^}]*} (\S+)$', text, re.MULTILINE
    )
    return found is not None and float(found[1]) == 0.5


def refused(data_dir: Path, *arguments: str) -> BaseException | None:
    return runner.invoke(app, [*arguments, "--data-dir", str(data_dir)]).exception


@pytest.mark.faults
def test_an_experiment_from_its_start_to_its_readout(instance: Instance) -> None:
    """Callers stay in their arm; the readout counts what chance sent there and nothing else, before
    and after the experiment was stopped; start, end and looks are in the audit trail."""
    place = instance.data_dir
    began = run(
        place, "experiment", "start", MODEL, "--name", "may", "--arm", "2=50%", "--reason", "a try"
    )
    again = refused(place, "experiment", "start", MODEL, "--name", "june", "--arm", "2=10%")
    wait_until(lambda: in_force(instance))
    seen = call(instance)
    readout = ("experiment", "readout", MODEL, "--by", "SEX", "--json")
    while_it_runs = json.loads(run(place, *readout))
    run(place, "experiment", "stop", MODEL)
    call(instance)
    after = json.loads(run(place, *readout))
    text = run(place, "experiment", "readout", MODEL)
    [listed] = json.loads(run(place, "experiment", "list", MODEL, "--json"))["runs"]

    assert "2=50%, the rest by 1" in began
    assert isinstance(again, ParameterInvalid)
    assert all(len(versions) == 1 for versions in seen.values())
    assert set.union(*seen.values()) == {"1", "2"}
    for found in (while_it_runs, after):
        arms = found["readout"]["arms"]
        in_arm = [sum(versions == {each["version"]} for versions in seen.values()) for each in arms]
        assert [each["units"] for each in arms] == in_arm
        assert [each["requests"] for each in arms] == [TIMES * count for count in in_arm]
        assert [each["labelled"] for each in arms] == [TIMES * count for count in in_arm]
        assert found["readout"]["doubts"] == []
    assert "no difference is shown" in text
    assert (listed["name"], listed["shares"], listed["until_ns"] > 0) == ("may", [0.5, 0.5], True)
    events = run(place, "audit", "list", "--json", "--limit", "100")
    for name in ("registry:experiment:started", "registry:experiment:ended"):
        assert name in events
    wait_until(lambda: "log:experiment:read" in run(place, "audit", "list", "--json"))
