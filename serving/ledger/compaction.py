"""Closed segments of the prediction log become Parquet files, by model and day.

One run takes the segments that wait, oldest first, in batches. A batch is decoded chunk by chunk into
tables in a folder of this machine, these are moved to where cold data lies, and the catalog then
takes all of them, and the segments that they hold, at once. Before that nothing of it counts;
afterwards queries pass over the segments.

A crash. Which segments a batch has is written down first (`intent`), and file names follow from the
batch, so the run after a crash does the same batch once more, over the same names: what was killed
anywhere leaves neither a file that nobody names nor a record that is found twice. A batch that was
committed already changes nothing.

A segment with damage is left alone and counted: what can still be read of it is read where it lies,
where `serving log verify` can say what happened to it. Payloads that are encrypted stay so; no key is
needed here.

When no segment waits, small files of one version and day are joined (`consolidation`).

Memory: a few times `ledger.chunk_bytes`, whatever the size of a segment. Nothing here is on the way
of an answer; it runs in the ledger process, or for `serving log compact`.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from serving.core.clock import Clock
from serving.ledger.batches import Batch, Interrupted
from serving.ledger.catalog import (
    Catalog,
    HeldSegment,
    TableFile,
    change_catalog,
    read_catalog,
)
from serving.ledger.consolidation import Consolidation
from serving.ledger.places import Place
from serving.ledger.segments import SegmentDamaged, SegmentExtent, closed_segments, is_sound
from serving.ledger_settings import LedgerSettings
from serving.trust.privatefiles import held, replace_private

_BATCH_DIGITS: Final = 16

_log = logging.getLogger(__name__)


class _Intent(msgspec.Struct, frozen=True):
    """The batch at hand: keys of its segments."""

    segments: tuple[str, ...]


@dataclass(slots=True)
class CompactionReport:
    """What one run did. joined: how many files there are fewer because small ones became one.
    damaged: keys of segments that were left alone."""

    segments: int = 0
    records: int = 0
    files: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    waiting: int = 0
    joined: int = 0
    damaged: list[str] = field(default_factory=list)


Told = Callable[[CompactionReport], None]


class Compactor:
    """Compacts one log root. `folder` holds its lock, its intent and files on their way."""

    def __init__(
        self, log: Path, place: Place, *, folder: Path, settings: LedgerSettings, clock: Clock
    ) -> None:
        self._log = log
        self._place = place
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._consolidation = Consolidation(place, folder=folder, settings=settings, clock=clock)
        self._damaged: set[str] = set()

    def waiting(self, catalog: Catalog, *, until_ns: int | None = None) -> list[SegmentExtent]:
        """Closed segments that no catalog holds; until_ns: only those begun before."""
        return [
            each
            for each in closed_segments(self._log, skip=catalog.segments)
            if each.key not in self._damaged
            and (until_ns is None or each.header.begun_ns < until_ns)
        ]

    def run(
        self, *, until_ns: int | None = None, told: Told | None = None, stopping: Callable[[], bool]
    ) -> CompactionReport:
        """Compacts what waits, batch by batch, until nothing does or `stopping`.

        told: after each batch. Raises LedgerUnavailable, OSError; what was committed stays so.
        """
        report = CompactionReport()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with held(self._folder / "lock"):
            while not stopping():
                catalog = read_catalog(self._place)
                waiting = self.waiting(catalog, until_ns=until_ns)
                report.waiting = len(waiting)
                if not waiting:
                    self._intent.unlink(missing_ok=True)
                    break
                self._batch(self._choose(waiting), report, stopping)
                if told is not None:
                    told(report)
            report.joined = self._consolidation.run(stopping)
        report.damaged = sorted(self._damaged)
        return report

    @property
    def _intent(self) -> Path:
        return self._folder / "intent.json"

    def _choose(self, waiting: list[SegmentExtent]) -> list[SegmentExtent]:
        """The batch that was begun before a crash, else the oldest segments up to the limit."""
        intended = self._intended()
        chosen = [each for each in waiting if each.key in intended]
        if chosen and len(chosen) == len(intended):
            return chosen
        chosen, size = [], 0
        for each in sorted(waiting, key=lambda each: each.header.begun_ns):
            if chosen and size + each.bytes > self._settings.commit_bytes:
                break
            chosen.append(each)
            size += each.bytes
        intent = _Intent(tuple(each.key for each in chosen))
        replace_private(self._intent, msgspec.json.encode(intent))
        return chosen

    def _intended(self) -> set[str]:
        try:
            return set(msgspec.json.decode(self._intent.read_bytes(), type=_Intent).segments)
        except (FileNotFoundError, msgspec.MsgspecError):
            return set()

    def _batch(
        self,
        segments: list[SegmentExtent],
        report: CompactionReport,
        stopping: Callable[[], bool],
    ) -> None:
        staging = self._folder / "staging"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        try:
            batch = Batch(segments, staging, name=batch_name(segments), settings=self._settings)
            tables = batch.write(stopping)
        except SegmentDamaged as error:
            self._leave(segments, error)
            return
        except Interrupted:
            return
        now_ns = self._clock.wall_ns()
        files = [msgspec.structs.replace(table, committed_ns=now_ns) for table in tables]
        for file in files:
            self._place.upload(file.name, staging / file.name)
        held_now = batch.held(now_ns)
        change_catalog(self._place, lambda catalog: catalog.with_commit(files, held_now))
        self._intent.unlink(missing_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        _count(report, segments, files, held_now)

    def _leave(self, segments: list[SegmentExtent], error: SegmentDamaged) -> None:
        """Sorts out which one is damaged: a batch of several is tried again one by one."""
        self._intent.unlink(missing_ok=True)
        damaged = [each.key for each in segments if not is_sound(each)]
        _log.warning("ledger: left alone, run `serving log verify`: %s", error)
        self._damaged.update(damaged or [segments[0].key])


def batch_name(segments: Iterable[SegmentExtent]) -> str:
    """The same for the same segments."""
    keys = "\n".join(sorted(each.key for each in segments))
    return hashlib.sha256(keys.encode()).hexdigest()[:_BATCH_DIGITS]


def _count(
    report: CompactionReport,
    segments: list[SegmentExtent],
    files: list[TableFile],
    now_held: dict[str, HeldSegment],
) -> None:
    report.segments += len(segments)
    report.waiting -= len(segments)
    report.records += sum(each.records for each in now_held.values())
    report.files += len(files)
    report.bytes_read += sum(each.bytes for each in segments)
    report.bytes_written += sum(each.bytes for each in files)
