"""The cursor: every record once, in order, whatever happens to the log meanwhile."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.clock import ManualClock
from serving.core.predictions import PredictionRecord
from serving.errors import LogDamaged
from serving.ledger.tailing import Cursor
from serving.ledger.tails import Gap
from tests.ledger.logs import IO_ERROR, NO_SPACE, Author
from tests.logs import NOW_NS, a_writer, newest_segment, record


def sequences(events: object) -> list[int]:
    assert isinstance(events, list)
    return [event.sequence for event in events if isinstance(event, PredictionRecord)]


class Consumer:
    """Reads a log through a cursor, and forgets on a restart what came after its checkpoint."""

    def __init__(self, root: Path) -> None:
        self.seen: list[int] = []
        self._root = root
        self._checkpoint = root / "checkpoints" / "consumer.json"
        self._kept = 0
        self.restart()

    def restart(self) -> None:
        self.seen = self.seen[: self._kept]
        self.cursor = Cursor(self._root / "log", self._checkpoint, clock=ManualClock())

    def read(self, max_records: int = 1000) -> int:
        events = sequences(self.cursor.read(max_records))
        self.seen += events
        return len(events)

    def commit(self) -> None:
        self.cursor.commit()
        self._kept = len(self.seen)

    def drain(self) -> None:
        while self.read():
            pass


STEPS = st.one_of(
    st.tuples(st.just("commit"), st.integers(1, 4)),
    st.tuples(st.just("suspect"), st.integers(1, 3)),
    st.tuples(st.just("full"), st.integers(1, 3)),
    st.tuples(st.just("crash"), st.binary(max_size=40)),
    st.tuples(st.just("read"), st.integers(1, 9)),
    st.tuples(st.just("checkpoint"), st.none()),
    st.tuples(st.just("restart"), st.none()),
)


@settings(deadline=None, max_examples=120)
@given(steps=st.lists(STEPS, min_size=4, max_size=40))
def test_every_record_comes_once_and_in_order(steps: list[tuple[str, object]]) -> None:
    """Whatever the writer, its disk and the consumer do between: all that was acknowledged, once,
    in order; beyond that only what was written and refused."""
    root = Path(tempfile.mkdtemp())
    author, consumer = Author(root / "log" / "gateway-0"), Consumer(root)
    for step, argument in steps:
        match step, argument:
            case "commit", int(count):
                author.commit(count)
            case "suspect", int(count):
                author.commit_on_bad_disk(count, IO_ERROR, watch=consumer.read)
            case "full", int(count):
                author.commit_on_bad_disk(count, NO_SPACE, watch=consumer.read)
            case "crash", bytes(torn):
                author.crash(torn)
            case "read", int(count):
                consumer.read(count)
            case "checkpoint", _:
                consumer.commit()
            case _:
                consumer.restart()
    author.close()
    consumer.drain()

    acknowledged = set(author.acknowledged)
    assert len(consumer.seen) == len(set(consumer.seen))
    assert [n for n in consumer.seen if n in acknowledged] == author.acknowledged
    assert (list(consumer.cursor.gaps), consumer.cursor.damages) == ([], 0)
    assert consumer.cursor.lag().records == 0
    shutil.rmtree(root)


def test_workers_that_come_later_are_read_from_their_start(tmp_path: Path) -> None:
    """A worker, or a node, that was added while the cursor runs is read whole."""
    first = Author(tmp_path / "log" / "gateway-0")
    first.commit(2)
    consumer = Consumer(tmp_path)
    consumer.drain()
    second = Author(tmp_path / "log" / "node-b" / "gateway-0", first=100)
    second.commit(2)

    consumer.drain()

    assert consumer.seen == [1, 2, 100, 101]
    first.close()
    second.close()


def test_a_slow_consumer_holds_a_bounded_part_in_memory(tmp_path: Path) -> None:
    """No read returns more than was asked for and the rest of one commit."""
    author = Author(tmp_path / "log" / "gateway-0")
    for _ in range(30):
        author.commit(3)
    consumer = Consumer(tmp_path)

    sizes = [consumer.read(4) for _ in range(15)]

    assert sizes == [6] * 15
    author.close()


def test_segments_removed_unread_are_reported(tmp_path: Path) -> None:
    """What retention took before the cursor came is a gap with its numbers, and reading goes on."""
    author = Author(tmp_path / "log" / "gateway-0")
    consumer = Consumer(tmp_path)
    author.commit(1)
    consumer.drain()
    consumer.commit()
    for _ in range(40):
        author.commit(2)
    for path in sorted(author.directory.glob("*.segment"))[:-2]:
        path.unlink()
    left = int(sorted(author.directory.glob("*.segment"))[0].stem)

    consumer.restart()
    consumer.drain()

    assert consumer.cursor.gaps == [Gap("gateway-0", 1, left - 1)]
    assert consumer.seen[-1] == author.acknowledged[-1]
    author.close()


def test_a_new_consumer_does_not_miss_what_was_removed_before_it_came(tmp_path: Path) -> None:
    """Only what a consumer could have read counts as a gap."""
    author = Author(tmp_path / "log" / "gateway-0")
    for _ in range(40):
        author.commit(2)
    min(author.directory.glob("*.segment")).unlink()

    consumer = Consumer(tmp_path)
    consumer.drain()

    assert consumer.cursor.gaps == []
    author.close()


def test_a_damaged_record_is_passed_over_and_counted(tmp_path: Path) -> None:
    """A flipped bit costs the records of its commit behind it; they are never handed out."""
    author = Author(tmp_path / "log" / "gateway-0")
    author.commit(1)
    author.commit(1)
    author.close()
    segment = newest_segment(author.directory)
    content = bytearray(segment.read_bytes())
    content[2000] ^= 1
    segment.write_bytes(content)
    consumer = Consumer(tmp_path)

    consumer.drain()

    assert consumer.seen == [2]
    assert consumer.cursor.damages == 1


def test_the_lag_is_what_was_not_read_yet(tmp_path: Path) -> None:
    """Records, bytes and the age of the oldest unread record; nothing once all was read."""
    author = Author(tmp_path / "log" / "gateway-0")
    for _ in range(20):
        author.commit(2)
    clock = ManualClock(wall_ns=NOW_NS + 5_000_000_000)
    cursor = Cursor(tmp_path / "log", tmp_path / "checkpoint", clock=clock)

    before = cursor.lag()
    cursor.read(10)
    between = cursor.lag()
    cursor.read(1000)
    after = cursor.lag()

    assert (before.records, before.seconds) == (40, 5.0)
    assert between.records == 30
    assert before.bytes > between.bytes > 0
    assert (after.records, after.bytes, after.seconds) == (0, 0, 0.0)
    author.close()


def test_a_checkpoint_that_cannot_be_read_stops_the_consumer(tmp_path: Path) -> None:
    """Starting from the front by itself would do everything twice."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_text("{")

    with pytest.raises(LogDamaged, match="remove it"):
        Cursor(tmp_path, checkpoint, clock=ManualClock())


async def test_a_live_log_is_read_while_it_is_written(tmp_path: Path) -> None:
    """Each acknowledged record can be read at once, with the product's own writer."""
    log = a_writer(tmp_path / "log" / "gateway-0")
    await log.start()
    consumer = Consumer(tmp_path)
    expected: list[int] = []
    for count in (1, 5, 2):
        expected += await record(log, count=count)
        consumer.read()
        assert consumer.seen == expected
    await log.aclose()

    assert consumer.read() == 0
