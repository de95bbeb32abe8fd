import threading
from pathlib import Path

import numpy as np

from serving.predictionlog.reading.query import Query
from serving.predictionlog.reading.verification import verify
from serving.predictionlog.records import encode_predictions
from tests.logs import SETTINGS, a_committer, a_request, facts, frames_of, read_all, sequences


def test_lg_19_reading_while_writing_sees_a_prefix(tmp_path: Path) -> None:
    """Whatever the writer is doing, a reader gets 1 to n without a gap and never sees damage."""
    committer = a_committer(
        tmp_path, settings=SETTINGS.model_copy(update={"segment_bytes": 64 * 1024})
    )

    def write() -> None:
        for first in range(1, 3500, 7):
            committer.commit(frames_of(*range(first, first + 7)))
            committer.tend(idle=True)

    writer = threading.Thread(target=write)
    writer.start()
    last = turn = 0
    while writer.is_alive():
        turn += 1
        query = Query(newest_first=turn % 2 == 0)
        found = [record.sequence for record in read_all(tmp_path, query)]

        assert sorted(found, reverse=query.newest_first) == found
        assert sorted(found) == list(range(1, len(found) + 1))
        assert len(found) >= last
        assert verify(tmp_path).damage == ()
        last = len(found)
    writer.join()
    committer.close()
    assert len(sequences(tmp_path)) == 3500


def test_large_records_are_read(tmp_path: Path) -> None:
    """Records larger than the reader's window come back whole, between small ones."""
    committer = a_committer(tmp_path)
    large = a_request(2, rows=400_000)
    committer.commit(frames_of(1))
    committer.commit([*encode_predictions(facts(), [large]), *frames_of(3)])
    committer.commit(frames_of(4))

    forwards = read_all(tmp_path)
    backwards = read_all(tmp_path, Query(newest_first=True))
    committer.close()

    assert [record.sequence for record in forwards] == [1, 2, 3, 4]
    assert [record.sequence for record in backwards] == [4, 3, 2, 1]
    np.testing.assert_array_equal(forwards[1].inputs[0].array.tobytes(), large.inputs[0])
    assert verify(tmp_path).damage == ()


def test_a_damaged_large_record_is_passed_over(tmp_path: Path) -> None:
    """Damage inside a record larger than the window loses that record only."""
    committer = a_committer(tmp_path)
    committer.commit(frames_of(1))
    committer.commit(encode_predictions(facts(), [a_request(2, rows=400_000)]))
    committer.commit(frames_of(3))
    committer.close()
    segment = tmp_path / "00000001.segment"
    data = bytearray(segment.read_bytes())
    data[3_000_000] ^= 1
    segment.write_bytes(data)

    assert sequences(tmp_path) == [1, 3]


def test_an_empty_place_is_an_empty_log(tmp_path: Path) -> None:
    """Nothing, and a directory that does not exist, read as no records."""
    assert sequences(tmp_path) == sequences(tmp_path / "nowhere") == []
    assert verify(tmp_path).segments == ()
