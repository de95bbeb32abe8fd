"""Predictions and their truths of a whole ledger, hot and cold, opened for one look.

`LabelFigures` is the job that looks again and again, for the metrics; `opened` is the look itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

from serving.core.clock import Clock
from serving.ledger.hot import all_tables, scratch_in
from serving.ledger.joining import LAST_NS, Join, JoinFigures
from serving.ledger.places import Place
from serving.ledger.sql import LedgerDatabase
from serving.ledger_settings import LedgerSettings
from serving.telemetry import families as names
from serving.telemetry.metrics import Histogram, Labels, MetricFamilies

_DAY_NS: Final = 86_400 * 10**9


@contextmanager
def opened(
    log: Path,
    place: Place,
    *,
    folder: Path,
    settings: LedgerSettings,
    since_ns: int = 0,
    until_ns: int = LAST_NS,
) -> Iterator[Join]:
    """The join of all predictions that arrived in between with everything reported about them.

    folder: of the ledger; recent records lie there as tables meanwhile. Raises LedgerUnavailable,
    OSError.
    """
    with scratch_in(folder) as scratch:
        tables = all_tables(log, place, scratch=scratch, settings=settings)
        with LedgerDatabase(tables, scratch=scratch, settings=settings) as database:
            yield Join(database.connection, since_ns=since_ns, until_ns=until_ns)


class LabelFigures:
    """A job of the ledger process: how complete the labels of each model are, and how late.

    figures: of the last run, over predictions of the last `ledger.label_days`.
    """

    name: Final = "labels"

    def __init__(
        self, log: Path, place: Place, *, folder: Path, settings: LedgerSettings, clock: Clock
    ) -> None:
        self.period_s = settings.label_every_s
        self.figures: Sequence[JoinFigures] = ()
        self._log = log
        self._place = place
        self._folder = folder
        self._settings = settings
        self._clock = clock

    def run(self) -> None:
        """Raises LedgerUnavailable, OSError; then the figures stay as they were."""
        since_ns = self._clock.wall_ns() - round(self._settings.label_days * _DAY_NS)
        with opened(
            self._log,
            self._place,
            folder=self._folder,
            settings=self._settings,
            since_ns=since_ns,
        ) as join:
            self.figures = join.figures()

    def read_into(self, families: MetricFamilies) -> None:
        """Shows the figures in `families`, which were made with `LABEL_FAMILIES`."""
        families.read(names.OUTCOME_JOIN, self._completeness)
        families.read(names.OUTCOME_REPORTS, self._reports)
        families.read_histograms(names.OUTCOME_DELAY, self._delays)

    def _completeness(self) -> dict[Labels, float]:
        return {
            (each.model,): each.completeness
            for each in self.figures
            if each.completeness is not None
        }

    def _reports(self) -> dict[Labels, float]:
        found: dict[Labels, float] = {}
        for each in self.figures:
            counted = {
                "counted": each.truths, "duplicate": each.duplicates,
                "correction": each.corrections, "withdrawn": each.withdrawn, **each.rejected,
            }  # fmt: skip
            found |= {(each.model, result): count for result, count in counted.items()}
        return found

    def _delays(self) -> dict[Labels, Histogram]:
        return {(each.model,): _histogram(each) for each in self.figures if each.delay_counts}


def _histogram(figures: JoinFigures) -> Histogram:
    histogram = Histogram(names.LABEL_SECONDS)
    counts = (0, *figures.delay_counts)
    histogram.counts = [after - before for before, after in pairwise(counts)]
    histogram.total = figures.delay_total_s
    return histogram
