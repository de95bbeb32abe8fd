import math
from dataclasses import replace

import pytest

from serving.core.batches import BatchAnswer, BatchPart, RowFailure
from serving.core.tensors import TensorSpecification
from serving.gateway.pace import FORGOTTEN_NS, NEWEST_FIRST, WELCOME, Pace
from serving.gateway_settings import AdmissionSettings, ChannelSettings
from tests.plans import a_version

BATCH_ROWS = 32  # of a version that says nothing else
SWEEP_NS = 20_000_000


@pytest.fixture
def pace() -> Pace:
    return Pace(a_version(), channel=ChannelSettings(), admission=AdmissionSettings())


def an_answer(*parts: tuple[int, int], run_ms: float) -> BatchAnswer:
    """Of a frame that ran in parts: (its rows, rows of the batch)."""
    made = [
        BatchPart(rows, 7 + index, batch, 0, 0, round(run_ms * 1000))
        for index, (rows, batch) in enumerate(parts)
    ]
    return BatchAnswer(sum(rows for rows, _ in parts), (), tuple(made))


def hear(pace: Pace, *answers: BatchAnswer, times: int = 60, replicas: int = 1) -> None:
    """The same answers of one batch sweep after sweep."""
    for sweep in range(1, times + 1):
        pace.heard(answers, sweep * SWEEP_NS)
        pace.settle(sweep * SWEEP_NS, replicas=replicas)


def test_nothing_is_known_at_first(pace: Pace) -> None:
    """Before the first answer the settings hold, and nobody is refused for a wait."""
    pace.settle(0, replicas=1)

    assert (pace.known, pace.row_ns, pace.run_ns) == (False, 0, 0)
    assert (pace.frame_rows, pace.room_rows) == (64, 4096)


def test_row_of_a_full_batch_is_its_share_of_the_run(pace: Pace) -> None:
    """32 rows in 16 ms are half a millisecond each, and with two replicas half of that."""
    hear(pace, an_answer((32, BATCH_ROWS), run_ms=16))
    assert pace.row_ns == pytest.approx(500_000)

    pace.settle(SWEEP_NS * 60, replicas=2)

    assert pace.row_ns == pytest.approx(250_000)


def test_small_batch_is_taken_for_the_fastest_large_one(pace: Pace) -> None:
    """A lone row's run says little about a full batch: what is assumed errs on the fast side."""
    hear(pace, an_answer((1, 1), run_ms=16))

    assert pace.row_ns == pytest.approx(16_000_000 / BATCH_ROWS)


def test_batch_shared_with_other_workers_counts_by_the_own_share(pace: Pace) -> None:
    """Of a batch that is half another worker's, half of the run's rows are this one's."""
    hear(pace, an_answer((16, BATCH_ROWS), run_ms=16), times=400)

    assert pace.row_ns == pytest.approx(1_000_000, rel=0.05)


def test_frames_of_one_batch_count_together(pace: Pace) -> None:
    """A worker that fills a batch with four frames has all of it, not a quarter."""
    hear(pace, *[an_answer((8, BATCH_ROWS), run_ms=16)] * 4, times=400)

    assert pace.row_ns == pytest.approx(500_000)


@pytest.mark.parametrize(
    ("run_ms", "part_rows"),
    [
        (0.1, 64),  # 320 rows a millisecond: a whole frame
        (1.6, 20),  # 20 rows a millisecond
        (16, 8),
        (1000, 8),
    ],
)
def test_part_runs_for_a_millisecond_and_is_a_quarter_of_a_frame(
    pace: Pace, run_ms: float, part_rows: int
) -> None:
    """Frames without a credit are worth what they cost, and few."""
    hear(pace, an_answer((32, BATCH_ROWS), run_ms=run_ms))

    assert pace.part_rows == part_rows


@pytest.mark.parametrize("row_shape", [(-1,), (2048,)])
def test_no_part_leaves_where_bytes_bound_what_is_in_flight(row_shape: tuple[int, ...]) -> None:
    """Rows of 8 KiB, or of any length the caller likes, leave with credits alone."""
    inputs = (TensorSpecification("x", "FP32", (-1, *row_shape)),)
    pace = Pace(
        replace(a_version(), inputs=inputs),
        channel=ChannelSettings(),
        admission=AdmissionSettings(),
    )

    hear(pace, an_answer((32, BATCH_ROWS), run_ms=1000))

    assert pace.part_rows == math.inf


def test_frame_is_one_batch_where_runs_are_slow(pace: Pace) -> None:
    """What is in a frame has left the order of the queue: no more of it than a replica needs."""
    hear(pace, an_answer((32, BATCH_ROWS), run_ms=160))
    assert pace.frame_rows == BATCH_ROWS

    hear(pace, an_answer((32, BATCH_ROWS), run_ms=0.1))
    assert pace.frame_rows == ChannelSettings().max_frame_rows


def test_frame_follows_where_the_replica_cuts_it(pace: Pace) -> None:
    """A replica that prefers 4 rows gets frames of 8, so that it shows when it takes more."""
    hear(pace, an_answer((4, 4), (4, 4), run_ms=40))

    assert pace.frame_rows == 8


def test_room_is_what_runs_in_half_of_the_longest_wait(pace: Pace) -> None:
    """At half a millisecond a row, 50 ms are 100 rows; never less than a frame."""
    hear(pace, an_answer((32, BATCH_ROWS), run_ms=16))

    assert pace.room_rows == pytest.approx(WELCOME * 0.1e9 / 500_000)
    assert WELCOME < NEWEST_FIRST < 1


def test_two_runs_may_always_be_waited_for(pace: Pace) -> None:
    """A model that takes a second has callers that wait two, whatever the setting."""
    hear(pace, an_answer((32, BATCH_ROWS), run_ms=1000))

    assert pace.longest_ns == pytest.approx(2e9)
    assert pace.room_rows == pytest.approx(BATCH_ROWS)


def test_shortest_run_is_forgotten_when_no_answer_comes(pace: Pace) -> None:
    """After a second of silence a request may find out whether the model has become faster."""
    hear(pace, an_answer((1, 1), run_ms=20))
    assert pace.run_ns == 20_000_000

    pace.settle(60 * SWEEP_NS + FORGOTTEN_NS + 1, replicas=1)

    assert pace.run_ns == 0


def test_shortest_run_follows_a_model_that_becomes_slower(pace: Pace) -> None:
    """It is the shortest of late, not of all times."""
    hear(pace, an_answer((1, 1), run_ms=10))
    hear(pace, an_answer((1, 1), run_ms=30))

    assert pace.run_ns == 30_000_000


def test_frame_that_did_not_run_says_nothing(pace: Pace) -> None:
    """What came too late for the replica has no run to learn from."""
    expired = BatchAnswer(1, (), (BatchPart(1, 0, 0, 0, 0, 0),), {0: RowFailure.EXPIRED})

    hear(pace, expired)

    assert not pace.known
