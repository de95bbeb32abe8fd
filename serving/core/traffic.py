"""What gateways are told: which version serves, which ones shadow it, where the replicas listen.

A `Snapshot` is one immutable value. A gateway swaps it by one assignment, keeps the last one on
disk and goes on serving from it when everything above is gone.
"""

from dataclasses import dataclass
from typing import Final, Literal

from serving.core.models import ModelName, ModelVersion, VersionName

FULL: Final = 10_000
"""All of it: weights, shares and budgets are whole ten-thousandths."""

Sticky = Literal["request", "principal", "subject", "header"]
"""What keeps a caller on one side: nothing, who they are, the data subject or the header
`Serving-Sticky-Key` of a request. A request without a data subject or header counts as its
principal's."""


@dataclass(frozen=True, slots=True)
class ReplicaEndpoint:
    """Where one live replica of a model version accepts frames.

    address: `unix:PATH` for a socket on the same node.
    """

    replica: str
    model: ModelName
    version: VersionName
    address: str
    node: str


@dataclass(frozen=True, slots=True)
class Arm:
    """A version beside the stable one that answers a share of the requests. weight: of `FULL`."""

    version: VersionName
    weight: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Requests of one kind. by: `principal`, `tenant`, or `header:NAME`, the name in lower case."""

    by: str
    value: str


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that gets copies of what the stable one answered; its answers are only recorded.

    share: of the answered requests that fit, of `FULL`. budget: the model time of the copies, as a
    share of that of the stable version's answers, of `FULL` and perhaps above; None: no limit but
    room. segments: any of them must fit; without any all requests do.
    """

    version: VersionName
    share: int = FULL
    budget: int | None = None
    segments: tuple[Segment, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether everything is copied, whoever asked."""
        return self.share >= FULL and not self.segments


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """Who answers for a model, and who gets copies.

    stable: answers what `arms` leave. A version may be both an arm and a shadow: then its answers
    to copies show where it disagrees, and those to callers what comes of that.
    salt: of the hash that puts callers on a side; the name of a rollout or experiment. testers:
    subjects that may choose a version, like operators. experiment: the A/B test that the arms are
    of, empty for none.
    """

    model: ModelName
    stable: VersionName
    shadows: tuple[Shadow, ...] = ()
    arms: tuple[Arm, ...] = ()
    sticky: Sticky = "request"
    salt: str = ""
    testers: tuple[str, ...] = ()
    experiment: str = ""

    @property
    def versions(self) -> tuple[VersionName, ...]:
        """Everything named, each once: the stable version first, then arms, then shadows."""
        named = (self.stable, *(arm.version for arm in self.arms))
        return tuple(dict.fromkeys((*named, *(shadow.version for shadow in self.shadows))))

    def weight_of(self, version: VersionName) -> int:
        """The share of requests that it answers, of `FULL`."""
        weights = {arm.version: arm.weight for arm in self.arms}
        if version == self.stable:
            return FULL - sum(weights.values())
        return weights.get(version, 0)


@dataclass(frozen=True, slots=True)
class Deprecation:
    """A version that still answers, and will not for ever. Wall times in seconds.

    sunset_s: when it stops, 0 while nobody has said. successor: who to ask instead, as
    `model@version`, empty for nobody.
    """

    model: ModelName
    version: VersionName
    since_s: int
    sunset_s: int = 0
    successor: str = ""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A version that answered once and never will again. The other fields as in `Deprecation`."""

    model: ModelName
    version: VersionName
    retired_s: int
    successor: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a gateway needs to route. `epoch` grows with every change.

    versions: those that policies name, those that are about to serve, and those that end the calls
    they have. A policy whose version is not among them has nothing to answer with for now.
    tenants: models that belong to a tenant, and to which.
    """

    epoch: int
    versions: tuple[ModelVersion, ...] = ()
    policies: tuple[TrafficPolicy, ...] = ()
    endpoints: tuple[ReplicaEndpoint, ...] = ()
    deprecations: tuple[Deprecation, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    tenants: tuple[tuple[ModelName, str], ...] = ()
