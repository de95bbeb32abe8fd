"""The prediction log of one gateway worker: answered means recorded.

The event loop appends encoded records and goes on; `commits` writes everything that waits as one
commit, has the kernel sync it, and releases all its waiters. There is no timer: a lone record is
written at once, and while a commit runs the next one gathers. So the cost of a sync is shared by as
many requests as arrive during one.

Guarantees. `done` is called once for each append, in order, on the loop. `done(None)` comes after
what the durability promises: fsync, the bytes are on disk; process, the kernel has them; async and
off, nothing, at once. A record whose `done` got an error may still be found in the log (logged but
unanswered); one whose `done` got None is always found.

A commit that takes longer than `commit_timeout_s` fails its waiters and everything behind it while
the loop stays free; one sweep looks at the oldest waiter a few times in that span. What is done
about failing disks is in `committer`.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.core.clock import Clock
from serving.errors import LogUnavailable, ServingError
from serving.predictionlog.files import Files
from serving.predictionlog.format import Definition
from serving.predictionlog.records import definition_text
from serving.predictionlog.tree import Signer
from serving.predictionlog.writing.commits import Commits, Done, Waiter
from serving.predictionlog.writing.committer import Committer
from serving.predictionlog.writing.counts import LogStatistics
from serving.predictionlog.writing.reserve import ReservedFiles
from serving.predictionlog.writing.syncing import AioSync, BackgroundSync
from serving.settings import LogSettings

MAX_DEFINITIONS: Final = 4096
_SWEEPS_PER_TIMEOUT: Final = 8
_MAX_SWEEP_S: Final = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What makes records one log's: the first half of their ids, and their definitions by number.

    above: segments are numbered from the next one on, so that a log id and a number name one segment.
    """

    log_id: bytes
    tag: int
    definitions: dict[int, bytes]
    above: int = 0

    @classmethod
    def new(cls) -> "LogIdentity":
        return cls(secrets.token_bytes(8), secrets.randbits(32), {})


class PredictionLogWriter:
    """Writes one directory. All methods and attributes are for the event loop that started it.

    log_id: 16 hexadecimal digits, new with each start; a prediction's id is
    `f"{log_id}-{sequence:x}"`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: LogSettings,
        clock: Clock,
        signer: Signer,
        files: Files | None = None,
        make_sync: Callable[[asyncio.AbstractEventLoop], BackgroundSync | None] = AioSync.open,
        identity: LogIdentity | None = None,
    ) -> None:
        """signer: signs seals and heads. make_sync: returns None where commits have to be
        synced by the thread. identity: of another writer, whose frames are written here instead."""
        self.identity = identity = identity or LogIdentity.new()
        self.log_id = identity.log_id.hex()
        self._settings = settings
        self._clock = clock
        self._tag = identity.tag
        self._numbers: dict[Definition, int] = {}
        self._made = 0
        self._texts = identity.definitions
        self._make_sync = make_sync
        self._committer = Committer(
            directory,
            settings=settings,
            clock=clock,
            files=files or ReservedFiles(),
            log_id=identity.log_id,
            tag=self._tag,
            definitions=self._texts,
            signer=signer,
        )
        self._committer.above = identity.above
        self._sequence = 0
        self._waiting: deque[Waiter] = deque()
        self._pending_bytes = self._failed_records = self._recorded = 0
        self._recorded_events = 0
        self._stalled = False
        self._accepts = False
        self._records = settings.durability != "off"
        self._waits = settings.durability in ("fsync", "process")
        self._commits: Commits | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Recovers the directory, begins a segment and starts the thread.

        With a full disk it starts all the same and refuses. Raises DataDirectoryInUse,
        LogUnavailable, LogDamaged (a later program wrote here).
        """
        self._loop = asyncio.get_running_loop()
        if self._records:
            commits = Commits(self._committer, self._make_sync(self._loop), self._settle)
            self._sequence = await commits.start()
            self._commits = commits
            self._schedule_sweep()
        self._accepts = True

    def define(self, definition: Definition) -> int:
        """The number by which records refer to `definition`; equal definitions share one.

        A number may be kept until `MAX_DEFINITIONS` further ones were made.
        """
        number = self._numbers.get(definition)
        if number is None:
            if len(self._numbers) >= MAX_DEFINITIONS:
                self._forget()
            self._made += 1
            number = self._tag << 32 | self._made
            self._texts[number] = definition_text(definition)
            self._numbers[definition] = number
        return number

    def next_sequence(self) -> int:
        """The sequence of the next admitted request; goes on where the last writer stopped."""
        self._sequence = sequence = self._sequence + 1
        return sequence

    @property
    def sequence(self) -> int:
        """The last one given."""
        return self._sequence

    def append(self, records: Sequence[bytes], done: Done) -> None:
        """Records frames together: predictions (`encode_predictions`), or events, never both.

        `done` must not raise.

        With durability async or off `done` is called before this returns.
        """
        size_bytes = sum(map(len, records))
        waiter = Waiter(
            records,
            sequence=self._sequence,
            size_bytes=size_bytes,
            since_ns=self._clock.monotonic_ns(),
        )
        if self._commits is None or not self._accepts:
            refusal = None if self._accepts else LogUnavailable("the prediction log is not open")
            done(refusal)
            return
        if size_bytes > self._settings.max_record_bytes and self._oversized(records):
            waiter.records, waiter.size_bytes = (), 0
            waiter.error = LogUnavailable("a record is larger than log.max_record_bytes")
        if self._waits:
            waiter.done = done
        else:
            done(waiter.error)
        self._pending_bytes += waiter.size_bytes
        self._waiting.append(waiter)
        self._commits.put(waiter)

    @property
    def refusal(self) -> ServingError | None:
        """Why nothing can be admitted now, as a new error; None when all is well."""
        error = self._committer.refusal
        if error is not None:
            return type(error)(error.message)
        if self._stalled:
            return LogUnavailable("the prediction log's disk does not answer")
        if self._pending_bytes > self._settings.max_pending_bytes:
            return LogUnavailable("too much waits for the prediction log's disk")
        return None

    async def aclose(self) -> None:
        """Commits what is pending, seals the segment, ends the thread. Harmless when repeated.

        Gives a disk that does not answer `commit_timeout_s`, then leaves the thread to it; the next
        start recovers.
        """
        commits, was_open = self._commits, self._accepts
        self._accepts = False
        if commits is None or not was_open:
            return
        try:
            async with asyncio.timeout(self._settings.commit_timeout_s):
                await commits.stop()
        except TimeoutError:
            _log.warning("prediction log: not closed, its disk does not answer")
        finally:
            if self._sweep is not None:
                self._sweep.cancel()
            self._fail(len(self._waiting), LogUnavailable("the prediction log was closed"))

    def statistics(self) -> LogStatistics:
        counts = self._committer.counts
        refusal = self.refusal
        return LogStatistics(
            commits=counts.commits,
            records=self._recorded,
            events=self._recorded_events,
            bytes=counts.bytes,
            commit_seconds=counts.elapsed_ns / 1e9,
            commit_times=tuple(counts.times),
            commit_records=tuple(counts.sizes),
            failed_commits=counts.failed_commits,
            failed_records=self._failed_records,
            segments=counts.segments,
            suspect_segments=counts.suspect_segments,
            pending_records=sum(len(waiter.records) for waiter in self._waiting),
            pending_bytes=self._pending_bytes,
            refusal="" if refusal is None else refusal.code,
        )

    def _forget(self) -> None:
        """Bounds the definitions: the younger generation stays known to the thread."""
        kept = set(self._numbers.values())
        for number in [number for number in self._texts if number not in kept]:
            del self._texts[number]
        self._numbers.clear()

    def _oversized(self, records: Sequence[bytes]) -> bool:
        return max(map(len, records)) > self._settings.max_record_bytes

    def _schedule_sweep(self) -> None:
        timeout_s = self._settings.commit_timeout_s
        delay_s = min(timeout_s / _SWEEPS_PER_TIMEOUT, _MAX_SWEEP_S)
        self._sweep = self._loop.call_later(delay_s, self._sweep_waiters)

    def _sweep_waiters(self) -> None:
        self._schedule_sweep()
        limit_ns = self._clock.monotonic_ns() - round(self._settings.commit_timeout_s * 1e9)
        late = 0
        for waiter in self._waiting:
            if waiter.since_ns > limit_ns:
                break
            late += 1
        if late:
            self._stalled = True
            self._fail(late, LogUnavailable("the prediction log's disk does not answer"))

    def _fail(self, count: int, error: ServingError) -> None:
        """Answers the oldest waiters; their places stay until the thread is done with them."""
        for waiter in list(self._waiting)[:count]:
            self._answer(waiter, error)

    def _settle(self, waiters: Sequence[Waiter], error: ServingError | None) -> None:
        """The thread is done with the oldest waiters."""
        self._stalled = False
        for waiter in waiters:
            self._waiting.popleft()
            if error is None and waiter.error is None:
                if waiter.events:
                    self._recorded_events += len(waiter.records)
                else:
                    self._recorded += len(waiter.records)
            self._pending_bytes -= waiter.size_bytes
            self._answer(waiter, waiter.error or error)

    def _answer(self, waiter: Waiter, error: ServingError | None) -> None:
        done, waiter.done = waiter.done, None
        if done is None:
            return
        if error is not None:
            self._failed_records += len(waiter.records)
        try:
            done(error)
        except Exception:  # noqa: BLE001 -- one waiter's failure must not cost the others' answers
            _log.exception("prediction log: a caller failed on its own answer")
