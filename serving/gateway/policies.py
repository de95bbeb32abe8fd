"""How the frames of a version get into the log, where that is not simply: no record, no answer.

    fail_closed    as for everybody, except that what was sealed with a new key waits for the key
    at_least_once  what the log refuses goes to the spill; refused only where both refuse
    best_effort    done at once; what the log does not take is counted, and declared in the log as soon
                   as it takes frames again, by the next process if need be

A version is `plain` as long as none of this concerns it; then nothing here is ever called.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from serving.core.clock import Clock
from serving.errors import LogUnavailable, ServingError
from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call
from serving.predictionlog.losses import Loss, encode_loss
from serving.predictionlog.writing.accounts import Accounts
from serving.predictionlog.writing.subjectkeys import WorkerKeys

Done = Callable[[ServingError | None], None]


class RecordLog(Protocol):
    """What takes frames: the log, or its spill."""

    @property
    def refusal(self) -> ServingError | None: ...
    def append(self, records: Sequence[bytes], done: Done) -> None: ...


class EventLog(RecordLog, Protocol):
    """The log itself; `gateway.recording.EventLog`."""

    def next_sequence(self) -> int: ...


class Policies:
    """Of one gateway worker. spill: None where there is none."""

    def __init__(
        self,
        log: EventLog,
        accounts: Accounts,
        *,
        keys: WorkerKeys | None = None,
        spill: RecordLog | None = None,
        clock: Clock,
    ) -> None:
        self.keys = keys
        self._log = log
        self._accounts = accounts
        self._spill = spill
        self._clock = clock
        self._declaring: set[tuple[str, str]] = set()

    def tolerate(self, queue: VersionQueue, refusal: ServingError) -> None:
        """Passes where requests may be admitted although the log refuses. Raises `refusal` else."""
        policy = queue.version.recording.policy
        if policy == "best_effort":
            return
        if policy == "at_least_once" and self._spill is not None and self._spill.refusal is None:
            return
        raise refusal

    def append(
        self, calls: Sequence[Call], records: Sequence[bytes], done: Done, *, answers: bool
    ) -> None:
        """Records frames of one version. answers: these are answers that leave when it is done."""
        queue = calls[0].queue
        take = partial(self._take, queue, records)
        if queue.version.recording.policy != "best_effort":
            self._when_keyed(queue, take, done)
            return
        settled = self._lend(calls) if answers else _nobody
        if settled is not None:
            self._when_keyed(queue, take, settled)
        done(None)

    def waits(self, queue: VersionQueue) -> bool:
        """Whether an answer leaves only with its record."""
        return queue.version.recording.policy != "best_effort"

    def declare(self) -> None:
        """Puts losses into the log if it takes frames; harmless when repeated."""
        if self._log.refusal is not None:
            return
        for loss in self._accounts.undeclared(self._clock.wall_ns()):
            if (loss.model, loss.version) not in self._declaring:
                self._declare(loss)

    # -- inside ----------------------------------------------------------------------------------

    def _when_keyed(self, queue: VersionQueue, take: "Take", done: Done) -> None:
        """`take(done)`, once every key that was used is on disk."""
        if self.keys is None or not queue.seals:
            take(done)
            return

        def saved(error: ServingError | None) -> None:
            if error is None:
                take(done)
            else:
                done(error)

        self.keys.saved(saved)

    def _take(self, queue: VersionQueue, records: Sequence[bytes], done: Done) -> None:
        policy, spill = queue.version.recording.policy, self._spill
        if policy == "at_least_once" and spill is not None:
            self._take_or_spill(spill, records, done)
        elif policy == "best_effort" and (refusal := self._log.refusal) is not None:
            done(refusal)  # Not even tried: what waits has to stay bounded.
        else:
            self._log.append(records, done)

    def _take_or_spill(self, spill: RecordLog, records: Sequence[bytes], done: Done) -> None:
        def taken(error: ServingError | None) -> None:
            if error is None:
                done(None)
            else:
                spill.append(records, done)

        if self._log.refusal is None:
            self._log.append(records, taken)
        else:
            spill.append(records, done)

    def _lend(self, calls: Sequence[Call]) -> Done | None:
        """Notes answers that leave without their records; what to call when it is known what came
        of them. None when too many are on their way: then these are lost at once."""
        key, accounts = calls[0].queue.version.key, self._accounts
        ticket = accounts.lend(key, calls)
        if ticket is None:
            accounts.lose(key, calls, LogUnavailable.code)
            return None
        return lambda error: accounts.settle(ticket, "" if error is None else error.code)

    def _declare(self, loss: Loss) -> None:
        version = (loss.model, loss.version)

        def done(error: ServingError | None) -> None:
            self._declaring.discard(version)
            if error is None:
                self._accounts.declare(loss)

        self._declaring.add(version)
        self._log.append([encode_loss(loss, sequence=self._log.next_sequence())], done)


Take = Callable[[Done], None]


def _nobody(_error: ServingError | None) -> None:
    """Nobody waits, and a failure that is not recorded is no loss of an answer."""
