"""Keeps the keys of an issuer fresh, in a task of its own; no request ever waits for it.

Keys are read again every `refresh_s`, so a key that is published before it is used, as issuers do, is
here before its first token. A token that names an unknown key asks for a reading at once; there is
never more than one per `cool_down_s`, whatever callers send. When a reading fails the last good keys
stay for `stale_s`, and it is tried again every `cool_down_s`.
"""

import asyncio
import contextlib
import math
from dataclasses import dataclass

import structlog

from serving.access.keyrings import KeyRing
from serving.access.sources import KeySource, Unreadable
from serving.access.verification import KeySet
from serving.core.clock import Clock
from serving.issuer_settings import IssuerSettings

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What an operator is told about the keys of one issuer.

    age_s: since they were last read; infinite when they never were. failures: readings that failed.
    trouble: why the last reading failed; empty when it did not.
    """

    issuer: str
    keys: int
    age_s: float
    failures: int
    trouble: str


class KeyRefresher:
    """Reads from `source` into `ring`. `run` is one task for the life of the process."""

    def __init__(
        self, ring: KeyRing, source: KeySource, *, settings: IssuerSettings, clock: Clock
    ) -> None:
        self._ring = ring
        self._source = source
        self._settings = settings
        self._clock = clock
        self._wanted = asyncio.Event()
        self._read_s: float | None = clock.monotonic_ns() / 1e9 if ring.trustworthy else None
        self._failures = 0
        self._trouble = ""
        self.asked = ring.trustworthy
        ring.when_missed(self._wanted.set)

    def status(self) -> KeyStatus:
        age_s = math.inf if self._read_s is None else self._now_s() - self._read_s
        keys = len(self._ring.identities())
        return KeyStatus(self._ring.issuer, keys, age_s, self._failures, self._trouble)

    async def run(self) -> None:
        """Forever."""
        if self.asked:
            await self._pause()
        while True:
            await self.refresh()
            await self._pause()

    async def refresh(self) -> None:
        """One reading, and what follows from it."""
        try:
            keys = await self._source.read()
        except Unreadable as error:
            self._failed(str(error))
        else:
            self._read_s = self._now_s()
            self._trouble = ""
            self._ring.replace(keys)
            self._ring.trustworthy = True
        self.asked = True
        self._wanted.clear()  # Whoever asked until now is answered by what was just read.

    async def _pause(self) -> None:
        settings = self._settings
        await asyncio.sleep(settings.cool_down_s)
        if self._trouble:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.refresh_s - settings.cool_down_s):
                await self._wanted.wait()

    def _failed(self, trouble: str) -> None:
        self._failures += 1
        if trouble != self._trouble:
            logger.warning("the keys of an issuer cannot be read", trouble=trouble)
        self._trouble = trouble
        self._ring.trustworthy = False
        if self._read_s is not None and self._now_s() - self._read_s > self._settings.stale_s:
            self._ring.replace(KeySet())

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9
