"""How full batches become, and how much a replica holds: a replica of known pace in virtual time."""

from pathlib import Path

from tests.gateway.simulation import BATCH_ROWS, CAPACITY, RUN_S, World


def test_batches_are_full_with_two_of_them_in_flight(tmp_path: Path) -> None:
    """What comes back during a run is in the next batch, not in the one after it."""
    world = World(tmp_path)
    world.closed_loop(2 * BATCH_ROWS, pause_s=RUN_S / 2, end_s=4.0)

    world.run(4.0)

    sizes = [len(batch) for batch in world.replica.ran]
    assert sum(sizes[20:]) / len(sizes[20:]) > 0.9 * BATCH_ROWS


def test_a_replica_has_no_more_rows_than_its_credits_let_out(tmp_path: Path) -> None:
    """However much waits, and in however small parts it came; once the model's pace is known."""
    world = World(tmp_path)
    world.open_loop(3 * CAPACITY, end_s=2.0)
    most_rows = 0
    for moment in range(100, 400):
        world.run(moment / 200)
        most_rows = max(most_rows, world.replica.outstanding_rows)

    assert BATCH_ROWS < most_rows <= world.replica.credits * BATCH_ROWS
