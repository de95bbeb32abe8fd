"""Reported outcomes on their way into the prediction log: durable before the reporter is told.

They are not looked up here: whether a prediction of that id exists, and whether the model is the one
it is said to be, shows when the two are joined, which tells what it rejected and counts it. So a
report costs one frame, comes in whatever order, and may be sent again.
"""

import asyncio
from collections.abc import Iterable, Mapping

from serving.core.clock import Clock
from serving.core.outcomes import Outcome
from serving.errors import ServingError
from serving.gateway.recording import PredictionLog
from serving.predictionlog.outcomes import encode_outcome


class OutcomeIntake:
    """Writes outcomes to the log of one gateway worker. recorded: by model, since the start."""

    def __init__(self, log: PredictionLog, clock: Clock) -> None:
        self._log = log
        self._recorded: dict[str, int] = {}
        self.now_ns = clock.wall_ns

    @property
    def recorded(self) -> Mapping[str, int]:
        return self._recorded

    async def record(self, outcomes: Iterable[Outcome], *, model: str) -> int:
        """How many, once they are as durable as the log's records are.

        Raises LogUnavailable or LogStorageFull; then they may be sent again, whatever came of them.
        """
        refusal = self._log.refusal
        if refusal is not None:
            raise refusal
        frames = [encode_outcome(it, sequence=self._log.next_sequence()) for it in outcomes]
        settled: asyncio.Future[ServingError | None] = asyncio.get_running_loop().create_future()

        def done(error: ServingError | None) -> None:
            if not settled.done():  # the reporter has gone
                settled.set_result(error)

        self._log.append(frames, done)
        error = await settled
        if error is not None:
            raise error
        self._recorded[model] = self._recorded.get(model, 0) + len(frames)
        return len(frames)
