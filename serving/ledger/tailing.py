"""One way to read the ledger as it grows: a cursor over every worker's log, with a checkpoint.

    cursor = Cursor(directory.root / "log", checkpoint, clock=clock)
    while events := cursor.read(1000):
        ...                      # what the consumer does with them
        cursor.commit()          # from here on a restart goes on after them

Guarantees. Between two commits of the checkpoint every prediction, outcome and loss is read once, those of
one worker in the order of its log; after a crash reading goes on at the last commit, so a consumer
whose work is not in the checkpoint sees those again that it read since. Only records of complete,
verified commits are handed out. At most `max_records` and one commit (4 MiB, or one record) are held
in memory, however far behind the cursor is. It takes no lock and writes only its checkpoint, so that
a slow or broken consumer is nothing to the writer.

A segment may be rotated, sealed by recovery, cut by it, left as suspect with its last commit written
once more elsewhere, or removed by retention while or before it is read: none of this makes a record
come twice, and what was removed unread is reported as a `Gap`. A record that is read before its
commit is on disk (the newest one of a live segment) may be gone after a power cut; nobody got an
answer from it.

Directories are found below the root, at any depth, so that logs of several nodes can be read through
one cursor when they lie, or are mounted, under one folder.

`Follower` is the same without a checkpoint of its own, for a consumer that keeps the positions together
with what it made of the records, so that neither can be newer than the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serving.core.clock import Clock
from serving.errors import LogDamaged
from serving.ledger.decoding import Event, Selection
from serving.ledger.tails import Gap, Position, Tail
from serving.predictionlog.format import SUFFIX
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.trust.privatefiles import replace_private


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a cursor is behind the newest commits of all workers.

    records: at most so many are unread. seconds: since the oldest unread one arrived; 0 for none.
    """

    records: int
    bytes: int
    seconds: float


class _Checkpoint(msgspec.Struct, frozen=True):
    positions: dict[str, Position] = {}


class Follower:
    """Reads from `positions` on; a directory that they do not name, from its first record on.

    gaps: segments that were removed unread. damages: places that could not be read; `serving log
    verify` names them. Both since this was made.
    """

    def __init__(
        self,
        root: Path,
        positions: Mapping[str, Position],
        *,
        clock: Clock,
        keys: PayloadKeys | None = None,
        selection: Selection | None = None,
    ) -> None:
        """keys: open encrypted payloads; None leaves them so. selection: which predictions are
        wanted; None takes all."""
        self._root = root
        self._clock = clock
        self._keys = keys
        self._selection = selection
        self._positions = dict(positions)
        self._tails: dict[str, Tail] = {}
        self._turn = 0

    def read(self, max_records: int) -> Sequence[Event]:
        """What comes next, whole commits until there are `max_records`; empty at the end of the log.

        Workers take turns. Raises OSError when the disk fails, and LogDamaged for a segment that a
        later program wrote; both leave the position where it was before the segment.
        """
        self._look_for_directories()
        tails = list(self._tails.values())
        found: list[Event] = []
        if tails:
            self._turn %= len(tails)
            for tail in tails[self._turn :] + tails[: self._turn]:
                self._turn += 1
                tail.read(found, max_records)
                if len(found) >= max_records:
                    break
        return found

    def skip(self) -> None:
        """Leaves out everything that is there now; costs the same however much that is."""
        self._look_for_directories()
        for tail in self._tails.values():
            tail.skip()

    def positions(self) -> dict[str, Position]:
        """Where reading goes on, by directory."""
        return self._positions | {name: tail.position for name, tail in self._tails.items()}

    def places(self) -> dict[str, tuple[str, int]]:
        """By log id: the directory and the segment that are read just now."""
        return {
            tail.log_id: (name, tail.position.segment)
            for name, tail in self._tails.items()
            if tail.log_id
        }

    def lag(self) -> Lag:
        """Costs a few reads for each worker, however far behind."""
        self._look_for_directories()
        parts = [tail.behind() for tail in self._tails.values()]
        oldest_ns = min((p.oldest_ns for p in parts if p.oldest_ns is not None), default=None)
        elapsed_ns = 0 if oldest_ns is None else self._clock.wall_ns() - oldest_ns
        return Lag(
            records=sum(part.records for part in parts),
            bytes=sum(part.bytes for part in parts),
            seconds=max(elapsed_ns, 0) / 1e9,
        )

    @property
    def gaps(self) -> Sequence[Gap]:
        return [gap for tail in self._tails.values() for gap in tail.gaps]

    @property
    def damages(self) -> int:
        return sum(tail.damages for tail in self._tails.values())

    def needed(self) -> dict[str, int]:
        """The oldest segment of each directory that is still to be read: what retention may spare."""
        return {name: tail.position.segment for name, tail in self._tails.items()}

    def _look_for_directories(self) -> None:
        """A worker that was added is read from its first segment on."""
        folders = {path.parent for path in self._root.rglob(f"*{SUFFIX}")}
        for folder in sorted(folders):
            name = folder.relative_to(self._root).as_posix()
            if name not in self._tails:
                position = self._positions.get(name, Position())
                self._tails[name] = Tail(
                    folder,
                    name=name,
                    position=position,
                    keys=self._keys,
                    selection=self._selection,
                )


class Cursor(Follower):
    """A follower with a checkpoint in a file; from the oldest record on when there is none yet."""

    def __init__(
        self, root: Path, checkpoint: Path, *, clock: Clock, keys: PayloadKeys | None = None
    ) -> None:
        """Raises LogDamaged when the checkpoint cannot be read."""
        super().__init__(root, _load(checkpoint).positions, clock=clock, keys=keys)
        self._checkpoint = checkpoint

    def commit(self) -> None:
        """Everything read so far will not be read again. Raises OSError."""
        self._checkpoint.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = msgspec.json.encode(_Checkpoint(self.positions()))
        replace_private(self._checkpoint, content)


def _load(path: Path) -> _Checkpoint:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Checkpoint)
    except FileNotFoundError:
        return _Checkpoint()
    except (OSError, msgspec.MsgspecError) as error:
        raise LogDamaged(
            f"{path} is no checkpoint: {error}; remove it to read from the start"
        ) from error
