"""What the server says about itself and its models: plain values, the same on every wire.

Metadata have the Open Inference Protocol's members, configuration, statistics and index those of
Triton's extensions, as its clients read them. A caller sees the models that its token may call, and
of each the version that answers; an operator also sees candidates. To anybody else a version that
may not be seen does not exist.

Statistics are those of one gateway worker since its start, read from the counters that metrics are
made of; a version's copies for comparison count like its answers. Times that are not measured apart
(`compute_input`, `compute_output`) and the cache, which there is none of, are zero. `compute_infer`
counts runs, not requests, and rows are those of answered frames.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import version as installed_version
from typing import Any, Final

from serving.access.authorization import authorize_description, may
from serving.core.models import ModelVersion, Stage
from serving.core.predictions import Fate
from serving.core.principals import Action, Principal
from serving.core.tensors import TensorSpecification
from serving.errors import ModelNotFound
from serving.gateway.batching import VersionQueue
from serving.gateway.cache import ResponseCache
from serving.gateway.routing import Route, RoutingTable
from serving.telemetry.families import GatewayMetrics, VersionMetrics
from serving.telemetry.metrics import Histogram

Facts = dict[str, Any]

NAME: Final = "serving"
PLATFORM: Final = "onnxruntime_onnx"
ENSEMBLE: Final = "ensemble"
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)
"""Of the protocol, by the names that its servers use. Of the repository, reading it."""

_NO_REPLICA: Final = "no replica of this version is up"
_NOTHING: Final[Facts] = {"count": 0, "ns": 0}


# -- who may see what ------------------------------------------------------------------------------


def find(
    table: RoutingTable, principal: Principal, *, model: str, version: str | None = None
) -> VersionQueue:
    """The queue of a version, of the one that answers when `version` is None or empty.

    Raises Forbidden, ModelNotFound, ModelRetired or NoReplica; none tells whether a model that may not be seen exists.
    """
    authorize_description(principal, model)
    route = table.choose(model)
    if not version or version == route.policy.stable:
        return route.stable
    table.check_grave(model, version)
    if not may(principal, Action.DESCRIBE_CANDIDATES, model):
        raise ModelNotFound("there is no such version of this model here")
    return table.pinned(model, version)


def versions_of(table: RoutingTable, principal: Principal, model: str) -> list[str]:
    """Names of a model's versions that the principal may see, the answering one first."""
    return [str(queue.version.version) for queue in _seen(table.choose(model), principal)]


def visible(table: RoutingTable, principal: Principal) -> Iterator[VersionQueue]:
    """The queues of all versions that the principal may see, model by model."""
    for route in sorted(table.routes, key=lambda route: route.policy.model):
        if may(principal, Action.DESCRIBE, route.policy.model):
            yield from _seen(route, principal)


def _seen(route: Route, principal: Principal) -> tuple[VersionQueue, ...]:
    if may(principal, Action.DESCRIBE_CANDIDATES, route.policy.model):
        return route.queues
    return (route.stable,)


# -- what there is to say --------------------------------------------------------------------------


def server_metadata() -> Facts:
    return {"name": NAME, "version": installed_version(NAME), "extensions": list(EXTENSIONS)}


def model_metadata(version: ModelVersion, versions: Iterable[str]) -> Facts:
    """versions: names of those that the asker may see."""
    return {
        "name": version.model,
        "versions": list(versions),
        "platform": ENSEMBLE if version.stages else PLATFORM,
        "inputs": [_described(tensor) for tensor in version.inputs],
        "outputs": [_described(tensor) for tensor in version.outputs],
        "parameters": {"digest": version.digest, "version": version.version},
    }


def model_configuration(version: ModelVersion) -> Facts:
    """Triton's model configuration. A largest batch of 0 means that rows are not batched."""
    name = version.version
    facts: Facts = {
        "name": version.model,
        "platform": ENSEMBLE if version.stages else PLATFORM,
        "backend": "" if version.stages else "onnxruntime",
        "max_batch_size": version.batching.max_batch_size if version.batched else 0,
        "input": [_configured(tensor, version) for tensor in version.inputs],
        "output": [_configured(tensor, version) for tensor in version.outputs],
        "parameters": {
            "digest": {"string_value": version.digest},
            "version": {"string_value": name},
        },
    }
    if name.isascii() and name.isdigit():
        facts["version_policy"] = {"specific": {"versions": [int(name)]}}
    if version.stages:
        facts["ensemble_scheduling"] = {"step": [_step(stage) for stage in version.stages]}
    elif version.batched:
        facts["dynamic_batching"] = {"max_queue_delay_microseconds": 0}
    return facts


def _step(stage: Stage) -> Facts:
    """As Triton describes a stage, with whole names of versions and the digest."""
    return {
        "model_name": stage.model,
        "model_version": stage.version,
        "model_digest": stage.digest,
        "input_map": dict(stage.inputs),
        "output_map": dict(stage.outputs),
    }


def repository_index(queues: Iterable[VersionQueue], *, ready_only: bool = False) -> list[Facts]:
    """One entry for each version, with whether it can answer now, and why not."""
    return [
        {
            "name": queue.version.model,
            "version": queue.version.version,
            "state": "READY" if queue.ready else "UNAVAILABLE",
            "reason": "" if queue.ready else _NO_REPLICA,
        }
        for queue in queues
        if queue.ready or not ready_only
    ]


def model_statistics(
    version: ModelVersion,
    metrics: GatewayMetrics,
    *,
    epoch_ns: int,
    cache: ResponseCache | None = None,
) -> Facts:
    """epoch_ns: the wall time at which the monotonic clock was zero. cache: the version's."""
    roles = metrics.of_version(version.model, version.version)
    by_rows = roles[0].executions.by_rows if roles else {}
    last_ns = roles[0].executions.last_ns if roles else 0
    runs = sum(count for count, _ in by_rows.values())
    run_us = sum(us for _, us in by_rows.values())
    return {
        "name": version.model,
        "version": version.version,
        "last_inference": (epoch_ns + last_ns) // 1_000_000 if last_ns else 0,
        "inference_count": int(sum(role.batch_rows.total for role in roles)),
        "execution_count": runs,
        "inference_stats": {
            "success": _total(role.duration for role in roles),
            "fail": _failures(roles),
            "queue": _total(role.queue for role in roles),
            "compute_input": _NOTHING,
            "compute_infer": {"count": runs, "ns": run_us * 1000},
            "compute_output": _NOTHING,
            "cache_hit": {"count": cache.hits if cache else 0, "ns": 0},
            "cache_miss": {"count": cache.misses if cache else 0, "ns": 0},
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _NOTHING,
                "compute_infer": {"count": count, "ns": us * 1000},
                "compute_output": _NOTHING,
            }
            for rows, (count, us) in sorted(by_rows.items())
        ],
    }


def _described(tensor: TensorSpecification) -> Facts:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _configured(tensor: TensorSpecification, version: ModelVersion) -> Facts:
    datatype = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    dims = tensor.shape[1:] if version.batched else tensor.shape
    return {"name": tensor.name, "data_type": f"TYPE_{datatype}", "dims": list(dims)}


def _total(histograms: Iterable[Histogram]) -> Facts:
    count, seconds = 0, 0.0
    for histogram in histograms:
        count += sum(histogram.counts)
        seconds += histogram.total
    return {"count": count, "ns": round(seconds * 1e9)}


def _failures(roles: Iterable[VersionMetrics]) -> Facts:
    count = us = 0
    for role in roles:
        count += sum(int(role.requests[fate].value) for fate in Fate if fate is not Fate.OK)
        us += role.failed_us
    return {"count": count, "ns": us * 1000}
