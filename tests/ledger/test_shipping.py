from pathlib import Path

from serving.core.clock import ManualClock
from serving.errors import LedgerUnavailable
from serving.ledger.jobs import JobRunner
from serving.ledger.places import Folder
from serving.ledger.shipping import Shipping
from serving.ledger_settings import LedgerSettings
from tests.ledger.cold import never
from tests.logs import a_committer, frames_of, sequences


class Outage(Folder):
    """A folder that takes nothing while it is down."""

    down = False

    def upload(self, name: str, file: Path) -> None:
        if self.down:
            raise LedgerUnavailable(f"{name}: nobody answers")
        super().upload(name, file)


def seal_one(root: Path, sequence: int, clock: ManualClock) -> int:
    """One more sealed segment; its size."""
    committer = a_committer(root / "log" / "w", clock=clock)
    committer.commit(frames_of(sequence))
    committer.close()
    return max((root / "log" / "w").glob("*.segment")).stat().st_size


def test_lg_22_a_sink_that_is_down_for_ten_minutes(tmp_path: Path) -> None:
    """The log goes on, the backlog is bounded and seen, and everything else arrives afterwards."""
    clock = ManualClock()
    place = Outage(tmp_path / "cold")
    size = seal_one(tmp_path, 1, clock)
    settings = LedgerSettings(ship=True, max_unshipped_bytes=3 * size, ship_every_s=30)
    shipping = Shipping(
        tmp_path / "log", place, folder=tmp_path, settings=settings, clock=clock, stopping=never
    )
    runner = JobRunner([shipping], clock)
    runner.run_due()
    place.down = True
    backlog: list[int] = []
    for minute in range(10):
        seal_one(tmp_path, 2 + minute, clock)
        for _ in range(2):
            clock.advance(30)
            runner.run_due()
        backlog.append(shipping.lag.bytes)
    (status,) = runner.statuses()
    lag = shipping.lag
    place.down = False
    clock.advance(30)
    runner.run_due()

    assert sequences(tmp_path / "log") == list(range(1, 12))
    assert (max(backlog) <= 3 * size, lag.records, lag.seconds > 0) == (True, 3, True)
    assert (status.failures, "nobody answers" in status.error) == (20, True)
    assert (shipping.given_up, shipping.lag.bytes) == (7, 0)
    assert len(place.names("segments")) == 4
    for name in place.names("segments"):
        number = name.split("-")[-1]
        assert place.read(name) == (tmp_path / "log" / "w" / number).read_bytes()


def test_what_was_shipped_is_not_shipped_again(tmp_path: Path) -> None:
    """A new start goes on where the last one stopped."""
    place = Folder(tmp_path / "cold")
    seal_one(tmp_path, 1, ManualClock())
    first, second = [
        Shipping(
            tmp_path / "log",
            place,
            folder=tmp_path,
            settings=LedgerSettings(),
            clock=ManualClock(),
            stopping=never,
        )
        for _ in range(2)
    ]
    first.run()
    (name,) = place.names("segments")
    place.delete(name)

    second.run()

    assert place.names("segments") == []
    assert len(second.shipped().sent) == 1
