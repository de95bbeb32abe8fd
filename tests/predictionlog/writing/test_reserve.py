import errno
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.predictionlog.reading.verification import verify
from serving.predictionlog.writing.reserve import RESERVED, ReservedFiles
from tests.logs import SETTINGS, TRUSTED, a_committer, frames_of, names_in, sequences

OPEN_FILES = 400
SMALL = SETTINGS.model_copy(update={"segment_bytes": 64 * 1024})


class FailingFiles(ReservedFiles):
    """The files of the product, of which one write fails when it is told to."""

    fails = False

    def write(
        self, descriptor: int, buffers: Sequence[bytes], offset: int, *, durable: bool
    ) -> int:
        fails, self.fails = self.fails, False
        if fails:
            raise OSError(errno.EIO, "EIO")
        return super().write(descriptor, buffers, offset, durable=False)


def open_descriptors() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


@contextmanager
def nothing_left() -> Iterator[list[int]]:
    """The process is at its limit of open files; what it has open may be closed by who asks."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken[0] + 1, OPEN_FILES), limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            _take_all(taken)
        yield taken
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


def _take_all(taken: list[int]) -> None:
    while True:
        taken.append(os.dup(taken[0]))


def test_lg_14_segments_turn_over_without_a_descriptor_left(tmp_path: Path) -> None:
    """At the limit of open files the log goes on from segment to segment, its head included."""
    committer = a_committer(tmp_path, files=FailingFiles(), settings=SMALL)
    committer.commit(frames_of(1))

    with nothing_left():
        for start in range(2, 2002, 50):
            assert committer.commit(frames_of(*range(start, start + 50))) is None
            committer.tend(idle=True)
    committer.close()

    assert committer.counts.segments > 3
    assert sequences(tmp_path) == list(range(1, 2002))
    assert verify(tmp_path, trusted=TRUSTED).damage == ()


def test_lg_14_a_failed_segment_is_replaced_without_a_descriptor_left(tmp_path: Path) -> None:
    """At the limit a segment whose write failed is left, and its commit recorded in a new one."""
    files = FailingFiles()
    committer = a_committer(tmp_path, files=files)
    committer.commit(frames_of(1))

    with nothing_left():
        for first in range(2, 12):
            files.fails = True
            assert committer.commit(frames_of(first)) is None
            committer.tend(idle=False)
    committer.close()

    assert sequences(tmp_path) == list(range(1, 12))
    assert committer.counts.suspect_segments == 10
    assert committer.refusal is None


def test_lg_14_the_reserve_is_taken_back_and_given_up_with_the_lock(tmp_path: Path) -> None:
    """As soon as there are descriptors the reserve is whole again; who closes the log keeps none."""
    before = open_descriptors()
    files = ReservedFiles()
    lock = files.lock(tmp_path / "lock")

    with nothing_left() as taken:
        opened = [files.create(tmp_path / str(number)) for number in range(3)]
        left = files.reserved
        os.close(taken.pop())
        files.close(opened.pop())
        refilled = files.reserved
    for descriptor in opened:
        files.close(descriptor)
    whole = files.reserved
    files.close(lock)

    assert (left, refilled, whole, files.reserved) == (RESERVED - 3, RESERVED - 1, RESERVED, 0)
    assert open_descriptors() == before
    assert names_in(tmp_path) == ["0", "1", "2", "lock"]


def test_lg_14_without_a_reserve_left_the_caller_hears_it(tmp_path: Path) -> None:
    """When the reserve is used up a file that cannot be opened is an error, as ever."""
    files = ReservedFiles()
    lock = files.lock(tmp_path / "lock")

    with nothing_left():
        opened = [files.create(tmp_path / str(number)) for number in range(RESERVED - 1)]
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            files.create(tmp_path / "one more")
    for descriptor in (*opened, lock):
        files.close(descriptor)
