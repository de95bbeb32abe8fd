"""Model versions as the data plane knows them: what to run, under which limits."""

from dataclasses import dataclass
from typing import NewType

from serving.core.tensors import TensorSpecification

ModelName = NewType("ModelName", str)
VersionName = NewType("VersionName", str)
Digest = NewType("Digest", str)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may become. Unit: rows. What the replica learns stays inside these.

    latency_objective_ms: a batch size whose run takes more than half of it is not chosen.
    """

    max_batch_size: int = 32
    latency_objective_ms: float = 50.0


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable version of a model, addressed by the SHA-256 of its artifact.

    digest: lower-case hexadecimal SHA-256 of the ONNX file.
    finite_inputs: refuse NaN and infinities before the model sees them.
    """

    model: ModelName
    version: VersionName
    digest: Digest
    inputs: tuple[TensorSpecification, ...]
    outputs: tuple[TensorSpecification, ...]
    batching: BatchLimits = BatchLimits()
    finite_inputs: bool = True

    @property
    def key(self) -> str:
        """`model@version`: how applications, queues and metrics name it."""
        return f"{self.model}@{self.version}"
