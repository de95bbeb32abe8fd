"""`serving compare`: one comparison over what is there, put together.

`Comparer.run` reads pairs from the source that the order names and returns the report that a verdict
can be drawn from; `measure_floor` runs the primary a second time and keeps how often it disagrees with
itself. Models run in this process, so that nothing is taken from callers but time of the CPU.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from serving.app.compare_sources import (
    Judged,
    file_digest,
    repeated_pairs,
    replay_head,
    replay_pairs,
    set_pairs,
)
from serving.app.comparing import RunningComparison, Sides
from serving.app.directory import DataDirectory
from serving.app.monitor_state import windows_of
from serving.app.replay_targets import Targets
from serving.core.clock import Clock
from serving.core.predictions import PredictionRecord
from serving.errors import NotFound, ParameterInvalid
from serving.governance.comparisons import ComparisonReport, Source, specification_of
from serving.inference.offline import OfflineSession
from serving.ledger.floors import read_floors, write_floor
from serving.ledger.pairs import (
    Candidate,
    Pair,
    PairCounts,
    Pairing,
    PairingLimits,
    PairKey,
    Subject,
)
from serving.ledger.places import cold_place
from serving.ledger.sampling import Sampling
from serving.ledger.search import LedgerSearch
from serving.monitoring.noise import NoiseFloor
from serving.monitoring.specification import ComparisonSpecification, Slice
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.query import Query
from serving.settings import Settings

FED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class CompareOrder:
    """What is compared. replay, data: files instead of the ledger. by: further slices. limit: of
    records of the primary. Times are arrival, up to and excluding `until_ns`."""

    model: str
    candidate: str
    primary: str
    since_ns: int = 0
    until_ns: int = 0
    replay: Path | None = None
    data: Path | None = None
    label: str = "label"
    by: tuple[str, ...] = ()
    limit: int | None = None


class Comparer:
    """One run. advanced: told of the records done."""

    def __init__(
        self, settings: Settings, clock: Clock, *, advanced: Callable[[int], None]
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._advanced = advanced
        self._directory = DataDirectory.at(settings.data_dir)
        self._targets = Targets(settings, clock)

    def run(self, order: CompareOrder) -> ComparisonReport:
        """Raises ParameterInvalid, NotFound, SpecificationInvalid, ArtifactInvalid,
        LedgerUnavailable, OSError."""
        specification = self._specification(order)
        primary, _ = self._targets.find(order.model, order.primary)
        candidate, _ = self._targets.find(order.model, order.candidate, like=order.primary)
        counts = read_floors(self._directory.monitor).get(primary.digest)
        floor = NoiseFloor(counts) if counts and specification.noise_floor else None
        sides = Sides(primary, candidate.version, candidate.digest, specification, floor)
        comparison = RunningComparison(sides)
        if order.data is not None:
            return self._of_set(order, comparison)
        if order.replay is not None:
            return self._of_replay(order, comparison)
        return self._of_window(order, comparison)

    def measure_floor(self, order: CompareOrder) -> NoiseFloor:
        """How often the primary disagrees with a second run of itself; kept from now on."""
        specification = self._specification(order)
        primary = self._session(order.model, order.primary)
        sides = Sides(primary.version, order.primary, primary.version.digest, specification)
        comparison = RunningComparison(sides)
        if order.data is not None:
            again = self._session(order.model, order.primary)
            judged = set_pairs(
                order.data, primary, again, label=order.label, advanced=self._advanced
            )
            pairs: Iterator[Pair] = (pair for each in judged for pair in each.pairs)
        else:
            pairs = repeated_pairs(self._records(order, version=order.primary), primary)
        for part in _parts(pairs):
            comparison.add(part)
        floor = comparison.noise()
        write_floor(self._directory.monitor, primary.version.digest, dict(floor.counts))
        return floor

    # -- sources ---------------------------------------------------------------------------------

    def _of_window(self, order: CompareOrder, comparison: RunningComparison) -> ComparisonReport:
        key = PairKey(order.model, order.primary, comparison.sides.candidate)
        pairing = Pairing(PairingLimits())
        pairing.follow([Subject(order.model, order.primary, (Candidate(key.candidate, None),))])
        records = self._records(order)
        pairs = (pair for record in records for pair in pairing.take(record))
        for part in _parts(pairs):
            comparison.add(part)
        pairing.expire(2**62)
        counts = pairing.counts[key]
        windows = windows_of(pairing.windows[key], {}, Sampling())
        return self._report(comparison, counts, source="window", windows=windows)

    def _of_replay(self, order: CompareOrder, comparison: RunningComparison) -> ComparisonReport:
        path = order.replay
        assert path is not None  # noqa: S101 - the caller looked
        head = replay_head(path)
        if (head.model, head.digest) != (order.model, comparison.sides.candidate_digest):
            raise ParameterInvalid(
                f"{path} is a replay of {head.model} against {head.against} ({head.digest[:12]}), not "
                f"of {order.model} against {order.candidate}"
            )
        known: dict[str, PredictionRecord] = {}
        if comparison.sides.specification.slices:
            window = CompareOrder(
                order.model, order.candidate, order.primary, head.since_ns, head.until_ns
            )
            records = self._records(window, version=order.primary)
            known = {record.prediction_id: record for record in records}
        counts = PairCounts()
        for part in _parts(replay_pairs(path, comparison.sides.definition, known)):
            comparison.add(part)
            counts.pairs += len(part)
            counts.primaries += len(part)
            self._advanced(counts.pairs)
        return self._report(comparison, counts, source="replay", data_digest=file_digest(path))

    def _of_set(self, order: CompareOrder, comparison: RunningComparison) -> ComparisonReport:
        path = order.data
        assert path is not None  # noqa: S101 - the caller looked
        primary = self._session(order.model, order.primary)
        candidate = self._session(order.model, order.candidate, like=order.primary)
        counts = PairCounts()
        judged: Iterable[Judged] = set_pairs(
            path, primary, candidate, label=order.label, advanced=self._advanced
        )
        for each in judged:
            comparison.add(each.pairs)
            waiting = [comparison.waiting(pair) for pair in each.pairs]
            known = [answers for answers in waiting if answers is not None]
            comparison.add_outcomes([(outcome, known[0]) for outcome in each.outcomes if known])
            counts.pairs += len(each.pairs)
            counts.primaries += len(each.pairs)
        return self._report(comparison, counts, source="offline", data_digest=file_digest(path))

    # -- inside ----------------------------------------------------------------------------------

    def _report(
        self, comparison: RunningComparison, counts: PairCounts, *, source: Source, **more: object
    ) -> ComparisonReport:
        now_ns = self._clock.wall_ns()
        return comparison.report(counts, source=source, at_ns=now_ns, **more)  # type: ignore[arg-type]

    def _specification(self, order: CompareOrder) -> ComparisonSpecification:
        found = specification_of(self._targets.facts(order.model).comparison)
        known = {cut.by for cut in found.slices}
        more = tuple(Slice(by=name) for name in order.by if name not in known)
        return msgspec.structs.replace(found, slices=(*found.slices, *more))

    def _session(self, model: str, version: str, *, like: str = "") -> OfflineSession:
        definition, bundle = self._targets.find(model, version, like=like)
        return OfflineSession.load(definition, bundle, settings=self._settings.inference)

    def _records(self, order: CompareOrder, *, version: str = "") -> Iterator[PredictionRecord]:
        log = self._directory.log
        if not log.is_dir():
            raise NotFound(f"{log} does not exist; has the product run with this data directory?")
        query = Query(
            since_ns=order.since_ns, until_ns=order.until_ns, model=order.model, version=version
        )
        place = cold_place(self._settings.blobs, self._settings.data_dir)
        keys = PayloadKeys.at(self._settings.data_dir)
        records = LedgerSearch(log, place, query, keys=keys).records()
        for number, record in enumerate(islice(records, order.limit), start=1):
            self._advanced(number)
            yield record


def _parts(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    while part := list(islice(pairs, FED_AT_ONCE)):
        yield part
