"""How fast the replicas of one version answer, as its queue sees it; and what follows from that.

Learned from what answers say about the runs behind them, those of one batch per sweep, so that the
request path pays next to nothing. The figures err on the fast side: what a batch costs that is larger than any seen
so far is taken to be what the largest one cost, so more is let in, larger batches run, and the next
answer tells. The other way round a wrong figure could keep out the very load that would correct it.
What a run costs at least is forgotten when no answer has come for a while: then one request goes
through and finds out whether the model has become faster.

    run_ns       the shortest run of late: no answer comes sooner; 0 while not known
    row_ns       of a backlog, all replicas together, this worker's share of them; 0 while not known
    longest_ns   how long a call may wait for a frame: the setting, or two runs where those are longer
    room_rows    how many rows may wait: half of what runs in that time, so that those who are let
                 in are in time, and at least a frame for each replica
    frame_rows   of one frame: more than a batch only as far as a frame still runs in FRAME_SPAN_NS,
                 because what is in a frame has left the order of the queue; 1 where rows run alone
    part_rows    so many are worth a frame although every credit is spent: a part of PARTS that runs
                 for PART_SPAN_NS, which is many times what a frame costs; else a whole frame. No
                 number is, where rows are so large, or may be, that bytes bound what is in flight
"""

import math
from collections.abc import Sequence
from typing import Final

from serving.core.batches import BatchAnswer
from serving.core.models import ModelVersion
from serving.gateway_settings import AdmissionSettings, ChannelSettings

FRAME_SPAN_NS: Final = 5_000_000
PARTS: Final = 4
PART_SPAN_NS: Final = 1_000_000
FORGOTTEN_NS: Final = 1_000_000_000
"""After so long without an answer nothing is known about the shortest run."""
WELCOME: Final = 0.5
"""Of the longest wait: a newcomer that would wait longer is refused."""
NEWEST_FIRST: Final = 0.75
"""Of the longest wait: when the oldest has waited so long, the newest leaves first."""

_SMOOTHING: Final = 0.2
_RELAXATION: Final = 1.05
"""How much longer the shortest run may be at the next sweep."""
_FADING: Final = 0.99
"""Of the largest batch and the largest share, from one sweep to the next."""
_LARGE: Final = 0.75
"""Of the largest batch: what counts as large."""


class Pace:
    """The figures of one queue; see the module."""

    def __init__(
        self, version: ModelVersion, *, channel: ChannelSettings, admission: AdmissionSettings
    ) -> None:
        self.run_ns = 0.0
        self.row_ns = 0.0
        self.longest_ns = self._setting_ns = round(admission.max_queue_wait_s * 1e9)
        self.room_rows: float = admission.max_queued_rows
        self._most_rows = admission.max_queued_rows
        # What is not batched may answer each row in another shape: an answer has one.
        self.frame_rows = self._most_frame_rows = channel.max_frame_rows if version.batched else 1
        whole_bytes = _row_bytes(version) * channel.max_frame_rows
        self._divides = whole_bytes <= channel.max_frame_bytes
        self.part_rows: float = math.inf
        self._most_batch_rows = version.batching.max_batch_size if version.batched else 1
        self._large_run_ns = 0.0
        self._large_rows = 0.0
        self._cut_rows = 0
        self._share = 0.0
        self._heard_ns = 0

    @property
    def known(self) -> bool:
        """Whether an answer has ever come."""
        return self._large_run_ns > 0

    def heard(self, answers: Sequence[BatchAnswer], now_ns: int) -> None:
        """The answers to frames whose last rows ran in the latest batch."""
        runs = [part for answer in answers for part in answer.parts if part.batch_id]
        if not runs:  # A frame that came too late was not run.
            return
        self._heard_ns = now_ns
        largest = max(runs, key=lambda part: part.batch_rows)
        run_ns = 1000.0 * max(largest.run_us, 1)
        self.run_ns = min(run_ns, _RELAXATION * self.run_ns) if self.run_ns else run_ns
        latest = [part for part in runs if part.batch_id == runs[-1].batch_id]
        if len(latest) < len(runs):  # A frame is cut where a batch is full.
            self._cut_rows = largest.batch_rows
        own_rows = sum(part.rows for part in latest)
        self._share = max(_FADING * self._share, own_rows / latest[-1].batch_rows)
        self._large_rows *= _FADING
        if largest.batch_rows >= _LARGE * self._large_rows:
            weight = _SMOOTHING if self.known else 1.0
            self._large_run_ns += weight * (run_ns - self._large_run_ns)
            self._large_rows = max(self._large_rows, largest.batch_rows)

    def settle(self, now_ns: int, *, replicas: int) -> None:
        """Works out what follows, for so many replicas."""
        if now_ns - self._heard_ns > FORGOTTEN_NS:
            self.run_ns = 0.0
        if not self.known:
            return
        batch_rows = max(self._cut_rows or self._most_batch_rows, self._large_rows)
        replica_row_ns = self._large_run_ns / (batch_rows * self._share)
        self.row_ns = replica_row_ns / max(replicas, 1)
        self.longest_ns = max(self._setting_ns, round(2 * self._large_run_ns))
        # Twice what is cut, so that it shows when batches become larger.
        least = min(2 * self._cut_rows or self._most_batch_rows, self._most_batch_rows)
        spanned = int(FRAME_SPAN_NS / replica_row_ns)
        self.frame_rows = min(max(least, spanned, 1), self._most_frame_rows)
        if self._divides:
            worth = max(PART_SPAN_NS / replica_row_ns, self.frame_rows / PARTS)
            self.part_rows = min(math.ceil(worth), self.frame_rows)
        rows = max(WELCOME * self.longest_ns / self.row_ns, self.frame_rows * max(replicas, 1))
        self.room_rows = min(rows, self._most_rows)


def _row_bytes(version: ModelVersion) -> float:
    """Of the inputs of one row; without a limit where their shape or length is the caller's choice."""
    total: float = 0
    for tensor in version.inputs:
        if tensor.datatype == "BYTES" or min(tensor.row_shape, default=1) < 0:
            return math.inf
        total += tensor.dtype.itemsize * math.prod(tensor.row_shape)
    return total
