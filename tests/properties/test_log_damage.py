"""P3: damage is never read as data and never passed over in silence, whichever bits it hits.

CI flips a few hundred bits of a 64 KiB segment, the same at every run. All 524 288, and a thousand places for
bursts, take twenty minutes: SERVING_TEST_EXHAUSTIVE=1 python -m pytest tests/properties/test_log_damage.py
"""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from serving.predictionlog.reading.findings import Finding
from serving.predictionlog.reading.query import Query
from serving.predictionlog.reading.verification import verify
from tests.logs import TRUSTED, a_committer, frames_of, read_all

EXHAUSTIVE: Final = "SERVING_TEST_EXHAUSTIVE" in os.environ
SEGMENT_BYTES: Final = 64 * 1024
RANDOM: Final = random.Random(2026)  # noqa: S311 -- the same places at every run


Places = Callable[[int], Iterator[tuple[int, int]]]


class Sealed:
    """A sealed segment of 64 KiB and a second one that names it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "00000001.segment"
        committer = a_committer(directory)
        last = 0
        while self.path.stat().st_size == 0 or committer.counts.bytes < SEGMENT_BYTES - 4000:
            count = 1 + last % 5
            committer.sequence = last + count
            committer.commit(frames_of(*range(last + 1, last + count + 1), rows=1 + last % 30))
            last += count
        committer.close()
        a_committer(directory).close()
        self.content = self.path.read_bytes()
        self.originals = {record.sequence: repr(record) for record in read_all(directory)}

    def damaged(self, offset: int, bits: int) -> tuple[Finding, ...]:
        """What verify finds when these bits (little-endian, from `offset` on) are others."""
        content = bytearray(self.content)
        for index, byte in enumerate(bits.to_bytes(5, "little")):
            if byte:
                content[offset + index] ^= byte
        self.path.write_bytes(content)
        return verify(self.directory, trusted=TRUSTED).damage


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return Sealed(tmp_path_factory.mktemp("sealed"))


def flips(size_bytes: int) -> Iterator[tuple[int, int]]:
    places = range(size_bytes * 8)
    for place in places if EXHAUSTIVE else RANDOM.sample(places, 500):
        yield place // 8, 1 << place % 8


def bursts(size_bytes: int) -> Iterator[tuple[int, int]]:
    """Up to 32 bits that begin and end with a changed one, at any bit."""
    for _ in range(1000 if EXHAUSTIVE else 40):
        place = RANDOM.randrange(size_bytes * 8 - 40)
        for width in range(1, 33) if EXHAUSTIVE else RANDOM.sample(range(1, 33), 5):
            inner = RANDOM.getrandbits(width) | 1 | 1 << width - 1
            yield place // 8, inner << place % 8


@pytest.mark.timeout(7200 if EXHAUSTIVE else 60)
@pytest.mark.parametrize("kind", [flips, bursts], ids=["flips", "bursts"])
def test_lg_07_no_damaged_bit_passes(sealed: Sealed, kind: Places) -> None:
    """Every one is found, in the right file, at the right place, between the right neighbours."""
    for number, (offset, bits) in enumerate(kind(len(sealed.content))):
        found = sealed.damaged(offset, bits)

        assert {finding.file for finding in found} == {"00000001.segment"}, offset
        assert any(f.start <= offset + 4 and offset <= f.end for f in found), (offset, found)
        for finding in found:
            if finding.last_safe is not None and finding.first_safe is not None:
                assert finding.last_safe < finding.first_safe, offset
        if number % 50 == 0:
            check_reading(sealed, offset)


def check_reading(sealed: Sealed, offset: int) -> None:
    """No record is ever read differently, and salvaging loses one record at the most."""
    for query in (Query(), Query(newest_first=True), Query(salvage=True)):
        found = {record.sequence: repr(record) for record in read_all(sealed.directory, query)}
        assert found.items() <= sealed.originals.items(), offset
        assert len(found) >= len(sealed.originals) - 6, offset
