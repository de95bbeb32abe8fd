"""How often a model version ran, how long, and with how many rows: counted once per frame.

A replica tells with every answer in which batch each part of the frame ran and where it stood in it.
A batch of several frames, even of several gateway workers, is counted by the frame that stood first
in it, so that the sum over workers is the number of runs.
"""

from collections.abc import Sequence

from serving.core.batches import BatchPart


class Executions:
    """Runs of one version that answered somebody.

    by_rows: runs and their microseconds by the rows of the batch; the replica's largest batch
    bounds it. last_ns: when the last answer came, by the monotonic clock; 0 for never.
    """

    __slots__ = ("by_rows", "last_ns")

    def __init__(self) -> None:
        self.by_rows: dict[int, tuple[int, int]] = {}
        self.last_ns = 0

    def add(self, parts: Sequence[BatchPart], now_ns: int) -> None:
        """The parts of one answered frame."""
        self.last_ns = now_ns
        for part in parts:
            if not part.position:
                runs, run_us = self.by_rows.get(part.batch_rows, (0, 0))
                self.by_rows[part.batch_rows] = (runs + 1, run_us + part.run_us)
