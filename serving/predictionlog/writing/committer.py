"""What happens to a commit when the disk does not do as it is told.

`begin` and `accept` are the two halves of a commit whose sync somebody else waits for; everything else
blocks for the disk and is for the thread (`commits` says who calls what when).

    write fails with ENOSPC, EDQUOT, EFBIG   what it left is cut off, its requests get
                                             LogStorageFull, and so does everyone until a write
                                             succeeds; a probe writes an empty commit meanwhile
    free space below `min_free_bytes`        nobody new is admitted; who was is still recorded
    write or sync fails otherwise            the kernel may have dropped what it could not write,
                                             so the segment is suspect: closed, never synced again,
                                             and the commit is written once more to a new segment,
                                             whose header says how much of the suspect one counts
    that fails too                           LogUnavailable for its requests and for everyone until
                                             a probe has begun a new segment
    the segment was removed or cut           noticed within half a second; a new one is begun
    the next segment cannot be created       the current one grows until it can

A failed sync is never repeated on the same descriptor, because the kernel reports it once and may
call the lost pages clean afterwards (the PostgreSQL "fsyncgate" of 2018). Rejected: keeping the
records of a failed commit for later; their requests were answered 503 by then.
"""

import errno
import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from serving.core.clock import Clock
from serving.errors import LogStorageFull, LogUnavailable, ServingError
from serving.predictionlog.files import OUT_OF_SPACE, Files
from serving.predictionlog.format import Durability, Previous, SegmentHeader, segment_name
from serving.predictionlog.heads import HeadFile
from serving.predictionlog.tree import Signer
from serving.predictionlog.writing.counts import CommitCounts
from serving.predictionlog.writing.recovery import recover
from serving.predictionlog.writing.segment import OpenSegment
from serving.settings import LogSettings

MAX_COMMIT_BYTES: Final = 4 * 1024 * 1024
"""A commit takes no further append once it holds this much, so that readers' memory is bounded."""
TEND_NS: Final = 500_000_000
"""How often space and the segment's file are looked at, and a failing log is probed."""
_PREPARE_AT: Final = 0.75
_PREPARE_IDLE_AT: Final = 0.5
"""How full a segment is when the file of the next one is made."""
_CANNOT_OPEN: Final = "the prediction log cannot be opened: {}"

_log = logging.getLogger(__name__)


class Committer:
    """Owns the directory and the open segment. Not thread-safe: one caller at a time.

    definitions: number to JSON; another thread may add to it. sequence: the last one given.
    """

    def __init__(
        self, directory: Path, *, settings: LogSettings, clock: Clock, files: Files,
        log_id: bytes, tag: int, definitions: Mapping[int, bytes], signer: Signer,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._files = files
        self._log_id = log_id
        self._tag = tag
        self._definitions = definitions
        self._signer = signer
        self._head = HeadFile(directory, files=files, signer=signer, clock=clock)
        self._durability = Durability[settings.durability.upper()]
        self._lock = -1
        self._number = 0
        self._previous = Previous()
        self._segment: OpenSegment | None = None
        self._spare: OpenSegment | None = None
        self._failure: ServingError | None = None
        self._scarcity: ServingError | None = None
        self._tended_ns = 0
        self._spare_after_ns = 0
        self._began_ns = 0
        self.above = 0
        """The number of the first segment is higher than this."""
        self.sequence = 0
        self.counts = CommitCounts()

    @property
    def refusal(self) -> ServingError | None:
        """Why a commit would fail or nobody new should be admitted; None when all is well."""
        return self._failure or self._scarcity

    def open(self) -> None:
        """Locks the directory, recovers what is there and begins a segment.

        A disk that is merely full is no error: the log opens refusing. Raises DataDirectoryInUse,
        LogUnavailable.
        """
        try:
            self._files.make_directory(self._directory)
            self._lock = self._files.lock(self._directory / "lock")
            now_ns = self._clock.wall_ns()
            found = recover(self._directory, files=self._files, now_ns=now_ns, signer=self._signer)
        except OSError as error:
            self._unlock()
            raise LogUnavailable(_CANNOT_OPEN.format(error.strerror)) from error
        self._number, self._previous = max(found.number, self.above), found.previous
        self.sequence = found.next_sequence - 1
        try:
            self._begin()
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                self._unlock()
                raise LogUnavailable(_CANNOT_OPEN.format(error.strerror)) from error
            self._refuse(error)
        self._look_at_space()
        self._tended_ns = self._clock.monotonic_ns()

    @property
    def well(self) -> bool:
        """Whether there is a segment that takes commits."""
        return self._segment is not None and self._failure is None

    def begin(self, frames: Sequence[bytes]) -> int | None:
        """Hands `frames` to the kernel; the descriptor to sync before `accept`, None if there is
        nothing to wait for. Only while all is `well`.

        Raises DefinitionUnknown, and OSError for `recommit`.
        """
        self._began_ns = self._clock.monotonic_ns()
        descriptor = self._open_segment.write(
            frames, definitions=self._definitions, next_sequence=self.sequence + 1
        )
        return descriptor if self._durability is Durability.FSYNC else None

    def accept(self, frames: Sequence[bytes]) -> None:
        """The sync of what was begun succeeded: `frames` are recorded."""
        segment = self._open_segment
        before = segment.position
        segment.accept()
        self.counts.bytes += segment.position - before
        self._count(frames)

    def absorb(self) -> None:
        """What is left to do for an accepted commit once its callers were released."""
        if self._segment is not None:
            self._segment.absorb()

    def commit(self, frames: Sequence[bytes]) -> ServingError | None:
        """None once `frames` are recorded; else why not, and then none of them is.

        Raises DefinitionUnknown.
        """
        if self._segment is None:
            return self._failure or LogUnavailable("the prediction log is not open")
        self._began_ns = self._clock.monotonic_ns()
        try:
            self._write(self._segment, frames)
        except OSError as error:
            return self.recommit(error, frames)
        self._count(frames)
        return None

    def recommit(self, error: OSError, frames: Sequence[bytes]) -> ServingError | None:
        """The commit of `frames` failed with `error`: cut and refuse, or once more elsewhere."""
        refusal = self._retry(error, frames)
        if refusal is None:
            self._count(frames)
        return refusal

    @property
    def due(self) -> bool:
        """Whether the segment is so full that `tend` has something to do."""
        segment = self._segment
        if segment is None:
            return False
        filled = segment.position / self._settings.segment_bytes
        if self._spare is None:
            return filled >= _PREPARE_AT and self._clock.monotonic_ns() >= self._spare_after_ns
        return filled >= 1

    def tend(self, *, idle: bool) -> None:
        """What can wait until the callers of a commit were released. idle: nothing waits."""
        segment = self._segment
        if segment is not None:
            segment.absorb()
            self._turn_over(segment, idle=idle)
        if idle:
            self._make_room()
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._tended_ns >= TEND_NS:
            self._tended_ns = now_ns
            self._look_at_space()
            self._look_at_segment()
            if self._failure is not None:
                self._probe()
            if self._segment is not None and self._head.due:
                self._head.publish(self._segment, self.sequence + 1)

    def give_up(self) -> None:
        """After an unexpected failure: leaves the segment; a probe begins the next one."""
        self._abandon()
        self._failure = LogUnavailable("the prediction log failed and is being reopened")

    def close(self) -> None:
        """Seals the segment and lets the directory go."""
        self._drop_spare()
        if self._segment is not None:
            self._seal(self._segment)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            self._files.close(self._lock)
            self._lock = -1

    @property
    def _open_segment(self) -> OpenSegment:
        if self._segment is None:
            raise ValueError("there is no open segment. This is a bug")
        return self._segment

    def _count(self, frames: Sequence[bytes]) -> None:
        elapsed_ns = self._clock.monotonic_ns() - self._began_ns
        self.counts.committed(records=len(frames), elapsed_ns=elapsed_ns)

    def _write(self, segment: OpenSegment, frames: Sequence[bytes]) -> None:
        before = segment.position
        segment.commit(frames, definitions=self._definitions, next_sequence=self.sequence + 1)
        self.counts.bytes += segment.position - before
        if self._failure is not None:
            _log.warning("prediction log: recording again")
            self._failure = None

    def _retry(self, error: OSError, frames: Sequence[bytes]) -> ServingError | None:
        """The commit failed once: cut and refuse, or once more in a new segment."""
        self.counts.failed_commits += 1
        if error.errno in OUT_OF_SPACE and self._rewind():
            return self._refuse(error)
        _log.warning("prediction log: a write failed, its segment is suspect: %s", error.strerror)
        self._abandon()
        try:
            self._write(self._begin(), frames)
        except OSError as second:
            self.counts.failed_commits += 1
            self._abandon()
            return self._refuse(second)
        return None

    def _rewind(self) -> bool:
        try:
            if self._segment is not None:
                self._segment.rewind()
        except OSError:
            return False
        return True

    def _abandon(self) -> None:
        """Leaves the segment; one without a commit is removed, or failing probes would pile up."""
        segment, self._segment = self._segment, None
        if segment is None:
            return
        self.counts.suspect_segments += 1
        if segment.commits:
            self._previous = segment.abandon()
        elif not segment.discard():
            self._previous = segment.suspect()

    def _refuse(self, error: OSError) -> ServingError:
        if self._failure is None:
            _log.warning("prediction log: nothing can be recorded: %s", error.strerror)
        if error.errno in OUT_OF_SPACE:
            self._failure = LogStorageFull("the prediction log's disk is full")
        else:
            self._failure = LogUnavailable("the prediction log cannot be written")
        return self._failure

    def _probe(self) -> None:
        """One try at what failed; success ends the refusal."""
        try:
            self._write(self._segment or self._begin(), ())
        except OSError as error:
            if error.errno not in OUT_OF_SPACE or not self._rewind():
                self._abandon()
            self._refuse(error)

    def _create(self) -> OpenSegment:
        self._number += 1
        path = self._directory / segment_name(self._number)
        return OpenSegment.create(self._files, path, durable=self._durability is Durability.FSYNC)

    def _begin(self) -> OpenSegment:
        segment, self._spare = self._spare or self._create(), None
        header = SegmentHeader(
            self._log_id, self._number, self._durability, self.sequence + 1, self._clock.wall_ns(),
            self._previous, secrets.token_bytes(8), self._tag,
        )  # fmt: skip
        try:
            segment.begin(header)
        except OSError:
            segment.discard()
            raise
        self.counts.segments += 1
        self._segment = segment
        return segment

    def _begin_or_refuse(self) -> None:
        """A file that was prepared may fail where a fresh one does not, so there is a second try."""
        try:
            try:
                self._begin()
            except OSError:
                self._begin()
        except OSError as error:
            self._refuse(error)

    def _turn_over(self, segment: OpenSegment, *, idle: bool) -> None:
        """Prepares the next segment at half if idle, at three quarters if not; then moves on."""
        filled = segment.position / self._settings.segment_bytes
        if filled >= (_PREPARE_IDLE_AT if idle else _PREPARE_AT) and self._spare is None:
            self._prepare()
        if filled >= 1 and self._spare is not None and self._seal(segment):
            self._begin_or_refuse()

    def _make_room(self) -> None:
        """A full disk is left for the next commit to meet; any other failure is a failed sync."""
        try:
            if self._segment is not None:
                self._segment.make_room()
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                self._replace(error)
        try:
            if self._spare is not None:
                self._spare.make_room()
        except OSError:
            self._drop_spare()

    def _replace(self, error: OSError) -> None:
        """Goes on in a new segment; nothing was waiting."""
        _log.warning("prediction log: the open segment is suspect: %s", error.strerror)
        self._abandon()
        self._begin_or_refuse()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.discard()
            self._spare = None

    def _prepare(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._spare_after_ns:
            return
        try:
            spare = self._create()
        except OSError as error:
            self._spare_after_ns = now_ns + TEND_NS
            _log.warning("prediction log: the next segment has to wait: %s", error.strerror)
            return
        self._spare = spare

    def _seal(self, segment: OpenSegment) -> bool:
        """Whether the segment is closed now; a full disk leaves it open."""
        try:
            self._previous = segment.seal(
                next_sequence=self.sequence + 1,
                sealed_ns=self._clock.wall_ns(),
                signer=self._signer,
            )
        except OSError as error:
            _log.warning("prediction log: a segment stays unsealed: %s", error.strerror)
            if error.errno in OUT_OF_SPACE and self._rewind():
                return False
            self._abandon()
            return True
        self._segment = None
        self._head.publish(segment, self.sequence + 1, sealed=self._previous.sha256)
        return True

    def _look_at_space(self) -> None:
        try:
            scarce = self._files.free_bytes(self._directory) < self._settings.min_free_bytes
        except OSError:
            return  # the next commit will tell
        if scarce and self._scarcity is None:
            _log.warning("prediction log: less than log.min_free_bytes left; refusing")
            self._scarcity = LogStorageFull("the prediction log's disk is nearly full")
        elif not scarce:
            self._scarcity = None

    def _look_at_segment(self) -> None:
        try:
            if self._segment is not None and not self._segment.intact():
                raise FileNotFoundError(errno.ENOENT, "it was removed or cut from outside")
        except OSError as error:
            self._replace(error)
