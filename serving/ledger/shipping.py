"""Sealed segments, copied to where cold data lies: the signed evidence, away from this machine.

A segment is shipped whole, under its key, once it is sealed, and what was shipped is written down
(`shipped.json`); shipping one twice writes the same bytes over the same name. While the other side
does not answer segments wait where they are, the log knows nothing of it, and retention keeps them.
The backlog is bounded: above `ledger.max_unshipped_bytes` the oldest ones are given up, which a metric
says, and retention may take them.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from serving.core.clock import Clock
from serving.ledger.places import Place
from serving.ledger.segments import SegmentExtent, closed_segments
from serving.ledger.tailing import Lag
from serving.ledger_settings import LedgerSettings
from serving.trust.privatefiles import replace_private

_log = logging.getLogger(__name__)


class Shipped(msgspec.Struct):
    """Keys of segments that need no shipping any more."""

    sent: set[str] = set()
    given_up: set[str] = set()

    @property
    def settled(self) -> set[str]:
        return self.sent | self.given_up


class Shipping:
    """The job. lag, given_up: of the last run; a segment counts as one record there.

    Files that wait for the other side are looked at and nothing else, so the writer never waits.
    """

    name = "ship"

    def __init__(
        self,
        log: Path,
        place: Place,
        *,
        folder: Path,
        settings: LedgerSettings,
        clock: Clock,
        stopping: Callable[[], bool],
    ) -> None:
        self.period_s = settings.ship_every_s
        self.lag = Lag(0, 0, 0.0)
        self.given_up = 0
        self._log = log
        self._place = place
        self._path = folder / "shipped.json"
        self._clock = clock
        self._limit_bytes = settings.max_unshipped_bytes
        self._stopping = stopping

    def shipped(self) -> Shipped:
        """What is settled. A damaged list is an empty one: shipping twice does no harm."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Shipped)
        except (FileNotFoundError, msgspec.MsgspecError):
            return Shipped()

    def run(self) -> None:
        """Ships what waits, oldest first. Raises LedgerUnavailable, OSError."""
        shipped = self.shipped()
        closed = sorted(closed_segments(self._log), key=lambda each: each.header.begun_ns)
        present = {each.key for each in closed}
        shipped.sent &= present
        waiting = [each for each in closed if each.key not in shipped.settled]
        waiting = self._bounded(waiting, shipped)
        self.given_up = len(shipped.given_up)
        self._measure(waiting)
        while waiting and not self._stopping():
            each = waiting.pop(0)
            self._place.upload(shipped_name(each), each.path)
            shipped.sent.add(each.key)
            self._write(shipped)
            self._measure(waiting)

    def _bounded(self, waiting: list[SegmentExtent], shipped: Shipped) -> list[SegmentExtent]:
        backlog = sum(each.bytes for each in waiting)
        while waiting and backlog > self._limit_bytes:
            oldest = waiting.pop(0)
            backlog -= oldest.bytes
            shipped.given_up.add(oldest.key)
            _log.warning("ledger: segment %s is given up, it was not shipped", oldest.key)
            self._write(shipped)
        return waiting

    def _measure(self, waiting: list[SegmentExtent]) -> None:
        oldest_ns = min((each.header.begun_ns for each in waiting), default=None)
        elapsed_ns = 0 if oldest_ns is None else self._clock.wall_ns() - oldest_ns
        size_bytes = sum(each.bytes for each in waiting)
        self.lag = Lag(len(waiting), size_bytes, max(elapsed_ns, 0) / 1e9)

    def _write(self, shipped: Shipped) -> None:
        replace_private(self._path, msgspec.json.encode(shipped))


def shipped_name(segment: SegmentExtent) -> str:
    """Where a segment goes."""
    return f"segments/{segment.key}.segment"
