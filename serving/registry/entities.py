"""What the registry knows, as values: models, their immutable versions, aliases and traffic.

Times are wall nanoseconds since the epoch; 0 and the empty text mean that there is none.
`revision` grows by one with every change of a row: whoever changes it says which one they saw.
"""

from enum import StrEnum
from typing import Annotated, Any

import msgspec

from serving.core.models import ModelVersion
from serving.registry.lifecycle import State
from serving.registry.shares import Shares


class RiskTier(StrEnum):
    """How much harm a model can do; policies say what each tier demands before it may serve."""

    DEMO = "demo"
    MINIMAL = "minimal"
    LIMITED = "limited"
    HIGH = "high"


class Dataset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data that a model was made or judged with. digest: SHA-256 of its manifest."""

    name: str
    origin: str = ""
    licence: str = ""
    period: str = ""
    preparation: str = ""
    representativeness: str = ""
    known_gaps: str = ""
    digest: str = ""


class ModelFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What people say of a model: everything about it that its owner decides.

    contacts: whom to ask. tags: names and values to find it by. licence, source, task: as a model
    card has them. limitations, ethical_considerations: what a reader of the card must know.
    comparison: how candidates are compared with the version that answers, as
    `monitoring.specification` has it; empty: each output by its declaration.
    """

    owner: str
    team: str = ""
    purpose: str = ""
    description: str = ""
    task: str = ""
    licence: str = ""
    source: str = ""
    risk_tier: RiskTier = RiskTier.HIGH
    contacts: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    data_sets: tuple[Dataset, ...] = ()
    intended_uses: tuple[str, ...] = ()
    prohibited_uses: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    ethical_considerations: tuple[str, ...] = ()
    comparison: dict[str, Any] = {}


class RegisteredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model. tenant: who owns it; empty when everybody may share it."""

    name: str
    tenant: str
    facts: ModelFacts
    created_ns: int
    created_by: str
    updated_ns: int
    revision: int


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A measured figure. slice: the part of the data, empty for all of it. low, high: its interval."""

    name: str
    value: float
    slice: str = ""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    data_set: str = ""


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a version comes from.

    training_manifest: SHA-256 of the list of training data. code_revision: of the code that trained
    it. parent: the version that it was made from. provenance: in words. source_uri: the registry or
    folder that it was imported from.
    """

    training_manifest: str = ""
    code_revision: str = ""
    parameters: dict[str, Any] = {}
    metrics: tuple[Metric, ...] = ()
    parent: str = ""
    provenance: str = ""
    source_uri: str = ""


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """What runs it, as the inspection of the artifact found. opsets: domain to version."""

    name: str = ""
    version: str = ""
    ir_version: int = 0
    opsets: dict[str, int] = {}


class RegisteredVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version; only its state and its dates change.

    author_owner: who answers for the API key that registered it, empty for a person.
    definition: as the data plane knows it. inspection: the report of the artifact's inspection, None
    before there is one. deprecated_ns, sunset_ns, retired_ns: when it was deprecated, when it stops
    answering, when it stopped. successor: what to use instead, `version` or `model@version`. reason: of
    the last change.
    """

    model: str
    version: str
    digest: str
    definition: ModelVersion
    author: str
    author_owner: str
    state: State
    description: str
    lineage: Lineage
    runtime: Runtime
    inspection: dict[str, Any] | None
    created_ns: int
    changed_ns: int
    revision: int
    deprecated_ns: int = 0
    sunset_ns: int = 0
    retired_ns: int = 0
    successor: str = ""
    reason: str = ""

    @property
    def key(self) -> str:
        return f"{self.model}@{self.version}"


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """A name for a version, such as `champion`."""

    model: str
    alias: str
    version: str
    updated_ns: int
    updated_by: str
    revision: int


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many replicas each version has, and what Ray reserves for one; see `settings.Deployment`."""

    min_replicas: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    max_replicas: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    num_gpus: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Traffic(Shares, frozen=True, kw_only=True):
    """Who answers for a model, and who gets copies: see `Shares`."""

    model: str
    scale: Scale = Scale()
    updated_ns: int = 0
    updated_by: str = ""
    revision: int = 0


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """A version that ends or has ended: deprecated, or retired. Times of 0: not yet, or not known."""

    model: str
    version: str
    state: State
    deprecated_ns: int
    sunset_ns: int
    retired_ns: int
    successor: str


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a model's history, as the audit trail has it."""

    position: int
    at_ns: int
    name: str
    actor: str
    object: str
    before: Any = None
    after: Any = None
    reason: str = ""


class ModelPage(msgspec.Struct, frozen=True):
    """Models in the order of their names. next: where the next page begins; empty for the last."""

    models: tuple[RegisteredModel, ...]
    next: str = ""
