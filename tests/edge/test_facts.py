from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2, service_pb2  # type: ignore[import-untyped]

from serving.core.batches import RowFailure
from serving.core.models import BatchLimits, VersionName
from serving.core.principals import Principal, Role
from serving.core.tensors import TensorSpecification
from serving.edge import facts
from serving.errors import Forbidden, ModelNotFound
from serving.telemetry.families import GatewayMetrics
from tests.edge.port import ECHO, InferencePort, echo, message

CANDIDATE = echo(*ECHO.inputs, version="2")
CALLER = Principal("ada", frozenset({Role.CALLER}))
LIMITED = replace(CALLER, models=frozenset({"mine"}))
OPERATOR = Principal("ops", frozenset({Role.OPERATOR}))


@pytest.fixture
def two(tmp_path: Path) -> InferencePort:
    """A port whose model has a candidate, version 2."""
    return InferencePort(tmp_path, ECHO, CANDIDATE)


def statistics(port: InferencePort, version: str = "1") -> dict[str, Any]:
    queue = port.stand.pipeline.table.pinned("echo", version)
    return facts.model_statistics(queue.version, port.stand.metrics, epoch_ns=0)


@pytest.mark.parametrize(
    ("principal", "versions"), [(CALLER, ["1"]), (LIMITED, []), (OPERATOR, ["1", "2"])]
)
def test_what_is_visible_follows_the_token(
    two: InferencePort, principal: Principal, versions: list[str]
) -> None:
    """A caller sees the answering version of its models, an operator also candidates."""
    table = two.stand.pipeline.table

    assert versions == [queue.version.version for queue in facts.visible(table, principal)]


@pytest.mark.parametrize(
    ("principal", "model", "version", "refusal"),
    [
        (LIMITED, "echo", None, Forbidden),
        (LIMITED, "unknown", None, Forbidden),
        (CALLER, "unknown", None, ModelNotFound),
        (CALLER, "echo", "2", ModelNotFound),
        (CALLER, "echo", "9", ModelNotFound),
        (OPERATOR, "echo", "9", ModelNotFound),
    ],
)
def test_what_may_not_be_seen_is_not_found(
    two: InferencePort,
    *,
    principal: Principal,
    model: str,
    version: str | None,
    refusal: type[Exception],
) -> None:
    """Who may not call a model is refused before it is looked for; a hidden version is none."""
    with pytest.raises(refusal):
        facts.find(two.stand.pipeline.table, principal, model=model, version=version)


@pytest.mark.parametrize("version", [None, "", "1"])
def test_no_version_is_the_answering_one(two: InferencePort, version: str | None) -> None:
    """Naming none, or an empty one as gRPC does, finds the version that answers."""
    table = two.stand.pipeline.table

    assert facts.find(table, CALLER, model="echo", version=version) is table.pinned("echo", "1")


def test_configuration_of_a_batched_version() -> None:
    """Rows are no dimension of a batched version's tensors; names are those of Triton."""
    version = replace(
        echo(
            TensorSpecification("x", "FP32", (-1, 2, -1)), TensorSpecification("t", "BYTES", (-1,))
        ),
        batching=BatchLimits(max_batch_size=8),
    )

    found = facts.model_configuration(version)

    assert found["max_batch_size"] == 8
    assert found["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [2, -1]},
        {"name": "t", "data_type": "TYPE_STRING", "dims": []},
    ]
    assert found["version_policy"] == {"specific": {"versions": [1]}}


def test_configuration_of_a_whole_version() -> None:
    """Without rows the whole shape is the tensor's, and the largest batch is Triton's word for none."""
    version = replace(ECHO, batched=False, version=VersionName("blue"))

    found = facts.model_configuration(version)

    assert (found["max_batch_size"], found["input"][0]["dims"]) == (0, [-1, 2])
    assert "dynamic_batching" not in found
    assert "version_policy" not in found


def test_statistics_of_a_version_that_nobody_asked() -> None:
    """Everything is zero, and asking leaves no series behind."""
    found = facts.model_statistics(ECHO, metrics := GatewayMetrics(), epoch_ns=10**18)

    assert (found["last_inference"], found["inference_count"], found["execution_count"]) == (
        0,
        0,
        0,
    )
    assert found["inference_stats"]["success"] == {"count": 0, "ns": 0}
    assert found["batch_stats"] == []
    assert metrics.of_version("echo", "1") == []


def test_statistics_count_requests_rows_and_runs(port: InferencePort) -> None:
    """Requests that travelled together are one run; its time and size are what the replica said."""
    port.send(*(port.inference(message(rows)) for rows in (1, 2, 3)))
    port.infer(message(4))
    port.infer(b"refused before it is admitted")

    found = statistics(port)
    stats = found["inference_stats"]
    assert (found["inference_count"], found["execution_count"]) == (10, 2)
    assert (stats["success"]["count"], stats["fail"]["count"]) == (4, 0)
    assert stats["compute_infer"] == {"count": 2, "ns": 400_000}
    assert stats["queue"] == {"count": 4, "ns": 400_000}
    assert [(each["batch_size"], each["compute_infer"]) for each in found["batch_stats"]] == [
        (4, {"count": 1, "ns": 200_000}),
        (6, {"count": 1, "ns": 200_000}),
    ]


def test_statistics_count_failures_and_their_time(tmp_path: Path) -> None:
    """A failed request is counted with the time that it took, and is no success and no run."""
    port = InferencePort(tmp_path, function=RowFailure.MODEL_ERROR)
    port.infer(message())

    stats = statistics(port)["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"]) == (0, 1)
    assert stats["compute_infer"]["count"] == 0


def test_copies_count_for_the_candidate(two: InferencePort) -> None:
    """A candidate's copies are its requests and runs, beside those that were pinned to it."""
    two.infer(message(2))
    two.send()
    two.infer(message(3), target="/v2/models/echo/versions/2/infer", role=Role.OPERATOR)

    found = statistics(two, "2")
    assert (found["inference_count"], found["execution_count"]) == (5, 2)
    assert found["inference_stats"]["success"]["count"] == 2


def test_facts_are_what_the_clients_of_triton_read(port: InferencePort) -> None:
    """Every name and type is one that Triton's own messages have."""
    port.infer(message())
    version = port.stand.pipeline.table.pinned("echo", "1").version

    configuration = facts.model_configuration(version)
    ParseDict(configuration, model_config_pb2.ModelConfig())
    ParseDict({"model_stats": [statistics(port)]}, service_pb2.ModelStatisticsResponse())
    index = facts.repository_index(port.stand.pipeline.table.queues.values())
    ParseDict({"models": index}, service_pb2.RepositoryIndexResponse())
    ParseDict(facts.server_metadata(), service_pb2.ServerMetadataResponse())
