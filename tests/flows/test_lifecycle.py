"""A version's life as callers and operators see it: applied, moved, deprecated, retired."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc  # type: ignore[import-untyped]  # it ships no types
import httpx
import pytest
import yaml

from serving.access.issuer import LocalIssuer
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.edge.grpc import inference_pb2
from serving.settings import AccessSettings
from tests.catalogue import write_models
from tests.instances import Instance
from tests.operators import Operator
from tests.places import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

BOTH = {"model": "doubler", "stable": "1", "shadows": ["2"]}
CONTROL = {"drain_s": 0.2, "reconcile_s": 0.1}
SUNSET_NS = 4_102_444_800 * 10**9


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """`doubler` answered by version 1, shadowed by 2."""
    models = write_models(tmp_path / "models")
    with Instance(tmp_path, deployments=[BOTH], models_dir=models, control=CONTROL) as running:
        running.ready = running.expect("ready")
        yield running


def ask(instance: Instance, version: str = "", subject: str = "caller") -> httpx.Response:
    issuer = LocalIssuer.open(instance.data_dir / "keys", AccessSettings(), SystemClock())
    token = issuer.issue(subject=subject, roles=[Role.CALLER])
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [-1, 0]}
    path = f"/versions/{version}" if version else ""
    return httpx.post(
        f"{instance.url}/v2/models/doubler{path}/infer",
        json={"inputs": [tensor]},
        headers={"Authorization": f"Bearer {token}"},
    )


def ask_grpc(instance: Instance) -> dict[str, str]:
    """The trailing metadata of an answer."""
    with grpc.insecure_channel(instance.grpc_address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=inference_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=inference_pb2.ModelInferResponse.FromString,
        )
        tensor = inference_pb2.ModelInferRequest.InferInputTensor(
            name="x", datatype="FP32", shape=[1, 2]
        )
        tensor.contents.fp32_contents.extend([-1, 0])
        metadata = (("authorization", f"Bearer {instance.token()}"),)
        _, ended = call.with_call(
            inference_pb2.ModelInferRequest(model_name="doubler", inputs=[tensor]),
            metadata=metadata,
            timeout=5,
        )
        return dict(ended.trailing_metadata())


def serving(instance: Instance, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", *arguments, "--data-dir", str(instance.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours


def test_n17_deprecated_then_retired(instance: Instance) -> None:
    """Headers while it ends, on both wires; its callers are known by name; no retirement while traffic
    remains, unless overridden; then 410 with the successor, for good."""
    operator = Operator(instance)
    fresh = ask(instance)
    operator.step("doubler", "1", step="deprecate", sunset_ns=SUNSET_NS, successor="2")
    wait_until(lambda: "deprecation" in ask(instance).headers)
    ending, ending_grpc = ask(instance, subject="laggard"), ask_grpc(instance)
    named = serving(instance, "model", "consumers", "doubler@1", "--json")
    retire = {"step": "retire", "reason": "unsafe"}
    path = "/v1/models/doubler/versions/1/state"
    refused = operator.ask("POST", path, retire)
    operator.step("doubler", "1", **(retire | {"override": True}))
    wait_until(lambda: ask(instance).status_code == 410)
    gone, pinned = ask(instance), ask(instance, "1")
    operator.route("doubler", "2")
    wait_until(lambda: ask(instance).status_code == 200)

    link = '</v2/models/doubler/versions/2>; rel="successor-version"'
    assert "deprecation" not in fresh.headers
    assert ending.headers["deprecation"].startswith("@")
    assert ending.headers["sunset"] == "Fri, 01 Jan 2100 00:00:00 GMT"
    assert (ending.headers["link"], ending_grpc["link"]) == (link, link)
    assert ending_grpc["deprecation"] == ending.headers["deprecation"]
    who = [json.loads(line)["principal"] for line in named.stdout.splitlines()]
    assert "laggard" in who[0] or any("laggard" in each for each in who)
    assert (refused.status_code, refused.json()["code"]) == (409, "transition_refused")
    assert [each.json()["code"] for each in (gone, pinned)] == ["model_retired", "model_retired"]
    assert gone.headers["link"] == link
    assert ask(instance, "1").status_code == 410
    assert [each["object"] for each in operator.events("registry:version:retired")] == [
        "version:doubler@1"
    ]


def test_n13_database_edited_by_hand_gets_no_traffic(instance: Instance) -> None:
    """A row that names another version, and one whose digest was changed: refused, audited, and the
    last good version answers on."""
    operator = Operator(instance)
    operator.route("doubler", "1")
    operator.settle()
    with sqlite3.connect(instance.data_dir / "registry.sqlite") as database:
        database.execute("UPDATE traffic SET stable = '2'")
        database.execute("UPDATE versions SET state = 'stable', digest = digest || '' || ''")
        database.execute("UPDATE versions SET author = 'mallory' WHERE version = '2'")
        database.execute("DELETE FROM approval_decisions WHERE version = '2'")
    database.close()
    wait_until(lambda: ("doubler@2", "refused") in operator.drift())

    answers = {ask(instance).headers["serving-model-version"] for _ in range(5)}

    assert answers == {"1"}
    assert [each["object"] for each in operator.events("product:release:refused")] == [
        "version:doubler@2"
    ]


def test_file_is_planned_applied_once_and_kept(instance: Instance, tmp_path: Path) -> None:
    """The plan says what would change; applying changes it; applying again does not; a restart does
    not take back what an operator decided."""
    file = tmp_path / "apply.yaml"
    file.write_text(yaml.safe_dump({"deployments": [{"model": "doubler", "stable": "2"}]}))
    planned = serving(instance, "apply", "-f", str(file), "--plan")
    before = serving(instance, "traffic", "show", "--json")
    made = serving(instance, "apply", "-f", str(file), "--yes")
    again = serving(instance, "apply", "-f", str(file), "--yes")
    after = serving(instance, "traffic", "show", "doubler", "--json")
    Operator(instance).settle()
    status = serving(instance, "status")

    assert "stable 1 -> 2, shadows 2 -> none" in planned.stdout
    assert json.loads(before.stdout)["traffic"][0]["stable"] == "1"
    assert (made.returncode, again.stdout.strip()) == (0, "nothing to do")
    assert json.loads(after.stdout)["traffic"][0]["stable"] == "2"
    assert "DRIFT" not in status.stdout
    assert any("local-policy" in notice for notice in instance.ready["notices"])
