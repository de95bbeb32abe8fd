"""What a killed writer's accounts leave open is settled from the log, and declared in it.

Looked up are only the tickets of its file: frames whose answers were out while their records were on the
way. They lie near the end of what that writer wrote, because no more than `log.max_pending_bytes`
waits at a time; so reading stops there, however long the log is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.core.clock import Clock
from serving.predictionlog.format import HEAD, FrameType, SegmentHeader
from serving.predictionlog.losses import Loss, decode_loss
from serving.predictionlog.reading.reader import Segment, list_segments
from serving.predictionlog.scan import Run, scan
from serving.predictionlog.source import Source
from serving.predictionlog.writing.accounts import (
    LIVE_PATTERN,
    Account,
    LeftAccounts,
    append_history,
)

_SLACK_BYTES: Final = 64 * 1024 * 1024


@dataclass(slots=True)
class Settling:
    """One file of accounts that nobody keeps any more, and the losses it still has to declare."""

    path: Path
    left: LeftAccounts
    losses: list[Loss]

    def close(self) -> None:
        """Everything is declared. Raises OSError."""
        append_history(self.path.parent, self.left.account)
        self.path.unlink()


def settle_left(
    directory: Path, *, log_id: str, max_pending_bytes: int, clock: Clock
) -> list[Settling]:
    """Of every file but that of `log_id`, which runs. Blocks; OSError when the log cannot be read."""
    found = []
    for path in sorted(directory.glob(LIVE_PATTERN)):
        left = LeftAccounts.read(path)
        if left is None:
            path.unlink()
        elif left.account.log_id != log_id:
            found.append(_settled(path, left, max_pending_bytes, clock.wall_ns()))
    return found


def _settled(path: Path, left: LeftAccounts, max_pending_bytes: int, now_ns: int) -> Settling:
    wanted = {ticket.sequence for ticket in left.tickets}
    recorded: set[int] = set()
    declared: dict[tuple[str, str], int] = {}
    for kind, sequence, loss in _newest(path.parent, left.account, max_pending_bytes):
        if kind == FrameType.PREDICTION and sequence in wanted:
            recorded.add(sequence)
        elif loss is not None and loss.log_id == left.account.log_id:
            key = (loss.model, loss.version)
            declared[key] = max(loss.total, declared.get(key, 0))
    losses = left.settle(recorded, declared=sum(declared.values()), now_ns=now_ns)
    return Settling(path, left, losses)


Frame = tuple[int, int, Loss | None]


def _newest(directory: Path, account: Account, most_bytes: int) -> Iterator[Frame]:
    """Frames of the newest segments: all since that writer ended, and the last it wrote."""
    read_bytes = 0
    for segment in reversed(list_segments(directory)):
        header = segment.header
        if header is None:
            continue
        own = header.log_id.hex() == account.log_id
        # By the wall clock: a segment of the same writer is the writer's, whatever the clock did.
        if not own and header.begun_ns < account.started_ns:
            return
        yield from _of_segment(segment, header, own=own)
        read_bytes += own * segment.path.stat().st_size
        if read_bytes > most_bytes + _SLACK_BYTES:
            return


def _of_segment(segment: Segment, header: SegmentHeader, *, own: bool) -> Iterator[Frame]:
    with Source(segment.path) as source:
        for event in scan(source, header, complete_to=segment.complete_to):
            if isinstance(event, Run):
                yield from _frames(event.frames, own=own)


def _frames(frames: bytes, *, own: bool) -> Iterator[Frame]:
    at = 0
    while at < len(frames):
        length, kind, _, _, sequence = HEAD.unpack_from(frames, at)
        if kind == FrameType.LOSS:
            yield kind, sequence, decode_loss(frames, at)
        elif own:
            yield kind, sequence, None
        at += length
