"""Finding the newest records of one model in a segment that is mostly about others.

Every record carries the number of its definition, 8 bytes of which 4 are random for each writer, so the
number is looked for in the raw bytes, backwards, and only commits in which it stands are verified and
taken apart: a segment of 256 MiB is passed over in about 0.1 s instead of 2 s. What stands between is
not verified; that is for who asks for everything, and for `serving log verify`.
"""

from collections.abc import Collection, Generator
from typing import Final

from serving.predictionlog.format import FIRST_FRAME, Commit, SegmentHeader
from serving.predictionlog.scan import Run, commit_at, next_mark
from serving.predictionlog.source import WINDOW_BYTES, Source

MAX_NUMBERS: Final = 8
"""More are not worth it: each is looked for by itself."""
_NUMBER_BYTES: Final = 8


def runs_naming(
    source: Source, header: SegmentHeader, *, numbers: Collection[int], end: int
) -> Generator[Run, None, int]:
    """The commits before `end` with one of these definitions, newest first.

    Returns where to go on commit by commit, because something there is not as it should be.
    """
    patterns = [number.to_bytes(_NUMBER_BYTES, "little") for number in numbers]
    while end > FIRST_FRAME:
        place = _last(source, patterns, end)
        if place < 0:
            return FIRST_FRAME
        mark = next_mark(source, header, place, end)
        if not isinstance(mark, Commit) or not FIRST_FRAME <= mark.start <= place:
            return end
        run = commit_at(source, header, mark.start, end=mark.end)
        if run is None or run.commit is None or run.commit.end != mark.end:
            return end
        yield run
        end = mark.start
    return end


def _last(source: Source, patterns: Collection[bytes], end: int) -> int:
    """Where the last of these begins that ends before `end`; -1 for nowhere."""
    while end > FIRST_FRAME:
        start = max(end - WINDOW_BYTES, FIRST_FRAME)
        window = source.read(start, end - start)
        found = max(window.rfind(each) for each in patterns)
        if found >= 0:
            return start + found
        end = start + _NUMBER_BYTES - 1 if start > FIRST_FRAME else start
    return -1
