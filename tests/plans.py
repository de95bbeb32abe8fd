"""Small model versions and plans for tests that need some, whatever they run."""

from pathlib import Path

from serving.core.models import Digest, ModelName, ModelVersion, VersionName
from serving.core.tensors import TensorSpecification
from serving.core.traffic import ReplicaEndpoint
from serving.inference.counters import ReplicaStatistics
from serving.inference.plans import ApplicationPlan, ReplicaOrder
from serving.inference.registration import Renewal
from serving.settings import Settings


def a_version(model: str = "doubler", version: str = "1") -> ModelVersion:
    """One FP32 input of two columns, one output of two."""
    return ModelVersion(
        model=ModelName(model),
        version=VersionName(version),
        digest=Digest("ab" * 32),
        inputs=(TensorSpecification("x", "FP32", (-1, 2)),),
        outputs=(TensorSpecification("y", "FP32", (-1, 2)),),
    )


def an_order(
    version: ModelVersion, *, folder: Path = Path("/nowhere"), settings: Settings | None = None
) -> ReplicaOrder:
    """Sockets and keys in `folder`."""
    return ReplicaOrder(
        version=version,
        release=str(folder / "releases" / f"{version.key}.json"),
        artifacts=str(folder / "artifacts"),
        sockets=str(folder),
        keys=str(folder / "keys"),
        logs=str(folder),
        instance="a-run",
        settings=(settings or Settings()).model_dump_json(),
    )


def a_plan(model: str = "doubler", version: str = "1", *, min_replicas: int = 1) -> ApplicationPlan:
    return ApplicationPlan(
        an_order(a_version(model, version)), min_replicas=min_replicas, max_replicas=min_replicas
    )


def an_endpoint(replica: str, model: str = "doubler", version: str = "1") -> ReplicaEndpoint:
    return ReplicaEndpoint(
        replica=replica,
        model=ModelName(model),
        version=VersionName(version),
        address=f"unix:/sockets/{replica}.sock",
        node="here",
    )


def a_renewal(replica: str, model: str = "doubler", version: str = "1") -> Renewal:
    return Renewal(
        an_endpoint(replica, model, version),
        ReplicaStatistics(rows=7, batches=2),
        ("CPUExecutionProvider",),
    )
