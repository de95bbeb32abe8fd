from pathlib import Path

import numpy as np

from loadtests.ceilings import RawModel, RunRate, artifact_of, best_of, file_system_of, sync_rate
from loadtests.payloads import a_row


def test_the_raw_model_answers_and_has_a_rate() -> None:
    """Rows in, rows out; a rate counts whole batches over the time that they really took."""
    model = RawModel(artifact_of("bench-m1"))

    output = model.run(np.stack([a_row(), a_row()]))
    rate = model.rate(4, seconds=0.02)

    assert output.shape == (2, 8)
    assert np.array_equal(output[0], output[1])
    assert rate.rows == 4 * len(rate.run_ms)
    assert rate.seconds >= 0.02
    assert rate.rows_per_s > 0


def test_the_best_batch_size_has_the_most_rows_per_second() -> None:
    """Larger is not always better."""
    sweep = [
        RunRate(size, size * runs, 1.0, 1.0, (1.0,)) for size, runs in ((1, 9), (2, 8), (4, 3))
    ]

    assert best_of(sweep).batch_rows == 2


def test_syncs_are_timed_where_the_log_would_be(tmp_path: Path) -> None:
    """The file is removed again, and the file system is named."""
    rate = sync_rate(tmp_path, seconds=0.05)

    assert rate.syncs_per_s > 0
    assert rate.p50_ms <= rate.p99_ms
    assert rate.file_system == file_system_of(tmp_path) != "unknown"
    assert list(tmp_path.iterdir()) == []
