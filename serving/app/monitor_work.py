"""What the monitor process does, turn by turn: read the log, pair, compare, save, tell control.

    turn    reads up to `READ_RECORDS` records, pairs them, feeds the comparisons that they belong to
    save    once a second: positions, what waits for its other half, shares, comparisons, answers that
            wait for outcomes, in one transaction of `ledger.pairstore`
    tell    then: the reports to control, which answers with what to compare from now on

Killed at any instant it goes on from the last save. Records that waited for their other half are read
again, because only their ids are saved; those of a segment that is gone by then are lost, and told.
While nothing is compared the log is not read: reading begins some seconds before its end, so that what
was recorded while the news of a first candidate travelled is not left out.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from serving.app.comparing import RunningComparison, Sides
from serving.app.judging import Judging
from serving.app.monitor_state import PLACE, Kept, Place, place_in, wanted_of, windows_of
from serving.comparison_settings import ComparisonSettings
from serving.core.clock import Clock
from serving.core.outcomes import Outcome
from serving.core.predictions import PredictionRecord
from serving.gateway.splitting import point_of_sequence
from serving.governance.comparisons import (
    ComparisonOrder,
    ComparisonReport,
)
from serving.ledger.decoding import Selection
from serving.ledger.floors import Floors
from serving.ledger.pairs import (
    Candidate,
    Pair,
    PairCounts,
    Pairing,
    PairingLimits,
    PairKey,
    Subject,
)
from serving.ledger.pairstore import Changes, PairStore
from serving.ledger.sampling import Sampling
from serving.ledger.selecting import OnlyThese, PairSelection
from serving.ledger.tailing import Follower, Lag
from serving.ledger.tails import Position
from serving.predictionlog.privacy.subjects import PayloadKeys

READ_RECORDS: Final = 2000
KEPT_NS: Final = 7 * 86_400 * 10**9
"""How long a comparison is remembered that nobody asks for."""
ADAPT_NS: Final = 250_000_000
NO_FLOORS: Final[Floors] = {}
IDLE_NS: Final = 10 * 10**9
"""How far before its end, at least, reading begins that was idle before; and at most twice that."""

_log = logging.getLogger(__name__)


class _Running:
    """A comparison with what was counted for it. places: of its logs, as they were read last."""

    def __init__(self, comparison: RunningComparison, share: float | None) -> None:
        self.comparison = comparison
        self.share = share
        self.places: dict[str, tuple[str, int]] = {}


class MonitorWork:
    """Not for several threads, but for what `statistics` reads."""

    def __init__(
        self,
        log: Path,
        store: PairStore,
        *,
        settings: ComparisonSettings,
        clock: Clock,
        keys: PayloadKeys | None = None,
    ) -> None:
        """Goes on where the store says. Raises LogDamaged, OSError."""
        self.lag = Lag(0, 0, 0.0)
        self.reports: tuple[ComparisonReport, ...] = ()
        self.unjudged = 0
        """Answers that had to go before an outcome came."""
        self.pairs = 0
        self._log_root = log
        self._store = store
        self._settings = settings
        self._clock = clock
        self._keys = keys
        self._selection = PairSelection()
        self._place = place_in(store)
        self._pairing = Pairing(
            PairingLimits(settings.wait_s, settings.max_held_records, settings.max_held_bytes),
            point_of=point_of_sequence,
        )
        self._follower = self._follow_from(self._place.positions)
        self._marks: dict[int, dict[str, Position]] = {}
        self._running: dict[PairKey, _Running] = {}
        self._orders: tuple[ComparisonOrder, ...] = ()
        self._floors: Floors = NO_FLOORS
        self._is_restored = False
        self._judging = Judging(store, early=self._place.early)
        self._adapted_ns = self._idled_ns = clock.monotonic_ns()
        self._ends: dict[str, Position] | None = None
        self._is_unsaved = self._is_news = True

    # -- what to compare -------------------------------------------------------------------------

    def follow(self, orders: Sequence[ComparisonOrder], floors: Floors = NO_FLOORS) -> None:
        """From now on these. What goes on keeps what it has; what is new begins, or goes on from
        what was remembered of it. floors: of primaries, by digest."""
        if (tuple(orders), floors) == (self._orders, self._floors) and self._is_restored:
            return
        if self._is_restored:
            self.save()
        self._orders, self._floors = tuple(orders), floors
        wanted = wanted_of(orders, floors)
        subjects: dict[str, Subject] = {}
        for key, (_, version) in wanted.items():
            known = subjects.get(key.model)
            others = () if known is None else known.candidates
            candidate = Candidate(key.candidate, version.share, version.epoch)
            candidates = (*others, candidate)
            subjects[key.model] = Subject(key.model, key.primary, candidates)
        self._pairing.follow(subjects.values())
        self._selection.follow(subjects)
        before, self._running = self._running, {}
        for key, (sides, version) in wanted.items():
            self._begin(key, sides, share=version.share, before=before.get(key))
        if not self._is_restored:
            self._restore(subjects)
            self._is_restored = True
        self._is_unsaved = self._is_news = True

    def _begin(
        self, key: PairKey, sides: Sides, *, share: float | None, before: _Running | None
    ) -> None:
        if before is not None and before.comparison.sides.identity == sides.identity:
            before.share = share
            self._running[key] = before
            return
        running = self._running[key] = _Running(RunningComparison(sides), share)
        content = self._store.state(sides.identity)
        if content is None:
            self._pairing.counts[key], self._pairing.windows[key] = PairCounts(), {}
            return
        kept = msgspec.json.decode(content, type=Kept)
        running.comparison.restore(kept.state)
        running.places = dict(kept.places)
        self._pairing.counts[key], self._pairing.windows[key] = kept.counts, kept.windows

    def _restore(self, subjects: Mapping[str, Subject]) -> None:
        """Shares as they were, and the records that waited."""
        place = self._place
        for model in subjects:
            if model in place.steps:
                self._selection.samplings[model] = Sampling(
                    place.steps[model], halvings=place.halvings.get(model, 0)
                )
        waiting = {*place.waiting.primaries, *place.waiting.copies}
        self._marks[self._pairing.mark] = place.rewind
        follower = self._follow_from(place.rewind, OnlyThese(set(waiting)))
        while waiting and (events := follower.read(READ_RECORDS)):
            for event in events:
                if isinstance(event, PredictionRecord) and event.prediction_id in waiting:
                    waiting.discard(event.prediction_id)
                    still_open = place.waiting.primaries.get(event.prediction_id, ())
                    self._pairing.hold(event, still_open=still_open)
        if waiting:
            _log.warning("%d records that waited for a pair are gone", len(waiting))
        self._pairing.follow(subjects.values())  # What waited may be wanted no more.

    # -- a turn ----------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Reads once; whether there is more. Raises OSError, LogDamaged."""
        if not self._running:
            self._idle()
            return False
        self._ends = None
        pairing = self._pairing
        pairing.mark += 1
        self._marks[pairing.mark] = self._follower.positions()
        began_ns = self._clock.wall_ns()
        events = self._follower.read(READ_RECORDS)
        pairs: list[Pair] = []
        outcomes: list[Outcome] = []
        for event in events:
            if isinstance(event, PredictionRecord):
                pairs += pairing.take(event)
            elif isinstance(event, Outcome) and event.model in self._selection.samplings:
                outcomes.append(event)
        is_news = bool(events) or self._pairing.oldest_mark is not None
        self._is_unsaved, self._is_news = self._is_unsaved or is_news, self._is_news or is_news
        is_more = len(events) >= READ_RECORDS
        pairing.expire(None if is_more else began_ns)
        self._forget_marks()
        self._compare(pairs)
        comparisons = [each.comparison for each in self._running.values()]
        self._judging.add_outcomes(outcomes, {each.sides.identity: each for each in comparisons})
        self._adapt()
        return is_more

    def _compare(self, pairs: Sequence[Pair]) -> None:
        self.pairs += len(pairs)
        groups: dict[PairKey, list[Pair]] = {}
        for pair in pairs:
            key = PairKey(pair.primary.model, pair.primary.version, pair.candidate.version)
            groups.setdefault(key, []).append(pair)
        places = self._follower.places() if pairs else {}
        for key, members in groups.items():
            running = self._running[key]
            running.comparison.add(members)
            for log_id in self._pairing.windows[key].keys() & places.keys():
                running.places[log_id] = places[log_id]
            self._judging.add_pairs(running.comparison, members)
        for key, running in self._running.items():
            running.comparison.count(self._pairing.counts[key], share=running.share)

    def _adapt(self) -> None:
        now_ns = self._clock.monotonic_ns()
        elapsed_ns = now_ns - self._adapted_ns
        if elapsed_ns >= ADAPT_NS:
            self._selection.adapt(elapsed_ns / 1e9, most_per_s=self._settings.max_pairs_per_s)
            self._adapted_ns = now_ns

    def _idle(self) -> None:
        """Goes to where the end of the log was a while ago."""
        now_ns = self._clock.monotonic_ns()
        if self._ends is not None and now_ns - self._idled_ns < IDLE_NS:
            return
        if self._ends is not None:
            self._follower = self._follow_from(self._ends)
            self._is_unsaved = True
        end = self._follow_from({})
        end.skip()
        self._ends, self._idled_ns = end.positions(), now_ns

    def _follow_from(
        self, positions: Mapping[str, Position], selection: Selection | None = None
    ) -> Follower:
        return Follower(
            self._log_root,
            positions,
            clock=self._clock,
            keys=self._keys,
            selection=selection or self._selection,
        )

    def _forget_marks(self) -> None:
        oldest = self._pairing.oldest_mark
        for mark in [mark for mark in self._marks if oldest is None or mark < oldest]:
            del self._marks[mark]

    # -- what is kept and told -------------------------------------------------------------------

    def save(self) -> None:
        """Everything up to here is done, and stays so. Raises OSError."""
        if not (self._is_restored and self._is_unsaved):
            return
        now_ns = self._clock.wall_ns()
        changes = Changes(states={PLACE: msgspec.json.encode(self._placed())})
        for key, running in self._running.items():
            kept = Kept(
                running.comparison.state(),
                self._pairing.counts[key],
                self._pairing.windows[key],
                running.places,
            )
            changes.states[running.comparison.sides.identity] = msgspec.json.encode(kept)
        self._judging.into(changes)
        self.unjudged += self._store.commit(
            changes, now_ns=now_ns, max_waiting=self._settings.max_waiting_pairs
        )
        self._judging.saved()
        self._is_unsaved = False

    def forget(self) -> None:
        """Comparisons that nobody asked for in a long time. Raises OSError."""
        kept = [each.comparison.sides.identity for each in self._running.values()]
        self._store.forget(self._clock.wall_ns() - KEPT_NS, kept=[PLACE, *kept])

    def _placed(self) -> Place:
        positions = self._follower.positions()
        oldest = self._pairing.oldest_mark
        samplings = self._selection.samplings
        return Place(
            positions=positions,
            rewind=positions if oldest is None else self._marks[oldest],
            waiting=self._pairing.waiting(),
            steps={model: each.steps for model, each in samplings.items()},
            halvings={model: each.halvings for model, each in samplings.items()},
            early=self._judging.early,
        )

    def look(self) -> tuple[ComparisonReport, ...]:
        """The reports as they are now; also kept in `reports`."""
        now_ns = self._clock.wall_ns()
        self.lag = self._follower.lag() if self._running else Lag(0, 0, 0.0)
        if self._is_news:
            self.reports = tuple(
                self._report(key, running, now_ns) for key, running in self._running.items()
            )
        else:
            self.reports = tuple(
                msgspec.structs.replace(each, at_ns=now_ns, lag_s=self.lag.seconds)
                for each in self.reports
            )
        self._is_news = False
        return self.reports

    def _report(self, key: PairKey, running: _Running, now_ns: int) -> ComparisonReport:
        counts = self._pairing.counts[key]
        sampling = self._selection.samplings[key.model]
        return running.comparison.report(
            counts,
            source="live",
            at_ns=now_ns,
            windows=windows_of(self._pairing.windows[key], running.places, sampling),
            gap=counts.gap(running.share),
            share=sampling.share,
            lag_s=self.lag.seconds,
        )

    @property
    def is_ordered(self) -> bool:
        """Whether it was said what to compare."""
        return self._is_restored

    @property
    def skipped(self) -> dict[str, int]:
        """Copies that were passed by because there were too many, by model."""
        return dict(self._selection.skipped)

    @property
    def waiting(self) -> int:
        return self._store.waiting
