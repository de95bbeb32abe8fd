"""The pairs of a window, counted once more from the log: what stands behind a signed verdict.

Only the fixed part of each record is looked at, so it takes no keys and little time. A pair counts
when its primary lies in the window, was taken by the window's shares, and has an answered, unchosen
primary. What a comparison gave up waiting for may be found here; what it counted must be.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from serving.core.predictions import Fate
from serving.ledger.sampling import Sampling, Step
from serving.predictionlog.format import Definition, Flag
from serving.predictionlog.reading.reader import SegmentReader, list_segments, log_directories
from serving.predictionlog.records import Fixed


class Window(Protocol):
    """As a verdict states it: `governance.comparisons.LogWindow`."""

    @property
    def log_id(self) -> str: ...
    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def pairs(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def steps(self) -> tuple[Step, ...]: ...


@dataclass(frozen=True, slots=True)
class Compared:
    """Whose pairs they are."""

    model: str
    primary: str
    primary_digest: str
    candidate: str
    candidate_digest: str


@dataclass(frozen=True, slots=True)
class Recount:
    """of: pairs that the window states; found: in the log. same: it is the very same pairs."""

    log_id: str
    of: int
    found: int
    same: bool
    is_there: bool

    @property
    def finding(self) -> str:
        """What is wrong; empty when the log agrees."""
        if not self.is_there:
            return f"log {self.log_id} is not here: its {self.of} pairs cannot be counted"
        if self.found < self.of:
            return f"log {self.log_id} holds {self.found} of the {self.of} pairs"
        if self.found == self.of and not self.same:
            return f"log {self.log_id} holds {self.of} other pairs"
        return ""


def recount(root: Path, windows: Iterable[Window], compared: Compared) -> list[Recount]:
    """root: the folder of the logs. Raises OSError."""
    segments = [each for folder in log_directories(root) for each in list_segments(folder)]
    found = []
    for window in windows:
        mine = [s for s in segments if s.header and s.header.log_id.hex() == window.log_id]
        counter = _Counter(window, compared)
        for segment in mine:
            for _ in SegmentReader(segment).records(wanted=counter.wants):
                pass
        found.append(
            Recount(
                window.log_id,
                window.pairs,
                counter.pairs,
                f"{counter.digest:064x}" == window.digest,
                bool(mine),
            )
        )
    return found


class _Counter:
    """Sees each record and wants none."""

    def __init__(self, window: Window, compared: Compared) -> None:
        self.pairs = 0
        self.digest = 0
        self._window = window
        self._compared = compared
        self._sampling = Sampling({window.log_id: list(window.steps)} if window.steps else None)
        self._primaries: set[int] = set()
        self._copies: dict[int, int] = {}

    def wants(self, frames: bytes, offset: int, fixed: Fixed, definition: Definition) -> bool:
        del frames, offset
        compared = self._compared
        if definition.model != compared.model or fixed.flags & Flag.PART:
            return False
        version = definition.version, definition.digest
        if version == (compared.primary, compared.primary_digest) and not fixed.shadow_of:
            if fixed.fate == Fate.OK and not fixed.flags & Flag.CHOSEN:
                self._see(fixed.sequence, self._copies.pop(fixed.sequence, 0))
        elif version == (compared.candidate, compared.candidate_digest) and fixed.shadow_of:
            if fixed.shadow_of in self._primaries:
                self._primaries.discard(fixed.shadow_of)
                self._count(fixed.shadow_of, fixed.sequence)
            elif self._is_in(fixed.shadow_of):
                self._copies[fixed.shadow_of] = fixed.sequence
        return False

    def _see(self, sequence: int, copy: int) -> None:
        if not self._is_in(sequence):
            return
        if copy:
            self._count(sequence, copy)
        else:
            self._primaries.add(sequence)

    def _is_in(self, sequence: int) -> bool:
        window = self._window
        return window.first <= sequence <= window.last and self._sampling.takes(
            window.log_id, sequence
        )

    def _count(self, primary: int, copy: int) -> None:
        log_id = self._window.log_id
        words = f"{log_id}-{primary:x} {self._compared.candidate} {log_id}-{copy:x}"
        self.pairs += 1
        self.digest ^= int.from_bytes(sha256(words.encode()).digest(), "big")
