import sys

import pytest

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


def test_the_line_is_gone_when_the_work_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written next begins on an empty line."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    clock = ManualClock()

    def work() -> None:
        with Advance("records", clock) as advance:
            clock.advance(1)
            advance.to(7)
            raise KeyError

    with pytest.raises(KeyError):
        work()

    assert capsys.readouterr().err == "\r\x1b[K7 records, 7/s\r\x1b[K"
