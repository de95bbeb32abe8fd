"""Tells a broken model from broken input: when batch after batch fails, a sample row is tried.

The sample is one that the model once answered. While it is answered, failures are the callers' own,
and nobody else pays for them. When it fails, too, the breaker opens: the replica serves nobody, its
model is not ready, and the sample is tried every second until it is answered again. What callers send
can therefore not open it.
"""

from collections.abc import Callable
from typing import Final

import structlog

from serving.core.clock import Clock

logger = structlog.get_logger()

SUSPICIOUS_BATCHES: Final = 5
"""So many batches in a row without one good row."""

RETRIAL_NS: Final = 1_000_000_000


class Breaker:
    """Owned by the thread that runs batches. try_sample: whether a sample row is answered."""

    def __init__(self, model: str, *, try_sample: Callable[[], bool], clock: Clock) -> None:
        self.is_open = False
        self.armed = True
        """False for a model for which a sample proves nothing."""
        self._model = model
        self._try_sample = try_sample
        self._clock = clock
        self._failed_batches = 0
        self._tried_ns = 0

    def ran(self, *, failed: bool) -> bool:
        """Takes the fate of a batch; True when the breaker has just opened."""
        self._failed_batches = self._failed_batches + 1 if failed else 0
        if self._failed_batches < SUSPICIOUS_BATCHES or not self.armed:
            return False
        self._failed_batches = 0
        self.is_open = not self._answers()
        if self.is_open:
            logger.error("the model fails on everything", model=self._model)
        return self.is_open

    def closed_again(self) -> bool:
        """Tries the sample when it is time; True when the breaker has just closed."""
        if not self.is_open or self._clock.monotonic_ns() - self._tried_ns < RETRIAL_NS:
            return False
        self.is_open = not self._answers()
        if not self.is_open:
            logger.info("the model answers again", model=self._model)
        return not self.is_open

    def _answers(self) -> bool:
        self._tried_ns = self._clock.monotonic_ns()
        return self._try_sample()
