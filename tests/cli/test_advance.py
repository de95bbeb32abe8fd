from serving.cli.advance import Advance
from serving.core.clock import ManualClock


def test_the_line_says_how_far_how_fast_and_how_long_still() -> None:
    """A bar where the end is known, a count where it is not."""
    clock = ManualClock()
    known, unknown = Advance("records", clock, total=200), Advance("records", clock)
    clock.advance(5)

    assert known.line(50, clock.monotonic_ns()) == (
        "[########......................] 25% 50 records, 10/s, 15 s left"
    )
    assert unknown.line(50, clock.monotonic_ns()) == "50 records, 10/s"
