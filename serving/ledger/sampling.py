"""Which predictions are compared when there are more than can be: a share that is fair, and can be retold.

A pair is taken or left by the sequence of its primary alone, so both of its records are judged alike,
nothing about them (size, time, answer) has a say, and who reads the log again takes the same ones. The
share is a power of one half. A new share counts from a sequence on that no record had yet when it was
decided: what was judged before is never judged otherwise.
"""

import zlib
from bisect import bisect_right
from typing import Final

import msgspec

FULL: Final = 2**32
MOST_STEPS: Final = 256
"""Of a log; beyond it the first are forgotten, and that part cannot be counted again."""
_SMALLEST: Final = 20
_ROOM: Final = 0.8


class Step(msgspec.Struct, frozen=True, array_like=True):
    """From this sequence on one of 2**halvings is taken."""

    sequence: int
    halvings: int


class Sampling:
    """The share of one model. halvings: as it is now."""

    def __init__(self, steps: dict[str, list[Step]] | None = None, *, halvings: int = 0) -> None:
        """steps: by log id, ascending, as `steps` gave them."""
        self.halvings = halvings
        self.steps: dict[str, list[Step]] = {k: list(v) for k, v in (steps or {}).items()}
        self._seeds: dict[str, int] = {}
        self._newest: dict[str, int] = {}

    @property
    def share(self) -> float:
        return 0.5**self.halvings

    def takes(self, log_id: str, sequence: int) -> bool:
        """sequence: of the primary."""
        steps = self.steps.get(log_id)
        if steps is None:
            steps = self.steps[log_id] = [Step(0, self.halvings)]
        at = bisect_right(steps, sequence, key=lambda step: step.sequence) - 1
        halvings = steps[max(at, 0)].halvings
        if not halvings:
            return True
        seed = self._seeds.get(log_id)
        if seed is None:
            seed = self._seeds[log_id] = zlib.crc32(log_id.encode())
        return zlib.crc32(sequence.to_bytes(8, "little"), seed) < FULL >> halvings

    def saw(self, log_id: str, sequence: int) -> None:
        """A record of that log has this sequence: a change counts from after it."""
        if sequence > self._newest.get(log_id, -1):
            self._newest[log_id] = sequence

    def adapt(self, taken_per_s: float, *, most_per_s: float) -> None:
        """Halves the share above the bound, doubles it while there is room for twice as many."""
        halvings = self.halvings
        while taken_per_s > most_per_s and halvings < _SMALLEST:
            halvings, taken_per_s = halvings + 1, taken_per_s / 2
        if halvings == self.halvings and halvings and taken_per_s * 2 < most_per_s * _ROOM:
            halvings -= 1
        if halvings != self.halvings:
            self._change(halvings)

    def _change(self, halvings: int) -> None:
        self.halvings = halvings
        for log_id, steps in self.steps.items():
            step = Step(self._newest.get(log_id, steps[-1].sequence) + 1, halvings)
            if steps[-1].sequence >= step.sequence:
                steps.pop()
            steps.append(step)
            del steps[:-MOST_STEPS]
