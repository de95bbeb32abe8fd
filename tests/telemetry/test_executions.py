from serving.core.batches import BatchPart
from serving.telemetry.executions import Executions


def part(rows: int, *, of: int, position: int = 0, run_us: int = 100) -> BatchPart:
    return BatchPart(rows, 1, of, position, queue_us=5, run_us=run_us)


def test_batch_of_two_frames_is_one_run() -> None:
    """Only the frame whose rows stand first in a batch counts it."""
    executions = Executions()

    executions.add([part(2, of=5)], 10)
    executions.add([part(3, of=5, position=2)], 20)

    assert executions.by_rows == {5: (1, 100)}
    assert executions.last_ns == 20


def test_frame_in_two_batches_is_two_runs() -> None:
    """Runs and their time are kept by the size of the batch."""
    executions = Executions()

    executions.add([part(4, of=4, run_us=70), part(1, of=1, run_us=30)], 10)
    executions.add([part(4, of=4, run_us=50)], 20)

    assert executions.by_rows == {4: (2, 120), 1: (1, 30)}
