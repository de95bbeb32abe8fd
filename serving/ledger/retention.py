"""Deleting what has been kept long enough, and never what is held.

    tables     a file goes once its youngest record is older than its model is kept
               (`predictionlog.privacy.retention`); it leaves the catalog first, and is deleted after a grace,
               so that who reads it can finish
    segments   the oldest of a worker go, one after the other, once all their records are in tables,
               they were shipped where that is wanted, consumers have read them, and they are older
               than `ledger.keep_segments_days`, or than a model in them is kept, if that is less.
               They stop at the first that must stay, and a signed statement (`removals`) says how
               far they went, so that a missing segment is always damage

A legal hold on a model keeps its files, and every segment with a record of it; one on a data subject
keeps every file, and the segments of every file, that name the subject. Each deletion is an event of
the audit trail, on disk before anything goes.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from serving.audit.events import Event, EventName
from serving.audit.spool import Spool
from serving.core.clock import Clock
from serving.ledger.catalog import Catalog, TableFile, change_catalog, read_catalog
from serving.ledger.places import Place
from serving.ledger.segments import (
    SegmentDamaged,
    SegmentExtent,
    closed_segments,
    definitions_in,
)
from serving.ledger_settings import LedgerSettings
from serving.predictionlog.privacy.retention import RetentionRules
from serving.predictionlog.removals import Removal, read_removal, write_removal
from serving.predictionlog.tree import Signer

_DAY_NS: Final = 86_400 * 10**9
_ACTOR: Final = "ledger"

_log = logging.getLogger(__name__)

Rules = Callable[[], RetentionRules | None]
"""The rules in force; None while they cannot be told, and then nothing is deleted."""
Settled = Callable[[], Collection[str] | None]
"""Keys of segments that were shipped; None where nothing is shipped."""
Needed = Callable[[], Mapping[str, int]]
"""By worker, the oldest segment that a consumer has still to read."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where deletions are put on record. signer: of statements about removed segments."""

    spool: Spool
    signer: Signer


class Retention:
    """The job. deleted_files, deleted_segments: since the process started."""

    name = "retain"

    def __init__(
        self,
        log: Path,
        place: Place,
        *,
        settings: LedgerSettings,
        rules: Rules,
        shipped: Settled,
        needed: Needed,
        evidence: Evidence,
        clock: Clock,
    ) -> None:
        self.period_s = settings.retain_every_s
        self.deleted_files = 0
        self.deleted_segments = 0
        self._log = log
        self._place = place
        self._settings = settings
        self._rules = rules
        self._shipped = shipped
        self._needed = needed
        self._evidence = evidence
        self._clock = clock

    def run(self) -> None:
        """Raises LedgerUnavailable, NotReady (no evidence, no deletion), OSError."""
        rules = self._rules()
        if rules is None:
            return
        catalog = read_catalog(self._place)
        self._delete_removed(catalog)
        self._delete_segments(catalog, rules)
        self._unlist(catalog, rules)

    # -- tables ----------------------------------------------------------------------------------

    def _unlist(self, catalog: Catalog, rules: RetentionRules) -> None:
        now_ns = self._clock.wall_ns()
        gone = [
            file
            for file in catalog.files
            if rules.deletable(
                file.model,
                latest_ns=file.latest_ns,
                now_ns=now_ns,
                subjects=self._subjects(file, rules),
            )
        ]
        if not gone:
            return
        for file in gone:
            self._testify(f"table:{file.name}", {"rows": file.rows, "sha256": file.sha256})
        names = [file.name for file in gone]
        change_catalog(self._place, lambda current: current.without(names, now_ns=now_ns))

    def _delete_removed(self, catalog: Catalog) -> None:
        limit_ns = self._clock.wall_ns() - round(self._settings.reader_grace_s * 1e9)
        gone = [each.name for each in catalog.removed if each.removed_ns <= limit_ns]
        for name in gone:
            self._place.delete(name)
            self.deleted_files += 1
        if gone:
            change_catalog(self._place, lambda current: current.forgetting(gone))

    def _subjects(self, file: TableFile, rules: RetentionRules) -> set[str]:
        """Those that a hold could be on; read only when there is one on any subject."""
        if file.dataset != "predictions" or not any(hold.subject for hold in rules.holds):
            return set()
        with self._place.open(file.name) as opened:
            column = pq.read_table(opened, columns=["subject"])["subject"]
        return {each for each in column.unique().to_pylist() if each}

    # -- segments --------------------------------------------------------------------------------

    def _delete_segments(self, catalog: Catalog, rules: RetentionRules) -> None:
        shipped, needed = self._shipped(), self._needed()
        stopped: set[str] = set()
        for segment in closed_segments(self._log):
            if segment.worker in stopped:
                continue
            wanted = needed.get(segment.worker, segment.segment.number + 1)
            free = segment.segment.number < wanted and not segment.segment.last
            free = free and (shipped is None or segment.key in shipped)
            if not (free and self._expired(segment, catalog, rules)):
                stopped.add(segment.worker)
                continue
            self._remove(segment)

    def _remove(self, segment: SegmentExtent) -> None:
        """Evidence, then the statement, then the deletion: a crash between leaves a segment too many."""
        self._testify(f"segment:{segment.key}", {"root": segment.root})
        directory, number = segment.path.parent, segment.segment.number
        before, claim = read_removal(directory, None), segment.segment.claim
        removal = Removal(
            directory=directory.name,
            through=number,
            previous_sha256="" if claim is None else claim.sha256.hex(),
            segments=1 if before is None else before.segments + (number > before.through),
            reason="retention",
            time_ns=self._clock.wall_ns(),
        )
        write_removal(directory, removal, self._evidence.signer)
        segment.path.unlink(missing_ok=True)
        self.deleted_segments += 1

    def _expired(self, segment: SegmentExtent, catalog: Catalog, rules: RetentionRules) -> bool:
        held = catalog.segments.get(segment.key)
        if held is None:
            return False
        try:
            models = {each.model for each in definitions_in(segment).values()}
        except SegmentDamaged:
            return False
        subjects = {
            subject
            for file in catalog.files
            if segment.key in file.sources
            for subject in self._subjects(file, rules)
        }
        if rules.hold_on(models, subjects) is not None:
            return False
        words = [self._settings.keep_segments_days, *map(rules.kept_days, models)]
        days = min((each for each in words if each is not None), default=None)
        if days is None:
            return False
        wait_ns = max(days, rules.min_days) * _DAY_NS
        grace_ns = self._settings.reader_grace_s * 1e9
        now_ns = self._clock.wall_ns()
        return now_ns - held.latest_ns >= wait_ns and now_ns - held.committed_ns >= grace_ns

    def _testify(self, what: str, facts: dict[str, object]) -> None:
        now_ns = self._clock.wall_ns()
        event = Event(EventName.RECORDS_DELETED, _ACTOR, what, before=facts, reason="retention")
        self._evidence.spool.add(event, at_ns=now_ns)
        _log.info("ledger: deleted after its retention: %s", what)
