"""The job that keeps tables up to date, and how it is doing."""

from collections.abc import Callable

from serving.ledger.catalog import read_catalog
from serving.ledger.compaction import CompactionReport, Compactor
from serving.ledger.places import Place
from serving.ledger_settings import LedgerSettings


class Compaction:
    """The job. Totals are since the process started, the others as of the last run."""

    name = "compact"

    def __init__(
        self,
        compactor: Compactor,
        place: Place,
        *,
        settings: LedgerSettings,
        stopping: Callable[[], bool],
    ) -> None:
        self.period_s = settings.compact_every_s
        self.records = 0
        self.segments = 0
        self.damaged = 0
        self.waiting = 0
        self.files = 0
        self.cold_bytes = 0
        self._compactor = compactor
        self._place = place
        self._stopping = stopping

    def run(self) -> None:
        """Raises LedgerUnavailable, OSError."""
        done = CompactionReport()

        def tell(report: CompactionReport) -> None:
            self.records += report.records - done.records
            self.segments += report.segments - done.segments
            done.records, done.segments = report.records, report.segments
            self.waiting = report.waiting

        report = self._compactor.run(told=tell, stopping=self._stopping)
        self.waiting, self.damaged = report.waiting, len(report.damaged)
        catalog = read_catalog(self._place)
        self.files = len(catalog.files)
        self.cold_bytes = sum(file.bytes for file in catalog.files)
