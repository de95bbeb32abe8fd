"""Model versions as the data plane knows them: what to run, under which limits."""

from dataclasses import dataclass
from typing import Literal, NewType

from serving.core.tensors import TensorSpecification

ModelName = NewType("ModelName", str)
VersionName = NewType("VersionName", str)
Digest = NewType("Digest", str)

RecordingPolicy = Literal["fail_closed", "at_least_once", "best_effort"]
Treatment = Literal["keep", "hash", "drop", "encrypt"]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may become. Unit: rows. What the replica learns stays inside these.

    latency_objective_ms: a batch size whose run takes more than half of it is not chosen.
    """

    max_batch_size: int = 32
    latency_objective_ms: float = 50.0


@dataclass(frozen=True, slots=True)
class Padding:
    """How rows of different lengths share a batch: padded to the next of `buckets`, cut afterwards.

    buckets: lengths, ascending. A row longer than the last one runs with rows of its own length.
    inputs: name and pad value of those padded; each along its one variable dimension besides rows.
    outputs: names of those that are cut back to the row's length, likewise.
    mask: an input of the model that callers do not send: made here, 1 for theirs and 0 for padding.
    """

    buckets: tuple[int, ...]
    inputs: tuple[tuple[str, int | float], ...]
    outputs: tuple[str, ...] = ()
    mask: TensorSpecification | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """What the prediction log keeps of a version's requests, and what an answer waits for.

    policy: fail_closed: no record, no answer. at_least_once: where the log refuses, a bounded spill
    takes the record, and the answer leaves. best_effort: the answer waits for nothing, and what is
    lost is counted and declared. fields: tensors that are not recorded as they are, by name; the
    others are kept. A payload whose request names a data subject is encrypted whole.
    retention_days: None: as the settings say.
    """

    policy: RecordingPolicy = "fail_closed"
    fields: tuple[tuple[str, Treatment], ...] = ()
    retention_days: int | None = None


@dataclass(frozen=True, slots=True)
class Caching:
    """How much each gateway worker remembers of a version's answers, and for how long."""

    max_bytes: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of an ensemble: a version of a model, and which tensors it takes and gives.

    digest: of the version; another one of the same name is not run. inputs, outputs: its own name of
    each tensor and the ensemble's name for it; an output that nobody wants has none.
    """

    name: str
    model: ModelName
    version: VersionName
    digest: Digest
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """`model@version` of what runs."""
        return f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable version of a model, addressed by the SHA-256 of its artifact.

    digest: lower-case hexadecimal SHA-256 of the ONNX file, or of the stages (`registry.ensembles`).
    finite_inputs: refuse NaN and infinities before the model sees them.
    batched: the first dimension of every tensor counts rows that are independent of each other.
    False: a request is one whole, and the data plane takes it as one row of the whole shape.
    padding: None: only rows of one shape share a batch. cache: None: every request runs the model.
    stages: of an ensemble, which gateways run stage by stage; it has no replicas of its own.
    """

    model: ModelName
    version: VersionName
    digest: Digest
    inputs: tuple[TensorSpecification, ...]
    outputs: tuple[TensorSpecification, ...]
    batching: BatchLimits = BatchLimits()
    finite_inputs: bool = True
    batched: bool = True
    padding: Padding | None = None
    recording: Recording = Recording()
    cache: Caching | None = None
    stages: tuple[Stage, ...] = ()

    @property
    def key(self) -> str:
        """`model@version`: how applications, queues and metrics name it."""
        return f"{self.model}@{self.version}"

    @property
    def fed(self) -> tuple[TensorSpecification, ...]:
        """What the model takes: the inputs that callers send, and the mask made for them."""
        mask = self.padding.mask if self.padding is not None else None
        return self.inputs if mask is None else (*self.inputs, mask)
