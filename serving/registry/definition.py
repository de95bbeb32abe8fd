"""What a version takes, answers and keeps: the part of a `model.yaml` that the data plane runs by.

The same words come in an order to the registry. Every field is checked and no unknown one is taken.

Every tensor whose first dimension is -1 counts rows by it, and rows of different requests share
batches. As soon as one tensor has another first dimension, or none, the version is not batched: each
request is one whole. `batched: false` says the same of a model whose shapes do not show it.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from serving.core.models import (
    BatchLimits,
    Caching,
    Digest,
    ModelName,
    ModelVersion,
    Padding,
    Recording,
    RecordingPolicy,
    Stage,
    Treatment,
    VersionName,
)
from serving.core.tensors import DTYPES, MAX_RANK, TensorSpecification
from serving.errors import ParameterInvalid

MAX_BUCKETS: Final = 16
MAX_STAGES: Final = 64
LIMITS: Final = BatchLimits()

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Part(BaseModel):
    """A part of a specification: frozen, no unknown field, nothing converted silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _known(datatype: str) -> str:
    if datatype not in DTYPES:
        raise ValueError(f"must be one of {', '.join(DTYPES)}")
    return datatype


Datatype = Annotated[str, AfterValidator(_known)]
TensorName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Tensor(Part):
    """One input or output. shape: -1 marks a dimension that may vary; the first counts rows.

    A first dimension that is fixed, and a scalar (`[]`), make the version unbatched. features: a name
    for each element of a row, in order; the ledger has a column for each.
    """

    name: TensorName
    datatype: Datatype
    shape: Annotated[list[Annotated[int, Field(ge=-1)]], Field(max_length=MAX_RANK)]
    meaning: str = ""
    features: Annotated[list[TensorName], Field(max_length=4096)] = []

    @model_validator(mode="after")
    def _each_named(self) -> "Tensor":
        if not self.features:
            return self
        row = self.shape[1:] if self.counts_rows else self.shape
        if -1 in row or math.prod(row) != len(self.features):
            raise ValueError(f"features names {len(self.features)} elements; a row has shape {row}")
        if len({name.lower() for name in self.features}) != len(self.features):
            raise ValueError("features must differ, whatever their case")
        return self

    @property
    def counts_rows(self) -> bool:
        return self.shape[:1] == [-1]

    @property
    def varying(self) -> list[int]:
        """The dimensions besides rows that vary."""
        return [axis for axis, size in enumerate(self.shape) if axis and size < 0]


class Mask(Part):
    """An input of the model that callers do not send: 1 for what they sent, 0 for padding."""

    name: TensorName
    datatype: Datatype = "INT64"


class Padded(Part):
    """See `core.models.Padding`. inputs: name to pad value. outputs: those cut to the row's length."""

    buckets: Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], Field(min_length=1)]
    inputs: Annotated[dict[TensorName, int | float], Field(min_length=1)]
    outputs: list[TensorName] = []
    mask: Mask | None = None

    @field_validator("buckets")
    @classmethod
    def _ascending(cls, buckets: list[int]) -> list[int]:
        if buckets != sorted(set(buckets)) or len(buckets) > MAX_BUCKETS:
            raise ValueError(f"must ascend, and be at most {MAX_BUCKETS}: each is warmed up")
        return buckets


class Batching(Part):
    """See `core.models.BatchLimits`. padding: how rows of different lengths share a batch."""

    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = LIMITS.max_batch_size
    latency_objective_ms: Annotated[float, Field(gt=0, le=60_000)] = LIMITS.latency_objective_ms
    padding: Padded | None = None


class Recorded(Part):
    """See `core.models.Recording`. fields: what becomes of tensors that are not kept as they are."""

    policy: RecordingPolicy = "fail_closed"
    fields: dict[TensorName, Treatment] = {}
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None


class Cached(Part):
    """See `core.models.Caching`. An answer is given again to whoever asks exactly the same."""

    max_bytes: Annotated[int, Field(ge=4096, le=2**34)]
    ttl_s: Annotated[float, Field(gt=0, le=86_400)]


class Staged(Part):
    """A stage of an ensemble: see `core.models.Stage`. inputs, outputs: its own names of tensors to
    those that they have in the ensemble."""

    name: Name
    model: Name
    version: Name
    inputs: Annotated[dict[TensorName, TensorName], Field(min_length=1)]
    outputs: Annotated[dict[TensorName, TensorName], Field(min_length=1)]


class Definition(Part):
    """See the module docstring. finite_inputs: refuse NaN and infinities before the model sees them.

    batched: None: if every tensor counts rows.
    """

    inputs: Annotated[list[Tensor], Field(min_length=1)]
    outputs: Annotated[list[Tensor], Field(min_length=1)]
    batching: Batching = Batching()
    batched: bool | None = None
    finite_inputs: bool = True
    recording: Recorded = Recorded()
    stages: Annotated[list[Staged], Field(max_length=MAX_STAGES)] = []
    cache: Cached | None = None

    @model_validator(mode="after")
    def _tensors_differ(self) -> Self:
        check_distinct("inputs", [tensor.name for tensor in self.inputs])
        check_distinct("outputs", [tensor.name for tensor in self.outputs])
        return self

    @model_validator(mode="after")
    def _rows_first(self) -> Self:
        odd = [tensor.name for tensor in self.tensors if not tensor.counts_rows]
        if self.batched and odd:
            raise ValueError(f"batched: the first dimension of {odd[0]} does not count rows")
        return self

    @model_validator(mode="after")
    def _padded_in_one_dimension(self) -> Self:
        padding = self.batching.padding
        if padding is None:
            return self
        if not self.serves_rows:
            raise ValueError("batching.padding: there are no rows to pad")
        for field, tensors, names in (
            ("inputs", self.inputs, list(padding.inputs)),
            ("outputs", self.outputs, padding.outputs),
        ):
            known = {tensor.name: tensor for tensor in tensors}
            for name in names:
                if name not in known or len(known[name].varying) != 1:
                    raise ValueError(
                        f"batching.padding.{field}: {name!r} must be one of the {field}, with exactly "
                        "one dimension besides rows that varies"
                    )
                if known[name].datatype == "BYTES":
                    raise ValueError(f"batching.padding.{field}: {name!r} holds no numbers")
        if padding.mask is not None and padding.mask.name in {t.name for t in self.inputs}:
            raise ValueError("batching.padding.mask: callers send this input; give it a pad value")
        return self

    @model_validator(mode="after")
    def _records_its_own(self) -> Self:
        known = {tensor.name for tensor in self.tensors}
        for name in self.recording.fields:
            if name not in known:
                raise ValueError(f"recording.fields: {name!r} is neither an input nor an output")
        if self.cache is not None and self.recording.fields:
            raise ValueError(
                "cache: what may not be recorded as it is may not be remembered either"
            )
        return self

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.inputs, *self.outputs]

    @property
    def serves_rows(self) -> bool:
        """Whether requests are rows that may share a batch, or each is one whole."""
        return self.batched is not False and all(each.counts_rows for each in self.tensors)


def check_distinct(field: str, names: list[str]) -> None:
    """Raises ValueError."""
    if len(set(names)) != len(names):
        raise ValueError(f"{field} must have distinct names, not {', '.join(names)}")


def read_definition(values: Mapping[str, Any]) -> Definition:
    """A definition that came as JSON. Raises ParameterInvalid naming the field."""
    try:
        return Definition.model_validate(dict(values))
    except ValidationError as error:
        raise ParameterInvalid(f"definition: {explain(error)}") from error


def define(
    definition: Definition,
    *,
    model: str,
    version: str,
    digest: str,
    stages: tuple[Stage, ...] = (),
) -> ModelVersion:
    """The version as the data plane knows it. stages: those of the definition (`ensembles`)."""
    batched = definition.serves_rows
    return ModelVersion(
        model=ModelName(model),
        version=VersionName(version),
        digest=Digest(digest),
        inputs=_tensors(definition.inputs, batched=batched),
        outputs=_tensors(definition.outputs, batched=batched),
        batching=BatchLimits(
            max_batch_size=definition.batching.max_batch_size,
            latency_objective_ms=definition.batching.latency_objective_ms,
        ),
        finite_inputs=definition.finite_inputs,
        batched=batched,
        padding=_padding(definition.batching.padding),
        recording=_recording(definition.recording),
        cache=_caching(definition.cache),
        stages=stages,
    )


def _recording(recorded: Recorded) -> Recording:
    return Recording(
        recorded.policy, tuple(sorted(recorded.fields.items())), recorded.retention_days
    )


def _caching(cached: Cached | None) -> Caching | None:
    return None if cached is None else Caching(cached.max_bytes, cached.ttl_s)


def _tensors(tensors: list[Tensor], *, batched: bool) -> tuple[TensorSpecification, ...]:
    return tuple(
        TensorSpecification(
            tensor.name,
            tensor.datatype,
            tuple(tensor.shape),
            tensor.meaning,
            batched,
            tuple(tensor.features),
        )
        for tensor in tensors
    )


def _padding(padded: Padded | None) -> Padding | None:
    if padded is None:
        return None
    mask = padded.mask
    return Padding(
        buckets=tuple(padded.buckets),
        inputs=tuple(padded.inputs.items()),
        outputs=tuple(padded.outputs),
        mask=None if mask is None else TensorSpecification(mask.name, mask.datatype, (-1, -1)),
    )


def explain(error: ValidationError) -> str:
    """Field, value and what is wrong with it, for each."""
    lines = []
    for detail in error.errors(include_url=False):
        field = ".".join(str(part) for part in detail["loc"]) or "definition"
        value = (
            "" if isinstance(detail["input"], dict | list) else f" = {str(detail['input'])[:80]!r}"
        )
        lines.append(f"{field}{value}: {detail['msg']}")
    return "; ".join(lines)
