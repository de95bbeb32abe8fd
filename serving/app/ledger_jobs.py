"""Which jobs the ledger process has, and how they look to Prometheus."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from serving.app.directory import DataDirectory
from serving.audit.spool import Spool
from serving.core.clock import Clock
from serving.core.traffic import Snapshot
from serving.ledger.compaction import Compactor
from serving.ledger.jobs import Job, JobRunner
from serving.ledger.kafka import KafkaSink
from serving.ledger.labels import LabelFigures
from serving.ledger.places import cold_place
from serving.ledger.retention import Evidence, Retention
from serving.ledger.shipping import Shipping
from serving.ledger.tailing import Lag
from serving.ledger.upkeep import Compaction
from serving.predictionlog.privacy.holds import Holds
from serving.predictionlog.privacy.retention import RetentionRules, declared_days
from serving.settings import Settings
from serving.telemetry import ledger_families as names
from serving.telemetry.metrics import Labels, MetricFamilies
from serving.trust.installation import installation_key


class LedgerJobs:
    """The jobs of one instance. Raises SettingInvalid where a sink is set up wrongly."""

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        *,
        clock: Clock,
        stopping: Callable[[], bool],
    ) -> None:
        ledger, log = settings.ledger, directory.log
        self._settings = settings
        self._directory = directory
        place = cold_place(settings.blobs, directory.root)
        compactor = Compactor(log, place, folder=directory.ledger, settings=ledger, clock=clock)
        self.compaction = Compaction(compactor, place, settings=ledger, stopping=stopping)
        self.labels = LabelFigures(
            log, place, folder=directory.ledger, settings=ledger, clock=clock
        )
        self.shipping = Shipping(
            log,
            place,
            folder=directory.ledger,
            settings=ledger,
            clock=clock,
            stopping=stopping,
        )
        self.kafka = self._kafka(clock, stopping)
        self.retention = Retention(
            log,
            place,
            settings=ledger,
            rules=self._rules,
            shipped=self._shipped,
            needed=self._needed,
            evidence=Evidence(Spool(directory.audit), installation_key(directory.keys)),
            clock=clock,
        )
        self.runner = JobRunner(self._jobs(), clock)

    def _jobs(self) -> Sequence[Job]:
        jobs: list[Job] = []
        if self.kafka is not None:
            jobs.append(self.kafka)
        if self._settings.ledger.ship:
            jobs.append(self.shipping)
        if self._settings.ledger.compact:
            jobs.append(self.compaction)
        return [*jobs, self.labels, self.retention]

    def _kafka(self, clock: Clock, stopping: Callable[[], bool]) -> KafkaSink | None:
        if not self._settings.ledger.kafka_servers:
            return None
        return KafkaSink(
            self._directory.log,
            folder=self._directory.ledger,
            settings=self._settings.ledger,
            clock=clock,
            stopping=stopping,
        )

    # -- what retention asks ---------------------------------------------------------------------

    def _rules(self) -> RetentionRules | None:
        """None until control has said which models there are: their owners' word counts, too."""
        try:
            content = self._directory.snapshot_file.read_bytes()
            snapshot = msgspec.json.decode(content, type=Snapshot)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return RetentionRules(
            configured=self._settings.ledger.keep_days,
            declared=declared_days(snapshot.versions),
            min_days=self._settings.privacy.min_retention_days,
            holds=Holds(self._directory.subjects).listed(),
        )

    def _shipped(self) -> set[str] | None:
        return self.shipping.shipped().settled if self._settings.ledger.ship else None

    def _needed(self) -> Mapping[str, int]:
        return self.kafka.needed() if self.kafka is not None else {}

    # -- metrics ---------------------------------------------------------------------------------

    def families(self) -> MetricFamilies:
        families = MetricFamilies()
        runner, compaction = self.runner, self.compaction
        families.read(names.LEDGER_RUNS, lambda: _runs(runner))
        families.read(
            names.LEDGER_SECONDS, lambda: {(e.name,): e.seconds for e in runner.statuses()}
        )
        families.read(
            names.LEDGER_SUCCEEDED,
            lambda: {(e.name,): e.succeeded_ns / 1e9 for e in runner.statuses()},
        )
        families.read_one(names.LEDGER_WAITING, lambda: compaction.waiting)
        families.read_one(names.LEDGER_DAMAGED, lambda: compaction.damaged)
        families.read_one(names.LEDGER_RECORDS, lambda: compaction.records)
        families.read_one(names.LEDGER_FILES, lambda: compaction.files)
        families.read_one(names.LEDGER_BYTES, lambda: compaction.cold_bytes)
        families.read(names.LEDGER_DELETED, self._deleted)
        families.read(names.SINK_LAG_RECORDS, lambda: self._lags(lambda lag: lag.records))
        families.read(names.SINK_LAG_BYTES, lambda: self._lags(lambda lag: lag.bytes))
        families.read(names.SINK_LAG_SECONDS, lambda: self._lags(lambda lag: lag.seconds))
        families.read_one(names.SINK_GIVEN_UP, lambda: self.shipping.given_up)
        self.labels.read_into(families)
        return families

    def _deleted(self) -> dict[Labels, float]:
        return {
            ("file",): self.retention.deleted_files,
            ("segment",): self.retention.deleted_segments,
        }

    def _lags(self, of: Callable[[Lag], float]) -> dict[Labels, float]:
        lags: dict[Labels, float] = {}
        if self._settings.ledger.ship:
            lags["segments",] = of(self.shipping.lag)
        if self.kafka is not None:
            lags["kafka",] = of(self.kafka.lag)
        return lags


def _runs(runner: JobRunner) -> dict[Labels, float]:
    found: dict[Labels, float] = {}
    for each in runner.statuses():
        found[each.name, "ok"] = each.runs - each.failures
        found[each.name, "failed"] = each.failures
    return found
