"""What the monitor saves between two moments, and what its orders and windows look like.

See `monitor_work`, which is the theory of it.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from serving.app.comparing import Sides, State
from serving.core.outcomes import Outcome
from serving.errors import ParameterInvalid, SpecificationInvalid
from serving.governance.comparisons import (
    MOST_WINDOWS,
    ComparedVersion,
    ComparisonOrder,
    LogWindow,
    specification_of,
)
from serving.ledger.floors import Floors
from serving.ledger.pairs import PairCounts, PairKey, PairWindow, Waiting
from serving.ledger.pairstore import PairStore
from serving.ledger.sampling import Sampling, Step
from serving.ledger.tails import Position
from serving.monitoring.comparison import Comparison
from serving.monitoring.noise import NoiseFloor

PLACE: Final = "place"
"""The name of where the monitor is, beside those of the comparisons."""

_log = logging.getLogger(__name__)


class Place(msgspec.Struct):
    """Where the monitor is in the log. rewind: from where the records in `waiting` are found."""

    positions: dict[str, Position] = {}
    rewind: dict[str, Position] = {}
    waiting: Waiting = msgspec.field(default_factory=Waiting)
    steps: dict[str, dict[str, list[Step]]] = {}
    halvings: dict[str, int] = {}
    early: list[Outcome] = []


class Kept(msgspec.Struct):
    """One comparison as it is saved."""

    state: State
    counts: PairCounts
    windows: dict[str, PairWindow]
    places: dict[str, tuple[str, int]]


def windows_of(
    windows: Mapping[str, PairWindow],
    places: Mapping[str, tuple[str, int]],
    sampling: Sampling,
) -> tuple[LogWindow, ...]:
    found = []
    for log_id, window in list(windows.items())[-MOST_WINDOWS:]:
        directory, segment = places.get(log_id, ("", 0))
        found.append(
            LogWindow(
                log_id=log_id,
                directory=directory,
                segment=segment,
                first=window.first,
                last=window.last,
                pairs=window.pairs,
                digest=window.digest,
                steps=tuple(sampling.steps.get(log_id, ())),
            )
        )
    return tuple(found)


def wanted_of(
    orders: Sequence[ComparisonOrder], floors: Floors
) -> dict[PairKey, tuple[Sides, ComparedVersion]]:
    found: dict[PairKey, tuple[Sides, ComparedVersion]] = {}
    for order in orders:
        try:
            specification = specification_of(order.specification)
            Comparison(specification, order.primary.outputs)
        except (ParameterInvalid, SpecificationInvalid) as error:
            _log.warning("%s is not compared: %s", order.model, error.message)
            continue
        counts = floors.get(order.primary.digest)
        floor = NoiseFloor(counts) if counts and specification.noise_floor else None
        for each in order.candidates:
            key = PairKey(order.model, order.primary.version, each.version)
            sides = Sides(order.primary, each.version, each.digest, specification, floor)
            found[key] = (sides, each)
    return found


def place_in(store: PairStore) -> Place:
    content = store.state(PLACE)
    return Place() if content is None else msgspec.json.decode(content, type=Place)
