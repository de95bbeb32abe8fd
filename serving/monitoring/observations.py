"""What a comparison is fed: rows answered by two versions, and what outcomes later said of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.core.tensors import Array

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Column = NDArray[np.generic]
"""A value for each row: numbers, or text (dtype U or object)."""


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Rows of requests that both versions were asked, in the order in which they were answered.

    primary, candidate: outputs by name, rows first. Of a row that a version failed they hold
    anything (zeros): it is never looked at. An output that only one of them has is no pair.
    features: what slices are cut by, by name: input features, outputs, `principal`, a protected
    attribute of the record. A slice of a feature that is absent has no record.
    request: number of the request each row belongs to; rows of one request stand together.
    primary_ok, candidate_ok: whether the version answered. primary_us, candidate_us: its time,
    NaN where unknown; both count once for each request, by its first row.
    """

    primary: Mapping[str, Array]
    candidate: Mapping[str, Array]
    request: NDArray[np.int64]
    primary_ok: Flags
    candidate_ok: Flags
    primary_us: Floats
    candidate_us: Floats
    features: Mapping[str, Column] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.request)

    @property
    def firsts(self) -> Flags:
        """Which rows begin a request."""
        first = np.ones(self.rows, bool)
        first[1:] = self.request[1:] != self.request[:-1]
        return first


@dataclass(frozen=True, slots=True)
class LossBatch:
    """Losses of both versions on rows whose truth is known by now, smaller is better.

    primary, candidate: for `brier` and `zero_one` within 0..1; see `serving.monitoring.losses`.
    features: as in `PairBatch`.
    """

    primary: Floats
    candidate: Floats
    features: Mapping[str, Column] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.primary)


@dataclass(frozen=True, slots=True)
class PairCounts:
    """How many requests should have become pairs, and how many of them did not, since last time.

    A shadow that was to be sent and has left no record is `missing`: it survives in no pair, so that
    a candidate which loses its hardest requests would look good.
    """

    expected: int
    missing: int
