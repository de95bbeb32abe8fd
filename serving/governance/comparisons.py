"""What a comparison came to, as the monitor process reports it and a verdict states it."""

from typing import Annotated, Any, Final, Literal

import msgspec

from serving.core.models import ModelVersion
from serving.errors import ParameterInvalid, SpecificationInvalid
from serving.ledger.pairs import PairCounts
from serving.ledger.sampling import Step
from serving.monitoring.figures import Decision, Figure
from serving.monitoring.specification import ComparisonSpecification, parse_specification

Source = Literal["live", "window", "replay", "offline"]
"""live: the monitor process, as records came. window: records of the ledger between two times.
replay: recorded requests, run again. offline: a data set that no caller sent."""

MOST_FIGURES: Final = 5000
MOST_WINDOWS: Final = 1000


class LogWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Which pairs of one log were compared: primaries from sequence `first` to `last`.

    directory, segment: where the log was read last, empty and 0 when that is not known. digest: XOR of
    the SHA-256 of each pair's ids. steps: the share that was taken, from which sequence on.
    """

    log_id: str
    directory: str = ""
    segment: int = 0
    first: int
    last: int
    pairs: int
    digest: str
    steps: tuple[Step, ...] = ()


class ComparisonReport(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate compared with a primary, so far.

    specification: as JSON, and the digest of its canonical form. gap: share of the copies that should
    be there and are not, None where that cannot be known. share: of the pairs that are compared. lag_s:
    how far behind the log the figures are. since_ns, until_ns: arrival of the first and the last
    primary. data_digest: SHA-256 of the file that an offline or replayed comparison read. floor: how
    often the primary disagreed with itself, by `output.comparator`: disagreements and records.
    """

    model: str
    primary: str
    candidate: str
    primary_digest: str
    candidate_digest: str
    source: Source
    specification: dict[str, Any]
    specification_digest: str
    decision: Decision
    figures: Annotated[tuple[Figure, ...], msgspec.Meta(max_length=MOST_FIGURES)]
    counts: PairCounts
    gap: float | None = None
    share: float = 1.0
    lag_s: float = 0.0
    windows: Annotated[tuple[LogWindow, ...], msgspec.Meta(max_length=MOST_WINDOWS)] = ()
    since_ns: int = 0
    until_ns: int = 0
    at_ns: int = 0
    data_digest: str = ""
    floor: dict[str, tuple[int, int]] = {}

    @property
    def key(self) -> tuple[str, str]:
        """Model and candidate."""
        return self.model, self.candidate


class ComparedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version that gets copies. share: of the primaries that do; None where nobody can say.
    arm: it answers callers, too. epoch: a snapshot since which all of this is so."""

    version: str
    digest: str
    share: float | None
    arm: bool = False
    epoch: int = 0


class ComparisonOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the monitor is to compare. specification: as JSON."""

    model: str
    primary: ModelVersion
    candidates: tuple[ComparedVersion, ...]
    specification: dict[str, Any]


class MonitorReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the monitor tells control every second or so; it is answered with `MonitorOrders`."""

    reports: tuple[ComparisonReport, ...] = ()


class MonitorOrders(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is to be compared now. is_known: False while control does not know yet."""

    is_known: bool
    orders: tuple[ComparisonOrder, ...] = ()


class ComparisonList(msgspec.Struct, frozen=True):
    """The newest report of each candidate of a model."""

    comparisons: tuple[ComparisonReport, ...]


def specification_of(comparison: dict[str, Any]) -> ComparisonSpecification:
    """What a model's facts say, or the defaults. Raises ParameterInvalid."""
    try:
        return parse_specification(comparison)
    except SpecificationInvalid as error:
        raise ParameterInvalid(error.message) from error
