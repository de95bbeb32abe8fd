"""What a replica does before its first frame: tries whether rows may share a batch, learns the sizes.

A version that is not batched is run once on zeros, so that no caller pays for a first time. That this
fails proves nothing: its tensors may be sizes, axes or indices, for which zero is no good value.

A batched version must answer zeros, in the form it declares. Whether its rows may share a batch is
then tried (`dependence`), and batch sizes are timed as frames of 16 rows, as a gateway would send
them, over the whole step from forming to answering: for a small model that is most of the cost. A size
at which batches fail (no room on the device) costs what bisecting them costs, and is not chosen. With
padding all this is done for every bucket.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from serving.core.batches import BatchPart, RowBatch
from serving.core.models import ModelVersion
from serving.core.tensors import Array
from serving.errors import ArtifactInvalid, ModelFailed, OutputInvalid
from serving.inference.dependence import find_dependence, padding_shows
from serving.inference.frames import encode_answer
from serving.inference.merging import PendingFrame, Slice, form_batch, merge_inputs, split_outputs
from serving.inference.padding import Fit, Padder
from serving.inference.profile import BatchProfile
from serving.inference.running import WatchedRunner
from serving.inference.samples import VARIABLE_DIMENSION, zeros

logger = structlog.get_logger()

NOT_BATCHED: Final = "its specification says so"
_RUNS: Final = 3
_FRAME_ROWS: Final = 16
_NO_DEADLINE: Final = 2**63 - 1


class BatchSizes:
    """The best size of a batch, per bucket where rows are padded. Every one is 1 once `alone` is set."""

    def __init__(self, version: ModelVersion) -> None:
        self.alone = ""
        """Why every row is run by itself; empty when rows share batches."""
        self._version = version
        buckets = version.padding.buckets if version.padding is not None else (0,)
        self._profiles = {bucket: BatchProfile(version.batching) for bucket in buckets}
        if not version.batched:
            self.set_alone(NOT_BATCHED)

    def set_alone(self, reason: str) -> None:
        """From now on a batch is one row."""
        self.alone = reason
        limits = replace(self._version.batching, max_batch_size=1)
        self._profiles = {bucket: BatchProfile(limits) for bucket in self._profiles}

    def of(self, fit: Fit | None) -> BatchProfile:
        """The profile for rows that fit so; that of the last bucket for rows longer than all."""
        known = self._profiles.get(fit.bucket) if fit is not None else None
        return self.longest if known is None else known

    @property
    def longest(self) -> BatchProfile:
        """The profile of the longest rows, or of all."""
        return next(reversed(self._profiles.values()))


def sample(
    version: ModelVersion, padder: Padder | None, *, rows: int = 1, length: int | None = None
) -> PendingFrame:
    """A frame of zeros that nobody waits for; in the length of the first bucket if none is given."""
    if length is None:
        length = padder.buckets[0] if padder is not None and padder.buckets else VARIABLE_DIMENSION
    arrays = tuple(zeros(version, rows=rows, length=length))
    batch = RowBatch(digest=version.digest, rows=rows, tensors=())
    fit = fit_of(arrays, padder)
    return PendingFrame(batch, arrays, 0, _NO_DEADLINE, partial(encode_answer, 0), fit)


def fit_of(arrays: tuple[Array, ...], padder: Padder | None) -> Fit | None:
    return padder.fit(tuple(array.shape[1:] for array in arrays)) if padder is not None else None


class Rehearsal:
    """One warm-up of one version. cost_ns: a clock of what runs cost."""

    def __init__(
        self,
        version: ModelVersion,
        running: WatchedRunner,
        sizes: BatchSizes,
        *,
        cost_ns: Callable[[], int],
    ) -> None:
        self._version = version
        self._running = running
        self._padder = running.padder
        self._sizes = sizes
        self._cost_ns = cost_ns

    def run(self) -> bool:
        """Whether a sample row is answered; always, for a batched version.

        Raises ModelFailed when a batched version fails on zeros, ArtifactInvalid when it answers in
        another form than it declares.
        """
        if self._version.batched:
            self._try_neighbours()
            self._learn()
            return True
        logger.info("served unbatched", model=self._version.key, reason=NOT_BATCHED)
        return self._answers_sample()

    def _answers_sample(self) -> bool:
        try:
            self._cost(1, VARIABLE_DIMENSION)
        except ModelFailed:
            logger.warning("a sample of zeros has no answer", model=self._version.key)
            return False
        return True

    def _try_neighbours(self) -> None:
        version, padder, run = self._version, self._padder, self._running.run_once
        try:
            run(merge_inputs(_all_rows(sample(version, padder)), padder))
            reason = find_dependence(run, version, padder)
            if padder is not None and (reason or padding_shows(run, version, padder)):
                logger.warning("rows keep their length: padding shows", model=version.key)
                padder.stop()
        except OutputInvalid as error:
            raise ArtifactInvalid(
                f"{version.key} does not answer rows one for one, as it declares: {error.message}. "
                "Where rows cannot be told apart, declare `batched: false`"
            ) from error
        if reason:
            logger.warning("every row is run alone", model=version.key, reason=reason)
            self._sizes.set_alone(reason)

    def _learn(self) -> None:
        buckets = self._padder.buckets if self._padder is not None else ()
        for length in buckets or (VARIABLE_DIMENSION,):
            fit = sample(self._version, self._padder, length=length).fit
            profile = self._sizes.of(fit)
            for size in profile.sizes:
                profile.measured(size, min(self._cost(size, length) for _ in range(_RUNS)))
                if not profile.fits(size):
                    break

    def _cost(self, rows: int, length: int) -> float:
        """Seconds that one batch of `rows` zeros costs, from forming to encoded answers."""
        pending: deque[PendingFrame] = deque()
        for start in range(0, rows, _FRAME_ROWS):
            count = min(_FRAME_ROWS, rows - start)
            pending.append(sample(self._version, self._padder, rows=count, length=length))
        cost_ns = self._cost_ns()
        slices = form_batch(pending, max_rows=rows)
        outputs, failures = self._running.run(merge_inputs(slices, self._padder))
        if failures:
            raise ModelFailed(f"{self._version.key} fails on {rows} sample rows")
        part = BatchPart(rows, 0, rows, 0, 0, 0)
        for frame in split_outputs(slices, outputs, failures, part, padder=self._padder):
            frame.reply(frame.answer())
        return max(self._cost_ns() - cost_ns, 1) / 1e9


def _all_rows(frame: PendingFrame) -> list[Slice]:
    return [Slice(frame, 0, frame.batch.rows)]
